"""policy.pyz itself: selftest, bench and serve, with and without packages."""

from __future__ import annotations

import ast
import contextlib
import json
import signal
import socket
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_fixtures import small_bundle

from pops.artifact import read_arrays
from pops_deploy.pyz.machine import architecture
from pops_deploy.pyz.timing import (
    Candidate,
    TimingConfig,
    clock_cost,
    harness_overhead,
    interleaved,
    median,
    quiet_median,
    summarise,
)

pytestmark = pytest.mark.pi

BARE = (sys.executable, "-I", "-S")
"""This Python without its packages: what a device has before anything is installed."""


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("bundle"), teacher=True).path


@pytest.fixture(scope="module")
def continuous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("continuous"), continuous=True).path


def run(
    pyz: Path, *arguments: str, python: tuple[str, ...] = BARE, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*python, str(pyz), *arguments], input=stdin, capture_output=True, text=True, timeout=120
    )


def golden(pyz: Path) -> dict[str, Any]:
    return read_arrays(pyz.parent / "student" / "golden.npz")


def rewritten(pyz: Path, out: Path, change: dict[str, bytes]) -> Path:
    """The same zip with some members replaced, checksums of the zip's own right."""
    with zipfile.ZipFile(pyz) as source, zipfile.ZipFile(out, "w") as sink:
        for name in source.namelist():
            sink.writestr(name, change.get(name, source.read(name)))
    return out


def test_selftest_without_packages(pyz: Path) -> None:
    done = run(pyz, "selftest", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["passed"]
    states = {f"{row['policy']}/{row['file']}": row for row in result["rows"]}
    for name in ("student/c_int8", "teacher/c_f32"):
        assert states[name]["status"] == "passed"
        assert states[name]["golden"] == {
            "vectors": 64,
            "identical": 64,
            "bit_for_bit": True,
            "largest_difference": 0.0,
            "outside_tolerance": 0,
            "actions_changed": 0,
        }
    missing = states["student/onnx_fp32"]
    assert (missing["status"], missing["package"]) == ("missing", "onnxruntime")
    table = run(pyz, "selftest").stdout
    assert "passed   student/c_int8: 64 golden vectors, every bit" in table
    assert table.endswith("Self-test passed.\n")


def test_selftest_with_onnxruntime(pyz: Path) -> None:
    done = run(pyz, "selftest", "--json", "--runtime", "onnx", python=(sys.executable,))
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["status"] for row in rows] == ["passed", "passed"]
    assert set(rows[0]["versions"]) == {"onnxruntime", "numpy"}


def test_continuous_actions(continuous: Path) -> None:
    result = json.loads(run(continuous, "selftest", "--json", python=(sys.executable,)).stdout)
    assert [row["status"] for row in result["rows"]] == ["passed"] * 3
    data = golden(continuous)
    lines = "".join(json.dumps(row.tolist()) + "\n" for row in data["observations"])
    done = run(continuous, "serve", stdin=lines)
    served = np.array([json.loads(line) for line in done.stdout.splitlines()], np.float32)
    np.testing.assert_array_equal(served, data["c_f32.actions"])


def test_bench(pyz: Path) -> None:
    done = run(pyz, "bench", "--json", "--seconds=0.01", "--warmup=0.01", "--windows=6")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["complete"]
    assert {row["file"] for row in report["rows"]} == {"c_int8", "c_f32"}
    for row in report["rows"]:
        assert 200 < row["file_bytes"] < 2000
        latency = row["latency_ns"]
        assert len(latency["window_medians"]) == 6
        assert latency["calls"] >= 6 * 20
        low, high = latency["interval"]
        assert low <= latency["median"] <= high
        assert latency["median"] <= latency["p99"] <= latency["max"]
        # The network alone is a part of the call that it sits in.
        assert 0 < row["stages_ns"]["inside"] < latency["median"]
        assert row["memory"]["resident_gain_bytes"] >= 0
        assert row["memory"]["peak_bytes"] > 1 << 20
    assert report["machine"]["library_architecture"] == "x86_64"
    assert report["rows"][0]["evaluation"] is None or report["rows"][0]["evaluation"]["mean"]
    table = run(pyz, "bench", "--seconds=0.005", "--warmup=0.01", "--no-memory").stdout
    assert "median µs" in table
    assert "one thread, one observation at a time" in table


