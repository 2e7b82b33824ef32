"""Bare torch state dicts: Stable-Baselines3 policies, CleanRL agents, plain chains of layers."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pops.errors import TeacherError
from pops.spec import Array, Output, Squash
from pops.teacher.contents import Contents, Layer, check_chain, check_finite, with_activation
from pops.teacher.sb3_actor import is_sb3_state_dict, read_actor

_NATURE_STRIDES = {8: 4, 4: 2, 3: 1}
_INDEX = re.compile(r"(.*?)(\d+)$")
_CRITIC = ("critic", "value", "vf", "qf", "target", "q_network_target", "v_net")


@dataclass(frozen=True)
class _Family:
    """Which tensors are the policy, and what CleanRL puts between and after them."""

    algorithm: str
    prefixes: tuple[str, ...]
    activation: str
    output: Output = "logits"
    squash: Squash = "clip"
    certain: bool = False
    """The names alone tell that it is CleanRL's, whatever the file is called."""


def read_state_dict(path: Path, weights: dict[str, Array], activation: str | None) -> Contents:
    """Find the policy's layers among the tensors of a state dict.

    Raises:
        TeacherError: if they are not one chain of Linear and Conv layers.
    """
    if is_sb3_state_dict(weights):
        return _sb3_policy(path, weights, activation)
    cleanrl = path.suffix == ".cleanrl_model"
    family = _family(path, weights)
    if family is not None:
        layers = _chain(path, weights, family.prefixes)
        inferred = family.activation if cleanrl or family.certain else None
    else:
        layers = _chain(path, weights, _policy_prefix(weights))
        inferred = None
    name = activation or inferred or ("identity" if len(layers) == 1 else None)
    source = "given" if activation else None
    if activation is None and inferred is not None and family is not None:
        source = f"default of CleanRL's {family.algorithm}"
    known = cleanrl or (family is not None and family.certain)
    return Contents(
        path=path,
        kind="CleanRL model" if known else "torch state dict",
        layers=layers if name is None else _activate(layers, name),
        output=family.output if family is not None else _output(weights),
        algorithm=family.algorithm if family is not None and known else None,
        squash=family.squash if family is not None else "clip",
        activation=name,
        activation_source=source,
        log_std=_log_std(weights),
        notes=_notes(layers, family),
    )


def _sb3_policy(path: Path, weights: dict[str, Array], activation: str | None) -> Contents:
    actor = read_actor(path, weights, activation or "relu", None)
    other = read_actor(path, weights, activation or "tanh", None)
    names = [layer.activation for layer in actor.layers]
    needed = names != [layer.activation for layer in other.layers]
    check_chain(path, actor.layers)
    check_finite(path, actor.layers)
    return Contents(
        path=path,
        kind="Stable-Baselines3 state dict",
        layers=actor.layers,
        output=actor.output,
        algorithm=f"unknown ({actor.family})",
        squash=actor.squash,
        output_clip=2.0 if actor.has_clip_mean else None,
        activation=None if needed else names[0],
        activation_source="given" if activation else None if needed else "NatureCNN",
        log_std=actor.log_std,
    )


def _family(path: Path, weights: dict[str, Array]) -> _Family | None:
    """CleanRL's algorithms by the names in their agents."""
    names = set(weights)
    if "atoms" in names:
        raise TeacherError(
            f"{path} holds C51's distribution over returns, whose expectation is no chain of "
            "layers; expected DQN or PPO. Train a DQN, or distil from another teacher."
        )
    tops = {name.split(".")[0] for name in names}
    if "actor_mean" in tops:
        certain = "actor_logstd" in names
        return _Family("PPO", ("actor_mean.",), "tanh", "mean", certain=certain)
    if "fc_mu.weight" in names:
        certain = "action_scale" in names
        return _Family("TD3 or DDPG", ("fc",), "relu", "mean", "tanh", certain)
    if "fc_mean.weight" in names:
        certain = "fc_logstd.weight" in names
        return _Family("SAC", ("fc1", "fc2", "fc_mean"), "relu", "mean", "tanh", certain)
    if "actor.weight" in names and "network" in tops:
        return _Family("PPO", ("network.", "actor."), "relu")
    if "actor" in tops and "critic" in tops:
        return _Family("PPO", ("actor.",), "tanh")
    for top in ("q_network", "network"):
        if top in tops:
            return _Family("DQN", (f"{top}.",), "relu", "q_values")
    return None


def _policy_prefix(weights: dict[str, Array]) -> tuple[str, ...]:
    """The tensors that are no critic's; all of them where no name says so."""
    kept = tuple(name for name in weights if not name.startswith(_CRITIC))
    return kept or ("",)


