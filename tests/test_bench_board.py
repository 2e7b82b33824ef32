"""`pops bench --target microbit` and `board:PORT`: the whole firmware as a row."""

from __future__ import annotations

import os
import subprocess
import tty
from pathlib import Path

import pytest
from board_policies import artifact, cartpole_policy, cartpole_student
from rich.console import Console

from pops.artifact import read_json, sha256_file, write_arrays, write_json
from pops.errors import PopsError, UsageError
from pops_deploy.bench import bench, print_bench
from pops_deploy.board.boards import BOARDS
from pops_deploy.board.build import build
from pops_deploy.board.protocol import BoardError
from pops_deploy.config import BenchConfig
from pops_deploy.firmware import artifact_source
from pops_deploy.folder import Artifact
from pops_deploy.targets import find_target

pytestmark = pytest.mark.mcu


def measurable(folder: Path, small: bool = True, policy_id: str = "ab" * 32) -> Path:
    """An artifact of generated C with golden observations."""
    policy, states = cartpole_student() if small else cartpole_policy()
    artifact(policy, states, folder, policy_id)
    write_arrays(folder / "golden.npz", {"observations": states[:200]})
    facts = read_json(folder / "artifact.json")
    facts["golden"] = {"path": "golden.npz", "sha256": sha256_file(folder / "golden.npz")}
    facts["num_parameters"] = policy.arch.num_parameters
    facts["files"]["c_int8"]["evaluation"] = {"episodes": 100, "mean": 500.0, "std": 0.0}
    write_json(folder / "artifact.json", facts)
    return folder


def changed(folder: Path, before: str, after: str) -> None:
    """Change the generated code of an artifact, and its hash with it."""
    path = folder / "c" / "policy.c"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    facts = read_json(folder / "artifact.json")
    facts["files"]["c_int8"].update(bytes=path.stat().st_size, sha256=sha256_file(path))
    write_json(folder / "artifact.json", facts)


@pytest.mark.parametrize("name", ["microbit", "netduinoplus2", "mps2-an500", "board:/dev/ttyACM0"])
def test_every_board_has_its_target(name: str) -> None:
    assert find_target(name).__name__ == "pops_deploy.targets.board"


def test_the_firmware_on_two_boards(tmp_path: Path) -> None:
    folder = measurable(tmp_path / "artifact")
    budget = "flash=8K,ram=4K,instructions=1500"
    result = bench(
        BenchConfig((folder,), target="microbit,netduinoplus2", file="int8", budget=budget)
    )
    assert (result.exit_code, result.misses) == (0, ())
    limits = {"microbit": (8 * 1024, 2 * 1024, 1500), "netduinoplus2": (8 * 1024, 4 * 1024, 500)}
    assert [row.target for row in result.rows] == list(limits)
    for row in result.rows:
        mcu = row.mcu
        assert mcu is not None
        flash, ram, instructions = limits[row.target]
        assert row.latency is None  # an emulator tells no time
        assert mcu.core == BOARDS[row.target].core
        assert 4000 < mcu.flash < flash
        assert row.bytes == mcu.flash
        assert 500 < mcu.ram < ram
        assert mcu.instructions is not None
        assert mcu.instructions_min is not None
        assert 100 < mcu.instructions_min <= mcu.instructions < instructions
        assert mcu.stack_static is not None
        assert mcu.stack_painted is not None
        assert 100 < mcu.stack_painted <= mcu.stack_static <= mcu.ram - mcu.static_ram
        assert (mcu.mismatches, mcu.observations) == (0, 64)
        assert [board["fits"] for board in mcu.boards] == [True]
        assert mcu.boards[0]["estimated_microseconds"] is None
        assert row.returns is not None
        assert row.returns.mean == 500.0
        assert row.versions["board"] == row.target
    console = Console(record=True, width=200)
    print_bench(result, console)
    said = console.export_text()
    assert "64/64" in said
    assert "BBC micro:bit V1 (nRF51822)" in said
    assert "µs" not in said


def test_a_policy_that_does_not_fit_says_by_how_much(tmp_path: Path) -> None:
    folder = measurable(tmp_path / "artifact")
    # 300,000 characters that HELLO reads, in place of a large network that takes long to compile.
    changed(folder, 'const char policy_id[] = "', 'const char policy_id[300000] = "')
    result = bench(BenchConfig((folder,), target="microbit", file="int8", budget="flash=256K"))
    (row,) = result.rows
    assert row.mcu is not None
    over = row.mcu.flash - 256 * 1024
    assert 40_000 < over < 50_000
    assert row.mcu.ram < 2048
    assert row.mcu.instructions is None
    assert not row.mcu.boards[0]["fits"]
    notes = [sentence for sentence in result.words if "does not fit" in sentence]
    assert notes == [
        "student 4-1-2, c int8 does not fit BBC micro:bit V1 (nRF51822): "
        f"{over:,} B of flash too much."
    ]
    assert result.exit_code == 3
    print_bench(result, Console(record=True, width=200))


def test_a_serial_port_tells_a_time(tmp_path: Path) -> None:
    """The firmware as a program of this computer, at the other end of a pseudo-terminal."""
    folder = measurable(tmp_path / "artifact")
    other = measurable(tmp_path / "other", small=False, policy_id="cd" * 32)
    firmware = build(artifact_source(Artifact(folder)), BOARDS["host"], tmp_path / "build")
    ours, theirs = os.openpty()
    tty.setraw(ours)
    process = subprocess.Popen([firmware.elf], stdin=ours, stdout=ours)
    target = f"board:{os.ttyname(theirs)}"
    try:
        result = bench(BenchConfig((other, folder), target=target, windows=5))
        with pytest.raises(BoardError, match="runs policy abab"):
            bench(BenchConfig((other,), target=target))
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
    (row,) = result.rows
    assert (row.target, row.policy, row.mcu) == (target, "4-1-2", None)
    assert row.latency is not None
    assert (row.latency.calls, len(row.latency.windows)) == (320, 5)
    assert 0 <= row.latency.low <= row.latency.median <= row.latency.high <= row.latency.max
    assert any("4-8-2 was not measured" in sentence for sentence in result.words)
    assert not any("differently" in sentence for sentence in result.words)
    console = Console(record=True, width=200)
    print_bench(result, console)
    assert target in console.export_text()


def test_what_is_no_board(tmp_path: Path) -> None:
    folder = measurable(tmp_path / "artifact")
    for target in ("microbit-v2", "board:", "board:host", "board:qemu-host"):
        with pytest.raises(UsageError, match=r"microbit.*netduinoplus2"):
            bench(BenchConfig((folder,), target=target))
    with pytest.raises(BoardError, match="no serial device /dev/none"):
        bench(BenchConfig((folder,), target="board:/dev/none"))
    with pytest.raises(PopsError, match="Export with --format c"):
        bench(BenchConfig((folder,), target="microbit", file="fp32"))