def test_bench_interrupted_prints_what_was_measured(pyz: Path) -> None:
    command = [*BARE, str(pyz), "bench", "--json", "--seconds=0.05", "--windows=1000"]
    for sign in (signal.SIGINT, signal.SIGTERM):
        for delay in (1.2, 4.0, 15.0):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            time.sleep(delay)
            process.send_signal(sign)
            output, _ = process.communicate(timeout=30)
            assert process.returncode in (130, -sign)
            if '"latency_ns": {' in output:
                break  # on a slow machine the first signals come before anything was measured
        report = json.loads(output)
        assert not report["complete"]
        assert all(0 < len(r["latency_ns"]["window_medians"]) < 1000 for r in report["rows"])


def test_harness_adds_under_100_ns_in_this_interpreter() -> None:
    # The best of several, because the machine that runs the tests is not a quiet one.
    added = min(harness_overhead(clock_cost()) for _ in range(10))
    assert 0 <= added < 100


def test_candidates_take_turns() -> None:
    order: list[str] = []
    candidates = [Candidate(name, lambda _, n=name: order.append(n), [None]) for name in "ab"]
    config = TimingConfig(windows=5, window_seconds=1e-9, warmup_seconds=1e-9, min_calls=2)
    rounds = [
        [len(windows) for windows in measured] for measured in interleaved(candidates, config)
    ]
    assert rounds == [[n, n] for n in range(1, 6)]
    assert order[-20:] == ["a", "a", "b", "b"] * 5


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 3], 2.0),
        ([1, 2, 3, 4], 2.5),
        ([7], 7.0),
        ([5, 5, 5, 5], 5.0),
        ([60] * 6 + [70] * 4, 64.0),  # 64 ns by a clock of 10 ns
        ([60] * 9 + [70], 61.0),
        ([60] + [70] * 9, 69.0),
        ([50] + [60] * 5 + [70] * 3 + [9000], 63.75),
    ],
)
def test_median_of_a_clock_that_ticks_coarsely(values: list[int], expected: float) -> None:
    assert median(values) == pytest.approx(expected)


@pytest.mark.parametrize("true", [20.0, 63.0, 64.9, 66.6, 198.1])
def test_a_coarse_clock_tells_the_true_median(true: float) -> None:
    """Readings at random phases of a 10 ns tick, of calls that vary by 3 ns."""
    import random

    rng = random.Random(1)
    starts = [rng.uniform(0, 1000) for _ in range(4000)]
    ends = [start + rng.gauss(true, 3) for start in starts]
    seen = [10 * int(end // 10) - 10 * int(start // 10) for start, end in zip(starts, ends)]
    assert median(sorted(seen)) == pytest.approx(true, abs=1.0)


def test_windows_that_were_left_alone_count() -> None:
    assert quiet_median([10.0, 11.0, 12.0]) == 10.5
    assert quiet_median([10.0, 11.0, 30.0, 40.0]) == 10.5
    assert quiet_median([12.0]) == 12.0


def test_summary() -> None:
    summary = summarise([[10, 20, 30], [40, 50, 1000]], clock=5.0)
    assert summary.to_json() == {
        "calls": 6,
        "median": 15.0,  # of the quieter of the two windows
        "p99": 995.0,
        "max": 995.0,
        "window_medians": [15.0, 45.0],
        "interval": [15.0, 45.0],
    }


def test_serve_lines(pyz: Path) -> None:
    data = golden(pyz)
    actions = data["c_int8.actions"].tolist()
    as_json = [json.dumps({"observation": row.tolist()}) for row in data["observations"][:8]]
    as_words = [" ".join(map(repr, row.tolist())) for row in data["observations"][8:16]]
    done = run(pyz, "serve", "--file=c_int8", stdin="\n".join([*as_json, "", *as_words]) + "\n")
    assert done.returncode == 0
    assert [int(line) for line in done.stdout.splitlines()] == actions[:16]


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("1 2 3", "error: found 3 values, expected an observation of 4"),
        ("a b c d", "error: could not convert string to float: b'a'"),
        ("[1, 2]", '{"error": "found 2 values, expected an observation of 4"}'),
        ("[1, 2, 3, true]", '{"error": "found True, expected numbers"}'),
        ('{"state": 1}', '{"error": "found keys [\'state\'], expected a list or '),
        ("[" * 100_000, '{"error": '),
        ("[1, 2, 3, 1e999]", ""),
        ("nan 0 0 0", ""),
    ],
)
def test_serve_goes_on_after_a_bad_line(pyz: Path, line: str, reply: str) -> None:
    done = run(pyz, "serve", stdin=f"{line}\n[0, 0, 0, 0]\n")
    assert done.returncode == 0
    first, second = done.stdout.splitlines()
    assert first.replace('\\"', '"').startswith(reply)
    assert second.isdigit()


