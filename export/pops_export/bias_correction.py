"""Take out of the biases what rounding weights and activations adds on average.

Over most of an image lies the same background. A rounded filter answers to it with an error that
is the same at every place of every image: not noise but a constant, and the largest part of what
int8 does to a convolutional policy. Layer by layer, on visited states, the mean error of each
output channel goes off its bias (Nagel et al. 2019, arXiv 1906.04721, section 4.2, with data).
No file has one byte more for it.
"""

from __future__ import annotations

import contextlib
import dataclasses

import torch
from torch import Tensor, nn

from pops.spec import Array, FloatArray
from pops.workers import SingleThread
from pops_export.fake_quantisation import round_activation, round_weight
from pops_export.network import core
from pops_export.stage import Network, image_observations
from pops_export.tflite_file import calibration_rows


def bias_corrected(network: Network, states: Array) -> Network:
    """The network on int8's grid, with biases that make up for it; a dense one as it is.

    The weights come back rounded, so that who calibrates activations on the float network sees
    those that the integers will have.

    Args:
        network: prepared by `pops_export.stage.for_integers`.
        states: (N, *observation_shape), those that activations are calibrated on.
    """
    if not network.arch.convs:
        return network
    rows = calibration_rows(network, states)
    images = image_observations(network.spec, states[rows], channels_last=False)
    inputs = torch.from_numpy(network.stage.apply(images))
    with contextlib.closing(SingleThread()), torch.no_grad():
        seen = torch.tensor([0.0, 255.0]) if network.pixels_are_codes(states) else inputs
        corrected = _corrected(core(network), inputs, _to_codes(inputs, seen))
    return dataclasses.replace(network, parameters=tuple(corrected))


def _corrected(
    layers: nn.Sequential, inputs: Tensor, codes: Tensor
) -> list[tuple[FloatArray, FloatArray]]:
    """Each layer's rounded weights and corrected bias.

    Three passes go from layer to layer: through the network as it is, through rounded weights
    (where the ranges of the activations come from), and through rounded weights and activations.
    """
    exact, floats, found = inputs, inputs, []
    for layer, following in zip(layers, [*list(layers)[1:], None]):
        exact = layer(exact)
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            layer.weight.copy_(round_weight(layer.weight))
        floats, codes = layer(floats), layer(codes)
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            assert layer.bias is not None
            error = (codes - exact).movedim(1, 0).flatten(1).mean(1)
            everywhere = error.reshape(1, -1, *[1] * (codes.dim() - 2))
            floats, codes = floats - everywhere, codes - everywhere
            found.append((layer.weight.numpy(), (layer.bias - error).numpy()))
        # A ReLU is fused into the layer before it: one rounding for both.
        if not isinstance(layer, nn.Flatten) and not isinstance(following, nn.ReLU):
            codes = _to_codes(codes, floats)
    return found


def _to_codes(values: Tensor, calibrated: Tensor) -> Tensor:
    """Rounded to the 256 codes over the range of the values that calibration sees."""
    return round_activation(values, float(calibrated.min()), float(calibrated.max()))
