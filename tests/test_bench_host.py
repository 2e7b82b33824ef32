"""`bench` on the host: figures of things whose cost is known, and what is kept and said."""

from __future__ import annotations

import gc
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bench_fixtures import small_artifact, small_policy, small_run
from bench_suppliers import SUPPLIERS

from pops.errors import ArtifactError, PopsError, UsageError
from pops_deploy.bench import BenchResult, bench, print_bench
from pops_deploy.bench.harness import clock_cost, summarise_windows, time_side_by_side
from pops_deploy.config import BenchConfig

QUICK = {"windows": 5, "seconds": 0.01, "warmup": 0.01}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return small_run(tmp_path / "run", small_policy(4, 64), small_policy())


def printed(result: BenchResult) -> str:
    from rich.console import Console

    out = io.StringIO()
    print_bench(result, Console(file=out, width=200))
    return out.getvalue()


def test_teacher_and_student_side_by_side(tmp_path: Path, run: Path) -> None:
    from pops.torch_runtime import SUPPLIERS as LIBRARIES

    folders = {
        "teacher": small_artifact(tmp_path / "teacher", small_policy(4, 64), "teacher"),
        "student": small_artifact(tmp_path / "student", small_policy()),
    }
    config = BenchConfig(
        (run,),
        runtime="torch,onnx,c",
        json=tmp_path / "bench.json",
        plot=tmp_path / "bench.svg",
        batch=32,
        memory=False,
        **QUICK,
    )
    result = bench(config, LIBRARIES, export=lambda path, role: folders[role])
    assert result.exit_code == 0
    names = [(row.role, row.runtime, row.file) for row in result.rows]
    assert names == [
        (role, runtime, file)
        for role in ("teacher", "student")
        for runtime, file in (("torch", "fp32"), ("onnx", "fp32"), ("c", "fp32"), ("c", "int8"))
    ]
    for row in result.rows:
        latency, parts = row.latency, row.parts
        assert latency is not None
        assert parts is not None
        assert len(latency.windows) == 5
        assert latency.low <= latency.median <= latency.high <= latency.max
        assert latency.median <= latency.p99 <= latency.max
        assert latency.calls >= 100
        assert row.throughput is not None
        assert row.throughput > 1000
        assert len(row.sha256) == 64
    data = json.loads((tmp_path / "bench.json").read_text())
    assert data["format"] == "pops-bench-1"
    assert len(data["rows"]) == 8
    assert data["rows"][3]["versions"]["flags"].startswith("-O3")
    for key in ("processor", "governor", "threads", "load", "python", "versions", "commit"):
        assert key in data["machine"]
    assert data["machine"]["versions"]["numpy"] == np.__version__
    assert data["measured"]["clock_ns"] > 0
    table = printed(result)
    assert "teacher 4-64-2" in table
    assert "500.0 [500.0, 500.0]" in table
    assert table.count("not evaluated") == 2
    assert "2 of 8 rows have no return on file" in table
    # One mark for each row in each of the two panels, and one in the legend.
    svg = (tmp_path / "bench.svg").read_text()
    for row in result.rows:
        assert svg.count(f"<!-- {row.title} (host) -->") == 1


def test_known_costs_are_measured(run: Path) -> None:
    config = BenchConfig((run,), runtime="nothing,millisecond", memory=False, **QUICK)
    result = bench(config, SUPPLIERS)
    found = {(r.role, r.runtime): r.latency for r in result.rows}
    nothing, wait = found["student", "nothing"], found["student", "millisecond"]
    assert nothing is not None
    assert wait is not None
    assert min(nothing.windows) < 100
    assert 999_000 < min(wait.windows) < 1_100_000
    assert wait.calls == 5 * 20


class Counted:
    """Counts its calls, and what the garbage collector leaves alone during them."""

    name = "counted"

    def __init__(self) -> None:
        self.calls, self.frozen = 0, 0

    def step(self, _: object) -> None:
        self.calls, self.frozen = self.calls + 1, gc.get_freeze_count()


def test_copies_take_turns() -> None:
    copies = [Counted(), Counted(), Counted()]
    config = BenchConfig((), windows=9, seconds=0.02, warmup=1e-9)
    (latency,) = time_side_by_side([copies], [[None]], config).latencies  # type: ignore[list-item]
    assert latency is not None
    assert len(latency.windows) == 9
    each = latency.calls // 3
    assert all(each < copy.calls < each + 10 for copy in copies)  # and three to warm up
    # What was loaded before is not looked at by the collections between windows.
    assert copies[0].frozen > 10_000
    assert gc.get_freeze_count() == 0
    assert gc.isenabled()


def test_the_median_over_copies_of_their_quieter_windows() -> None:
    """The third copy lies badly in memory, and half of the time another program ran."""
    typical = [200, 230, 800, 210, 240, 810, 900, 900, 900, 900, 900, 900]
    windows = [np.full(50, value, np.float64) for value in typical]
    latency = summarise_windows(windows, copies=3)
    assert latency is not None
    assert latency.median == 235.0
    assert (latency.low, latency.high, latency.max) == (200.0, 900.0, 900.0)
    assert latency.calls == 600
    assert latency.windows == tuple(map(float, typical))
    alone = summarise_windows(windows[:1], copies=3)
    assert alone is not None
    assert alone.median == 200.0
    assert summarise_windows([], copies=3) is None


