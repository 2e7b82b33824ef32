"""From the state dict of a Stable-Baselines3 or sb3-contrib policy to the layers of its actor."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pops.errors import TeacherError
from pops.spec import Array, Output, Squash
from pops.teacher.contents import Layer

_NATURE_STRIDES = ((8, 4), (4, 2), (3, 1))
"""(kernel, stride) of NatureCNN's three convolutions."""


@dataclass(frozen=True)
class Actor:
    """The layers from features to outputs, and how outputs become actions."""

    layers: tuple[Layer, ...]
    output: Output
    family: str
    """"actor-critic", "q", "quantile", "squashed gaussian" or "deterministic"."""
    squash: Squash = "clip"
    has_clip_mean: bool = False
    log_std: tuple[float, ...] | None = None
    state_dependent_std: bool = False


def is_sb3_state_dict(weights: dict[str, Array]) -> bool:
    """Whether the names are those of a Stable-Baselines3 policy."""
    prefixes = ("mlp_extractor.", "q_net.q_net.", "quantile_net.", "actor.latent_pi.")
    return "action_net.weight" in weights or any(
        key.startswith(prefixes) or key in ("actor.mu.weight", "actor.mu.0.weight")
        for key in weights
    )


def read_actor(
    path: Path, weights: dict[str, Array], activation: str, n_actions: int | None
) -> Actor:
    """Find the actor in a policy's state dict.

    `n_actions` is needed for QR-DQN alone, whose last layer holds every quantile.

    Raises:
        TeacherError: for recurrent policies, custom extractors and unknown networks.
    """
    _refuse_others(path, weights)
    if "action_net.weight" in weights:
        return _actor_critic(path, weights, activation)
    if any(key.startswith("q_net.q_net.") for key in weights):
        features = _features(path, weights, ("q_net.features_extractor.",))
        chain = _sequential(path, weights, "q_net.q_net.")
        return Actor(_hidden(features, chain, activation), "q_values", "q")
    if any(key.startswith("quantile_net.quantile_net.") for key in weights):
        features = _features(path, weights, ("quantile_net.features_extractor.",))
        chain = _sequential(path, weights, "quantile_net.quantile_net.")
        chain = (*chain[:-1], _mean_over_quantiles(path, chain[-1], n_actions))
        return Actor(_hidden(features, chain, activation), "q_values", "quantile")
    if any(key.startswith("actor.") for key in weights):
        return _off_policy_actor(path, weights, activation)
    raise TeacherError(
        f"{path} holds no actor that pops knows: its tensors are named {_some(weights)}. Expected "
        "PPO, A2C, TRPO, DQN, QR-DQN, SAC, TD3, DDPG or TQC with one of their own policies."
    )


def _refuse_others(path: Path, weights: dict[str, Array]) -> None:
    if any(key.startswith(("lstm_", "lstm.")) or ".lstm" in key for key in weights):
        raise TeacherError(
            f"{path} holds a recurrent policy (RecurrentPPO, LSTM); expected a feed-forward one. "
            "Train a feed-forward policy, with stacked frames if it needs memory."
        )
    if any(".extractors." in key for key in weights):
        raise TeacherError(
            f"{path} holds a MultiInputPolicy, which reads Dict observations; expected a Box or "
            "Discrete observation. Flatten the observation with a wrapper and train on that."
        )
    if any(key.endswith("running_mean") for key in weights):
        raise TeacherError(
            f"{path} holds batch normalisation (CrossQ or a custom network), which is not "
            "supported; expected Linear and Conv layers alone."
        )


def _actor_critic(path: Path, weights: dict[str, Array], activation: str) -> Actor:
    features = _features(path, weights, ("pi_features_extractor.", "features_extractor."))
    chain = (
        *_sequential(path, weights, "mlp_extractor.shared_net."),
        *_sequential(path, weights, "mlp_extractor.policy_net."),
        _layer(path, weights, "action_net"),
    )
    layers = _hidden(features, chain, activation)
    log_std = weights.get("log_std")
    if log_std is None:
        return Actor(layers, "logits", "actor-critic")
    if log_std.ndim != 1:
        return Actor(layers, "mean", "actor-critic", state_dependent_std=True)
    values = tuple(float(v) for v in log_std)
    return Actor(layers, "mean", "actor-critic", log_std=values)


