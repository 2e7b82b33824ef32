"""microbit, netduinoplus2, mps2-an500, board:PORT: the whole demo firmware with the policy in it.

The emulated boards are built and booted here and counted in instructions; a board on a serial
port runs what was flashed to it, and its own timer tells a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pops.errors import PopsError, UsageError
from pops.spec import Array
from pops_deploy.bench.context import Context
from pops_deploy.bench.rows import Latency, McuFigures, ReturnFigure, Row
from pops_deploy.bench.subjects import Subject
from pops_deploy.board.boards import BOARDS, Board, find_board
from pops_deploy.board.build import DoesNotFit, Image, build
from pops_deploy.board.protocol import BoardError
from pops_deploy.board.runtime import EMULATED, BoardPolicy
from pops_deploy.board.stack import stack_bound
from pops_deploy.config import BenchConfig
from pops_deploy.firmware import artifact_source
from pops_deploy.folder import KEYS, Artifact
from pops_deploy.runtime import open_runtime
from pops_deploy.targets.mcu.measure import GCC, run_tool

LINE = "board:"
PREFIX = (*(name for name, board in BOARDS.items() if board.qemu), LINE)
VISITED = 64
"""Observations that are replayed."""
FLAGS = "-Os, the policy -O3"


@dataclass(frozen=True)
class Replay:
    """What a board answered to the observations."""

    ticks: Array
    """(windows, observations): timer ticks of each control step."""
    hertz: int
    mismatches: int
    """Actions that the generated C on this computer computes differently."""
    stack_free: int
    """Bytes of the board's stack that were never used."""
    versions: dict[str, str]

    @property
    def nanoseconds(self) -> Array:
        """The ticks in nanoseconds of the board's time; instructions where it is emulated."""
        return self.ticks * 1e9 / self.hertz


def measure(
    target: str, subjects: Sequence[Subject], config: BenchConfig, context: Context
) -> Iterator[Row]:
    """Yield a row for each policy and C file; for a serial port only of what the board runs.

    Raises:
        UsageError: if there is no such board.
        PopsError: if a tool is missing (says which package), no policy was exported to C, or the
            board does not answer.
    """
    port = target[len(LINE) :] if target.startswith(LINE) else EMULATED + target
    board = find_board(port[len(EMULATED) :]) if port.startswith(EMULATED) else None
    if port in ("", "host") or (board is not None and not board.qemu):
        raise UsageError(
            f"Target {target!r} is no board, expected {', '.join(PREFIX[:-1])}, or board: and a "
            "serial port (board:/dev/ttyACM0)."
        )
    policies = [
        (subject, subject.artifact, file)
        for subject in subjects
        for file in config.files
        if subject.artifact is not None and subject.artifact.has("c", file)
    ]
    if not policies:
        raise PopsError(
            f"{target} runs generated C, and none of these policies has it. Export with --format c."
        )
    if board is None:
        yield from _on_a_line(target, port, policies, config, context)
        return
    for subject, artifact, file in policies:
        figures, versions = _emulated(board, subject, artifact, file, context)
        note = "instructions under an emulator, not a time"
        row = _row(target, subject, artifact, file, (note, "the whole firmware"))
        yield replace(row, bytes=figures.flash, mcu=figures, versions=versions)


def _emulated(
    board: Board, subject: Subject, artifact: Artifact, file: str, context: Context
) -> tuple[McuFigures, dict[str, str]]:
    """Build the firmware, boot it in the emulator, replay observations."""
    title = f"{subject.role} {subject.policy}, c {file}"
    facts = artifact.files[KEYS["c", file]]
    with tempfile.TemporaryDirectory(prefix="pops-board-") as name:
        folder = Path(name)
        policy = artifact_source(artifact, file)
        unmeasured = McuFigures(
            core=board.core,
            instructions=None,
            instructions_min=None,
            flash=0,
            ram=0,
            static_ram=0,
            scratch=int(facts["scratch_bytes"]),
            stack_static=None,
            stack_painted=None,
            mismatches=0,
            observations=0,
            compiler="",
            flags=FLAGS,
        )
        try:
            image = build(policy, board, folder)
        except DoesNotFit as error:
            context.note(f"{title} does not fit {board.title}: {error.over}.")
            verdict = _verdict(board, error.flash, error.ram, error.over)
            return replace(unmeasured, flash=error.flash, ram=error.ram, boards=(verdict,)), {
                "flags": FLAGS
            }
        compiler = run_tool([GCC, "--version"], folder).splitlines()[0]
        deepest, over = _stack(image, title, context)
        built = replace(
            unmeasured,
            flash=image.flash,
            ram=image.ram,
            static_ram=image.ram - image.stack,
            stack_static=deepest,
            compiler=compiler,
            boards=(_verdict(board, image.flash, image.ram, over),),
        )
        versions = {"compiler": compiler, "flags": FLAGS}
        if over:
            return built, versions
        replay = _replay(artifact, f"{EMULATED}{board.name}", file, subject, 1, folder)
    counted = np.rint(replay.nanoseconds)
    figures = replace(
        built,
        instructions=int(counted.max()),
        instructions_min=int(counted.min()),
        stack_painted=image.stack - replay.stack_free,
        mismatches=replay.mismatches,
        observations=counted.size,
    )
    return figures, {**versions, **replay.versions}


