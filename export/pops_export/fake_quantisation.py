"""Distillation with fake quantisation: weights that know they will be rounded to int8.

Weights are rounded per output channel (symmetric), activations per tensor
(asymmetric), as the integer recipe does; gradients pass straight through the
rounding (Jacob et al. 2018, arXiv 1712.05877).
"""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from torch import Tensor, nn

from pops.policy import NumpyPolicy
from pops.spec import Array, FloatArray
from pops.workers import SingleThread
from pops_export.network import core
from pops_export.stage import Network, flat_observations, for_integers, image_observations
from pops_export.tflite_file import power_of_two_range

BATCH = 256
RECALIBRATE = 50
CALIBRATION = 2048
MAC_BUDGET = 60_000_000_000
"""Multiply-accumulates (forward) that one distillation may spend."""


class FakeQuantised(nn.Module):
    """The core of a network with every weight and activation rounded as int8 rounds it."""

    def __init__(self, network: Network, *, pixels_are_codes: bool = False) -> None:
        super().__init__()
        self._layers = core(network)
        self._pixels_are_codes = pixels_are_codes
        self._power_of_two = not network.image and not network.stage.one_hot
        self._ranges: list[tuple[float, float]] = []

    def calibrate(self, inputs: Tensor) -> None:
        """Take every activation's range from `inputs` (N, ...)."""
        found: list[tuple[float, float]] = []
        with torch.no_grad():
            self._run(inputs, found, observe=True)
        if self._power_of_two:
            found[0] = power_of_two_range(*found[0])
        elif self._pixels_are_codes:
            found[0] = (0.0, 255.0)
        self._ranges = found

    def forward(self, inputs: Tensor) -> Tensor:
        """Network inputs (N, ...) to outputs (N, n_outputs)."""
        return self._run(inputs, self._ranges, observe=False)

    def _run(self, x: Tensor, ranges: list[tuple[float, float]], observe: bool) -> Tensor:
        index = 0

        def rounded(value: Tensor) -> Tensor:
            nonlocal index
            if observe:
                ranges.append((float(value.min()), float(value.max())))
            low, high = ranges[index]
            index += 1
            return round_activation(value, low, high)

        x = rounded(x)
        layers = list(self._layers)
        for position, layer in enumerate(layers):
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                weight = round_weight(layer.weight)
                if isinstance(layer, nn.Linear):
                    x = nn.functional.linear(x, weight, layer.bias)
                else:
                    x = nn.functional.conv2d(x, weight, layer.bias, layer.stride, layer.padding)
                following = layers[position + 1] if position + 1 < len(layers) else None
                # A ReLU is fused into the layer before it: one rounding for both.
                if not isinstance(following, nn.ReLU):
                    x = rounded(x)
            elif isinstance(layer, (nn.ReLU, nn.Tanh)):
                x = rounded(layer(x))
            else:
                x = layer(x)
        return x

    def parameters_in_order(self) -> list[tuple[FloatArray, FloatArray]]:
        """(weight, bias) of each layer, as they were before rounding."""
        return [
            (layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy())
            for layer in self._layers
            if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.bias is not None
        ]


def distil(
    policy: NumpyPolicy, states: Array, updates: int, learning_rate: float, seed: int
) -> NumpyPolicy:
    """Train the policy under fake quantisation toward its own outputs on `states`.

    Args:
        policy: the student; the result starts from it.
        states: (N, *observation_shape).
        updates: gradient updates of `BATCH` states; fewer where the network is large.
        learning_rate: Adam's, falling linearly to zero.
        seed: of the batches.

    Returns:
        A policy of the same architecture whose weights survive rounding better.
    """
    with contextlib.closing(SingleThread()):
        return _distil(policy, states, updates, learning_rate, seed)


