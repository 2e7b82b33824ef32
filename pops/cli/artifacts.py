"""What each command about artifacts does: write, prove, measure, deploy.

Nothing heavy is imported before the options are understood.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from pops.errors import UsageError
from pops_deploy.bundle_config import BundleConfig
from pops_deploy.config import BenchConfig
from pops_deploy.firmware_config import FirmwareConfig
from pops_export.config import ExportConfig, VerifyConfig

if TYPE_CHECKING:
    from pops.spec import Policy

Here = tyro.conf.arg(name="")


def export(config: Annotated[ExportConfig, Here, tyro.conf.PositionalRequiredArgs]) -> int:
    """Write ONNX, TFLite and C99, fp32 and int8, and prove each file against the student.

    Args:
        config: what to write.
    """
    from pops.tracking.steps import Steps
    from pops.tracking.tracker import choose_mode
    from pops_export.export import export as run
    from pops_export.tables import print_result

    with Steps(choose_mode()) as steps:
        result = run(config, steps.begin)
    print_result(result)
    return result.exit_code


def verify(config: Annotated[VerifyConfig, Here, tyro.conf.PositionalRequiredArgs]) -> int:
    """Repeat an artifact's whole proof on what lies on disk.

    Args:
        config: what to verify.
    """
    from pops.tracking.steps import Steps
    from pops.tracking.tracker import choose_mode
    from pops_export.tables import print_result
    from pops_export.verify import verify as run

    with Steps(choose_mode(json=config.json)) as steps:
        result = run(config, steps.begin)
    print_result(result, as_json=config.json)
    return result.exit_code


def bench(config: Annotated[BenchConfig, Here, tyro.conf.PositionalRequiredArgs]) -> int:
    """Measure latency and memory of teacher and student, side by side.

    Args:
        config: runs or artifacts, targets, runtimes, budgets.
    """
    from rich.console import Console

    from pops.torch_runtime import SUPPLIERS
    from pops.tracking.steps import Steps
    from pops_deploy.bench import bench as run
    from pops_deploy.bench.report import print_bench

    with Steps("plain") as steps:  # nothing that moves: it would be measured, too
        result = run(
            config,
            suppliers=SUPPLIERS,
            export=functools.partial(_export_missing, begin=steps.begin),
            evaluate=_evaluate,
            begin=steps.begin,
        )
    print_bench(result, Console())
    return result.exit_code


def _export_missing(run: Path, role: str, begin: Callable[[str], None]) -> Path | None:
    """The artifact of a run's student or teacher, exported now if it is not there."""
    folder = run / ("artifact" if role == "student" else "teacher-artifact")
    if (folder / "artifact.json").is_file():
        return folder
    from pops_export.export import export as write

    source = run if role == "student" else run / "teacher.safetensors"
    if not source.exists():
        return None
    config = ExportConfig(source, out=folder, force=True)
    write(config, lambda stage: begin(f"export the {role}: {stage}"))
    return folder


def _evaluate(policy: Policy, episodes: int) -> dict[str, Any]:
    """The return of a bench row's policy in its environment."""
    from pops.evaluate import evaluate

    if policy.spec.env is None:
        raise UsageError("The policy names no environment; its return cannot be measured.")
    result = evaluate(policy, policy.spec.env, range(10_000, 10_000 + episodes), 1)
    return result.to_json(None)


def deploy_bundle(config: Annotated[BundleConfig, Here, tyro.conf.PositionalRequiredArgs]) -> int:
    """Pack artifacts into policy.pyz, one file that runs on a Raspberry Pi.

    Args:
        config: which artifacts, and what goes in.
    """
    from pops_deploy.bundle import bundle, print_bundle

    print_bundle(bundle(config))
    return 0


def deploy_firmware(
    config: Annotated[FirmwareConfig, Here, tyro.conf.PositionalRequiredArgs],
) -> int:
    """Build the demo firmware with an artifact's policy; run it emulated, or flash it.

    Args:
        config: artifact and board.
    """
    from pops_deploy.firmware import firmware, print_firmware

    result = firmware(config, show=print)
    print_firmware(dataclasses.replace(result, telemetry=()))  # shown as it came
    return 0
