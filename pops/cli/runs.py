"""The commands that make a run from a finished one."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import tyro

from pops.cli.commands import print_json

if TYPE_CHECKING:
    from pops.pipeline import CompressResult


def pick(
    run: tyro.conf.Positional[Path],
    max_params: int,
    out: Optional[Path] = None,
    overwrite: bool = False,
    workers: Optional[int] = None,
    json: bool = False,
) -> int:
    """Take the best rung of a run's ladder within a budget, and gate it on fresh seeds.

    Args:
        run: a run that `pops compress` left.
        max_params: parameters at most.
        out: the new run's folder; RUN-N beside the run if unset, N the parameters.
        overwrite: remove the run in --out first.
        workers: processes; as many as cores if unset.
        json: print the new manifest as JSON.
    """
    from pops.pick import pick as take

    result = take(run, max_params, out, overwrite=overwrite, workers=workers)
    return _shown(result, quiet=False, json=json)


def polish(
    run: tyro.conf.Positional[Path],
    steps: int,
    out: Optional[Path] = None,
    workers: Optional[int] = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    json: bool = False,
) -> int:
    """Let a run's convolutional student learn on from its return, and gate it on fresh seeds.

    Args:
        run: a run that `pops compress`, `pops pick` or this left.
        steps: environment steps of PPO.
        out: the new run's folder; RUN-polished beside the run if unset.
        workers: processes of evaluations; as many as cores if unset.
        resume: go on with the polish in --out from its last finished stage.
        overwrite: remove the run in --out first.
        quiet: print nothing but errors.
        json: print the new manifest as JSON, and nothing else.
    """
    from pops.polish_on import beside, polish_on
    from pops.tracking import Tracker, choose_mode

    target = out if out is not None else beside(run)
    with Tracker(target, choose_mode(quiet, json)) as tracker:
        result = polish_on(
            run,
            steps,
            target,
            workers=workers,
            resume=resume,
            overwrite=overwrite,
            tracker=tracker,
            command=shlex.join(["pops", *sys.argv[1:]]),
        )
    return _shown(result, quiet, json)


def _shown(result: CompressResult, quiet: bool, json: bool) -> int:
    """Print a run; its exit status."""
    from rich.console import Console

    from pops.report.table import print_result

    if json:
        print_json(result.manifest)
    elif not quiet:
        print_result(result.manifest, Console())
        print(f"\n{result.path}")
    return 0 if result.verdict.passed else 3
