"""Fitting what a file holds to an environment: the PolicySpec, or a refusal in words."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pops.errors import EnvironmentFailure, PopsError, TeacherError
from pops.policy import NumpyPolicy
from pops.spec import (
    Actions,
    ContinuousActions,
    DiscreteActions,
    EnvSpec,
    Normaliser,
    Output,
    PolicySpec,
)
from pops.teacher.contents import Contents, architecture
from pops.teacher.spaces import Space, environment_spaces, refuse_unsupported
from pops.teacher.vecnormalize import Statistics

if TYPE_CHECKING:
    from pops.envs import EnvSource


def fit(
    contents: Contents, env: EnvSource | None, statistics: Statistics | None = None
) -> NumpyPolicy:
    """The policy that a file holds, with action bounds and observation order from `env`.

    Without `env` the file's own spaces are used, where it has them.

    Raises:
        EnvironmentFailure: if the file's spaces and the environment's differ.
        TeacherError: if the file alone does not tell enough, or its layers do not fit.
    """
    observation, action = contents.observation, contents.action
    if env is not None:
        observation, action = environment_spaces(env)
        refuse_unsupported(env_name(env), observation, action)
    if contents.policy is not None:
        return _fit_known(contents, contents.policy, env, observation, action)
    if observation is None or action is None:
        raise TeacherError(
            f"{contents.path} ({contents.kind}) does not tell its observation and action space; "
            "expected an environment to take them from. Give --env ID."
        )
    if contents.activation is None and len(contents.layers) > 1:
        raise TeacherError(
            f"{contents.path} ({contents.kind}) holds weights alone and does not tell the "
            "activation between its layers. Give --activation relu, tanh, elu, leaky_relu, silu "
            "or sigmoid."
        )
    output, actions = _actions(contents, action, env)
    spec = _observations(contents, observation, env)
    spec = replace(spec, actions=actions, output=output, output_clip=contents.output_clip)
    if isinstance(env, EnvSpec):
        spec = replace(spec, env=env)
    if statistics is not None:
        spec = replace(spec, normaliser=_normaliser(contents, spec, statistics, env))
    arch = architecture(contents.path, contents.layers, spec.input_shape)
    try:
        return NumpyPolicy(spec, arch, [(la.weight, la.bias) for la in contents.layers])
    except PopsError as error:
        raise TeacherError(f"{contents.path}: {error}") from error


def _fit_known(
    contents: Contents,
    policy: NumpyPolicy,
    env: EnvSource | None,
    observation: Space | None,
    action: Space | None,
) -> NumpyPolicy:
    """A policy with its own spec: check it against the environment and name the environment."""
    if env is None or observation is None or action is None:
        return policy
    spec = policy.spec
    if spec.one_hot:
        found: Space = Space("Discrete", (), "int64", n=spec.one_hot)
        fits = observation.kind == "Discrete" and observation.n == spec.one_hot
    else:
        found = Space("Box", spec.observation_shape, spec.observation_dtype)
        fits = observation.kind == "Box" and observation.shape == spec.observation_shape
        fits = fits and (observation.dtype == "uint8") == (spec.observation_dtype == "uint8")
    if not fits:
        raise EnvironmentFailure(_mismatch(contents, env, "observations", found, observation))
    if isinstance(spec.actions, DiscreteActions):
        wanted = Space("Discrete", (), "int64", n=spec.actions.n, start=spec.actions.start)
        same = wanted == action
    else:
        box = spec.actions
        wanted = Space("Box", box.shape, "float32", box.low, box.high)
        same = action.kind == "Box" and action.shape == box.shape
    if not same:
        raise EnvironmentFailure(_mismatch(contents, env, "actions", wanted, action))
    if wanted.kind == "Box":
        _check_bounds(contents, env, wanted, action)
    if isinstance(env, EnvSpec):
        spec = replace(spec, env=env)
    return NumpyPolicy(spec, policy.arch, policy.parameters)


def env_name(env: EnvSource | None) -> str:
    """What to call an environment in a message."""
    if env is None:
        return "the file itself"
    return f"environment {env.id!r}" if isinstance(env, EnvSpec) else "the environment"


def _mismatch(
    contents: Contents, env: EnvSource | None, what: str, found: Space, expected: Space
) -> str:
    hint = ""
    if what == "observations" and found.kind == expected.kind == "Box" and expected.size:
        times, rest = divmod(found.size, expected.size)
        if times > 1 and not rest:
            hint = f" If the teacher was trained on stacked frames, give a frame stack of {times}."
    return (
        f"{contents.path} has {what} {found}, but {env_name(env)} has {expected}. Expected "
        f"the environment, with the wrappers, that the teacher was trained in.{hint}"
    )


def _actions(contents: Contents, action: Space, env: EnvSource | None) -> tuple[Output, Actions]:
    trained = contents.action
    if env is not None and trained is not None:
        fits = (trained.kind, trained.n, trained.start) == (action.kind, action.n, action.start)
        if not fits or (action.kind == "Box" and trained.size != action.size):
            raise EnvironmentFailure(_mismatch(contents, env, "actions", trained, action))
    n = contents.n_outputs
    if (action.n if action.kind == "Discrete" else action.size) != n:
        raise EnvironmentFailure(
            f"{contents.path} puts out {n} values, but {env_name(env)} has actions {action}. "
            "Expected one output for each action. Use the environment that the teacher was trained "
            "in."
        )
    if action.kind == "Discrete":
        if contents.output == "mean":
            raise EnvironmentFailure(
                f"{contents.path} puts out continuous actions, but the environment has actions "
                f"{action}. Use the environment that the teacher was trained in."
            )
        return contents.output, DiscreteActions(n=action.n, start=action.start)
    if contents.output == "q_values":
        raise EnvironmentFailure(
            f"{contents.path} puts out Q-values, one for each of {n} discrete actions, but the "
            f"environment has actions {action}. Use the environment it was trained in."
        )
    if env is not None and trained is not None:
        _check_bounds(contents, env, trained, action)
    if action.low is None or action.high is None:
        raise TeacherError(
            f"{contents.path} does not tell the bounds of its actions in readable form. Give "
            "--env, so that they can be taken from the environment."
        )
    low, high = (np.asarray(v, dtype=np.float32) for v in (action.low, action.high))
    if contents.squash == "tanh" and not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise EnvironmentFailure(
            f"{contents.path} squashes its actions into their bounds, but the bounds of {action} "
            "are infinite. Wrap the environment with gymnasium.wrappers.RescaleAction."
        )
    return "mean", ContinuousActions(
        tuple(low.tolist()), tuple(high.tolist()), contents.squash, action.shape
    )


def _check_bounds(contents: Contents, env: EnvSource, trained: Space, action: Space) -> None:
    for name in ("low", "high"):
        ours, theirs = getattr(trained, name), getattr(action, name)
        if ours is None or theirs is None:
            continue
        if not np.allclose(ours, theirs, rtol=1e-4, atol=1e-6):
            raise EnvironmentFailure(
                f"{contents.path} was trained on actions with {name} bounds {_short(ours)}, but "
                f"{env_name(env)} has {_short(theirs)}. Use the wrapper that the teacher "
                "was trained with (--wrapper module:Class)."
            )


def _short(values: tuple[float, ...]) -> str:
    text = ", ".join(f"{value:g}" for value in values[:6])
    return f"[{text}{', ...' if len(values) > 6 else ''}]"


_UNSET = DiscreteActions(1)


def _observations(contents: Contents, observation: Space, env: EnvSource | None) -> PolicySpec:
    """The observation half of the spec."""
    trained = contents.observation
    if observation.kind == "Discrete":
        features = contents.layers[0].weight.shape[1]
        n = trained.n if trained is not None and trained.kind == "Discrete" else features
        if observation.n != n or observation.start or (trained and trained.kind != "Discrete"):
            raise EnvironmentFailure(
                f"{contents.path} reads {trained or f'{features} features'}, but the environment "
                f"has observations {observation}. Use the environment it was trained in."
            )
        return PolicySpec((), _UNSET, contents.output, "int64", one_hot=observation.n)
    if trained is not None and trained.kind != "Box" and env is not None:
        raise EnvironmentFailure(_mismatch(contents, env, "observations", trained, observation))
    shape = observation.shape
    inner = trained.shape if trained is not None else _shape_of_layers(contents, shape)
    channels_last = len(shape) == 3 and inner != shape and inner == (shape[2], *shape[:2])
    if inner != shape and not channels_last:
        found = trained or Space("Box", inner, observation.dtype)
        raise EnvironmentFailure(_mismatch(contents, env, "observations", found, observation))
    if trained is not None and trained.is_image != observation.is_image:
        # Images of bytes are divided by 255, others are not.
        raise EnvironmentFailure(_mismatch(contents, env, "observations", trained, observation))
    image = observation.is_image and contents.scale_images
    return PolicySpec(
        shape,
        _UNSET,
        contents.output,
        observation.policy_dtype,
        channels_last=channels_last,
        normaliser=Normaliser((0.0,), (255.0,)) if image else None,
    )


def _shape_of_layers(contents: Contents, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The observation shape that the first layer wants, given the environment's."""
    first = contents.layers[0].weight.shape
    if len(first) == 4:
        if len(shape) == 3 and shape[0] == first[1]:
            return shape
        if len(shape) == 3 and shape[2] == first[1]:
            return (shape[2], shape[0], shape[1])
        return (first[1], *shape[-2:]) if len(shape) >= 2 else (first[1],)
    return shape if math.prod(shape) == first[1] else (first[1],)


