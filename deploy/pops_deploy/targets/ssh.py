"""ssh:user@address[:port]: the same harness on a real Raspberry Pi, or anything with Python."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pops.artifact import sha256_file
from pops.errors import ArtifactError, PopsError
from pops_deploy.remote.session import (
    CONNECTION_LOST,
    Address,
    ConnectionLost,
    Done,
    Session,
    readable,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pops_deploy.bench.context import Context
    from pops_deploy.bench.rows import Row
    from pops_deploy.bench.subjects import Subject
    from pops_deploy.config import BenchConfig

PREFIX = "ssh:"
REPORT_FORMAT = "pops-device-bench-1"
OUT_OF_MEMORY = (75, 137, 9)
"""Exit statuses: our own for Python's MemoryError, and those of a process that was killed."""
NO_MEMORY = ("MemoryError", "OSError: [Errno 12]")
"""Last lines of a traceback from a Python that had no memory left to catch it."""
OLDEST_PYTHON = (3, 9)

_FOLDER = re.compile(r"/[A-Za-z0-9._/+-]+/pops\.[A-Za-z0-9]+")
_PYTHON = re.compile(r"[A-Za-z0-9._/+-]+")

PREPARE = """\
umask 077
command -v {python} >/dev/null 2>&1 || {{ echo 'pops: python none'; exit 0; }}
{python} -c 'import sys
print("pops: python %d %d" % sys.version_info[:2])
sys.exit(sys.version_info < (3, 9))' </dev/null || exit 0
folder=$(mktemp -d "${{TMPDIR:-/tmp}}/pops.XXXXXXXXXX") || exit 0
printf 'pops: folder %s\\n' "$folder"
"""

HASH = """\
{python} -c 'import hashlib, sys
print("pops: sha256 " + hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' \
{folder}/policy.pyz </dev/null
"""

# The folder goes away even where the connection is gone before the bench ends.
BENCH = """\
trap 'rm -rf {folder}' EXIT
trap 'exit 130' HUP INT TERM
cd {folder} || exit 1
export OMP_NUM_THREADS=1 TMPDIR={folder}
{python} policy.pyz bench --stream {options} </dev/null
"""


@dataclass(frozen=True)
class SshConfig:
    """How to reach a device and how long to measure on it."""

    accept_new_host_key: bool = False
    """Trust a device that is not known yet; a host key that changed is refused all the same."""
    ssh_config: Path | None = None
    """An ssh configuration file instead of your own."""
    python: str = "python3"
    """The device's Python, 3.9 or newer."""
    runtimes: tuple[str, ...] = ()
    """Only these runtimes (c, onnx, litert); empty for all that the device has."""
    windows: int = 5
    """Windows of measurement for each file; at least 5."""
    seconds: float = 0.2
    """Length of one window, in seconds."""
    warmup: float = 0.1
    """Seconds of warm-up before the first window of each file."""
    memory: bool = True
    """Measure resident memory in a fresh process for each file."""
    timeout: float = 1800.0
    """Seconds after which the bench is stopped; what was measured is kept."""


def ssh_bench(target: str, bundle: Path, config: SshConfig | None = None) -> dict[str, Any]:
    """Copy a bundle to a device, run its bench there, and bring the report back.

    Args:
        target: `ssh:[user@]address[:port]`.
        bundle: the file that `pops deploy bundle` wrote.
        config: how; the defaults if not given.

    Returns:
        The device's report (`rows`, `machine`, `harness`, `missing`, `failed`, `remarks`)
        with `target`, and `interrupted` (why, or None) where it ended early.

    Raises:
        UsageError: if the target is no usable address.
        PopsError: if the device cannot be reached or cannot run the bundle, in one message.
    """
    config = config or SshConfig()
    address = Address.parse(target[len(PREFIX) :] if target.startswith(PREFIX) else target)
    if _PYTHON.fullmatch(config.python) is None or config.python.startswith("-"):
        raise PopsError(f"{config.python!r} is not the name or the path of a Python.")
    if not bundle.is_file():
        raise ArtifactError(f"{bundle} does not exist. Make it with: pops deploy bundle ARTIFACT")
    with Session(address, config.accept_new_host_key, config.ssh_config) as session:
        folder = _prepare(session, config)
        try:
            _copy(session, config, bundle, folder)
            report = _measure(session, config, folder)
        finally:
            # Where the connection is lost, the device's own trap removes the folder.
            with contextlib.suppress(PopsError):
                session.run(f"rm -rf {shlex.quote(folder)}", timeout=30)
    report["target"] = f"{PREFIX}{address}"
    report["bundle"] = {"sha256": sha256_file(bundle), "bytes": bundle.stat().st_size}
    return report


def _prepare(session: Session, config: SshConfig) -> str:
    """Check the device's Python and make a private folder; its path."""
    script = PREPARE.format(python=shlex.quote(config.python))
    done = session.run("sh -s", script.encode())
    facts = _facts(done.output)
    where = session.address
    if facts.get("python") == "none":
        raise PopsError(
            f"{where} has no {config.python}. Install it there with: sudo apt install python3"
        )
    version = tuple(int(n) for n in re.findall(r"\d+", facts.get("python", ""))[:2])
    if len(version) == 2 and version < OLDEST_PYTHON:
        raise PopsError(
            f"{config.python} on {where} is Python {version[0]}.{version[1]}, and 3.9 or newer is "
            "needed. Raspberry Pi OS 11 and later have it; or put a newer one first on its PATH."
        )
    folder = facts.get("folder", "")
    if _FOLDER.fullmatch(folder) is None or "/../" in folder:
        said = (done.errors.strip().splitlines() or ["no folder"])[-1]
        raise PopsError(
            f"{where} could not make a temporary folder ({said}). Free space there, or set TMPDIR "
            "to a folder that the user may write to."
        )
    return folder


