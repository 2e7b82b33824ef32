"""What the firmware takes of the boards: bytes, stack and instructions, counted one by one."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from board_policies import cartpole_policy, cartpole_student, generated, lunarlander_policy
from firmware_trace import Symbols, calls, trace, until

from pops_deploy.board.boards import BOARDS
from pops_deploy.board.build import Image, PolicySource, build, firmware_source
from pops_deploy.board.client import BoardClient
from pops_deploy.board.stack import stack_bound
from pops_deploy.board.transport import ProcessTransport, emulator_command

pytestmark = pytest.mark.mcu


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> PolicySource:
    return generated(*cartpole_policy(), tmp_path_factory.mktemp("cartpole"))


@pytest.fixture(scope="module")
def images(cartpole: PolicySource, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    folder = tmp_path_factory.mktemp("images")
    names = ("microbit", "netduinoplus2", "mps2-an500")
    return {name: build(cartpole, BOARDS[name], folder / name) for name in names}


def test_the_microbit_firmware_fits_8_kb_and_2_kb(images: dict[str, Image]) -> None:
    image = images["microbit"]
    assert image.flash < 8 * 1024
    assert image.ram < 2 * 1024


def test_with_the_lunarlander_student_it_fits_9_kb(tmp_path: Path) -> None:
    source = generated(*lunarlander_policy(), tmp_path / "policy")
    image = build(source, BOARDS["microbit"], tmp_path)
    assert image.flash < 9 * 1024
    assert image.ram < 2 * 1024
    assert stack_bound(image.elf).total <= image.stack


@pytest.mark.parametrize("name", ["microbit", "netduinoplus2", "mps2-an500"])
def test_the_deepest_stack_is_reserved(name: str, images: dict[str, Image]) -> None:
    bound = stack_bound(images[name].elf)
    assert bound.path[:2] == ("reset_handler", "main")
    assert 0 < bound.total <= images[name].stack


@pytest.mark.parametrize("name", ["microbit", "netduinoplus2"])
def test_the_painted_stack_agrees_with_the_bound(name: str, images: dict[str, Image]) -> None:
    image = images[name]
    board = BoardClient(ProcessTransport(emulator_command(image.board, image.elf)))
    try:
        board.hello()
        board.open(3, 1000)
        observation = bytes(16)
        board.observe(observation)
        board.outputs(observation)
        used = image.stack - board.status().stack_free
    finally:
        board.close()
    bound = stack_bound(image.elf).total
    assert bound // 3 < used <= bound + 80  # the paint spares what start-up itself stands on


@pytest.mark.parametrize(
    ("name", "step", "wider"),
    [("microbit", 1500, 1500), ("netduinoplus2", 300, 400), ("mps2-an500", 300, 400)],
)
def test_instructions_of_the_start_and_of_a_control_step(
    name: str, step: int, wider: int, images: dict[str, Image], tmp_path: Path
) -> None:
    student = generated(*cartpole_student(), tmp_path / "policy")
    small = build(student, BOARDS[name], tmp_path)
    counters = trace(small.board, small.elf, 120_000)
    symbols = Symbols.read(small.elf)
    assert until(counters, symbols, "control_step") < 20_000  # the self-test is in it
    steps = calls(counters, symbols, "control_step")
    assert len(steps) >= 3
    assert max(steps) < step
    # 58 parameters, where the student has 9
    image = images[name]
    steps = calls(trace(image.board, image.elf, 120_000), Symbols.read(image.elf), "control_step")
    assert len(steps) >= 3
    assert max(steps) < wider


@pytest.mark.slow
@pytest.mark.parametrize("name", ["microbit", "netduinoplus2"])
def test_the_pole_is_held_from_20_starting_states(name: str, images: dict[str, Image]) -> None:
    image = images[name]
    line = ProcessTransport(emulator_command(image.board, image.elf, sleep=False))
    text, give_up = "", time.monotonic() + 100
    try:
        while "episode 20 held for 500 steps" not in text and time.monotonic() < give_up:
            text += line.read(1.0).decode()
            assert " fell after " not in text
    finally:
        line.close()
    held = [one for one in text.splitlines() if one.endswith("held for 500 steps")]
    assert len(held) >= 20
    assert "self-test ok" in text


def test_a_failed_self_test_stops_the_controller(cartpole: PolicySource, tmp_path: Path) -> None:
    text = cartpole.source.read_text()
    at = text.index("_golden_actions")
    first = text.index("{", at) + 1
    digit = next(i for i in range(first, len(text)) if text[i] in "01")
    (tmp_path / "policy.c").write_text(text[:digit] + str(1 - int(text[digit])) + text[digit + 1 :])
    (tmp_path / "policy.h").write_bytes(cartpole.header.read_bytes())
    wrong = PolicySource(
        tmp_path / "policy.c", tmp_path / "policy.h", "policy", cartpole.spec, cartpole.policy_id
    )
    image = build(wrong, BOARDS["microbit"], tmp_path / "out")
    line = ProcessTransport(emulator_command(image.board, image.elf, sleep=False))
    text, give_up = "", time.monotonic() + 20
    try:
        while "off\r\n" not in text and time.monotonic() < give_up:
            text += line.read(1.0).decode(errors="replace")
        assert "SELF-TEST FAILED: the actuator stays off" in text
        assert "episode" not in text
        board = BoardClient(line)
        assert board.hello().flags == 4
        with pytest.raises(Exception, match="its self-test failed"):
            board.open(1, 100)
    finally:
        line.close()


@pytest.mark.slow
def test_the_demo_runs_both_boards(tmp_path: Path) -> None:
    begin = time.monotonic()
    done = subprocess.run(
        ["make", "-s", "-C", str(firmware_source()), "demo", f"BUILD={tmp_path}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("held for 500 steps") == 2
    assert time.monotonic() - begin < 120