def test_serve_socket(pyz: Path, tmp_path: Path) -> None:
    path = tmp_path / "policy.socket"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    process = subprocess.Popen([*BARE, str(pyz), "serve", "--file=c", f"--socket={path}"])
    try:
        for client in range(2):
            connection = connect(path)
            with contextlib.closing(connection), connection.makefile("rwb") as stream:
                for row in golden(pyz)["observations"][:3]:
                    stream.write(json.dumps(row.tolist()).encode() + b"\n")
                    stream.flush()
                    assert int(stream.readline()) in (3, 4), client
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        second = run(pyz, "serve", f"--socket={path}")
        assert second.returncode == 1
        assert "Another service listens on" in second.stderr
    finally:
        process.terminate()
        assert process.wait(10) == 0
    assert not path.exists()


def connect(path: Path) -> socket.socket:
    for _ in range(200):
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(path))
        except OSError:
            client.close()
            time.sleep(0.05)
        else:
            return client
    raise AssertionError("the service does not answer")


def test_serve_leaves_other_files_alone(pyz: Path, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    done = run(pyz, "serve", f"--socket={path}")
    assert done.returncode == 1
    assert done.stderr.startswith("policy.pyz: ")
    assert "exists and is not a socket" in done.stderr
    assert path.read_text() == "mine"
    long = run(pyz, "serve", f"--socket={tmp_path / ('x' * 200)}")
    assert "Cannot listen on" in long.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("serve", "--file=tflite"), 1, "holds no file 'tflite', expected one of: student/"),
        (("selftest", "--runtime=torch"), 1, "Runtime 'torch' is unknown here"),
        (("bench", "--windows=4"), 2, "found 4, expected 5 to 1000"),
        (("bench", "--seconds=0"), 2, "expected more than 0"),
        (("serve", "--file=onnx"), 1, "pip install onnxruntime"),
        (("bench", "--runtime=litert"), 1, "holds nothing for these runtimes"),
        ((), 2, "required: command"),
    ],
)
def test_usage(pyz: Path, arguments: tuple[str, ...], status: int, message: str) -> None:
    done = run(pyz, *arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_damaged_member(pyz: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(pyz) as archive:
        facts = json.loads(archive.read("bundle.json"))
        library = facts["policies"][0]["files"]["c_int8"]["libraries"]["x86_64"]["member"]
        data = archive.read(library)
    changed = rewritten(pyz, tmp_path / "a.pyz", {library: data[:-1] + b"\x01"})
    for command in ("selftest", "bench", "serve"):
        done = run(changed, command, stdin="0 0 0 0\n")
        # serve loads one file, and the first is another one.
        if command != "serve":
            assert done.returncode == 1
            assert "a.pyz is damaged" in done.stderr
            assert library in done.stderr
            assert "Traceback" not in done.stderr
    done = run(changed, "serve", "--file=c_int8", stdin="0 0 0 0\n")
    assert "a.pyz is damaged" in done.stderr


def test_truncated_or_of_another_format(pyz: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(pyz) as archive:
        facts = json.loads(archive.read("bundle.json"))
    facts["format"] = "pops-bundle-9"
    newer = rewritten(pyz, tmp_path / "b.pyz", {"bundle.json": json.dumps(facts).encode()})
    assert "has format 'pops-bundle-9'" in run(newer, "selftest").stderr
    broken = rewritten(pyz, tmp_path / "c.pyz", {"bundle.json": b"{"})
    done = run(broken, "selftest")
    assert done.returncode == 1
    assert "c.pyz is damaged" in done.stderr


def test_wrong_result_fails_the_selftest(pyz: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(pyz) as archive:
        facts = json.loads(archive.read("bundle.json"))
        member = facts["policies"][0]["golden"]["c_int8/outputs"]["member"]
        outputs = np.frombuffer(archive.read(member), "<f4").copy()
    outputs[0] = np.nextafter(outputs[0], np.float32(np.inf))
    import hashlib

    facts["members"][member]["sha256"] = hashlib.sha256(outputs.tobytes()).hexdigest()
    change = {member: outputs.tobytes(), "bundle.json": json.dumps(facts).encode()}
    done = run(rewritten(pyz, tmp_path / "d.pyz", change), "selftest", "--runtime=c")
    assert done.returncode == 1
    assert "student/c_int8 differs from its golden vectors" in done.stdout
    assert "1 of 64 vectors, 1 of them beyond rounding, 0 actions" in done.stdout
    assert done.stdout.endswith("Self-test FAILED.\n")


def test_old_python_is_told(pyz: Path) -> None:
    with zipfile.ZipFile(pyz) as archive:
        start = archive.read("__main__.py").decode()
    code = (
        "import sys\n"
        "sys.version_info = (3, 5, 2)\n"
        f"exec(compile({start!r}, '__main__.py', 'exec'), {{'__file__': 'x'}})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("policy.pyz: this is Python 3.5, and 3.9 or newer is needed.")
    assert "Traceback" not in done.stderr
    for version in ((3, 4), (3, 7)):
        ast.parse(start, feature_version=version)


def test_code_keeps_to_python_3_9_and_its_library(pyz: Path) -> None:
    with zipfile.ZipFile(pyz) as archive:
        names = [name for name in archive.namelist() if name.startswith("pops_pyz/")]
        sources = {name: archive.read(name).decode() for name in names}
    optional = {"numpy", "onnxruntime"}
    for name, source in sources.items():
        tree = ast.parse(source, feature_version=(3, 9))
        for node in ast.walk(tree):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [str(node.module)]
            for module in modules:
                top = module.split(".")[0]
                allowed = sys.stdlib_module_names | (
                    optional if name.endswith(("onnx.py", "litert.py")) else set()
                )
                assert top in allowed, f"{name} imports {module}"


@pytest.mark.parametrize(
    ("machine", "bits", "features", "expected"),
    [
        ("x86_64", 64, "", "x86_64"),
        ("x86_64", 32, "", None),
        ("aarch64", 64, "asimd", "aarch64"),
        ("aarch64", 32, "asimd", "armv7"),
        ("armv8l", 32, "neon", "armv7"),
        ("armv7l", 32, "half thumb neon vfpv4", "armv7"),
        ("armv7l", 32, "half thumb vfpv3d16", "armv6"),
        ("armv7l", 32, "", "armv7"),
        ("armv6l", 32, "half thumb vfp", "armv6"),
        ("riscv64", 64, "", None),
    ],
)
def test_library_for_a_machine(machine: str, bits: int, features: str, expected: str) -> None:
    assert architecture(machine, bits, features) == expected
