"""compress(): Policy Pruning and Shrinking on one page.

Livne and Cohen, "PoPS: Policy Pruning and Shrinking for Deep Reinforcement
Learning", IEEE JSTSP 14(4), 2020 (arXiv 2001.05012): prune the policy under
distillation from the teacher as far as its return allows, measure each
layer's redundancy, shrink to a smaller dense network, distil, and repeat until
the size converges. Then search below that size, and let the gate judge.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pops.config import CompressConfig
from pops.envs import EnvSource
from pops.errors import GateFailed, UsageError
from pops.finish import write_run
from pops.gate import Verdict
from pops.journal import Journal
from pops.policy import NumpyPolicy
from pops.search_stage import search_stage
from pops.select import choose, pass_gate
from pops.spec import EnvSpec
from pops.stages import (
    State,
    distil_stage,
    measure_teacher,
    prune_stage,
    shrink_stage,
    visit_stage,
)
from pops.students import Origin, TeacherSource, as_teacher, check_fit, policy_hash
from pops.tracking import Tracker
from pops.workers import Workers, available_cores


@dataclass(frozen=True)
class CompressResult:
    """A finished compression."""

    path: Path
    manifest: dict[str, Any]
    student: NumpyPolicy
    verdict: Verdict

    def require(self) -> CompressResult:
        """This result, if the gate passed.

        Raises:
            GateFailed: with the reason in words.
        """
        if not self.verdict.passed:
            raise GateFailed(f"The gate did not pass. {self.verdict.reason}")
        return self


def compress(
    teacher: TeacherSource,
    env: EnvSource | str,
    out: Path | str,
    config: CompressConfig | None = None,
    *,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tracker: Tracker | None = None,
    command: str | None = None,
) -> CompressResult:
    """Compress a teacher to the smallest dense student that is provably no worse.

    Args:
        teacher: a file or run, a loaded `Teacher`, a policy, or any `torch.nn.Module` that maps
            float32 observations (N, *observation_shape) to logits or mean actions.
        env: an id, an `EnvSpec`, or any function that makes a `gymnasium.Env`.
        out: the run's folder.
        config: stages and budgets; the default preset at standard effort if None.
        workers: processes; as many as there are cores if None. The result does not depend on it.
        resume: go on with the run in `out` from its last finished stage.
        overwrite: remove the run in `out` first.
        tracker: where progress is shown and recorded; silent if None.
        command: the command line to record in the manifest.

    Returns:
        The student with its verdict; a gate that failed is a result too (`verdict.passed`).

    Raises:
        PopsError: for anything that a user can mend; finished stages are kept.
    """
    started = time.perf_counter()
    requested = config or CompressConfig()
    source: EnvSource = EnvSpec(env) if isinstance(env, str) else env
    origin = as_teacher(teacher, source)
    if isinstance(source, EnvSpec):
        source = source.like(origin.spec.env)
    check_fit(origin.spec, source)
    config = requested.resolved(images=len(origin.spec.input_shape) == 3)
    if overwrite:
        _keep_teacher(origin.source, Path(out))
    fingerprint = _fingerprint(requested, source, origin)
    journal = Journal(Path(out), fingerprint, resume=resume, overwrite=overwrite)
    quiet = tracker or Tracker(None, "quiet", tensorboard=False)
    with Workers(workers or available_cores()) as pool:
        state = State(journal, quiet, pool, config, origin, source)

        measure_teacher(state)
        visit_stage(state)
        converged = False
        for iteration in range(1, config.iterations + 1):
            pruned = prune_stage(state, iteration)
            smaller = shrink_stage(state, iteration, pruned)
            converged = smaller.num_parameters > (1 - config.convergence) * state.num_parameters
            if smaller == state.arch or not distil_stage(state, iteration, pruned, smaller):
                break
            if converged or state.within_budget():
                break
        candidates = search_stage(state)
        selection = choose(state, candidates)
        verdict = pass_gate(state, selection)

        manifest = write_run(state, selection, verdict, started, command, requested)
    student = selection.candidate.policy(state.lesson)
    return CompressResult(Path(out), manifest, student, verdict)


def _keep_teacher(source: str, out: Path) -> None:
    path = Path(source).resolve()
    if path.exists() and out.resolve() in (path, *path.parents):
        raise UsageError(
            f"The teacher {source} lies in {out}, which --overwrite would remove. "
            "Give --out another folder."
        )


def _fingerprint(config: CompressConfig, env: EnvSource, origin: Origin) -> dict[str, Any]:
    """All that decides the result, and that a resumed run must repeat."""
    # A function's repr holds its address, which is another one in the next process.
    name = (
        repr(env) if isinstance(env, EnvSpec) else getattr(env, "__qualname__", type(env).__name__)
    )
    teacher = origin.sha256 if origin.policy is None else policy_hash(origin.policy)
    return {"config": config.to_json(), "env": name, "teacher": teacher}
