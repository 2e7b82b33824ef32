"""Killed, interrupted, out of space: what was finished is kept, and the result is the same."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from core_cases import TINY_OPTIONS, environment, pops_command, steer_teacher

from pops.artifact import save_policy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "steer.safetensors"
    save_policy(path, steer_teacher())
    return path


def command(teacher, out, *more):
    return pops_command("compress", "--teacher", teacher, "--out", out, *TINY_OPTIONS, *more)


def start(teacher, out, *more):
    """`pops compress` in a process group of its own, workers and all."""
    return subprocess.Popen(
        command(teacher, out, *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def finish(process):
    stdout, stderr = process.communicate(timeout=300)
    return process.returncode, stdout, stderr


def wait_for(process, condition, seconds=200):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    status, stdout, stderr = finish(start(teacher, out, "--workers", "1"))
    assert (status, stderr) == (0, ""), stderr
    assert "gate:" in stdout
    return out


def same_result(one, two):
    for name in ("student.safetensors", "teacher.safetensors", "states.npz"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    ladders = [{p.name: p.read_bytes() for p in (r / "ladder").iterdir()} for r in (one, two)]
    assert ladders[0] == ladders[1]
    manifests = [json.loads((r / "manifest.json").read_text()) for r in (one, two)]
    for manifest in manifests:
        for entry in manifest["iterations"]:
            entry.pop("seconds")
        manifest.pop("seconds")
        manifest.pop("command")
    assert manifests[0] == manifests[1]
    return True


def records(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_killed_again_and_again_it_ends_with_the_same_bytes(teacher, uninterrupted, tmp_path):
    out = tmp_path / "run"
    moments = [
        lambda: (out / "config.json").is_file(),
        lambda: (out / "start/states").is_dir(),
        lambda: list(out.glob("iterations/1/.partial-*")) or (out / "iterations/1/prune").is_dir(),
        lambda: (out / "search").is_dir(),
        lambda: (out / "gate").is_dir(),
    ]
    for index, moment in enumerate(moments):
        process = start(teacher, out, "--workers", "1", *(["--resume"] if index else []))
        wait_for(process, moment)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (out / "manifest.json").exists()
    status, _, stderr = finish(start(teacher, out, "--workers", "1", "--resume"))
    assert (status, stderr) == (0, "")
    assert same_result(uninterrupted, out)
    assert records(out) == records(uninterrupted)
    assert not list(out.glob("**/.*"))


def test_the_result_does_not_depend_on_the_workers(teacher, uninterrupted, tmp_path):
    status, _, stderr = finish(start(teacher, tmp_path / "run", "--workers", "2"))
    assert (status, stderr) == (0, "")
    assert same_result(uninterrupted, tmp_path / "run")


def test_resuming_a_finished_run_changes_nothing(teacher, uninterrupted, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    status, _, stderr = finish(start(teacher, out, "--workers", "1", "--resume"))
    assert (status, stderr) == (0, "")
    assert same_result(uninterrupted, out)
    refused = finish(start(teacher, out))
    assert refused[0] == 2
    assert "--resume" in refused[2]
    assert "--overwrite" in refused[2]
    other = finish(start(teacher, out, "--seed", "5", "--resume"))
    assert other[0] == 2
    assert "another config" in other[2]
    assert same_result(uninterrupted, out)


def test_ctrl_c_says_how_to_resume(teacher, tmp_path):
    out = tmp_path / "a run"
    process = start(teacher, out, "--workers", "2")
    wait_for(process, lambda: (out / "start/states").is_dir())
    # Python drops an interrupt that arrives within a few callbacks of its own: press again.
    for _ in range(10):
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
            break
    status, _, stderr = finish(process)
    assert status == 130, stderr
    assert "Traceback" not in stderr, stderr
    assert "interrupted" in stderr
    assert f"--out '{out}'" in stderr
    assert stderr.rstrip().endswith("--resume")
    status, _, stderr = finish(start(teacher, out, "--workers", "2", "--resume"))
    assert (status, stderr) == (0, "")


def test_workers_do_not_outlive_the_one_they_work_for(teacher, tmp_path):
    out = tmp_path / "run"
    process = start(teacher, out, "--workers", "2")
    wait_for(process, lambda: (out / "start/states").is_dir())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("worker processes were still there after 30 s")


LIMITED = """
import resource, signal, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pops.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("limit", [300, 40_000])
def test_a_full_disk_ends_with_one_message_and_nothing_half_written(teacher, tmp_path, limit):
    """The file-size limit makes writes fail in the middle of a file, as a full disk does."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    out = tmp_path / "run"
    arguments = command(teacher, out, "--workers", "1", "--quiet")[3:]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=200,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "File too large" in done.stderr
    assert not (out / "manifest.json").exists()
    assert not list(out.glob("**/.*")) if out.exists() else True
    if limit == 40_000:
        assert "--resume" in done.stderr
        assert (out / "start/returns/facts.json").is_file()
        np.testing.assert_array_equal([p.name for p in (out / "start").iterdir()], ["returns"])
