"""The proof: every file against the student, on visited and on random observations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from pops.errors import ArtifactError
from pops.policy import NumpyPolicy
from pops.spec import Array, DiscreteActions, Policy
from pops_export.bound import action_bound, output_bound, rounding_factor, undecided
from pops_export.runtimes import LiteRtPolicy, OnnxPolicy

OBSERVATIONS = 10_000
MAC_BUDGET = 2_000_000_000
"""Multiply-accumulates that a proof may spend on one file; bounds the observations of images."""
BLOCK = 256


@dataclass(frozen=True)
class Observations:
    """What a proof runs on."""

    visited: Array
    """(N, *observation_shape) states that the student visits."""
    random: Array
    """(N, *observation_shape) drawn uniformly from three times the range of the visited ones."""

    @property
    def all(self) -> Array:
        """Both, visited first."""
        return np.concatenate([self.visited, self.random])


def draw(policy: NumpyPolicy, states: Array, seed: int) -> Observations:
    """Half visited, half random observations; fewer where the network is large."""
    most = int(np.clip(MAC_BUDGET // max(1, policy.arch.macs), 64, OBSERVATIONS)) // 2
    rng = np.random.default_rng((seed, 3))
    visited = states[np.sort(rng.choice(len(states), most, replace=len(states) < most))]
    spec = policy.spec
    shape = (most, *spec.observation_shape)
    if spec.one_hot:
        return Observations(visited, rng.integers(0, spec.one_hot, shape).astype(states.dtype))
    if states.dtype.kind in "iu":
        low, high = int(states.min()), int(states.max())
        return Observations(visited, rng.integers(low, high + 1, shape).astype(states.dtype))
    low, high = states.min(0), states.max(0)
    spread = np.maximum(high - low, np.finfo(np.float32).tiny)
    values = rng.uniform(low - spread, high + spread, shape)
    return Observations(visited, values.astype(states.dtype))


def open_policy(folder: Path, key: str, facts: dict[str, Any], policy: NumpyPolicy) -> Policy:
    """One file of an artifact in its own runtime.

    Raises:
        ArtifactError: if it does not load.
    """
    path = folder / facts["path"]
    if key.startswith("onnx"):
        return OnnxPolicy(path, policy.spec)
    if key.startswith("tflite"):
        return LiteRtPolicy(path, policy.spec, facts["io"])
    if key.startswith(("c_", "arduino")):
        from pops_export.c_files import open_c

        return cast(Policy, open_c(folder, facts, policy.spec))
    raise ArtifactError(f"{folder}: no runtime is known for the file {key!r}. Export again.")


def is_float(key: str) -> bool:
    """Whether a file computes in float32 throughout."""
    return key in ("onnx_fp32", "tflite_fp32", "c_f32", "arduino_f32")


def prove_file(key: str, file: Policy, policy: NumpyPolicy, seen: Observations) -> dict[str, Any]:
    """Compare one file with the student.

    Returns:
        JSON-ready facts; `passed` is False where a float32 file leaves its bound.
    """
    result = _changes(file, policy, seen.visited, is_float(key))
    if not is_float(key):
        return {**result, "passed": True}
    observations = seen.all
    outputs, actions = infer(file, observations)
    reference = _blocks(policy.outputs, observations)
    bound = _blocks(lambda x: output_bound(policy, x), observations)
    share = np.abs(outputs.astype(np.float64) - reference) / np.maximum(bound, 1e-300)
    expected = policy.spec.decode(reference)
    if isinstance(policy.spec.actions, DiscreteActions):
        wrong = (actions != expected) & ~undecided(reference, bound)
    else:
        allowed = action_bound(policy, reference, bound).reshape(expected.shape)
        difference = np.abs(actions.astype(np.float64) - expected)
        wrong = (difference > allowed).reshape(len(expected), -1).any(1)
    outside = int((share > 1).any(1).sum())
    return {
        **result,
        "observations": len(observations),
        "visited": len(seen.visited),
        "random": len(seen.random),
        "bound": f"{rounding_factor(policy.arch):g}*u*B + T",
        "largest_share_of_bound": float(share.max()),
        "largest_difference": float(np.abs(outputs - reference).max()),
        "outside_bound": outside,
        "unexplained_actions": int(wrong.sum()),
        "passed": outside == 0 and not wrong.any(),
    }


def _changes(file: Policy, policy: NumpyPolicy, visited: Array, exact: bool) -> dict[str, Any]:
    """How the file's actions differ from the student's on visited states."""
    outputs, actions = infer(file, visited)
    expected = _blocks(policy.act, visited)
    if isinstance(policy.spec.actions, DiscreteActions):
        changed = actions != expected
        order = np.sort(outputs, axis=1)
        ties = order[:, -1] == order[:, -2] if outputs.shape[1] > 1 else np.zeros(len(outputs))
        return {
            "changed_actions": int(changed.sum()),
            "changed_actions_of": len(visited),
            "changed_actions_share": float(changed.mean()),
            **({} if exact else {"ties": int(ties.sum())}),
        }
    difference = np.abs(actions.astype(np.float64) - expected)
    low, high = (np.asarray(v, np.float64) for v in _range(policy))
    return {
        "changed_actions_of": len(visited),
        "largest_action_difference": float(difference.max()),
        "mean_action_difference": float(difference.mean()),
        "mean_action_difference_of_range": float(
            (difference.reshape(len(visited), -1) / np.maximum(high - low, 1e-12)).mean()
        ),
    }


def _range(policy: NumpyPolicy) -> tuple[Any, Any]:
    actions = policy.spec.actions
    assert not isinstance(actions, DiscreteActions)
    return actions.low, actions.high


def infer(file: Policy, observations: Array) -> tuple[Array, Array]:
    """Outputs and actions of a file, from one call where its runtime gives both."""
    both = getattr(file, "infer", None)
    if both is None:
        return file.outputs(observations), file.act(observations)
    parts = [both(observations[i : i + BLOCK]) for i in range(0, len(observations), BLOCK)]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _blocks(function: Any, observations: Array) -> Array:
    parts = [function(observations[i : i + BLOCK]) for i in range(0, len(observations), BLOCK)]
    return np.concatenate(parts)
