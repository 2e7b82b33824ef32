"""Hardware in the loop: an emulated board acts exactly as its generated C does on this computer."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import struct
import subprocess
import time
import tty
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from board_policies import cartpole_policy, generated, lunarlander_policy

from pops.errors import UsageError
from pops.spec import DiscreteActions, PolicySpec
from pops_deploy.board import protocol
from pops_deploy.board.boards import BOARDS
from pops_deploy.board.build import PolicySource, build
from pops_deploy.board.client import BoardClient
from pops_deploy.board.protocol import BoardError, Frame
from pops_deploy.board.runtime import BoardPolicy
from pops_deploy.board.transport import ProcessTransport, emulator_command

Array = np.ndarray[Any, Any]
EMULATED = ["qemu-microbit", "qemu-netduinoplus2"]


class HostPolicy:
    """The generated C in this process."""

    def __init__(self, source: PolicySource, folder: Path) -> None:
        self.spec = source.spec
        library = folder / "policy.so"
        flags = ["-std=c99", "-O2", "-ffp-contract=off", "-shared", "-fPIC"]
        subprocess.run(["gcc", *flags, source.source, "-o", library], check=True)
        self.library = ctypes.CDLL(str(library))
        self.scratch = (ctypes.c_uint32 * 256)()

    def act(self, observations: Array) -> Array:
        actions = []
        for observation in np.asarray(observations, np.float32):
            row, action = np.ascontiguousarray(observation), ctypes.c_int32()
            self.library.policy_act(
                ctypes.c_void_p(row.ctypes.data), ctypes.byref(action), self.scratch
            )
            actions.append(action.value)
        return np.asarray(actions, np.int64)

    def outputs(self, observations: Array) -> Array:
        rows = []
        for observation in np.asarray(observations, np.float32):
            row, out = np.ascontiguousarray(observation), np.zeros(self.spec.n_outputs, np.float32)
            self.library.policy_infer(
                ctypes.c_void_p(row.ctypes.data), ctypes.c_void_p(out.ctypes.data), self.scratch
            )
            rows.append(out)
        return np.asarray(rows)


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> tuple[PolicySource, HostPolicy]:
    folder = tmp_path_factory.mktemp("cartpole")
    source = generated(*cartpole_policy(), folder)
    return source, HostPolicy(source, folder)


@pytest.fixture(scope="module")
def lander(tmp_path_factory: pytest.TempPathFactory) -> tuple[PolicySource, HostPolicy]:
    folder = tmp_path_factory.mktemp("lander")
    source = generated(*lunarlander_policy(), folder)
    return source, HostPolicy(source, folder)


def play(env_id: str, policy: Any, seeds: range) -> tuple[list[int], list[float]]:
    env = gymnasium.make(env_id)
    actions, returns = [], []
    for seed in seeds:
        observation, _ = env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            action = policy.act(observation[None])[0]
            actions.append(int(action))
            observation, reward, ended, cut, _ = env.step(action)
            total += float(reward)
            done = ended or cut
        returns.append(total)
    env.close()
    return actions, returns


@pytest.mark.mcu
@pytest.mark.slow
@pytest.mark.parametrize("port", EMULATED)
def test_cartpole_in_the_loop(
    port: str, cartpole: tuple[PolicySource, HostPolicy], tmp_path: Path
) -> None:
    source, host = cartpole
    # 20 episodes on both boards together; the line of the first is the quicker one.
    seeds = range(14) if port == EMULATED[0] else range(14, 20)
    expected = play("CartPole-v1", host, seeds)
    with BoardPolicy.from_source(source, port, work=tmp_path) as board:
        assert play("CartPole-v1", board, seeds) == expected
        assert board.hello.policy_id == source.policy_id
        status = board.client.status()
    assert status.steps >= len(expected[0])
    assert len(expected[0]) == 500 * len(seeds)  # this policy holds the pole
    assert (status.damaged, status.refused) == (0, 0)


@pytest.mark.mcu
@pytest.mark.slow
@pytest.mark.parametrize("port", EMULATED)
def test_lunarlander_in_the_loop(
    port: str, lander: tuple[PolicySource, HostPolicy], tmp_path: Path
) -> None:
    source, host = lander
    seeds = range(3) if port == EMULATED[0] else range(3, 5)
    expected = play("LunarLander-v3", host, seeds)
    with BoardPolicy.from_source(source, port, work=tmp_path) as board:
        assert play("LunarLander-v3", board, seeds) == expected
        x = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
        assert np.array_equal(board.outputs(x), host.outputs(x))


@pytest.mark.mcu
def test_a_board_with_another_policy_is_refused(
    cartpole: tuple[PolicySource, HostPolicy], tmp_path: Path
) -> None:
    source, _ = cartpole
    other = dataclasses.replace(source, policy_id="cd" * 32)
    with pytest.raises(BoardError, match=r"runs policy abababababababab…, .* cdcdcdcdcdcdcdcd…"):
        BoardPolicy.from_source(other, "qemu-microbit", work=tmp_path)
    larger = dataclasses.replace(source, spec=PolicySpec((5,), DiscreteActions(2), "logits"))
    with pytest.raises(BoardError, match=r"found|artifact \(5, 2, 1, False\)"):
        BoardPolicy.from_source(larger, "qemu-microbit", work=tmp_path)
    with pytest.raises(UsageError, match="no board 'nothing'"):
        BoardPolicy.from_source(source, "qemu-nothing", work=tmp_path)


@pytest.mark.mcu
def test_what_is_not_finite_is_no_observation(
    cartpole: tuple[PolicySource, HostPolicy], tmp_path: Path
) -> None:
    source, _ = cartpole
    with BoardPolicy.from_source(source, "qemu-microbit", work=tmp_path) as board:
        for value in (np.nan, np.inf, -np.inf):
            with pytest.raises(BoardError, match="not finite"):
                board.act(np.array([[0, value, 0, 0]], np.float32))
        assert board.act(np.array([[0, 1, 0.1, 0]], np.float32))[0] == 1


def test_a_serial_port_is_a_line_like_the_others(
    cartpole: tuple[PolicySource, HostPolicy], tmp_path: Path
) -> None:
    source, host = cartpole
    firmware = build(source, BOARDS["host"], tmp_path)
    ours, theirs = os.openpty()
    tty.setraw(ours)
    process = subprocess.Popen([firmware.elf], stdin=ours, stdout=ours)
    try:
        with BoardPolicy.from_source(source, os.ttyname(theirs)) as board:
            x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
            assert np.array_equal(board.act(x), host.act(x))
            assert board.hello.board == "host"
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def emulate(source: PolicySource, port: str, folder: Path, sleep: bool) -> BoardClient:
    board = BOARDS[port[5:]]
    image = build(source, board, folder)
    return BoardClient(ProcessTransport(emulator_command(board, image.elf, sleep)))


@pytest.mark.mcu
@pytest.mark.parametrize("port", EMULATED)
@pytest.mark.parametrize("milliseconds", [100, 730])
def test_silence_disables_the_actuator_in_the_boards_own_time(
    port: str,
    milliseconds: int,
    cartpole: tuple[PolicySource, HostPolicy],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"silence-{port}"
    board = emulate(cartpole[0], port, folder, sleep=False)  # the board's idle time is skipped
    try:
        hertz = board.hello().timer_hz
        board.open(11, milliseconds)
        assert board.enable(True) == protocol.FLAG_ENABLED
        give_up = time.monotonic() + 20
        while not board.events and time.monotonic() < give_up:
            board.status()
        kind, ticks = struct.unpack("<B3xI", board.events[0].payload)
        assert kind == protocol.EVENT_TIMEOUT
        # The SysTick boards wake once in a millisecond.
        assert milliseconds <= 1000 * ticks / hertz <= milliseconds + 1.1
        assert board.status().flags == protocol.FLAG_TIMED_OUT
        acted = board.observe(np.array([0, 1, 0.1, 0], "<f4").tobytes())
        assert acted.flags == protocol.FLAG_TIMED_OUT  # it acts, but the actuator stays off
    finally:
        board.close()


@pytest.mark.mcu
@pytest.mark.slow
def test_ten_thousand_bad_frames_over_the_emulated_uart(
    cartpole: tuple[PolicySource, HostPolicy], tmp_path: Path
) -> None:
    source, host = cartpole
    rng = np.random.default_rng(0)
    board = emulate(source, "qemu-microbit", tmp_path, sleep=True)
    try:
        board.open(21, 1000)
        before = board.status().steps  # of the demo that it ran until then
        x = rng.normal(size=(100, 4)).astype("<f4")
        steps = 0
        for batch in range(100):
            acted = board.observe(x[batch].tobytes())
            steps += 1
            assert struct.unpack("<i", acted.action)[0] == host.act(x[batch : batch + 1])[0]
            for _ in range(100):
                board.transport.write(bad_frame(rng, session=21))
            board.transport.write(b"\0")
        status = board.status()
        assert status.steps - before == steps  # nothing bad was taken for an observation
        assert status.damaged > 5_000
        assert status.stack_free > 0
        assert board.hello().policy_id == source.policy_id
    finally:
        board.close()


def bad_frame(rng: Any, session: int) -> bytes:
    """Noise, or an observation's frame with up to three bytes changed, lost or added."""
    if rng.integers(4) == 0:
        return bytes(rng.integers(0, 256, rng.integers(1, 12), dtype=np.uint8)) + b"\0"
    payload = rng.normal(size=4).astype("<f4").tobytes()
    wire = bytearray(
        Frame(protocol.OBSERVE, session, int(rng.integers(65536)), payload).encode()[1:]
    )
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(wire) - 1))
        kind = rng.integers(3)
        if kind == 0:
            wire[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del wire[at]
        else:
            wire.insert(at, int(rng.integers(1, 256)))
    return bytes(wire)
