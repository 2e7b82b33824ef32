"""BoardPolicy: a microcontroller on a serial line, or an emulated one, as a Policy."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pops.errors import PopsError, UsageError
from pops.spec import Array, ContinuousActions, DiscreteActions, FloatArray, PolicySpec
from pops_deploy.board import protocol
from pops_deploy.board.boards import BOARDS, find_board
from pops_deploy.board.build import PERIOD_US, PolicySource, build, require_tools
from pops_deploy.board.client import BoardClient
from pops_deploy.board.protocol import Acted, BoardError, Hello
from pops_deploy.board.transport import (
    ProcessTransport,
    Transport,
    emulator_command,
    open_serial,
)
from pops_deploy.folder import Artifact
from pops_deploy.runtime.base import Runtime

EMULATED = "qemu-"
TIMEOUT_MS = 1000


class BoardPolicy(Runtime):
    """A board that runs the demo firmware with this artifact's policy.

    One observation is in flight at a time. Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        artifact: Artifact | Path | str,
        port: str,
        file: str = "int8",
        timeout_ms: int = TIMEOUT_MS,
        actuate: bool = False,
        work: Path | None = None,
    ) -> None:
        """Connect, and refuse a board that runs another policy.

        Args:
            artifact: the folder that `pops export` wrote.
            port: "qemu-microbit" or "qemu-netduinoplus2" (builds the firmware and starts the
                emulator), "host" (the same firmware as a program of this computer), or a serial
                device.
            file: "int8" or "fp32": which of the artifact's generated C.
            timeout_ms: milliseconds of silence that disable the board's actuator.
            actuate: let the actions reach the board's actuator; it stays disabled otherwise.
            work: folder for the build; None: a temporary one that `close` removes.

        Raises:
            BoardError: if the board does not answer, or runs another policy than the artifact's.
            PopsError: if a tool for building or emulating is missing.
        """
        super().__init__()
        opened = artifact if isinstance(artifact, Artifact) else Artifact(artifact)
        source = opened.file("c", file)
        policy = PolicySource(
            source.path,
            opened.beside(str(source.facts["header"])),
            str(source.facts["prefix"]),
            opened.spec,
            opened.id,
        )
        self.bytes, self.sha256, self.file = source.path.stat().st_size, source.sha256, file
        self._start(policy, port, timeout_ms, actuate, work)

    @classmethod
    def from_source(cls, policy: PolicySource, port: str, **options: Any) -> BoardPolicy:
        """The same for generated C that is in no artifact."""
        self = cls.__new__(cls)
        Runtime.__init__(self)
        self.bytes, self.sha256, self.file = policy.source.stat().st_size, "", "int8"
        self._start(
            policy,
            port,
            options.get("timeout_ms", TIMEOUT_MS),
            options.get("actuate", False),
            options.get("work"),
        )
        return self

    def _start(
        self, policy: PolicySource, port: str, timeout_ms: int, actuate: bool, work: Path | None
    ) -> None:
        self.spec, self.name, self.versions = policy.spec, f"board:{port}", {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._check_spec()
        if work is None and is_emulated(port):
            self._folder = tempfile.TemporaryDirectory(prefix="pops-board-")
            work = Path(self._folder.name)
        self._client: BoardClient | None = None
        try:
            self._client = BoardClient(connect(policy, port, work))
            self.hello = self._client.hello()
            check_hello(self.hello, policy)
            self.versions = {"board": self.hello.board, "firmware": self.hello.build}
            self._client.open(1 + secrets.randbelow(0xFFFF), timeout_ms)
            if actuate:
                self._client.enable(True)
        except BaseException:
            self.close()
            raise
        self.last: Acted | None = None
        """What the board answered to the last observation, timings included."""
        self.step = self._step

    def _check_spec(self) -> None:
        self._image = self.spec.observation_dtype == "uint8"
        self._move = self._image and len(self.spec.observation_shape) == 3
        self._move = self._move and not self.spec.channels_last
        discrete = isinstance(self.spec.actions, DiscreteActions)
        self._action_wire = np.dtype("<i4" if discrete else "<f4")
        self._value_wire = np.dtype("u1" if self._image else "<f4")

    @property
    def client(self) -> BoardClient:
        """The line to the board.

        Raises:
            BoardError: after `close`.
        """
        if self._client is None:
            raise BoardError("The line to the board was closed; make a new BoardPolicy.")
        return self._client

    def prepare(self, observation: Any) -> Any:
        """One observation to the bytes of a frame's payload."""
        x = np.asarray(observation)
        if self._move:
            x = np.moveaxis(x, 0, -1)
        return np.ascontiguousarray(x, self._value_wire).tobytes()

    def run(self, prepared: Any) -> Any:
        """One frame to the board and one back.

        Raises:
            BoardError: if the board could not act on the observation.
        """
        acted = self.client.observe(prepared)
        self.last = acted
        if acted.status > 1:
            raise BoardError(
                "The board did not act: its policy found the observation "
                f"{protocol.POLICY_STATUS[min(acted.status, 4)]}."
            )
        return acted.action

    def finish(self, raw: Any) -> Any:
        """The action's bytes to an action for the environment."""
        values = np.frombuffer(raw, self._action_wire)
        if isinstance(self.spec.actions, DiscreteActions):
            return int(values[0])
        return values.astype(np.float32).reshape(self.action_shape)

    def _step(self, observation: Any) -> Any:
        return self.finish(self.run(self.prepare(observation)))

    def outputs(self, observations: Array) -> FloatArray:
        """Observations (N, *observation_shape) to raw outputs (N, n_outputs) float32."""
        rows = [
            np.frombuffer(self.client.outputs(self.prepare(x)), "<f4", self.spec.n_outputs)
            for x in observations
        ]
        return np.asarray(rows, np.float32).reshape(len(rows), self.spec.n_outputs)

    def close(self) -> None:
        """Hang up; an emulator that was started ends. May be called twice."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> BoardPolicy:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def is_emulated(port: str) -> bool:
    """Whether the port is a program that this computer builds and starts."""
    return port.startswith(EMULATED) or port == "host"


def connect(policy: PolicySource, port: str, work: Path | None) -> Transport:
    """Open the line that `port` names; builds and boots the firmware where it is emulated.

    Raises:
        UsageError: if there is no such emulated board.
        PopsError: if the device, a tool or the emulator is missing.
    """
    if not is_emulated(port):
        return open_serial(port)
    board = find_board(port[len(EMULATED) :] if port.startswith(EMULATED) else port)
    if port.startswith(EMULATED) and not board.qemu:
        names = ", ".join(EMULATED + b.name for b in BOARDS.values() if b.qemu)
        raise UsageError(f"{port!r} is not emulated, expected one of: {names}.")
    if board.qemu:
        require_tools("qemu-system-arm")
    if work is None:
        raise PopsError(f"{port} needs a folder to build in.")
    image = build(policy, board, work, period_us=PERIOD_US)
    return ProcessTransport(emulator_command(board, image.elf))


def check_hello(hello: Hello, policy: PolicySource) -> None:
    """Refuse a board that runs another policy, or has failed its self-test.

    Raises:
        BoardError: saying what the board runs and what was expected.
    """
    if hello.policy_id != policy.policy_id:
        raise BoardError(
            f"The board runs policy {hello.policy_id[:16]}…, the artifact is "
            f"{policy.policy_id[:16]}…. Nothing was evaluated; flash the artifact with "
            "`pops deploy firmware ARTIFACT --board … --flash`."
        )
    spec = policy.spec
    continuous = isinstance(spec.actions, ContinuousActions)
    found = (hello.observation_size, hello.output_size, hello.action_size, hello.continuous)
    expected = (
        observation_values(spec),
        spec.n_outputs,
        spec.n_outputs if continuous else 1,
        continuous,
    )
    if found != expected or hello.value_bytes != (1 if spec.observation_dtype == "uint8" else 4):
        raise BoardError(
            "The board's policy has (observation values, outputs, action values, continuous) = "
            f"{found}, the artifact {expected}. Flash the artifact again."
        )
    if hello.flags & protocol.FLAG_STOPPED:
        raise BoardError(
            "The board's self-test failed: it does not compute the golden vectors that came with "
            "its policy, and stays in its safe state. Build the firmware again; if that does not "
            "help, the compiler or the chip is at fault."
        )


def observation_values(spec: PolicySpec) -> int:
    """Number of values in one observation."""
    n = 1
    for size in spec.observation_shape:
        n *= size
    return n
