"""`pops deploy firmware`: from an artifact to an image, what is said of it, and what goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from board_policies import artifact, cartpole_policy, generated, lunarlander_policy
from rich.console import Console

from pops.errors import ArtifactError, PopsError, UsageError
from pops_deploy.board.boards import BOARDS
from pops_deploy.board.build import build
from pops_deploy.board.protocol import BoardError
from pops_deploy.board.runtime import BoardPolicy
from pops_deploy.board.stack import Function, deepest, parse
from pops_deploy.firmware import firmware, print_firmware
from pops_deploy.firmware_config import FirmwareConfig

pytestmark = pytest.mark.mcu


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact(*cartpole_policy(), tmp_path_factory.mktemp("cartpole") / "artifact")


@pytest.mark.parametrize("board", ["microbit", "netduinoplus2", "mps2-an500"])
def test_an_artifact_becomes_a_firmware_that_runs(board: str, cartpole: Path) -> None:
    lines: list[str] = []
    result = firmware(FirmwareConfig(cartpole, board=board, run=True), lines.append)
    assert tuple(lines) == result.telemetry
    assert lines[0].startswith(f"pops on {board}, policy {'ab' * 32}")
    assert lines[-1] == "episode 1 held for 500 steps"
    assert result.image.elf.parent.parent == cartpole.parent / f"firmware-{board}"
    facts = result.to_json()
    assert facts["flash"] + facts["flash_left"] == result.image.board.flash
    assert facts["ram"] + facts["ram_left"] == result.image.board.ram
    assert facts["stack_worst"] <= facts["stack_reserved"]
    console = Console(record=True, width=100)
    print_firmware(result, console)
    said = console.export_text()
    assert f"{result.image.flash:,} B" in said
    assert f"{facts['flash_left']:,} B" in said


def test_the_same_artifact_gives_the_same_image(cartpole: Path, tmp_path: Path) -> None:
    images = [
        firmware(FirmwareConfig(cartpole, out=tmp_path / name)).image.elf for name in ("a", "b")
    ]
    first, second = (image.with_suffix(".bin").read_bytes() for image in images)
    assert first == second


def test_a_policy_without_the_demo_says_who_it_is(tmp_path: Path) -> None:
    folder = artifact(*lunarlander_policy(), tmp_path / "artifact")
    result = firmware(FirmwareConfig(folder, run=True))
    assert len(result.telemetry) == 1
    assert "self-test ok" in result.telemetry[0]


def test_another_prefix_builds_too(tmp_path: Path) -> None:
    source = generated(*cartpole_policy(), tmp_path / "c", prefix="balance")
    images = [
        build(source, BOARDS[name], tmp_path / name, standalone=True)
        for name in ("microbit", "host")
    ]
    assert images[0].flash < 8 * 1024
    with BoardPolicy.from_source(source, "host", work=tmp_path / "host") as board:
        assert board.step([0.0, 1.0, 0.1, 0.1]) == 1


def test_the_firmware_runs_on_this_computer_too(cartpole: Path, tmp_path: Path) -> None:
    with BoardPolicy(cartpole, "host", work=tmp_path) as board:
        assert board.hello.board == "host"
        assert board.step([0.0, 1.0, 0.1, 0.1]) == 1
        assert board.last is not None
        assert board.last.missed == 0
    with pytest.raises(BoardError, match="was closed"):
        board.step([0.0, 1.0, 0.1, 0.1])


def test_an_emulator_ends_with_its_python(cartpole: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from pops_deploy.board.runtime import BoardPolicy\n"
        f"board = BoardPolicy({str(cartpole)!r}, 'qemu-microbit', work=Path({str(tmp_path)!r}))\n"
        "print(board.client.transport._process.pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_a_microbit_is_flashed_by_its_drive(cartpole: Path, tmp_path: Path) -> None:
    drive = tmp_path / "MICROBIT"
    config = FirmwareConfig(cartpole, flash=True, drive=drive, out=tmp_path / "out")
    with pytest.raises(PopsError, match="is not a folder"):
        firmware(config)
    drive.mkdir()
    assert "pops-microbit.hex" in firmware(config).flashed
    assert (drive / "pops-microbit.hex").read_text().startswith(":")


def test_what_cannot_be_is_refused_in_words(cartpole: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no board 'uno', expected one of: microbit"):
        firmware(FirmwareConfig(cartpole, board="uno"))
    with pytest.raises(UsageError, match="cannot be flashed"):
        firmware(FirmwareConfig(cartpole, board="mps2-an500", flash=True))
    with pytest.raises(ArtifactError, match="is not an artifact"):
        firmware(FirmwareConfig(tmp_path))
    with pytest.raises(ArtifactError, match="holds no fp32 c file"):
        firmware(FirmwareConfig(cartpole, file="fp32"))
    with pytest.raises(UsageError, match="period-us 5"):
        FirmwareConfig(cartpole, period_us=5)


def test_missing_tools_are_named(
    cartpole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PopsError, match="apt-get install cmake gcc-arm-none-eabi libnewlib"):
        firmware(FirmwareConfig(cartpole, out=tmp_path / "out"))


def test_the_board_package_leaves_heavy_packages_alone() -> None:
    code = (
        "import sys, pops_deploy.firmware, pops_deploy.board.runtime\n"
        "heavy = {'torch', 'gymnasium', 'onnx', 'onnxruntime', 'rich', 'serial'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


LISTING = """
00000000 <main>:
   0:\tb570      \tpush\t{r4, r5, r6, lr}
   2:\tb082      \tsub\tsp, #8
   4:\tf000 f800 \tbl\t10 <leaf>
   8:\te7fe      \tb.n\t20 <other>

00000010 <leaf>:
  10:\tb5f0      \tpush\t{r4-r7, lr}
  12:\tbdf0      \tpop\t{r4-r7, pc}

00000020 <other>:
  20:\te92d 4ff0 \tstmdb\tsp!, {r4, r5, r6, r7, r8, r9, sl, fp, lr}
"""


def test_stack_frames_are_read_from_the_code() -> None:
    functions = parse(LISTING)
    assert {name: f.frame for name, f in functions.items()} == {"main": 24, "leaf": 20, "other": 36}
    assert deepest(functions, "main") == (60, ("main", "other"))


def test_a_store_that_moves_the_stack_pointer_is_a_push() -> None:
    """As libgcc has it on cores with Thumb-2; a store below or above sp without `!` is none."""
    listing = """
00000000 <divide>:
   0:\tf84d ed08 \tstr.w\tlr, [sp, #-8]!
   4:\te96d ce04 \tstrd\tip, lr, [sp, #-16]!
   8:\t9001      \tstr\tr0, [sp, #4]
   a:\tf84d 0c04 \tstr.w\tr0, [sp, #-4]
   e:\tf85d eb08 \tldr.w\tlr, [sp], #8
"""
    assert parse(listing)["divide"].frame == 24


def test_a_stack_without_a_bound_is_refused() -> None:
    again = {"main": Function(8, {"a"}), "a": Function(8, {"main"})}
    with pytest.raises(PopsError, match="main calls a calls main"):
        deepest(again, "main")
    pointer = {"main": Function(8, {"a"}), "a": Function(8, set(), indirect=True)}
    with pytest.raises(PopsError, match="a calls by pointer"):
        deepest(pointer, "main")
