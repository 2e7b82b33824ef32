"""When int8 costs return: quantisation-aware distillation follows by itself.

It selects on development seeds; the gate's seeds stay unseen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from pops.policy import NumpyPolicy
from pops.spec import Policy
from pops.workers import Workers
from pops_export import tflite_file, tflite_surgery
from pops_export.assemble import Assembly, write_files
from pops_export.chatter import to_log
from pops_export.closed_loop import Bar, judge_file, raise_bar
from pops_export.proof import open_policy
from pops_export.recorder import Recorder
from pops_export.source import Source
from pops_export.stage import for_integers

if TYPE_CHECKING:
    from pops_export.runtimes import FilePolicy

DEVELOPMENT_EPISODES = 50
DEVELOPMENT_BLOCK = 98
ATTEMPTS = ((1500, 1e-3), (4000, 3e-3))
"""(updates, learning rate) of each attempt."""


def mend(
    assembly: Assembly, source: Source, workers: Workers, begin: Callable[[str], None]
) -> dict[str, Any] | None:
    """Play the int8 core on development seeds; distil and write again where it fails.

    Args:
        assembly: its quantised files are replaced where that is better.
        source: the student and the teacher.
        workers: processes that play the teacher and write files.
        begin: told each stage as it begins.

    Returns:
        JSON-ready facts of what was tried, None where there is no int8 core to judge.
    """
    config = assembly.config
    if source.env is None or not config.episodes or "static_wi8_ai8" not in config.recipes:
        return None
    try:
        tflite_file.check_activations(
            for_integers(source.policy, assembly.states), "static_wi8_ai8"
        )
    except Exception:
        return None
    from pops.seeds import screening_seeds

    count = min(config.episodes, DEVELOPMENT_EPISODES)
    seeds = screening_seeds(config.seed, count, DEVELOPMENT_BLOCK)
    begin(f"play int8 on {count} development episodes")
    bar = raise_bar(source.teacher, source.env, seeds, workers)
    file = _representative(assembly)
    if file is None:
        return None
    recorder = Recorder(file)
    tried = [_judged("post-training", recorder, bar, source.policy)]
    facts: dict[str, Any] = {"seed": seeds[0], "episodes": count, "margin": bar.margin}
    if tried[0]["passed"] or not config.qat:
        return {**facts, "tried": tried, "chosen": "post-training"}
    begin("distil with fake quantisation, since int8 costs return")
    return {**facts, **_distil(assembly, source, bar, recorder, tried, workers)}


def _distil(
    assembly: Assembly,
    source: Source,
    bar: Bar,
    recorder: Recorder,
    tried: list[dict[str, Any]],
    workers: Workers,
) -> dict[str, Any]:
    from pops_export.fake_quantisation import distil

    # What the rounded policy itself visits matters most; the run's states calibrate.
    states = np.concatenate([assembly.states, recorder.states(len(assembly.states))])
    best: NumpyPolicy | None = None
    for attempt, (updates, rate) in enumerate(ATTEMPTS):
        candidate = distil(source.policy, states, updates, rate, assembly.config.seed + attempt)
        assembly.integer_policy = candidate
        write_files(assembly, workers, floats=False)
        file = _representative(assembly)
        assert file is not None
        name = f"distilled with fake quantisation, {updates} updates at {rate:g}"
        tried.append(_judged(name, file, bar, source.policy))
        if tried[-1]["mean"] > max(t["mean"] for t in tried[:-1]):
            best = candidate
        if tried[-1]["passed"]:
            break
    if assembly.integer_policy is not best:
        assembly.integer_policy = best
        write_files(assembly, workers, floats=False)
    chosen = max(tried, key=lambda t: float(t["mean"]))["name"]
    return {"tried": tried, "chosen": chosen}


def _judged(name: str, file: Policy, bar: Bar, policy: NumpyPolicy) -> dict[str, Any]:
    evaluation, verdict = judge_file(file, bar, policy.arch.num_parameters)
    return {
        "name": name,
        "mean": evaluation["mean"],
        "passed": verdict.passed,
        "lower_bound": verdict.lower_bound,
    }


def _representative(assembly: Assembly) -> FilePolicy | None:
    """The int8 file that speaks for the others: the TFLite core, else ONNX."""
    if assembly.core is not None:
        from pops_export.runtimes import LiteRtPolicy

        network = for_integers(assembly.quantised, assembly.states)
        model = assembly.core.read_bytes()
        with to_log(assembly.log):
            io = tflite_file.float_io(tflite_surgery.tidy(model), network)
            return LiteRtPolicy(assembly.core, assembly.policy.spec, io)
    if "onnx_int8" in assembly.files:
        entry = assembly.files["onnx_int8"]
        return open_policy(assembly.folder, "onnx_int8", entry, assembly.policy)  # type: ignore[return-value]
    return None
