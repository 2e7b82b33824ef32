"""aarch64: a Raspberry-Pi-class machine without a board, emulated by QEMU.

It proves that artifacts, wheels and the bundle work on that architecture and
compute what they compute here. What it measures is not a latency.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pops.errors import ArtifactError, PopsError
from pops_deploy.remote.emulated import AARCH64, Machine, machine_folder, run_emulated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pops_deploy.bench.context import Context
    from pops_deploy.bench.rows import Row
    from pops_deploy.bench.subjects import Subject
    from pops_deploy.config import BenchConfig

PREFIX = "aarch64"
EMULATED = "emulated, not a latency"


@dataclass(frozen=True)
class EmulatedConfig:
    """What to run on the emulated machine."""

    machine: Machine = AARCH64
    """Which one; ARMV7 for a 32-bit system."""
    runtimes: tuple[str, ...] = ()
    """Only these runtimes (c, onnx, litert); empty for all that the machine has."""
    windows: int = 5
    """Windows of measurement for each file; at least 5."""
    seconds: float = 0.02
    """Length of one window, in seconds; its times mean little, so it is short."""
    timeout: float = 900.0
    """Seconds after which it is stopped; what was measured is kept."""


def aarch64_bench(bundle: Path, config: EmulatedConfig | None = None) -> dict[str, Any]:
    """Run a bundle's self-test and bench on the emulated machine.

    Args:
        bundle: the file that `pops deploy bundle` wrote.
        config: how; the defaults if not given.

    Returns:
        The machine's report, as from a device, with `emulated` (true), `times` (what they
        are worth, in words) and `interrupted`. Each row's `golden` says whether the file
        agrees with its golden vectors, computed on x86-64, in every bit.

    Raises:
        PopsError: if the emulator or a tool is missing (names the package), the download
            fails, or nothing in the bundle runs there.
    """
    from pops_deploy.targets.ssh import has_latency, read_report

    config = config or EmulatedConfig()
    if not bundle.is_file():
        raise ArtifactError(f"{bundle} does not exist. Make it with: pops deploy bundle ARTIFACT")
    folder = machine_folder(config.machine)
    arguments = [str(bundle), "bench", "--stream", "--no-memory", "--warmup=0.01"]
    arguments += [f"--windows={config.windows}", f"--seconds={config.seconds:g}"]
    if config.runtimes:
        arguments.append(f"--runtime={','.join(config.runtimes)}")
    report: dict[str, Any] | None = None
    interrupted: str | None = None
    try:
        for line in run_emulated(config.machine, folder, arguments, config.timeout):
            found = read_report(line)
            report = found if found is not None else report
    except PopsError as error:
        if not has_latency(report):
            raise
        interrupted = str(error)
    except KeyboardInterrupt:
        if not has_latency(report):
            raise
        interrupted = "interrupted here"
    if report is None:
        raise PopsError(f"The emulated {config.machine.name} machine put out no report.")
    report.update(
        target=config.machine.name,
        emulated=True,
        times=EMULATED,
        interrupted=None if report["complete"] else interrupted or "the bench ended early",
    )
    cpu = config.machine.cpu
    report["machine"]["processor"] = f"{cpu}, emulated on {report['machine'].get('processor')}"
    # Which of two emulated times is longer says nothing about a board.
    report["remarks"] = []
    return report


def measure(
    target: str, subjects: Sequence[Subject], config: BenchConfig, context: Context
) -> Iterator[Row]:
    """Bundle the subjects' artifacts, run them on the emulated machine, and yield its rows.

    Raises:
        PopsError: if the emulator or a tool is missing, or nothing runs there.
        KeyboardInterrupt: if it ended early; what was measured has been yielded.
    """
    from dataclasses import replace

    from pops_deploy.remote.rows import bundled, note_report, report_rows, runtimes

    options = EmulatedConfig(runtimes=runtimes(config, context), windows=config.windows)
    with bundled(subjects) as path:
        report = aarch64_bench(path, options)
    note_report(target, report, context)
    context.note(f"{target}: {EMULATED}; it proves that the files work on that architecture.")
    for data, row in report_rows(target, report, subjects, config):
        said = golden_note(data)
        context.note(f"{target}: {row.title} {said}.")
        yield replace(row, notes=(EMULATED, said))
    if report["interrupted"]:
        context.note(f"{target}: {report['interrupted']}; what was measured is kept.")
        raise KeyboardInterrupt


def golden_note(data: dict[str, Any]) -> str:
    """How a file's golden vectors came out, in words."""
    golden = data["golden"]
    if golden["bit_for_bit"]:
        return f"agrees with x86-64 in every bit on {golden['vectors']} golden vectors"
    return (
        f"agrees with x86-64 in every bit on {golden['identical']} of {golden['vectors']} golden "
        f"vectors, the largest difference is {golden['largest_difference']:g}"
    )
