"""From a device's report to the rows of `pops bench`, and from subjects to a bundle."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pops.errors import PopsError
from pops_deploy.bench.context import Context
from pops_deploy.bench.rows import Latency, Memory, Parts, ReturnFigure, Row
from pops_deploy.bench.subjects import Subject
from pops_deploy.bundle import bundle
from pops_deploy.bundle_config import BundleConfig
from pops_deploy.config import BenchConfig
from pops_deploy.pyz.runtimes import RUNTIMES

ONLY_HERE = "runs on this computer only"


@contextlib.contextmanager
def bundled(subjects: Sequence[Subject]) -> Iterator[Path]:
    """A bundle of the subjects' artifacts in a temporary folder, with visited observations.

    Raises:
        PopsError: if no subject was exported, or a cross compiler is missing.
    """
    exported = [subject for subject in subjects if subject.artifact is not None]
    if not exported:
        raise PopsError(
            "A device runs exported files, and none of these policies was exported. Export first: "
            "pops export RUN"
        )
    paths = tuple(subject.artifact.path for subject in exported if subject.artifact is not None)
    visited = {path: subject.observations for path, subject in zip(paths, exported)}
    with tempfile.TemporaryDirectory(prefix="pops-") as folder:
        yield bundle(BundleConfig(paths, Path(folder) / "policy.pyz"), visited).path


def runtimes(config: BenchConfig, context: Context) -> tuple[str, ...]:
    """The runtimes that were asked for and that a device can have; empty for all.

    Raises:
        PopsError: if runtimes were asked for and a device can have none of them.
    """
    wanted = tuple(name for name in config.runtimes if name in RUNTIMES)
    for name in config.runtimes:
        if name not in RUNTIMES:
            context.note(f"{name} {ONLY_HERE}; it was left out on the device.")
    if config.runtimes and not wanted:
        raise PopsError(
            f"A device runs {', '.join(RUNTIMES)}, found --runtime {','.join(config.runtimes)}."
        )
    return wanted


def note_report(target: str, report: dict[str, Any], context: Context) -> None:
    """Keep what the device said about itself, what it lacks and what failed there."""
    context.facts.setdefault("devices", {})[target] = {
        key: report.get(key) for key in ("machine", "harness", "emulated")
    }
    rows = [*report.get("missing", []), *report.get("failed", [])]
    for said in [*(row.get("message") for row in rows), *report.get("remarks", [])]:
        # JSON's escapes may spell control characters, which a terminal would obey.
        context.note(f"{target}: " + "".join(c for c in str(said) if c.isprintable()))


def report_rows(
    target: str, report: dict[str, Any], subjects: Sequence[Subject], config: BenchConfig
) -> Iterator[tuple[dict[str, Any], Row]]:
    """The device's own rows of the files that were measured and asked for, and ours of them.

    Raises:
        PopsError: if the report lacks what it should hold.
    """
    by_name = _named(subjects)
    for data in report["rows"]:
        file = "int8" if "int8" in str(data.get("file")) else "fp32"
        if file not in config.files or not data.get("latency_ns"):
            continue
        try:
            row = _row(target, by_name[data["policy"]], file, data)
        except (KeyError, TypeError, ValueError) as error:
            raise PopsError(
                f"The report from {target} cannot be read ({error!r}). Make the bundle with this "
                "version of pops and bench again."
            ) from error
        yield data, row


def _named(subjects: Sequence[Subject]) -> dict[str, Subject]:
    """Subjects by the name that the bundle gives them: role, and a number from the second on."""
    named: dict[str, Subject] = {}
    for subject in subjects:
        if subject.artifact is None:
            continue
        count = sum(other.role == subject.role for other in named.values())
        named[subject.role if count == 0 else f"{subject.role}-{count + 1}"] = subject
    return named


def _row(target: str, subject: Subject, file: str, data: dict[str, Any]) -> Row:
    latency, parts, memory = data["latency_ns"], data["stages_ns"], data["memory"]
    low, high = latency["interval"]
    row = Row(
        target=target,
        role=subject.role,
        policy=subject.policy,
        num_parameters=subject.num_parameters,
        runtime=str(data["runtime"]),
        file=file,
        bytes=int(data["file_bytes"]),
        sha256=str(data["sha256"]),
        latency=Latency(
            median=float(latency["median"]),
            low=float(low),
            high=float(high),
            p99=float(latency["p99"]),
            max=float(latency["max"]),
            calls=int(latency["calls"]),
            windows=tuple(float(v) for v in latency["window_medians"]),
        ),
        returns=ReturnFigure.of(data["evaluation"]),
        versions={str(key): str(value) for key, value in data["versions"].items()},
    )
    if parts is not None:
        row = replace(
            row, parts=Parts(float(parts["before"]), float(parts["inside"]), float(parts["after"]))
        )
    if memory is not None and memory["resident_gain_bytes"] is not None:
        row = replace(
            row, memory=Memory(int(memory["resident_gain_bytes"]), int(memory["peak_bytes"]))
        )
    return row
