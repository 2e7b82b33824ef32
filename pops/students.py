"""What may be compressed: a file, a run, a policy, or any torch module."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from pops.arch import Conv, NetArch
from pops.envs import EnvSource, make_env
from pops.errors import EnvironmentFailure, TeacherError
from pops.policy import NumpyPolicy
from pops.rollout import Sampler
from pops.spec import (
    Array,
    ContinuousActions,
    DiscreteActions,
    EnvSpec,
    FloatArray,
    Policy,
    PolicySpec,
)
from pops.teacher.load import Teacher, load_teacher

if TYPE_CHECKING:
    import torch

TeacherSource = Union[str, Path, Teacher, NumpyPolicy, "torch.nn.Module"]

OPAQUE_STUDENT_WIDTHS = (128, 128)
"""The first student where the teacher's layers cannot be read and so not be copied."""


@dataclass(frozen=True)
class Origin:
    """The teacher of one compression."""

    behaviour: Policy
    """What acts and labels."""
    policy: NumpyPolicy | None
    """The same with its weights in hand; None for a module whose layers cannot be read."""
    arch: NetArch
    """The first student's layers."""
    num_parameters: int
    source: str
    sha256: str
    sampler: Sampler | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> PolicySpec:
        """The policy's contract with its environment."""
        return self.behaviour.spec


def as_teacher(teacher: TeacherSource, env: EnvSource) -> Origin:
    """Make an `Origin` of whatever was given.

    Raises:
        TeacherError: if it is none of the kinds supported, or does not fit the environment.
    """
    if isinstance(teacher, (str, Path)):
        teacher = load_teacher(teacher, env=env)
    if isinstance(teacher, Teacher):
        return _from_policy(teacher.policy, teacher.source, teacher.sha256, teacher.facts)
    if isinstance(teacher, NumpyPolicy):
        return _from_policy(teacher, "a policy in memory", policy_hash(teacher), {})
    return _from_module(teacher, env)


def _from_policy(policy: NumpyPolicy, source: str, sha256: str, facts: dict[str, Any]) -> Origin:
    log_std = tuple(facts.get("log_std") or ())
    samples = policy.spec.output == "logits" or len(log_std) == policy.spec.n_outputs
    sampler = Sampler(policy.spec, log_std) if samples else None
    parameters = policy.arch.num_parameters
    return Origin(policy, policy, policy.arch, parameters, source, sha256, sampler, facts)


def policy_hash(policy: NumpyPolicy) -> str:
    """Hexadecimal SHA-256 of all that decides how a policy acts: its spec, layers and weights."""
    facts = [policy.spec.to_json(), policy.arch.to_json()]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for weight, bias in policy.parameters:
        digest.update(weight.tobytes())
        digest.update(bias.tobytes())
    return digest.hexdigest()


def spec_of(env: EnvSource, output: str = "logits") -> PolicySpec:
    """The spec of a policy that maps this environment's observations to its actions.

    Raises:
        EnvironmentFailure: if the spaces are of a kind that is not supported.
    """
    import gymnasium as gym

    made = make_env(env)
    observed, acted = made.observation_space, made.action_space
    made.close()
    actions: DiscreteActions | ContinuousActions
    if isinstance(acted, gym.spaces.Discrete):
        actions = DiscreteActions(int(acted.n), int(acted.start))
    elif isinstance(acted, gym.spaces.Box) and acted.is_bounded():
        low, high = (tuple(float(v) for v in b.ravel()) for b in (acted.low, acted.high))
        actions = ContinuousActions(low, high, "clip", acted.shape)
    else:
        raise EnvironmentFailure(f"Found actions {acted}; expected Discrete or a bounded Box.")
    common: dict[str, Any] = {
        "actions": actions,
        "output": "logits" if isinstance(actions, DiscreteActions) else "mean",
        "env": env if isinstance(env, EnvSpec) else None,
    }
    if isinstance(observed, gym.spaces.Discrete):
        return PolicySpec((), observation_dtype="int64", one_hot=int(observed.n), **common)
    if isinstance(observed, gym.spaces.Box):
        dtype = str(observed.dtype)
        return PolicySpec(tuple(observed.shape), observation_dtype=dtype, **common)
    raise EnvironmentFailure(f"Found observations {observed}; expected a Box or Discrete.")


def check_fit(spec: PolicySpec, env: EnvSource) -> None:
    """Refuse a policy whose observations or actions are not the environment's.

    Raises:
        EnvironmentFailure: with what each of them has.
    """
    wanted = spec_of(env)
    mine = (spec.observation_shape, spec.one_hot, type(spec.actions), spec.n_outputs)
    theirs = (wanted.observation_shape, wanted.one_hot, type(wanted.actions), wanted.n_outputs)
    if mine != theirs:
        raise EnvironmentFailure(
            f"The teacher takes observations of shape {mine[0]} and puts out {mine[3]} values for "
            f"{mine[2].__name__}; the environment has {theirs[0]} and {theirs[3]} for "
            f"{theirs[2].__name__}. Check --env, --env-kwargs and --wrapper."
        )


