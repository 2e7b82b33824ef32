"""What a user sees of a run: on a terminal, without one, and how much longer it says."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from rich.console import Console

from pops.tracking import Tracker
from pops.tracking.pace import SHARES, USUAL_ITERATIONS, Pace
from pops.tracking.steps import Steps
from pops.tracking.view import LiveView, duration, facts

RUN = """
    import sys, time
    from pathlib import Path
    from pops.tracking import Tracker, choose_mode
    with Tracker(None, choose_mode()) as tracker:
        tracker.begin("load")
        tracker.say("teacher 4-256-256-2 returns 500.00 ± 0.00 [not markup]")
        tracker.begin("prune", 1, total=4)
        for step in range(4):
            tracker.show(parameters=67586, sparsity=0.25 * step, mean=500.0 - step)
            tracker.advance()
            time.sleep(0.3)
"""


def test_plain_mode_prints_a_line_for_each_stage_and_each_say(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Tracker(None, "plain") as tracker:
        tracker.begin("load")
        tracker.say("teacher returns 500.00 ± 0.00 [not markup]")
        tracker.begin("prune", 2)
        tracker.show(sparsity=0.5, mean=480.0)
        tracker.record("evaluation", mean=480.0)
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "[0 s] load",
        "teacher returns 500.00 ± 0.00 [not markup]",
        "[0 s] prune, iteration 2",
    ]
    assert err == ""


def test_quiet_mode_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with Tracker(None, "quiet") as tracker:
        tracker.begin("load", total=3)
        tracker.advance(3)
        tracker.say("hello")
        tracker.show(mean=1.0)
    assert capfd.readouterr() == ("", "")


def test_live_mode_on_a_terminal_shows_stage_sparsity_return_size_and_time_left() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RUN)], stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                block = os.read(ours, 65536)
            except OSError:
                break
            if not block:
                break
            seen += block
    os.close(ours)
    assert process.returncode == 0, seen.decode(errors="replace")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())
    assert "returns 500.00 ± 0.00 [not markup]" in text
    assert "prune, iteration 1" in text
    assert re.search(r"67,586 parameters · sparsity \d+\.\d% · return \d+\.\d\d", text)
    assert re.search(r"\d s so far, about \d+ s left", text)
    # The cursor that rich hides is shown again.
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l")


def test_the_same_run_without_a_terminal_prints_plain_lines() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN)],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert b"\x1b" not in done.stdout
    assert done.stderr == b""
    assert done.stdout.splitlines() == [
        b"[0 s] load",
        b"teacher 4-256-256-2 returns 500.00 ? 0.00 [not markup]",
        b"[0 s] prune, iteration 1",
    ]


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path: Path) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from pops.tracking import Tracker
        with Tracker(Path(sys.argv[1]), "plain", tensorboard=False) as tracker:
            sys.stdin.read()
            for i in range(100):
                tracker.say("x" * 1000)
            tracker.record("gate", passed=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(b"")
    assert (process.returncode, errors) == (0, b"")
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1


def test_the_live_view_gives_the_terminal_back_when_the_run_fails() -> None:
    stream = io.StringIO()
    view = LiveView(Pace(), Console(file=stream, force_terminal=True, width=80))
    view.open()
    view.begin("prune, iteration 1")
    view.show({"sparsity": 0.5})
    view.close()
    written = stream.getvalue()
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_facts_and_durations_in_words() -> None:
    assert facts({"parameters": 67586, "sparsity": 0.931, "mean": 499.5, "stage": "prune"}) == (
        "67,586 parameters · sparsity 93.1% · return 499.50"
    )
    assert facts({"generation": 3, "best_return": 12.34567, "mean": None}) == (
        "generation 3 · best return 12.35"
    )
    assert [duration(s) for s in (0.4, 59.4, 59.6, 125, 3720)] == [
        "0 s",
        "59 s",
        "1 min 00 s",
        "2 min 05 s",
        "1 h 02 min",
    ]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_left_is_exact_when_stages_take_their_usual_share() -> None:
    clock = Clock()
    pace = Pace(clock)
    order = [("load", None), ("rollout", None)]
    iterations = range(1, USUAL_ITERATIONS + 1)
    order += [(name, i) for i in iterations for name in ("prune", "shrink", "distil")]
    order += [("search", None), ("polish", None), ("gate", None)]
    total = sum(SHARES[name] for name, _ in order)
    assert pace.left() is None
    for name, iteration in order:
        pace.begin(name, iteration, None)
        if name != "load":
            assert pace.left() == pytest.approx(total - clock.now)
        clock.now += SHARES[name]


def test_time_left_in_a_stage_follows_its_progress() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.begin("gate", None, 100.0)
    assert pace.left() is None
    clock.now += 4
    pace.advance(25)
    assert pace.fraction == 0.25
    assert pace.left() == pytest.approx(12.0)
    pace.advance(500)
    assert pace.fraction == 1.0
    assert pace.left() == pytest.approx(0.0)


def test_stages_read_from_a_resumed_run_say_nothing_about_the_pace() -> None:
    clock = Clock()
    pace = Pace(clock)
    for name in ("load", "rollout", "prune"):
        pace.begin(name, 1, None)
        clock.now += 0.01
    assert pace.left() is None


def test_steps_are_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Steps("plain") as steps:
        steps.begin("write onnx")
        steps.begin("prove 2 files")
    assert capsys.readouterr().out == "[0 s] write onnx\n[0 s] prove 2 files\n"
    with Steps("quiet") as steps:
        steps.begin("write onnx")
    assert capsys.readouterr().out == ""


def test_steps_reach_a_terminal_while_output_is_sent_elsewhere(tmp_path: Path) -> None:
    """On a pseudo-terminal: what a converter says goes to the log, the step to the terminal."""
    code = (
        "import time; from pathlib import Path\n"
        "from pops.tracking.steps import Steps\n"
        "from pops_export.chatter import to_log\n"
        "with Steps('live') as steps:\n"
        f"    with to_log(Path({str(tmp_path / 'log')!r})):\n"
        "        steps.begin('write onnx'); print('converter', flush=True); time.sleep(0.3)\n"
        "print('done')\n"
    )
    main, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # the other end was closed
            while part := os.read(main, 4096):
                shown += part
    os.close(main)
    assert process.returncode == 0
    assert b"write onnx" in shown
    assert shown.rstrip().endswith(b"done")
    assert b"converter" not in shown
    assert (tmp_path / "log").read_text() == "converter\n"
