"""Generated int8 policies for boards, quantised here in numpy: small, quick and always the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pops.arch import NetArch
from pops.artifact import ARTIFACT_FORMAT, sha256_file, write_json
from pops.policy import NumpyPolicy
from pops.spec import DiscreteActions, EnvSpec, PolicySpec
from pops_deploy.board.build import PolicySource
from pops_export.c.generate import generate_int8
from pops_export.c.options import COptions, Golden
from pops_export.int8 import reference
from pops_export.int8.fixed_point import quantise_multiplier
from pops_export.int8.network import DenseLayer, FloatStage, IntegerNetwork, Requantiser

Array = np.ndarray[Any, Any]


RULE = np.array([0.0, 0.3, 1.0, 1.0])
"""Push right if 0.3 x' + theta + theta' > 0: holds the pole for 500 steps."""


def cartpole_policy() -> tuple[NumpyPolicy, Array]:
    """4-8-2, 58 parameters, that follows RULE; and states it meets."""
    rng = np.random.default_rng(0)
    signs = np.where(np.arange(8) % 2 == 0, 1.0, -1.0)
    first = signs[:, None] * RULE * rng.uniform(0.5, 1.0, (8, 1))
    second = np.stack([-signs, signs]) / 8
    return _cartpole([(first, np.zeros(8)), (second, np.zeros(2))], rng)


def cartpole_student() -> tuple[NumpyPolicy, Array]:
    """4-1-2, the layers of the student that `pops compress` finds for CartPole; follows RULE."""
    first, second = RULE[None, :], np.array([[-1.0], [1.0]])
    parameters = [(first, np.ones(1)), (second, np.array([1.0, -1.0]))]
    return _cartpole(parameters, np.random.default_rng(0))


def _cartpole(parameters: list[Any], rng: Any) -> tuple[NumpyPolicy, Array]:
    spec = PolicySpec((4,), DiscreteActions(2), "logits", env=EnvSpec("CartPole-v1"))
    arch = NetArch((4,), 2, (len(parameters[0][1]),), ("relu",))
    states = rng.normal(size=(2000, 4)) * [0.5, 0.3, 0.05, 0.3]
    return _policy(spec, arch, parameters), states.astype(np.float32)


def lunarlander_policy() -> tuple[NumpyPolicy, Array]:
    """8-4, 36 parameters, seeded: it need not land to be compared action by action."""
    spec = PolicySpec((8,), DiscreteActions(4), "logits", env=EnvSpec("LunarLander-v3"))
    rng = np.random.default_rng(1)
    parameters = [(rng.normal(size=(4, 8)), rng.normal(size=4) * 0.1)]
    states = rng.normal(size=(2000, 8)) * [0.4, 0.7, 0.5, 0.6, 0.3, 0.3, 0.3, 0.3]
    return _policy(spec, NetArch((8,), 4), parameters), states.astype(np.float32)


def _policy(spec: PolicySpec, arch: NetArch, parameters: list[Any]) -> NumpyPolicy:
    return NumpyPolicy(
        spec, arch, [(np.asarray(w, np.float32), np.asarray(b, np.float32)) for w, b in parameters]
    )


def quantised(policy: NumpyPolicy, states: Array) -> IntegerNetwork:
    """Post-training quantisation: features scaled by powers of two, weights per channel."""
    peak = np.abs(states).max(axis=0)
    powers = (2.0 ** -np.ceil(np.log2(peak))).astype(np.float32)
    scale, zero, x = 2.0**-7, 0, states * powers
    input_scale, layers = scale, []
    shapes = policy.arch.layers()
    for number, ((weight, bias), shape) in enumerate(zip(policy.parameters, shapes)):
        folded = weight / powers if number == 0 else weight
        x = x @ folded.T + bias
        x = np.maximum(x, 0) if shape.activation == "relu" else x
        low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
        next_scale = (high - low) / 255
        next_zero = round(-128 - low / next_scale)
        channel = np.abs(folded).max(axis=1) / 127
        pairs = [quantise_multiplier(float(scale * c / next_scale)) for c in channel]
        layers.append(
            DenseLayer(
                weight=np.round(folded / channel[:, None]).astype(np.int8),
                bias=np.round(bias / (scale * channel)).astype(np.int32),
                input_zero_point=zero,
                requantise=Requantiser(
                    multiplier=np.array([m for m, _ in pairs], np.int64),
                    left_shift=np.array([max(e, 0) for _, e in pairs], np.int64),
                    right_shift=np.array([max(-e, 0) for _, e in pairs], np.int64),
                    zero_point=next_zero,
                    minimum=max(-128, next_zero) if shape.activation == "relu" else -128,
                    maximum=127,
                ),
            )
        )
        scale, zero = next_scale, next_zero
    return IntegerNetwork(
        input_shape=policy.arch.input_shape,
        stages=(FloatStage("mul", powers),),
        gather=None,
        input_scale=input_scale,
        input_zero_point=0,
        layers=tuple(layers),
        output_scale=float(np.float32(scale)),
        output_zero_point=zero,
        output_stages=(),
        int8_io=False,
    )


def generated(
    policy: NumpyPolicy,
    states: Array,
    folder: Path,
    golden: int = 8,
    policy_id: str = "ab" * 32,
    prefix: str = "policy",
) -> PolicySource:
    """Write policy.c and policy.h into a folder."""
    network = quantised(policy, states)
    chosen = states[:golden]
    options = COptions(
        prefix=prefix,
        policy_id=policy_id,
        golden=Golden(chosen, reference.outputs(network, chosen)),
        calibration_min=tuple(float(v) for v in states.min(axis=0)),
        calibration_max=tuple(float(v) for v in states.max(axis=0)),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in generate_int8(network, policy.spec, options).items():
        (folder / name).write_text(text)
    source, header = folder / f"{prefix}.c", folder / f"{prefix}.h"
    return PolicySource(source, header, prefix, policy.spec, policy_id)


def artifact(policy: NumpyPolicy, states: Array, folder: Path, policy_id: str = "ab" * 32) -> Path:
    """An artifact folder that holds the generated C and nothing else."""
    source = generated(policy, states, folder / "c", policy_id=policy_id)
    entry = {
        "path": "c/policy.c",
        "header": "c/policy.h",
        "prefix": "policy",
        "scratch_bytes": 64,
        "bytes": source.source.stat().st_size,
        "sha256": sha256_file(source.source),
    }
    facts = {
        "format": ARTIFACT_FORMAT,
        "id": policy_id,
        "role": "student",
        "spec": policy.spec.to_json(),
        "net_arch": policy.arch.to_json(),
        "files": {"c_int8": entry},
    }
    write_json(folder / "artifact.json", facts)
    return folder
