"""firmware_demo on this computer: unit tests, fuzzing, the plant against Gymnasium, cppcheck."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from pops_deploy.board.build import firmware_source

FIRMWARE = firmware_source()


def make(*arguments: str) -> str:
    done = subprocess.run(
        ["make", "-s", "-C", str(FIRMWARE), *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class State(ctypes.Structure):
    _fields_ = [(name, ctypes.c_float) for name in ("x", "x_dot", "theta", "theta_dot")]


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Any:
    library = tmp_path_factory.mktemp("plant") / "plant.so"
    source = FIRMWARE / "app" / "plant.c"
    subprocess.run(["gcc", "-std=c99", "-shared", "-fPIC", source, "-o", library], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.plant_fallen.restype = ctypes.c_bool
    return loaded


def test_protocol_control_and_plant_pass_their_unit_tests(tmp_path: Path) -> None:
    assert make("test", f"BUILD={tmp_path}").strip().endswith("ok")


def test_a_million_random_and_mutated_frames(tmp_path: Path) -> None:
    said = make("fuzz", f"BUILD={tmp_path}", "FRAMES=1000000")
    assert said.strip().splitlines()[-1].startswith("1000000 frames: ")


@pytest.mark.parametrize("board", ["microbit", "netduinoplus2", "mps2-an500"])
def test_cppcheck_finds_nothing(board: str) -> None:
    make("check", f"BOARD={board}")


def test_one_step_of_the_plant_is_gymnasiums(plant: Any) -> None:
    env = gymnasium.make("CartPole-v1").unwrapped
    rng = np.random.default_rng(0)
    states: list[np.ndarray[Any, Any]] = []
    while len(states) < 10_000:  # states that episodes under random and constant pushes reach
        state, _ = env.reset(seed=len(states))
        constant, done = rng.integers(3), False
        while not done:
            states.append(np.asarray(state, np.float32))
            action = int(rng.integers(2)) if constant == 2 else int(constant)
            state, _, done, _, _ = env.step(action)
    worst = 0.0
    for index, state in enumerate(states[:10_000]):
        action = index % 2
        env.state = tuple(float(value) for value in state)  # type: ignore[attr-defined]
        env.steps_beyond_terminated = None  # type: ignore[attr-defined]
        _, _, terminated, _, _ = env.step(action)
        ours = State(*state)
        plant.plant_step(ctypes.byref(ours), action)
        expected = np.asarray(env.state)  # type: ignore[attr-defined]
        found = np.asarray([ours.x, ours.x_dot, ours.theta, ours.theta_dot])
        worst = max(worst, float(np.abs(found - expected).max()))
        assert plant.plant_fallen(ctypes.byref(ours)) == terminated
    assert worst < 1e-6


def test_the_plant_starts_where_cartpole_does(plant: Any) -> None:
    seed, state = ctypes.c_uint32(1), State()
    drawn = []
    for _ in range(2000):
        plant.plant_reset(ctypes.byref(state), ctypes.byref(seed))
        drawn += [state.x, state.x_dot, state.theta, state.theta_dot]
    assert -0.05 <= min(drawn) < -0.0499
    assert 0.0499 < max(drawn) <= 0.05
    assert abs(float(np.mean(drawn))) < 0.001


def test_missing_tools_are_named_with_their_packages(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "make", "test", "dirname"):
        found = subprocess.run(["which", tool], capture_output=True, text=True).stdout.strip()
        if found:
            (tmp_path / "bin" / tool).symlink_to(found)
    done = subprocess.run(
        [str(tmp_path / "bin" / "make"), "-C", str(FIRMWARE), "tools"],
        env={"PATH": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "apt-get install cmake gcc-arm-none-eabi qemu-system-arm" in done.stderr