def _facts(output: str) -> dict[str, str]:
    """The lines that our scripts print; a login shell may print others."""
    lines = [line[6:].partition(" ") for line in output.splitlines() if line.startswith("pops: ")]
    return {key: value for key, _, value in lines}


def _copy(session: Session, config: SshConfig, bundle: Path, folder: str) -> None:
    where = session.address
    data = bundle.read_bytes()
    done = session.run(f"umask 077; cat > {shlex.quote(folder + '/policy.pyz')}", data, 600)
    if done.status != 0:
        said = (done.errors.strip().splitlines() or ["no message"])[-1]
        raise PopsError(
            f"Copying {bundle.name} ({len(data):,} bytes) to {where} failed: {said}. Free space "
            "on the device, or bundle fewer files."
        )
    values = {"python": shlex.quote(config.python), "folder": shlex.quote(folder)}
    found = _facts(session.run("sh -s", HASH.format(**values).encode()).output).get("sha256")
    if found != sha256_file(bundle):
        raise PopsError(
            f"{bundle.name} did not arrive whole on {where}: its SHA-256 there is "
            f"{str(found)[:16]}…, here {sha256_file(bundle)[:16]}…. Try again; if it happens "
            "again, check the device's storage."
        )


def _measure(session: Session, config: SshConfig, folder: str) -> dict[str, Any]:
    options = [
        f"--windows={config.windows}",
        f"--seconds={config.seconds:g}",
        f"--warmup={max(config.warmup, 0.001):g}",
        *([f"--runtime={','.join(config.runtimes)}"] if config.runtimes else []),
        *([] if config.memory else ["--no-memory"]),
    ]
    script = BENCH.format(
        python=shlex.quote(config.python),
        folder=shlex.quote(folder),
        options=" ".join(map(shlex.quote, options)),
    )
    report: dict[str, Any] | None = None
    interrupted: str | None = None
    try:
        for line in session.lines("sh -s", script.encode(), config.timeout):
            found = read_report(line)
            report = found if found is not None else report
    except KeyboardInterrupt:
        if not has_latency(report):
            raise
        interrupted = "interrupted here"
    if session.finished is not None and session.finished.status != 0:
        interrupted = _why(session.address, session.finished)
    if not has_latency(report):
        raise _failure(session.address, session.finished, interrupted)
    assert report is not None
    if not report["complete"] and interrupted is None:
        interrupted = "the bench ended early"
    report["interrupted"] = None if report["complete"] else interrupted
    return report


def read_report(line: bytes) -> dict[str, Any] | None:
    """A line that is a device's report; None for everything else that a shell may print."""
    if not line.startswith(b"{"):
        return None
    try:
        # As text without control characters: some of it is printed.
        data = json.loads(readable(line))
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or data.get("format") != REPORT_FORMAT:
        return None
    shape = (("rows", list), ("machine", dict), ("harness", dict), ("complete", bool))
    if not all(isinstance(data.get(key), kind) for key, kind in shape):
        return None
    return data if all(isinstance(row, dict) for row in data["rows"]) else None


def has_latency(report: dict[str, Any] | None) -> bool:
    """Whether at least one round of windows was measured."""
    return report is not None and any(row.get("latency_ns") for row in report["rows"])


def _why(address: Address, done: Done) -> str:
    """How a bench on a device ended, in words."""
    said = done.errors.strip().splitlines()
    starved = bool(said) and said[-1].startswith(NO_MEMORY)
    if done.status in OUT_OF_MEMORY or starved:
        return (
            f"{address} is out of memory. Close other programs there, or bundle a smaller policy "
            "or fewer files"
        )
    if done.status == CONNECTION_LOST:
        return f"the connection to {address} was lost ({said[-1] if said else 'no message'})"
    if done.status == 130:
        return f"the bench on {address} was interrupted"
    return said[-1] if said else f"the bench on {address} ended with status {done.status}"


def _failure(address: Address, done: Done | None, interrupted: str | None) -> PopsError:
    reason = interrupted or "it put out no report"
    if done is not None and done.status == CONNECTION_LOST:
        return ConnectionLost(f"Nothing was measured: {reason}. Try again.")
    prefix = "policy.pyz: "
    if reason.startswith(prefix):
        return PopsError(f"On {address}: {reason[len(prefix) :]}")
    return PopsError(f"Nothing was measured on {address}: {reason}.")


def measure(
    target: str, subjects: Sequence[Subject], config: BenchConfig, context: Context
) -> Iterator[Row]:
    """Bundle the subjects' artifacts, bench them on the device, and yield its rows.

    Raises:
        PopsError: if the device cannot be reached or cannot run the bundle.
        KeyboardInterrupt: if the bench ended early; what was measured has been yielded.
    """
    from pops_deploy.remote.rows import bundled, note_report, report_rows, runtimes

    address = Address.parse(target[len(PREFIX) :])
    options = SshConfig(
        accept_new_host_key=bool(getattr(config, "accept_new_host_key", False)),
        ssh_config=getattr(config, "ssh_config", None),
        runtimes=runtimes(config, context),
        windows=config.windows,
        seconds=config.seconds,
        warmup=config.warmup,
        memory=config.memory,
    )
    with bundled(subjects) as path:
        report = ssh_bench(target, path, options)
    note_report(target, report, context)
    for _, row in report_rows(f"{PREFIX}{address}", report, subjects, config):
        yield row
    if report["interrupted"]:
        context.note(f"{target}: {report['interrupted']}; what was measured is kept.")
        raise KeyboardInterrupt