class ModulePolicy:
    """Any torch module as a Policy; one observation at a time, so that batches do not matter."""

    def __init__(self, module: torch.nn.Module, spec: PolicySpec) -> None:
        self.module = module.eval()
        self.spec = spec

    def outputs(self, observations: Array) -> FloatArray:
        """Observations (N, *observation_shape) to outputs (N, n_outputs) float32."""
        import torch

        inputs = torch.from_numpy(self.spec.preprocess(observations))
        with torch.inference_mode():
            rows = [self.module(row[None]).reshape(1, -1) for row in inputs]
        return np.asarray(torch.cat(rows).numpy(), np.float32)

    def act(self, observations: Array) -> Array:
        """Observations (N, *observation_shape) to actions (N, *act_shape)."""
        return self.spec.decode(self.outputs(observations))


def _from_module(module: Any, env: EnvSource) -> Origin:
    import torch

    if not isinstance(module, torch.nn.Module):
        raise TeacherError(
            f"Found a teacher of type {type(module).__name__}; expected a file, a policy or a "
            "torch.nn.Module."
        )
    spec = spec_of(env)
    module = module.cpu().eval()
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        digest.update(np.ascontiguousarray(value.numpy()).tobytes())
    count = sum(p.numel() for p in module.parameters())
    source = f"a torch module {type(module).__name__}"
    behaviour = ModulePolicy(module, spec)
    _check_outputs(behaviour, env)
    read = read_sequential(module, spec)
    if read is not None and _computes_the_same(read, behaviour):
        sampler = Sampler(spec) if spec.output == "logits" else None
        return Origin(read, read, read.arch, count, source, digest.hexdigest(), sampler)
    arch = NetArch(spec.input_shape, spec.n_outputs, OPAQUE_STUDENT_WIDTHS, ("relu", "relu"))
    return Origin(behaviour, None, arch, count, source, digest.hexdigest())


def _check_outputs(policy: ModulePolicy, env: EnvSource) -> None:
    made = make_env(env)
    observation, _ = made.reset(seed=0)
    made.close()
    try:
        outputs = policy.outputs(np.asarray(observation)[None])
    except Exception as error:
        raise TeacherError(
            f"The module cannot take an observation of shape {policy.spec.input_shape} ({error})."
        ) from error
    if outputs.shape != (1, policy.spec.n_outputs):
        raise TeacherError(
            f"The module puts out shape {outputs.shape[1:]} for one observation, expected "
            f"({policy.spec.n_outputs},): a logit for each action, or the mean action."
        )


def _computes_the_same(read: NumpyPolicy, behaviour: ModulePolicy) -> bool:
    """Whether what was read of a module is all there is to it: no `forward` of its own, no options.

    Random inputs of several sizes, since some activations differ only far from zero.
    """
    rng = np.random.default_rng(0)
    shape = (64, *read.spec.observation_shape)
    if read.spec.one_hot:
        observations: Array = np.arange(read.spec.one_hot)
    elif read.spec.observation_dtype == "uint8":
        observations = rng.integers(0, 256, shape, dtype=np.uint8)
    else:
        sizes = np.logspace(-1, 1, 64).reshape(-1, *[1] * (len(shape) - 1))
        observations = (sizes * rng.normal(size=shape)).astype(np.float32)
    expected = behaviour.outputs(observations)
    tolerance = 1e-4 * max(1.0, float(np.abs(expected).max()))
    return bool(np.allclose(read.outputs(observations), expected, rtol=0.0, atol=tolerance))


def read_sequential(module: Any, spec: PolicySpec) -> NumpyPolicy | None:
    """The weights of an `nn.Sequential` of Conv2d, Linear and known activations, else None."""
    from torch import nn

    names = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.ELU: "elu", nn.SiLU: "silu"}
    names[nn.Sigmoid] = "sigmoid"
    if not isinstance(module, nn.Sequential):
        return None
    convs: list[Conv] = []
    dense: list[int] = []
    parameters: list[tuple[FloatArray, FloatArray]] = []
    activations: list[str] = []
    for layer in module:
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            if layer.bias is None or (isinstance(layer, nn.Conv2d) and not _is_square(layer)):
                return None
            if isinstance(layer, nn.Conv2d):
                convs.append(
                    Conv(
                        layer.out_channels,
                        layer.kernel_size[0],
                        layer.stride[0],
                        int(layer.padding[0]),
                    )
                )
            else:
                dense.append(layer.out_features)
            weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
            parameters.append((weight, bias))
            activations.append("identity")
        elif type(layer) in names and activations and activations[-1] == "identity":
            activations[-1] = names[type(layer)]
        elif not isinstance(layer, (nn.Flatten, nn.Identity)):
            return None
    if not dense:
        return None
    hidden = len(convs)
    arch = NetArch(
        spec.input_shape,
        dense[-1],
        tuple(dense[:-1]),
        tuple(activations[hidden:-1]),
        tuple(
            Conv(c.channels, c.kernel, c.stride, c.padding, name)
            for c, name in zip(convs, activations)
        ),
        activations[-1],
    )
    return NumpyPolicy(spec, arch, parameters)


def _is_square(layer: Any) -> bool:
    return (
        len(set(layer.kernel_size)) == len(set(layer.stride)) == 1
        and layer.padding[0] == layer.padding[-1]
        and layer.padding_mode == "zeros"
        and math.prod(layer.dilation) == 1
        and layer.groups == 1
    )
