"""One candidate student: where it starts, how it is taught, what it returned."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from pops.arch import NetArch
from pops.distill import Lesson, distill, with_rounds
from pops.evaluate import EvalResult, play
from pops.frames import States
from pops.policy import NumpyPolicy, Parameters
from pops.replay import ReplayBuffer
from pops.seeds import derive
from pops.spec import FloatArray
from pops.weights import initialise


@dataclass(frozen=True, eq=False)
class Candidate:
    """A student somewhere on its way."""

    name: str
    arch: NetArch
    parameters: Parameters | None = None
    """None before it has been taught: fresh weights."""
    result: EvalResult | None = None
    """Its latest screening episodes."""
    loss: float = float("nan")
    rounds: int = 0
    """Rounds of distillation it has had."""
    own_inputs: States | None = None
    own_labels: FloatArray | None = None
    """States that it visited itself, with labels, as a replay buffer keeps them."""
    confirmation: EvalResult | None = None
    """Its episodes on screening seeds that have chosen nothing (see `pops.validate`)."""

    @property
    def mean(self) -> float:
        """Mean screening return; minus infinity before the first."""
        return self.result.mean if self.result is not None else float("-inf")

    def policy(self, lesson: Lesson) -> NumpyPolicy:
        """The candidate as a policy."""
        assert self.parameters is not None
        return NumpyPolicy(lesson.spec, self.arch, self.parameters)


def teach(
    candidate: Candidate,
    inputs: States,
    labels: FloatArray,
    lesson: Lesson,
    rounds: int,
    seeds: tuple[int, ...],
    key: tuple[int, ...],
) -> Candidate:
    """Distil a candidate for some rounds in this process, then play its screening episodes.

    Args:
        candidate: fresh, or with the parameters to go on from.
        inputs: the shared states, as a replay buffer keeps them.
        labels: (N, n_outputs), the teacher's outputs for them.
        lesson: what is taught.
        rounds: of distillation.
        seeds: screening episodes.
        key: (stage, iteration, candidate), from which its seeds are derived.
    """
    start = candidate.parameters
    if start is None:
        start = initialise(candidate.arch, derive(lesson.seed, "init", *key))
    buffer = ReplayBuffer(lesson.spec)
    buffer.extend(inputs, labels)
    if candidate.own_inputs is not None and candidate.own_labels is not None:
        buffer.extend(candidate.own_inputs, candidate.own_labels)
    taught = distill(
        candidate.arch,
        start,
        buffer,
        with_rounds(lesson, rounds),
        key,
        first_round=candidate.rounds,
        fresh=candidate.parameters is None,
    )
    everything, all_labels = buffer.arrays()
    policy = NumpyPolicy(lesson.spec, candidate.arch, taught.parameters)
    return dataclasses.replace(
        candidate,
        parameters=taught.parameters,
        loss=taught.loss,
        rounds=candidate.rounds + rounds,
        result=play(policy, lesson.env, seeds),
        own_inputs=everything[len(labels) :],
        own_labels=all_labels[len(labels) :],
        confirmation=None,
    )


def inherit(arch: NetArch, parent: NetArch, parameters: Parameters) -> Parameters:
    """Weights for a smaller network from a larger one of the same depth.

    In every hidden layer the units stay whose incoming and outgoing weights
    are strongest (the product of their norms).

    Args:
        arch: fits `can_inherit`.
        parent: the larger network.
        parameters: its weights.
    """
    result = [(w.copy(), b.copy()) for w, b in parameters]
    layers = arch.layers()
    for index, layer in enumerate(layers[:-1]):
        weight, bias = result[index]
        following, next_bias = result[index + 1]
        grouped = following.reshape(following.shape[0], weight.shape[0], -1)
        incoming = np.sqrt((weight.reshape(len(weight), -1) ** 2).sum(1))
        outgoing = np.sqrt((grouped**2).sum((0, 2)))
        order = np.argsort(-incoming * outgoing, kind="stable")[: layer.weight[0]]
        kept = np.sort(order)
        result[index] = (weight[kept], bias[kept])
        kernel = following.shape[2:] if following.ndim == 4 else ()
        shape = (len(following), len(kept), *kernel) if kernel else (len(following), -1)
        result[index + 1] = (grouped[:, kept].reshape(shape), next_bias)
    return result


def can_inherit(arch: NetArch, parent: NetArch) -> bool:
    """Whether `inherit` fits: the same layers, none larger."""
    mine, theirs = arch.layers(), parent.layers()
    if len(mine) != len(theirs) or len(arch.convs) != len(parent.convs):
        return False
    return (
        arch.inputs == parent.inputs
        and all(
            (a.kernel, a.stride, a.padding) == (b.kernel, b.stride, b.padding)
            for a, b in zip(arch.convs, parent.convs)
        )
        and all(a.weight[0] <= b.weight[0] for a, b in zip(mine, theirs))
    )


def describe(candidate: Candidate) -> dict[str, Any]:
    """JSON-ready facts of a candidate that has been taught."""
    result = candidate.result
    assert result is not None
    return {
        "name": candidate.name,
        "net_arch": candidate.arch.to_json(),
        "num_parameters": candidate.arch.num_parameters,
        "num_weights": candidate.arch.num_weights,
        "mean": result.mean,
        "std": result.std,
        "episodes": len(result.seeds),
        "seed": result.seeds[0],
    }