def _normaliser(
    contents: Contents, spec: PolicySpec, statistics: Statistics, env: EnvSource | None
) -> Normaliser | None:
    """VecNormalize's statistics in the order of the observation."""
    if not statistics.norm_obs or statistics.mean is None or statistics.var is None:
        return spec.normaliser
    mean, var = statistics.mean, statistics.var
    size = math.prod(spec.observation_shape)
    if spec.one_hot:
        raise TeacherError(
            f"{statistics.path} normalises observations, but {contents.path} reads discrete "
            "observations, which are not normalised. Leave --vecnormalize away, or move the file "
            "away if it belongs to another teacher."
        )
    frames = env.frame_stack if isinstance(env, EnvSpec) else 0
    if frames and mean.size * frames == size:
        # rl-zoo normalises single frames and stacks them afterwards.
        mean, var = (np.concatenate([value] * frames, axis=-1) for value in (mean, var))
    if mean.size != size:
        raise TeacherError(
            f"{statistics.path} holds statistics of {mean.size} features, but {contents.path} "
            f"reads {size}. Expected the statistics that were saved with this teacher: give them "
            "with --vecnormalize, or move the file away if it belongs to another teacher."
        )
    std = np.sqrt(var.astype(np.float64) + statistics.epsilon)
    try:
        return Normaliser(
            tuple(mean.astype(np.float64).reshape(-1).tolist()),
            tuple(std.reshape(-1).tolist()),
            statistics.clip_obs,
        )
    except PopsError as error:
        raise TeacherError(f"{statistics.path}: {error}") from error


def num_policy_macs(contents: Contents) -> int | None:
    """Multiply-accumulates for one observation; None where the input's size is not known."""
    if contents.policy is not None:
        return contents.policy.arch.macs
    first = contents.layers[0].weight.shape
    if len(first) == 2:
        return sum(layer.weight.size for layer in contents.layers)
    shape = contents.observation.shape if contents.observation is not None else ()
    if len(shape) != 3 or contents.activation is None:
        return None
    inner = shape if shape[0] == first[1] else (shape[2], shape[0], shape[1])
    return architecture(contents.path, contents.layers, inner).macs