def _output(weights: dict[str, Array]) -> Output:
    return "q_values" if any(name.startswith(("q_net", "qnet")) for name in weights) else "logits"


def _chain(path: Path, weights: dict[str, Array], prefixes: tuple[str, ...]) -> tuple[Layer, ...]:
    """The layers under the prefixes, in the order of the file or, failing that, of their names."""
    names = [
        name[: -len(".weight")]
        for name in weights
        if name.endswith(".weight") and name.startswith(prefixes)
    ]
    strange = [name for name in names if weights[f"{name}.weight"].ndim not in (2, 4)] + [
        name for name in weights if name.endswith(("running_mean", "weight_ih_l0"))
    ]
    if strange:
        raise TeacherError(
            f"{path} holds {strange[0]!r}, which is neither a Linear nor a Conv layer "
            "(normalisation, recurrent and attention layers are not supported). Expected one chain "
            "of Linear and Conv layers."
        )
    layers = tuple(_layer(path, weights, name) for name in names)
    try:
        check_chain(path, layers)
    except TeacherError:
        layers = tuple(sorted(layers, key=lambda layer: _natural(layer.name)))
        check_chain(path, layers)
    check_finite(path, layers)
    return _gaps(path, _strides(path, layers))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _layer(path: Path, weights: dict[str, Array], name: str) -> Layer:
    weight = weights[f"{name}.weight"]
    bias = weights.get(f"{name}.bias", np.zeros(weight.shape[0], np.float32))
    if weight.dtype != np.float32 or bias.shape != (weight.shape[0],):
        raise TeacherError(
            f"{path}: {name!r} has weights {weight.dtype}{weight.shape} and biases {bias.shape}; "
            "expected floats and one bias for each output. Save the state dict again."
        )
    return Layer(name, weight, bias)


def _strides(path: Path, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """A state dict does not hold strides; only NatureCNN's are known from its kernels."""
    kernels = [layer.weight.shape[2:] for layer in layers if layer.weight.ndim == 4]
    if kernels and kernels != [(8, 8), (4, 4), (3, 3)]:
        raise TeacherError(
            f"{path} holds convolutions with kernels {kernels}, and a state dict does not tell "
            "their strides; expected NatureCNN (8, 4, 3). Export the policy to ONNX instead."
        )
    return tuple(
        replace(layer, stride=_NATURE_STRIDES[layer.weight.shape[2]])
        if layer.weight.ndim == 4
        else layer
        for layer in layers
    )


def _gaps(path: Path, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Mark layers that follow each other without an activation (index gap 1 in a Sequential)."""
    result = []
    for before, after in zip(layers, layers[1:]):
        first, second = _INDEX.match(before.name), _INDEX.match(after.name)
        gap = 2
        # "fc1", "fc2" number modules of their own; ".0", "0" number the places of a Sequential.
        if first and second and first.group(1) == second.group(1):
            prefix = first.group(1)
            if prefix == "" or prefix.endswith("."):
                gap = int(second.group(2)) - int(first.group(2))
        flatten = before.weight.ndim == 4 and after.weight.ndim == 2
        if gap > (3 if flatten else 2):
            raise TeacherError(
                f"{path}: {gap - 1} modules without weights lie between {before.name!r} and "
                f"{after.name!r}; expected one activation. Export the policy to ONNX instead."
            )
        result.append(replace(before, activation="identity" if gap == 1 else "hidden"))
    return (*result, *layers[-1:])


def _activate(layers: tuple[Layer, ...], name: str) -> tuple[Layer, ...]:
    active = with_activation(layers, name)
    return tuple(new if old.activation == "hidden" else old for old, new in zip(layers, active))


def _log_std(weights: dict[str, Array]) -> tuple[float, ...] | None:
    for name in ("actor_logstd", "log_std", "logstd"):
        if name in weights and weights[name].size <= 4096:
            return tuple(float(v) for v in weights[name].reshape(-1))
    return None


def _notes(layers: tuple[Layer, ...], family: _Family | None) -> tuple[str, ...]:
    notes = []
    if layers[0].weight.ndim == 4:
        notes.append("strides 4, 2, 1 and images divided by 255 are assumed, as in NatureCNN")
    if family is not None and family.algorithm == "PPO" and family.output == "mean":
        notes.append(
            "CleanRL normalises observations in a wrapper and does not save its statistics; give "
            "the wrapper with --wrapper if the teacher was trained with one"
        )
    return tuple(notes)
