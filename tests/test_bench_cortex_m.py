"""Microcontroller targets, from an artifact to rows, boards, budgets and exit codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench_fixtures import small_artifact, small_policy

from pops.artifact import read_arrays, read_json, sha256_file, write_arrays, write_json
from pops.errors import PopsError, UsageError
from pops_deploy.bench import bench
from pops_deploy.config import BenchConfig

pytestmark = pytest.mark.mcu


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return small_artifact(tmp_path / "artifact", small_policy())


def test_counts_and_bytes_of_two_cores(artifact: Path) -> None:
    config = BenchConfig((artifact,), target="cortex-m0,cortex-m4", file="int8")
    first, again = bench(config), bench(config)
    assert first.rows == again.rows
    assert first.exit_code == 0
    rows = {row.target: row for row in first.rows}
    assert list(rows) == ["cortex-m0", "cortex-m4"]
    for row in rows.values():
        mcu = row.mcu
        assert mcu is not None
        assert row.latency is None
        assert mcu.instructions is not None
        assert mcu.instructions_min is not None
        assert 0 < mcu.instructions_min <= mcu.instructions
        # 48 weights and 10 biases of 4 bytes, and the code round them.
        assert 58 * 4 < mcu.flash - mcu.library < 3000
        assert mcu.static_ram == 0
        assert mcu.scratch == 16
        assert mcu.stack_static is not None
        assert mcu.stack_painted is not None
        assert mcu.ram == 16 + max(mcu.stack_static, mcu.stack_painted)
        assert (mcu.mismatches, mcu.observations, mcu.self_test) == (0, 64, 0)
        assert all(board["fits"] for board in mcu.boards)
        assert row.returns is not None
        assert row.returns.mean == 480.0
    soft, hard = rows["cortex-m0"].mcu, rows["cortex-m4"].mcu
    assert soft is not None
    assert hard is not None
    assert soft.library > 500
    assert hard.library == 0
    assert soft.stack_static == soft.stack_painted
    assert (soft.instructions or 0) > 10 * (hard.instructions or 0)
    assert [b["board"] for b in soft.boards] == ["microbit-v1", "raspberry-pi-pico"]
    assert [b["board"] for b in hard.boards] == ["nucleo-f446re", "stm32f4-discovery"]


@pytest.mark.parametrize(
    ("budget", "code", "missed"),
    [("flash=32K,ram=4K,instructions=5000", 0, 0), ("flash=100,ram=10,instructions=9", 3, 3)],
)
def test_budget_decides_the_exit_code(artifact: Path, budget: str, code: int, missed: int) -> None:
    result = bench(BenchConfig((artifact,), target="cortex-m4", budget=budget))
    assert result.exit_code == code
    assert len(result.misses) == missed
    assert all(miss.title.endswith("c int8") for miss in result.misses)


def test_golden_actions_that_differ_are_counted(artifact: Path) -> None:
    golden = read_arrays(artifact / "golden.npz")
    golden["c_f32.actions"] = golden["c_f32.actions"].copy()
    golden["c_f32.actions"][:5] = 99
    write_arrays(artifact / "golden.npz", golden)
    facts = read_json(artifact / "artifact.json")
    facts["golden"]["sha256"] = sha256_file(artifact / "golden.npz")
    write_json(artifact / "artifact.json", facts)
    result = bench(BenchConfig((artifact,), target="cortex-m4", file="fp32"))
    assert result.rows[0].mcu is not None
    assert result.rows[0].mcu.mismatches == 5
    assert any("5 of 64 golden actions differently" in sentence for sentence in result.words)


def test_a_policy_that_does_not_fit_says_by_how_much(tmp_path: Path) -> None:
    """16,000 hidden units: 448 KB of weights for a micro:bit's 256 KiB."""
    folder = small_artifact(tmp_path / "artifact", small_policy(hidden=16_000))
    config = BenchConfig((folder,), target="cortex-m0", file="int8", budget="flash=256K")
    result = bench(config)
    (row,) = result.rows
    assert row.mcu is not None
    assert row.mcu.instructions is None
    assert row.mcu.flash > 16_000 * 7 * 4
    verdicts = {board["board"]: board for board in row.mcu.boards}
    over = row.mcu.flash - 256 * 1024
    assert f"{over:,} B of flash too much" in verdicts["microbit-v1"]["verdict"]
    assert "RAM too much" in verdicts["microbit-v1"]["verdict"]
    assert verdicts["raspberry-pi-pico"]["fits"]
    assert any("does not fit the machine" in sentence for sentence in result.words)
    assert result.exit_code == 3


def test_missing_tools_name_their_packages(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    config = BenchConfig((artifact,), target="cortex-m4", file="int8")
    tools = tmp_path / "tools"
    tools.mkdir()
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tools))
        with pytest.raises(PopsError, match=r"arm-none-eabi-gcc.*apt install gcc-arm-none-eabi"):
            bench(config)
    for name in ("gcc", "size", "objdump", "nm", "as", "ld"):
        found = shutil.which(f"arm-none-eabi-{name}")
        assert found is not None
        (tools / f"arm-none-eabi-{name}").symlink_to(found)
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(PopsError, match=r"qemu-system-arm.*apt install qemu-system-arm"):
        bench(config)


def test_unknown_cores_and_policies_without_c(artifact: Path) -> None:
    with pytest.raises(UsageError, match=r"Core 'cortex-m99' is unknown.*cortex-m0"):
        bench(BenchConfig((artifact,), target="cortex-m99"))
    facts = read_json(artifact / "artifact.json")
    facts["files"] = {"onnx_fp32": facts["files"]["onnx_fp32"]}
    write_json(artifact / "artifact.json", facts)
    with pytest.raises(PopsError, match=r"none of these policies has it.*--format c"):
        bench(BenchConfig((artifact,), target="cortex-m4"))


def test_images_go_in_with_channels_last() -> None:
    from types import SimpleNamespace

    from pops_deploy.targets.cortex_m import _as_c_takes_it

    spec = SimpleNamespace(input_shape=(2, 3, 4), channels_last=False, observation_dtype="uint8")
    images = np.arange(48).reshape(2, 2, 3, 4).astype(np.uint8)
    flat = _as_c_takes_it(SimpleNamespace(spec=spec), images)  # type: ignore[arg-type]
    assert flat.dtype == np.uint8
    assert flat.shape == (2, 24)
    assert flat[0, :4].tolist() == [0, 12, 1, 13]