def _off_policy_actor(path: Path, weights: dict[str, Array], activation: str) -> Actor:
    features = _features(path, weights, ("actor.features_extractor.",))
    gaussian = "actor.log_std" in weights or "actor.log_std.weight" in weights
    if not gaussian:
        chain = _sequential(path, weights, "actor.mu.")
        return Actor(_hidden(features, chain, activation), "mean", "deterministic", "tanh")
    has_clip = "actor.mu.0.weight" in weights
    chain = (
        *_sequential(path, weights, "actor.latent_pi."),
        _layer(path, weights, "actor.mu.0" if has_clip else "actor.mu"),
    )
    return Actor(
        _hidden(features, chain, activation),
        "mean",
        "squashed gaussian",
        "tanh",
        has_clip_mean=has_clip,
        state_dependent_std="actor.log_std" in weights,
    )


def _features(
    path: Path, weights: dict[str, Array], prefixes: tuple[str, ...]
) -> tuple[Layer, ...]:
    """NatureCNN's layers under the first prefix that is there; none for a flattening extractor."""
    for prefix in prefixes:
        keys = [key for key in weights if key.startswith(prefix)]
        if keys:
            break
    else:
        return ()
    names = (*(f"{prefix}cnn.{i}" for i in (0, 2, 4)), f"{prefix}linear.0")
    expected = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    layers = []
    if set(keys) == expected:
        convs = [_layer(path, weights, name) for name in names[:3]]
        fits = all(
            conv.weight.ndim == 4 and conv.weight.shape[2:] == (kernel, kernel)
            for conv, (kernel, _) in zip(convs, _NATURE_STRIDES)
        )
        if fits:
            layers = [
                replace(conv, stride=stride, activation="relu")
                for conv, (_, stride) in zip(convs, _NATURE_STRIDES)
            ]
    if not layers:
        raise TeacherError(
            f"{path} holds a custom features extractor ({_some(keys)}), whose "
            "forward pass cannot be known from its weights; expected a flattening extractor or "
            "NatureCNN. Export the policy to ONNX and give that file instead."
        )
    return (*layers, replace(_layer(path, weights, names[3]), activation="relu"))


def _sequential(path: Path, weights: dict[str, Array], prefix: str) -> tuple[Layer, ...]:
    """The Linear layers 0, 2, 4... of a torch Sequential; others are refused."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.(\w+)$")
    keys = [key for key in weights if key.startswith(prefix)]
    matches = [pattern.match(key) for key in keys]
    indices = sorted({int(match.group(1)) for match in matches if match})
    if not all(matches) or indices != list(range(0, 2 * len(indices), 2)):
        raise TeacherError(
            f"{path}: the network under {prefix!r} is not the one Stable-Baselines3 builds (found "
            f"{_some(keys)}); expected Linear layers with an activation between "
            "them. Export the policy to ONNX and give that file instead."
        )
    return tuple(_layer(path, weights, f"{prefix}{index}") for index in indices)


def _layer(path: Path, weights: dict[str, Array], name: str) -> Layer:
    weight = weights.get(f"{name}.weight")
    if weight is None or weight.ndim not in (2, 4):
        found = "none" if weight is None else f"weights of shape {weight.shape}"
        raise TeacherError(
            f"{path}: expected a Linear or Conv layer named {name!r}, found {found}. The policy is "
            "not one that Stable-Baselines3 builds by itself; export it to ONNX instead."
        )
    bias = weights.get(f"{name}.bias")
    if bias is None:
        bias = np.zeros(weight.shape[0], np.float32)
    if bias.shape != (weight.shape[0],):
        raise TeacherError(
            f"{path}: {name!r} has {weight.shape[0]} outputs and biases of shape {bias.shape}. "
            "The file is damaged; save the policy again."
        )
    return Layer(name, weight, bias)


def _hidden(
    features: tuple[Layer, ...], chain: tuple[Layer, ...], activation: str
) -> tuple[Layer, ...]:
    hidden = tuple(replace(layer, activation=activation) for layer in chain[:-1])
    return (*features, *hidden, *chain[-1:])


def _mean_over_quantiles(path: Path, layer: Layer, n_actions: int | None) -> Layer:
    """Fold the mean over quantiles into the last layer: the mean of linear maps is a linear map.

    sb3-contrib views the outputs as (quantiles, actions).
    """
    rows, features = layer.weight.shape
    if not n_actions or rows % n_actions:
        raise TeacherError(
            f"{path}: QR-DQN's last layer has {rows} outputs for "
            f"{n_actions or 'an unknown number of'} actions; expected a multiple of the number of "
            "actions. Give the zip that model.save() wrote, which tells it."
        )
    weight = layer.weight.astype(np.float64).reshape(-1, n_actions, features).mean(axis=0)
    bias = layer.bias.astype(np.float64).reshape(-1, n_actions).mean(axis=0)
    return replace(layer, weight=weight.astype(np.float32), bias=bias.astype(np.float32))


def _some(keys: Iterable[str]) -> str:
    names = list(keys)
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
