"""The ssh target against a real sshd on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bundle_fixtures import golden_artifact, small_bundle
from ssh_fixtures import Server, free_port, make_key, running_sshd, stub

from pops.errors import ArtifactError, PopsError, UsageError
from pops_deploy.bench.context import Context
from pops_deploy.bench.subjects import find_subjects
from pops_deploy.config import BenchConfig
from pops_deploy.remote.session import Address, ConnectionLost
from pops_deploy.targets.ssh import SshConfig, measure, read_report, ssh_bench

pytestmark = [pytest.mark.pi, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("bundle"), teacher=True).path


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def quick(sshd: Server) -> SshConfig:
    """A short bench of the C alone, as the known user on the known host."""
    sshd.know_host()
    return SshConfig(
        ssh_config=sshd.client(),
        python=sys.executable,
        runtimes=("c",),
        seconds=0.005,
        warmup=0.005,
        memory=False,
    )


def left_behind(server: Server, patience: float = 0.0) -> list[str]:
    end = time.monotonic() + patience
    while os.listdir(server.device) and time.monotonic() < end:
        time.sleep(0.1)
    return os.listdir(server.device)


def test_bench_runs_on_the_device_and_leaves_nothing(
    sshd: Server, quick: SshConfig, bundle: Path
) -> None:
    config = replace(quick, runtimes=(), memory=True)
    report = ssh_bench(sshd.target, bundle, config)
    assert report["complete"]
    assert report["interrupted"] is None
    assert report["target"] == sshd.target
    files = [(row["policy"], row["file"]) for row in report["rows"]]
    assert sorted(files) == sorted(
        (policy, file)
        for policy in ("student", "teacher")
        for file in ("c_int8", "c_f32", "onnx_fp32")
    )
    for row in report["rows"]:
        assert len(row["latency_ns"]["window_medians"]) == 5
        assert 0 < row["latency_ns"]["median"] <= row["latency_ns"]["p99"]
        assert row["golden"]["bit_for_bit"]
        assert row["memory"]["peak_bytes"] > 1 << 20
    assert report["failed"] == []
    assert left_behind(sshd) == []


def test_rows_of_pops_bench(
    sshd: Server, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    sshd.know_host()
    subjects = find_subjects((golden_artifact(tmp_path / "artifact"),), 32)
    config = BenchConfig(
        (tmp_path,), runtime="c", file="int8", windows=5, seconds=0.005, memory=False
    )
    object.__setattr__(config, "ssh_config", sshd.client())
    rows = list(measure(sshd.target, subjects, config, Context()))
    assert [row.title for row in rows] == ["student 4-8-2, c int8"]
    assert rows[0].target == sshd.target
    assert rows[0].returns is not None
    assert rows[0].latency is not None
    assert rows[0].latency.low <= rows[0].latency.high


@pytest.mark.parametrize(
    "text",
    [
        "-oProxyCommand=touch${IFS}x",
        "-oProxyCommand=x@host",
        "pi@-oProxyCommand=x",
        "pi@",
        "",
        "pi@host:0",
        "pi@host:65536",
        "pi@host:22x",
        "pi@host:-1",
        "pi@ho st",
        "pi@host;reboot",
        "pi@$(reboot)",
        "pi@[::1",
        "pi@[-x]:22",
        "p`i`@host",
    ],
)
def test_addresses_that_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be used, expected user@address"):
        ssh_bench(f"ssh:{text}", tmp_path / "policy.pyz")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("pi@raspberrypi.local", Address("raspberrypi.local", "pi")),
        ("pi@10.0.0.7:2222", Address("10.0.0.7", "pi", 2222)),
        ("my-board", Address("my-board")),
        ("pi@[fe80::1%eth0]:22", Address("fe80::1%eth0", "pi", 22)),
        ("pi@::1", Address("::1", "pi")),
    ],
)
def test_addresses_that_are_understood(text: str, address: Address) -> None:
    assert Address.parse(text) == address


def test_bundle_that_is_not_there(sshd: Server, quick: SshConfig, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"does not exist.*pops deploy bundle"):
        ssh_bench(sshd.target, tmp_path / "none.pyz", quick)


def test_nobody_listens(quick: SshConfig, bundle: Path) -> None:
    with pytest.raises(PopsError, match=r"Cannot reach pi@127.0.0.1:\d+.*no ssh service listens"):
        ssh_bench(f"ssh:pi@127.0.0.1:{free_port()}", bundle, quick)


def test_no_such_host(quick: SshConfig, bundle: Path) -> None:
    with pytest.raises(PopsError, match="no host of that name"):
        ssh_bench("ssh:pi@no-such-board.invalid", bundle, quick)


def test_unknown_host_is_refused_unless_told_otherwise(
    sshd: Server, quick: SshConfig, bundle: Path
) -> None:
    (sshd.folder / "known").write_text("")
    with pytest.raises(PopsError, match=r"not known here.*--accept-new-host-key"):
        ssh_bench(sshd.target, bundle, quick)
    assert (sshd.folder / "known").read_text() == ""
    assert ssh_bench(sshd.target, bundle, replace(quick, accept_new_host_key=True))["complete"]
    assert "ed25519" in (sshd.folder / "known").read_text()


def test_changed_host_key_is_refused_even_then(
    sshd: Server, quick: SshConfig, bundle: Path
) -> None:
    if not (sshd.folder / "other").exists():
        make_key(sshd.folder / "other")
    sshd.know_host("other")
    with pytest.raises(
        PopsError, match=r"not the one that is known.*ssh-keygen -R '\[127\.0\.0\.1\]:\d+'"
    ):
        ssh_bench(sshd.target, bundle, replace(quick, accept_new_host_key=True))


def test_key_is_refused(sshd: Server, quick: SshConfig, bundle: Path) -> None:
    make_key(sshd.folder / "stranger")
    config = replace(quick, ssh_config=sshd.client("stranger"))
    with pytest.raises(PopsError, match=r"refused every key.*ssh-copy-id -p \d+ \w+@127"):
        ssh_bench(sshd.target, bundle, config)


def test_no_python(sshd: Server, quick: SshConfig, bundle: Path) -> None:
    with pytest.raises(PopsError, match=r"has no python3\.99.*apt install python3"):
        ssh_bench(sshd.target, bundle, replace(quick, python="python3.99"))
    assert left_behind(sshd) == []


def test_python_too_old(sshd: Server, quick: SshConfig, bundle: Path, tmp_path: Path) -> None:
    # No such Python is installed here: a real one that claims to be older.
    old = 'import sys; sys.version_info = (3, 7, 3, "final", 0); exec(sys.argv[1])'
    python = stub(tmp_path / "python3.7", f"exec {sys.executable} -c '{old}' \"$2\"")
    with pytest.raises(PopsError, match=r"is Python 3\.7, and 3\.9 or newer is needed"):
        ssh_bench(sshd.target, bundle, replace(quick, python=python))


def test_runtime_missing_on_the_device(
    sshd: Server, quick: SshConfig, bundle: Path, tmp_path: Path
) -> None:
    bare = stub(tmp_path / "python3", f'exec {sys.executable} -I -S "$@"')
    with pytest.raises(PopsError, match=r"needs the package 'onnxruntime'.*pip install"):
        ssh_bench(sshd.target, bundle, replace(quick, python=bare, runtimes=("onnx",)))
    report = ssh_bench(sshd.target, bundle, replace(quick, python=bare, runtimes=()))
    assert {row["package"] for row in report["missing"]} == {"onnxruntime"}
    assert {row["runtime"] for row in report["rows"]} == {"c"}
    assert left_behind(sshd) == []


def test_damaged_bundle(sshd: Server, quick: SshConfig, bundle: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "policy.pyz"
    data = bytearray(bundle.read_bytes())
    data[len(data) // 3] ^= 0xFF
    damaged.write_bytes(data)
    with pytest.raises(PopsError) as caught:
        ssh_bench(sshd.target, damaged, quick)
    assert "\n" not in str(caught.value)
    assert left_behind(sshd) == []


def test_full_device(quick: SshConfig, bundle: Path, tmp_path: Path) -> None:
    more = "ForceCommand ulimit -f 8; trap '' XFSZ; sh -c \"$SSH_ORIGINAL_COMMAND\""
    with running_sshd(tmp_path / "sshd", more) as server:
        config = replace(quick, ssh_config=server.client())
        with pytest.raises(PopsError, match=r"Copying policy\.pyz .* failed: .*Free space"):
            ssh_bench(server.target, bundle, config)
        assert left_behind(server) == []


def test_device_out_of_memory(quick: SshConfig, bundle: Path, tmp_path: Path) -> None:
    # The limit leaves 2 MiB more than the interpreter has when it starts.
    code = (
        "import resource, runpy, sys; "
        'pages = int(open("/proc/self/statm").read().split()[0]); '
        "resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (1 << 21),) * 2); "
        'sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name="__main__")'
    )
    python = stub(
        tmp_path / "python3",
        f"case $1 in policy.pyz) exec {sys.executable} -c '{code}' \"$@\";; "
        f'*) exec {sys.executable} "$@";; esac',
    )
    with running_sshd(tmp_path / "sshd") as server:
        config = replace(quick, ssh_config=server.client(), python=python)
        with pytest.raises(PopsError, match="is out of memory"):
            ssh_bench(server.target, bundle, config)
        assert left_behind(server) == []


def test_lost_connection_keeps_what_was_measured(
    quick: SshConfig, bundle: Path, tmp_path: Path
) -> None:
    # The script ends the sshd that serves it, two generations up, while the bench runs.
    python = stub(
        tmp_path / "python3",
        'case $2 in bench) (sleep 3; kill -9 $(sed -n "s/^PPid:[^0-9]*//p" /proc/$PPID/status)) & '
        f'{sys.executable} "$@";; '
        f'*) exec {sys.executable} "$@";; esac',
    )
    with running_sshd(tmp_path / "sshd") as server:
        config = replace(quick, ssh_config=server.client(), python=python, windows=1000)
        report = ssh_bench(server.target, bundle, config)
        assert not report["complete"]
        assert "the connection to" in report["interrupted"]
        measured = [len(row["latency_ns"]["window_medians"]) for row in report["rows"]]
        assert all(0 < n < 1000 for n in measured)
        assert left_behind(server, patience=20) == []


def test_ctrl_c_keeps_what_was_measured(sshd: Server, quick: SshConfig, bundle: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path; "
        "from pops_deploy.targets.ssh import SshConfig, ssh_bench; "
        "config = SshConfig(ssh_config=Path(sys.argv[3]), python=sys.executable, "
        "runtimes=('c',), windows=1000, seconds=0.005, warmup=0.005, memory=False); "
        "print(json.dumps(ssh_bench(sys.argv[1], Path(sys.argv[2]), config)))"
    )
    command = [sys.executable, "-c", code, sshd.target, str(bundle), str(quick.ssh_config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    time.sleep(5)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    report = read_report(output)
    assert report is not None
    assert report["interrupted"] == "interrupted here"
    assert not report["complete"]
    assert left_behind(sshd, patience=20) == []


def test_timeout_keeps_what_was_measured(sshd: Server, quick: SshConfig, bundle: Path) -> None:
    report = ssh_bench(sshd.target, bundle, replace(quick, windows=1000, timeout=4.0))
    assert "did not finish within 4 s" in report["interrupted"]
    with pytest.raises(ConnectionLost, match=r"Nothing was measured: .*within 0 s"):
        ssh_bench(sshd.target, bundle, replace(quick, timeout=0.05))


@pytest.mark.parametrize(
    "line",
    [
        b"Welcome to Raspberry Pi OS\n",
        b"{",
        b"{}",
        b'{"format": "pops-device-bench-1"}',
        b'{"format": "pops-device-bench-1", "rows": [1], "machine": {}, "harness": {}, '
        b'"complete": true}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_other_output_is_no_report(line: bytes) -> None:
    assert read_report(line) is None


def test_what_a_device_says_cannot_drive_the_terminal(
    sshd: Server, quick: SshConfig, bundle: Path, tmp_path: Path
) -> None:
    python = stub(
        tmp_path / "python3",
        f"case $2 in bench) printf '\\033[2Jgone\\n' >&2; exit 1;; "
        f'*) exec {sys.executable} "$@";; esac',
    )
    with pytest.raises(PopsError, match=r"Nothing was measured on .*\[2Jgone") as caught:
        ssh_bench(sshd.target, bundle, replace(quick, python=python))
    assert str(caught.value).isprintable()


def test_no_ssh_client(
    sshd: Server, quick: SshConfig, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PopsError, match="apt install openssh-client"):
        ssh_bench(sshd.target, bundle, quick)
