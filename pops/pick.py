"""pick(): another rung of a run's ladder, gated on seeds that nothing has seen."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pops.artifact import Run, load_policy
from pops.errors import UsageError
from pops.gate import Verdict
from pops.metered import metered
from pops.pipeline import CompressResult
from pops.successor import (
    calibration,
    look_at_gate,
    new_folder,
    playable_env,
    remember_look,
    write_successor,
)
from pops.workers import Workers, available_cores


def pick(
    run: Path | str,
    max_params: int,
    out: Path | str | None = None,
    *,
    overwrite: bool = False,
    workers: int | None = None,
) -> CompressResult:
    """Make a run of the best rung within a budget of parameters.

    The rung with the highest screening return is taken, the smaller of equals.
    It is gated on a fresh block of seeds at half the last look's error level,
    and the look is added to the original run's manifest too.

    Args:
        run: a run that `compress` left.
        max_params: parameters at most.
        out: the new run's folder; RUN-N beside the run if None.
        overwrite: replace a run in `out`.
        workers: processes; as many as cores if None.

    Raises:
        UsageError: if no rung is that small, or `out` exists.
        ArtifactError: if the run is damaged or cannot be evaluated again.
    """
    original = Run(run)
    env = playable_env(original)
    rung = _best_rung(original.manifest, max_params, original.path)
    policy, _ = load_policy(original.path / rung["file"])
    beside = original.path.with_name(f"{original.path.name}-{rung['num_parameters']}")
    target = new_folder(
        original.path, Path(out) if out is not None else beside, "picked from", overwrite
    )
    with Workers(workers or available_cores()) as pool, metered() as played:
        look = look_at_gate(original, policy, env, pool)
        states = calibration(policy, env, original.manifest["seed"], pool)
    if target.exists():
        shutil.rmtree(target)
    remember_look(original, look)
    facts = {
        "student": {"name": rung["name"]},
        "environment_steps": original.manifest["environment_steps"] + played.steps,
        "picked_from": {"run": str(run), "max_params": max_params},
    }
    manifest = write_successor(original, target, policy, states, look, facts)
    return CompressResult(target, manifest, policy, Verdict(**look.verdict))


def _best_rung(manifest: dict[str, Any], max_params: int, path: Path) -> dict[str, Any]:
    rungs: list[dict[str, Any]] = manifest["ladder"]
    fitting = [r for r in rungs if r["num_parameters"] <= max_params]
    if not fitting:
        smallest = min((r["num_parameters"] for r in rungs), default=None)
        if smallest is None:
            raise UsageError(f"{path} has no ladder; pick from the run that it was picked from.")
        raise UsageError(
            f"No rung of {path} has at most {max_params} parameters; the smallest has {smallest}."
        )
    return max(fitting, key=lambda r: (r["mean"], -r["num_parameters"]))
