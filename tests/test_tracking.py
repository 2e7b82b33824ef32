"""What a run records, and that a killed and resumed one records the same."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from pops.errors import ArtifactError
from pops.tracking import Tracker, choose_mode
from pops.tracking.metrics import MetricsFile


def run_stages(tracker: Tracker, upto: int = 100) -> None:
    """What a pipeline tells, cut off after `upto` records."""
    records = [("load", None, "candidate", {"name": "teacher", "mean": 500.0, "kept": True})]
    for iteration in (1, 2):
        for update in (200, 400, 600):
            values = {"update": update, "sparsity": update / 700, "mean": 480.0 + update / 100}
            records.append(("prune", iteration, "evaluation", values))
    records.append(("gate", None, "gate", {"num_parameters": 58, "passed": True, "margin": 0.0}))
    stage = None
    for name, iteration, kind, values in records[:upto]:
        if (name, iteration) != stage:
            tracker.begin(name, iteration)
            stage = (name, iteration)
        tracker.record(kind, **values)


def read(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_bytes().splitlines()]


def without_seconds(out: Path) -> list[dict[str, object]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in read(out)]


def test_a_record_is_a_line_with_kind_stage_iteration_index_and_seconds(tmp_path: Path) -> None:
    with Tracker(tmp_path, "quiet", tensorboard=False) as tracker:
        run_stages(tracker)
    records = read(tmp_path)
    assert [r["index"] for r in records] == list(range(8))
    assert [r["iteration"] for r in records] == [None, 1, 1, 1, 2, 2, 2, None]
    assert records[1] == {
        "index": 1,
        "kind": "evaluation",
        "stage": "prune",
        "iteration": 1,
        "seconds": records[1]["seconds"],
        "update": 200,
        "sparsity": 200 / 700,
        "mean": 482.0,
    }
    seconds = [float(str(r["seconds"])) for r in records]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0


def test_a_line_is_on_disk_as_soon_as_it_is_recorded(tmp_path: Path) -> None:
    with Tracker(tmp_path, "quiet", tensorboard=False) as tracker:
        tracker.record("distil", loss=0.5)
        assert len(read(tmp_path)) == 1
        tracker.record("distil", loss=0.25)
        assert [r["loss"] for r in read(tmp_path)] == [0.5, 0.25]


def test_numbers_of_numpy_and_numbers_that_are_not_finite(tmp_path: Path) -> None:
    with Tracker(tmp_path, "quiet") as tracker:
        tracker.record(
            "polish",
            generation=np.int64(3),
            best=np.float32(1.5),
            mean=float("nan"),
            worst=float("-inf"),
        )
    (record,) = read(tmp_path)
    assert (record["generation"], record["best"]) == (3, 1.5)
    assert (record["mean"], record["worst"]) == (None, None)


@pytest.mark.parametrize("upto", range(9))
@pytest.mark.parametrize("cut", [0, 1, 20])
def test_a_resumed_run_ends_with_the_records_of_one_never_interrupted(
    tmp_path: Path, upto: int, cut: int
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with Tracker(whole, "quiet", tensorboard=False) as tracker:
        run_stages(tracker)
    with Tracker(killed, "quiet", tensorboard=False) as tracker:
        run_stages(tracker, upto)
    if upto:
        path = killed / "metrics.jsonl"
        path.write_bytes(path.read_bytes()[: -cut or None])
    with Tracker(killed, "quiet", tensorboard=False) as tracker:
        run_stages(tracker)
    assert without_seconds(killed) == without_seconds(whole)


def test_seconds_go_on_where_the_interrupted_run_stopped(tmp_path: Path) -> None:
    line = {"index": 0, "seconds": 1000.0, "kind": "x", "stage": None, "iteration": None}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    with Tracker(tmp_path, "quiet", tensorboard=False) as tracker:
        tracker.record("y")
    assert 1000 <= float(str(read(tmp_path)[1]["seconds"])) < 1010


@pytest.mark.parametrize(
    "tail", [b'{"index": 1, "seco', b"\0" * 40, b"\xff\xfe\n", b"[]\n", b'{"kind": "x"}\n']
)
def test_what_is_not_a_whole_record_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    with Tracker(tmp_path, "quiet", tensorboard=False) as tracker:
        tracker.record("distil", loss=0.5)
    intact = path.read_bytes()
    path.write_bytes(intact + tail)
    metrics = MetricsFile(path)
    metrics.close()
    assert path.read_bytes() == intact
    assert metrics.index == 1


def test_a_killed_process_leaves_every_record_but_perhaps_a_part_of_the_last(
    tmp_path: Path,
) -> None:
    code = """
        import sys
        from pathlib import Path
        from pops.tracking import Tracker
        tracker = Tracker(Path(sys.argv[1]), "quiet")
        for i in range(10**9):
            tracker.record("distil", round=i, loss=1.0 / (i + 1))
            if i == 50:
                print("go", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        process.send_signal(signal.SIGKILL)
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.close()
    records = read(tmp_path)
    assert len(records) == metrics.index >= 51
    assert [r["round"] for r in records] == list(range(len(records)))
    assert len(scalars(tmp_path / "tensorboard" / "run")["distil/loss"]) >= 51


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads from a folder of event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def test_tensorboard_reads_the_numbers_by_update_for_each_iteration(tmp_path: Path) -> None:
    with Tracker(tmp_path, "quiet") as tracker:
        run_stages(tracker)
    for iteration in (1, 2):
        found = scalars(tmp_path / "tensorboard" / f"iteration-{iteration}")
        assert found["evaluation/mean"] == [(200, 482.0), (400, 484.0), (600, 486.0)]
        assert set(found) == {"evaluation/mean", "evaluation/sparsity"}
    whole = scalars(tmp_path / "tensorboard" / "run")
    assert whole["gate/num_parameters"] == [(7, 58.0)]
    assert whole["gate/passed"] == [(7, 1.0)]


def test_tensorboard_shows_no_record_twice_after_a_resume(tmp_path: Path) -> None:
    for upto in (3, 6, 100):
        with Tracker(tmp_path, "quiet") as tracker:
            run_stages(tracker, upto)
    found = scalars(tmp_path / "tensorboard" / "iteration-1")
    assert found["evaluation/mean"] == [(200, 482.0), (400, 484.0), (600, 486.0)]


def test_the_folder_is_not_touched_before_the_first_record(tmp_path: Path) -> None:
    with Tracker(tmp_path / "run", "quiet") as tracker:
        tracker.begin("load")
        tracker.show(parameters=3)
        assert not (tmp_path / "run").exists()
        tracker.record("gate", passed=True)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_without_a_folder_nothing_is_recorded(tmp_path: Path) -> None:
    with Tracker(None, "quiet") as tracker:
        tracker.record("gate", passed=True)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_with_one_clear_message(tmp_path: Path) -> None:
    code = """
        import resource, sys
        from pathlib import Path
        from pops.errors import ArtifactError
        from pops.tracking import Tracker
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        with Tracker(Path(sys.argv[1]), "quiet", tensorboard=False) as tracker:
            try:
                for i in range(1000):
                    tracker.record("distil", round=i)
            except ArtifactError as error:
                print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert re.fullmatch(r"Cannot write .*metrics\.jsonl: .*--resume.*\n", done.stdout)
    assert done.stderr == ""
    with Tracker(tmp_path, "quiet", tensorboard=False) as tracker:
        for i in range(100):
            tracker.record("distil", round=i)
    assert [r["round"] for r in read(tmp_path)] == list(range(100))


def test_a_file_in_the_place_of_the_folder_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with Tracker(tmp_path / "run", "quiet") as tracker, pytest.raises(ArtifactError):
        tracker.record("gate", passed=True)
    assert (tmp_path / "run").read_text() == "mine"


def test_modes_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_mode(quiet=True) == "quiet"
    assert choose_mode(json=True) == "quiet"
    assert choose_mode() == "plain"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert choose_mode() == "plain"
    monkeypatch.setenv("TERM", "xterm")
    assert choose_mode() == "live"
    assert choose_mode(json=True) == "quiet"
