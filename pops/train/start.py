"""Begin a training with the weights of a policy that exists already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pops.errors import UsageError
from pops.policy import NumpyPolicy
from pops.teacher.load import load_teacher
from pops.train.model import policy_of, zip_bytes
from pops.train.plan import Plan

ALGORITHMS = ("ppo", "a2c")
"""Q-values and entropies of the others need more than an actor to go on from."""


def begin_with(model: Any, start: Path, plan: Plan) -> None:
    """Copy a policy into a fresh model's actor; its critic stays fresh.

    Args:
        model: of Stable-Baselines3, just built.
        start: any file that `pops info` reads.
        plan: what the model was built from.

    Raises:
        TeacherError: if the file cannot be read.
        UsageError: if the algorithm has no actor to copy into, or the policy has other layers
            or inputs than the model.
    """
    if plan.algorithm not in ALGORITHMS:
        raise UsageError(
            f"Found --start with {plan.algorithm}; expected --algo {' or '.join(ALGORITHMS)}, "
            "whose actor can go on from a policy alone."
        )
    found = load_teacher(start, env=plan.env).policy
    _check_alike(found, policy_of(zip_bytes(model), plan.env), start)
    _copy(found, model.policy)


def _check_alike(found: NumpyPolicy, wanted: NumpyPolicy, start: Path) -> None:
    if found.arch != wanted.arch:
        raise UsageError(
            f"{start} holds a policy {found.arch}, but the training builds {wanted.arch} "
            "(layers, activations). Give --net-arch, --algo or --preset that build the same."
        )
    if found.spec.normaliser != wanted.spec.normaliser:
        raise UsageError(
            f"{start} holds a policy that normalises its observations, which training does not. "
            "Normalise them with a --wrapper, and begin with a policy that was trained so."
        )
    if found.spec.actions != wanted.spec.actions:
        raise UsageError(
            f"{start} holds a policy with the actions {found.spec.actions}, but the training "
            f"builds one with {wanted.spec.actions}: copied, it would play differently. Begin "
            "with a policy of ppo or a2c."
        )


def _copy(found: NumpyPolicy, policy: Any) -> None:
    import torch

    layers = _actor_layers(policy)
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, found.parameters, strict=True):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.copy_(torch.tensor(bias))


def _actor_layers(policy: Any) -> list[Any]:
    """From the observation to the actions, in order."""
    from torch import nn

    parts = (policy.pi_features_extractor, policy.mlp_extractor.policy_net, policy.action_net)
    return [m for part in parts for m in part.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]


@contextmanager
def critic_alone(model: Any) -> Iterator[None]:
    """While this is open nothing but the critic's own layers learns.

    A critic that knows nothing would lead a good policy astray with its first advantages.
    """
    own = {id(p) for part in _critic_parts(model.policy) for p in part.parameters()}
    with held([p for p in model.policy.parameters() if id(p) not in own and p.requires_grad]):
        yield


@contextmanager
def held(parameters: Sequence[Any]) -> Iterator[None]:
    """While this is open these parameters do not learn."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _critic_parts(policy: Any) -> tuple[Any, Any]:
    return policy.mlp_extractor.value_net, policy.value_net