def test_the_clock_costs_under_100_ns() -> None:
    assert min(clock_cost(1000) for _ in range(50)) < 100


def test_memory_of_a_fresh_process(run: Path) -> None:
    result = bench(BenchConfig((run,), runtime="big,nothing", **QUICK), SUPPLIERS)
    rows = {(r.role, r.runtime): r.memory for r in result.rows}
    big, nothing = rows["student", "big"], rows["student", "nothing"]
    assert big is not None
    assert nothing is not None
    mib = 1 << 20
    assert 63 <= (big.gained - nothing.gained) / mib < 68
    assert big.peak >= big.gained
    assert nothing.gained / mib < 20
    assert "MiB" in printed(result)


def test_memory_process_that_is_killed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pops_deploy.bench.memory import measure_memory

    monkeypatch.setenv("POPS_TEST_KILL", "1")
    with pytest.raises(PopsError, match=r"memory of killed failed .*signal 9.*out of memory"):
        measure_memory(
            run / "student.safetensors", "killed", "fp32", np.zeros((2, 4), np.float32), SUPPLIERS
        )


def test_interrupted_bench_keeps_what_was_measured(tmp_path: Path, run: Path) -> None:
    """SIGTERM in the middle of a window: exit 130, and a JSON with the windows before it."""
    code = (
        "import sys; from pathlib import Path\n"
        "from bench_suppliers import SUPPLIERS\n"
        "from pops_deploy.bench import bench\n"
        "from pops_deploy.config import BenchConfig\n"
        f"config = BenchConfig((Path({str(run)!r}),), runtime='nothing,terminated',"
        f"json=Path({str(tmp_path / 'bench.json')!r}), seconds=0.05, warmup=0.01)\n"
        "sys.exit(bench(config, SUPPLIERS).exit_code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 130, done.stderr
    data = json.loads((tmp_path / "bench.json").read_text())
    assert data["interrupted"] is True
    assert data["rows"]
    assert all(1 <= len(row["latency"]["windows"]) < 9 for row in data["rows"])
    assert any("Interrupted" in sentence for sentence in data["words"])


def test_a_runtime_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out with a note where nobody asked for it, refused where somebody did."""
    folder = small_artifact(tmp_path / "artifact", small_policy())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = bench(BenchConfig((folder,), memory=False, **QUICK))
    assert {row.runtime for row in result.rows} == {"c"}
    assert any("pip install onnxruntime" in sentence for sentence in result.words)
    with pytest.raises(PopsError, match="pip install onnxruntime"):
        bench(BenchConfig((folder,), runtime="onnx", memory=False, **QUICK))


def test_a_damaged_artifact_is_never_left_out(tmp_path: Path) -> None:
    folder = small_artifact(tmp_path / "artifact", small_policy())
    with (folder / "policy.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match="damaged"):
        bench(BenchConfig((folder,), memory=False, **QUICK))


def test_missing_returns_can_be_played(tmp_path: Path) -> None:
    folder = small_artifact(tmp_path / "artifact", small_policy())
    played = []

    def evaluate(policy: object, episodes: int) -> dict[str, float]:
        played.append(policy)
        return {"mean": 9.5, "std": 1.0, "episodes": episodes}

    config = BenchConfig((folder,), runtime="c", episodes=4, memory=False, **QUICK)
    rows = {row.file: row.returns for row in bench(config, evaluate=evaluate).rows}
    assert len(played) == 1
    assert rows["fp32"] is not None
    assert rows["fp32"].mean == 9.5
    assert rows["fp32"].high == pytest.approx(9.5 + 1.96 / 2, abs=1e-3)
    assert rows["int8"] is not None
    assert rows["int8"].mean == 480.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"windows": 4}, "at least 5"),
        ({"seconds": 0.0}, "--seconds"),
        ({"file": "int4"}, "--file 'int4'"),
        ({"target": ""}, "--target is empty"),
        ({"target": "toaster"}, "Target 'toaster' is unknown.*cortex-m.*host"),
        ({"runtime": "tensorrt"}, "Runtime 'tensorrt' is unknown"),
        ({"budget": "flash=lots"}, "--budget 'flash=lots' cannot be read"),
        ({"budget": "speed=3"}, "--budget 'speed=3' cannot be read"),
    ],
)
def test_what_cannot_be_asked(tmp_path: Path, arguments: dict, message: str) -> None:
    folder = small_artifact(tmp_path / "artifact", small_policy())
    with pytest.raises(UsageError, match=message) as caught:
        bench(BenchConfig((folder,), **{**QUICK, **arguments}))
    assert caught.value.exit_code == 2


def test_paths_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a run nor an artifact"):
        bench(BenchConfig((tmp_path,)))
    with pytest.raises(UsageError, match="name at least one"):
        bench(BenchConfig(()))


def test_a_run_that_was_never_exported(run: Path) -> None:
    with pytest.raises(PopsError, match="pops export RUN"):
        bench(BenchConfig((run,), memory=False, **QUICK))


def test_plot_needs_a_known_format() -> None:
    with pytest.raises(UsageError, match=r"\.png, \.svg, \.pdf"):
        BenchConfig((), plot=Path("a.gif"))
