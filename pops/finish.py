"""Writing the run: student, teacher, ladder, states, figures and the manifest that says it all."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
import time
from importlib import metadata
from typing import Any

import numpy as np

from pops import __version__
from pops.artifact import RUN_FORMAT, save_policy, sha256_file, write_arrays, write_json
from pops.candidate import Candidate, describe
from pops.config import CompressConfig
from pops.evaluate import evaluate
from pops.gate import Verdict
from pops.journal import StageResult
from pops.metered import metered
from pops.policy import NumpyPolicy
from pops.rollout import calibration_states, collect
from pops.seeds import screening_seeds, training_block
from pops.select import Selection
from pops.spec import EnvSpec
from pops.stages import State

BESIDE_BLOCK = 90
BESIDE_EPISODES = 30
_PACKAGES = (
    *("numpy", "torch", "gymnasium", "stable-baselines3", "scipy", "cma", "safetensors"),
    *("ale-py", "opencv-python-headless"),
)


def versions() -> dict[str, str]:
    """Versions of everything a result may depend on."""
    found = {"pops-rl": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "platform": f"{sys.platform}-{platform.machine()}"}


def write_run(
    state: State,
    selection: Selection,
    verdict: Verdict,
    started: float,
    command: str | None,
    requested: CompressConfig,
) -> dict[str, Any]:
    """Write everything that a run holds, the manifest last.

    Args:
        state: the compression, at its end.
        selection: what the gate judged.
        verdict: what it found.
        started: when the run began, as `time.perf_counter` has it.
        command: the command line, if there was one.
        requested: the configuration as it was asked for.

    Returns:
        The manifest.
    """
    root = state.journal.root
    student = selection.candidate.policy(state.lesson)
    spec = dataclasses.replace(
        student.spec, env=state.env if isinstance(state.env, EnvSpec) else None
    )
    student = type(student)(spec, student.arch, student.parameters)
    save_policy(root / "student.safetensors", student, {"algorithm": "PoPS"})
    if state.origin.policy is not None:
        save_policy(
            root / "teacher.safetensors", state.origin.policy, _json_ready(state.origin.facts)
        )
    with metered() as calibration:
        states = collect(
            student,
            None,
            state.env,
            teacher_share=1.0,
            states=calibration_states(student.spec),
            first_seed=training_block(state.config.seed, "calibration"),
            workers=state.workers,
            episode_steps=state.episode_steps,
        )
    write_arrays(root / "states.npz", {"observations": np.asarray(states)})
    ladder = _write_ladder(state)
    beside = _play_beside(state, student)
    manifest = _manifest(state, selection, verdict, ladder, requested)
    manifest["environment_steps"] = state.journal.environment_steps + calibration.steps
    if beside is not None:
        manifest["evaluation"]["beside"] = beside
    manifest["seconds"] = round(time.perf_counter() - started, 3)
    manifest["command"] = command
    manifest["student"]["sha256"] = sha256_file(root / "student.safetensors")
    manifest = _json_ready(manifest)
    write_json(root / "manifest.json", manifest)
    _draw(state, manifest)
    return manifest


def _play_beside(state: State, student: NumpyPolicy) -> dict[str, Any] | None:
    """Returns of teacher and student where the environment's spec names a variant of itself."""
    variant = state.env.variant() if isinstance(state.env, EnvSpec) else None
    if variant is None:
        return None
    start = screening_seeds(state.config.seed, 1, BESIDE_BLOCK)[0]
    seeds = range(start, start + BESIDE_EPISODES)

    def make() -> StageResult:
        teacher = evaluate(state.origin.behaviour, variant, seeds, state.workers)
        mine = evaluate(student, variant, seeds, state.workers)
        sizes = (state.origin.num_parameters, student.arch.num_parameters)
        return StageResult(
            {"teacher": teacher.to_json(sizes[0]), "student": mine.to_json(sizes[1])}
        )

    facts = state.journal.stage("finish/beside", make).facts
    return {"env_kwargs": variant.kwargs, "teacher": facts["teacher"], "student": facts["student"]}


def _write_ladder(state: State) -> list[dict[str, Any]]:
    """Every size that was tried: its policy in a file, its return in the manifest.

    Where one architecture was tried twice, the better of the two is the rung.
    """
    entries = []
    rungs: dict[str, Candidate] = {}
    for candidate in state.ladder:
        known = rungs.get(_file_name(candidate))
        if known is None or candidate.mean >= known.mean:
            rungs[_file_name(candidate)] = candidate
    for candidate in sorted(rungs.values(), key=lambda c: (c.arch.num_parameters, c.name)):
        name = f"ladder/{_file_name(candidate)}.safetensors"
        save_policy(state.journal.root / name, candidate.policy(state.lesson))
        iterated = candidate.name.startswith(("iteration", "teacher"))
        stage = "iteration" if iterated else "search"
        if candidate.name.endswith("polish"):
            stage = "polish"
        entries.append({**describe(candidate), "stage": stage, "file": name})
    return entries


def _file_name(candidate: Candidate) -> str:
    shape = "x".join(str(layer.weight[0]) for layer in candidate.arch.layers())
    inputs = candidate.arch.inputs
    suffix = "" if inputs is None else "-inputs-" + "-".join(map(str, inputs))
    return f"{candidate.arch.num_parameters:07d}-{shape}{suffix}"


def _manifest(
    state: State,
    selection: Selection,
    verdict: Verdict,
    ladder: list[dict[str, Any]],
    requested: CompressConfig,
) -> dict[str, Any]:
    arch = selection.candidate.arch
    assert selection.teacher is not None
    assert selection.student is not None
    origin = state.origin
    env = state.env
    return {
        "format": RUN_FORMAT,
        "teacher": {
            "num_parameters": origin.num_parameters,
            "num_weights": origin.policy.arch.num_weights if origin.policy else None,
            "net_arch": origin.arch.to_json() if origin.policy else None,
            "macs": origin.policy.arch.macs if origin.policy else None,
            "source": origin.source,
            "sha256": origin.sha256,
            "facts": _json_ready(origin.facts),
        },
        "student": {
            "num_parameters": arch.num_parameters,
            "num_weights": arch.num_weights,
            "net_arch": arch.to_json(),
            "macs": arch.macs,
            "name": selection.candidate.name,
        },
        "iterations": state.iterations,
        "ladder": ladder,
        "evaluation": {
            "teacher": selection.teacher.to_json(origin.num_parameters),
            "student": selection.student.to_json(arch.num_parameters),
            "random": state.random_result.to_json(None),
        },
        "verdict": verdict.to_json(),
        "gate": {
            "looks": selection.looks,
            "next_seed": selection.looks[-1]["seed"] + selection.looks[-1]["episodes"],
        },
        "env": dataclasses.asdict(env) if isinstance(env, EnvSpec) else None,
        "temperature": state.lesson.temperature,
        "config": requested.to_json(),
        "seed": requested.seed,
        "versions": versions(),
    }


def _json_ready(facts: dict[str, Any]) -> dict[str, Any]:
    ready: dict[str, Any] = json.loads(json.dumps(facts, default=_plain))
    return ready


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)


def _draw(state: State, manifest: dict[str, Any]) -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        state.tracker.say("no figures: matplotlib is missing; pip install 'pops-rl[report]'")
        return
    from pops.report.figures import draw

    draw(state.journal.root, manifest)