def _distil(
    policy: NumpyPolicy, states: Array, updates: int, learning_rate: float, seed: int
) -> NumpyPolicy:
    from pops.distill import calibrate_temperature
    from pops.loss import policy_loss

    network = for_integers(policy, states)
    spec = policy.spec
    updates = int(min(updates, max(50, MAC_BUDGET // (policy.arch.macs * BATCH))))
    seen = (
        image_observations(spec, states, channels_last=False)
        if network.image
        else flat_observations(spec, states)
    )
    inputs = torch.from_numpy(network.stage.apply(seen))
    targets = np.concatenate(
        [policy.outputs(states[i : i + BATCH]) for i in range(0, len(states), BATCH)]
    )
    temperature = calibrate_temperature(spec, targets)
    loss = policy_loss(spec, temperature)
    wanted, best_actions = loss.targets(targets), torch.from_numpy(targets.argmax(1))
    module = FakeQuantised(network, pixels_are_codes=network.pixels_are_codes(states))
    first, *others = module.parameters()
    groups = [{"params": [first], "unit": _first_unit(policy, network)}]
    groups.append({"params": others, "unit": 1.0})
    optimiser = torch.optim.Adam(groups, lr=learning_rate)
    rng = np.random.default_rng((seed, 11))
    scale = temperature if network.centred else 1.0
    best, best_cost = module.parameters_in_order(), (float("inf"), float("inf"))
    check = rng.integers(0, len(inputs), CALIBRATION)
    for update in range(updates + 1):
        if update % RECALIBRATE == 0 or update == updates:
            module.calibrate(inputs[torch.from_numpy(rng.integers(0, len(inputs), CALIBRATION))])
            with torch.no_grad():
                outputs = module(inputs[check])
                changed = torch.argmax(outputs, 1) != best_actions[check]
                found = loss.value((outputs / scale).numpy(), wanted[check])
            cost = (float(changed.float().mean()) if network.centred else 0.0, found)
            if cost < best_cost:
                best, best_cost = module.parameters_in_order(), cost
        rows = rng.integers(0, len(inputs), BATCH)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * group["unit"] * (1 - update / (updates + 1))
        outputs = module(inputs[rows]) / scale
        optimiser.zero_grad(set_to_none=True)
        outputs.backward(torch.from_numpy(loss.gradient(outputs.detach().numpy(), wanted[rows])))
        optimiser.step()
    return _unfolded(policy, network, best)


def _first_unit(policy: NumpyPolicy, network: Network) -> float:
    """How large the first layer's weights are beside what the policy was trained with.

    Where pixels come as 0 to 255 its weights hold 1/255: a step of the usual size would be half
    of them.
    """
    if network.image and policy.spec.normaliser is not None and network.stage.scale is None:
        return float(np.float32(1.0 / policy.spec.normaliser.std[0]))
    return 1.0


def _unfolded(
    policy: NumpyPolicy, network: Network, parameters: list[tuple[FloatArray, FloatArray]]
) -> NumpyPolicy:
    """Undo what `for_integers` folded into the first layer."""
    weight, bias = parameters[0]
    if network.exponents is not None:
        chosen = range(len(network.exponents)) if policy.arch.inputs is None else policy.arch.inputs
        factor = np.exp2([network.exponents[i] for i in chosen])
        parameters[0] = ((weight * factor).astype(np.float32), bias)
    else:
        parameters[0] = ((weight / _first_unit(policy, network)).astype(np.float32), bias)
    return NumpyPolicy(policy.spec, policy.arch, parameters)


def round_weight(weight: Tensor) -> Tensor:
    """Weights (outputs, ...) on the int8 grid of their output channel, symmetric."""
    scale = weight.detach().abs().reshape(len(weight), -1).amax(1).clamp(min=1e-12) / 127
    zero = torch.zeros(len(weight), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


def round_activation(value: Tensor, low: float, high: float) -> Tensor:
    """Values on the grid of 256 codes over [low, high], which is widened to hold zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 255, 1e-12)
    zero = int(np.clip(round(-128 - low / scale), -128, 127))
    return torch.fake_quantize_per_tensor_affine(value, scale, zero, -128, 127)