def _stack(image: Image, title: str, context: Context) -> tuple[int | None, str]:
    """The deepest the stack can get, and by how much that is more than is reserved."""
    try:
        deepest = stack_bound(image.elf).total
    except PopsError as error:
        context.note(f"{title} on {image.board.title}: {error}")
        return None, ""
    if deepest <= image.stack:
        return deepest, ""
    over = f"{deepest - image.stack:,} B of stack too much ({image.stack:,} B are reserved)"
    context.note(f"{title} does not fit {image.board.title}: {over}.")
    return deepest, over


def _verdict(board: Board, flash: int, ram: int, over: str) -> dict[str, Any]:
    """The line of the table of boards; there is no estimate of a time in it."""
    shares = f"{flash / board.flash:.2%} of flash, {ram / board.ram:.2%} of RAM"
    return {
        "board": board.name,
        "name": board.title,
        "fits": not over,
        "over_bytes": {"flash": max(0, flash - board.flash), "RAM": max(0, ram - board.ram)},
        "verdict": f"does not fit: {over}" if over else f"fits: {shares}",
        "estimated_microseconds": None,
        "estimate": "",
        "assumption": "the whole firmware, protocol and reserved stack included",
    }


def _replay(
    artifact: Artifact, port: str, file: str, subject: Subject, windows: int, work: Path | None
) -> Replay:
    index = np.linspace(0, len(subject.observations) - 1, VISITED).astype(int)
    observations = subject.observations[np.unique(index)]
    ticks, actions = [], []
    with BoardPolicy(artifact, port, file, work=work) as board:
        for _ in range(windows):
            for observation in observations:
                actions.append(board.step(observation))
                assert board.last is not None
                ticks.append(board.last.inference)
        free = board.client.status().stack_free
        hertz, versions = board.hello.timer_hz, board.versions
    expected = open_runtime(artifact.path, "c", file).act(observations)
    wanted = np.tile(expected.reshape(len(observations), -1), (windows, 1))
    got = np.asarray(actions).reshape(len(actions), -1)
    # Another libm may move the last bits of float32; everything else is the same to the bit.
    rough = file == "fp32" and wanted.dtype.kind == "f"
    same = np.isclose(got, wanted, rtol=1e-4, atol=1e-5) if rough else got == wanted
    mismatches = int((~same).any(axis=1).sum())
    return Replay(np.reshape(ticks, (windows, -1)), hertz, mismatches, free, versions)


def _on_a_line(
    target: str,
    port: str,
    policies: Sequence[tuple[Subject, Artifact, str]],
    config: BenchConfig,
    context: Context,
) -> Iterator[Row]:
    """The rows of a board on a serial port, which runs one of the policies."""
    refused: BoardError | None = None
    measured: set[str] = set()
    # A board tells which artifact it runs, not which of its files: the int8 one is flashed.
    for subject, artifact, file in sorted(policies, key=lambda policy: policy[2] != "int8"):
        if artifact.id in measured:
            continue
        try:
            replay = _replay(artifact, port, file, subject, config.windows, None)
        except BoardError as error:
            refused = error
            context.note(f"{subject.role} {subject.policy} was not measured on {target}: {error}")
            continue
        measured.add(artifact.id)
        if replay.mismatches:
            context.note(
                f"{subject.role} {subject.policy}, c {file} on {target} computed "
                f"{replay.mismatches} of {replay.ticks.size} actions differently from the "
                "generated C on this computer."
            )
        row = _row(target, subject, artifact, file, ("measured by the board's own timer",))
        yield replace(row, latency=_latency(replay.nanoseconds), versions=replay.versions)
    if refused is not None and not measured:
        raise refused


def _latency(nanoseconds: Array) -> Latency:
    medians = np.median(nanoseconds, axis=1)
    return Latency(
        median=float(np.median(nanoseconds)),
        low=float(medians.min()),
        high=float(medians.max()),
        p99=float(np.percentile(nanoseconds, 99)),
        max=float(nanoseconds.max()),
        calls=nanoseconds.size,
        windows=tuple(float(median) for median in medians),
    )


def _row(
    target: str, subject: Subject, artifact: Artifact, file: str, notes: tuple[str, ...]
) -> Row:
    facts = artifact.files[KEYS["c", file]]
    return Row(
        target=target,
        role=subject.role,
        policy=subject.policy,
        num_parameters=subject.num_parameters,
        runtime="c",
        file=file,
        bytes=0,
        sha256=str(facts["sha256"]),
        returns=ReturnFigure.of(facts.get("evaluation")),
        notes=notes,
    )
