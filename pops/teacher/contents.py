"""Contents: what a teacher file holds, before any environment is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pops.arch import Conv, NetArch
from pops.errors import PopsError, TeacherError
from pops.policy import NumpyPolicy
from pops.spec import FloatArray, Output, Squash
from pops.teacher.spaces import Space

ACTIVATION_CLASSES = {
    "ReLU": "relu",
    "Tanh": "tanh",
    "ELU": "elu",
    "LeakyReLU": "leaky_relu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
    "Identity": "identity",
}
"""torch.nn class names to NetArch's activation names."""


@dataclass(frozen=True)
class Layer:
    """One layer with weights, in torch's layout, and the activation that follows it."""

    name: str
    weight: FloatArray
    """(out, in) or (out, in, kernel, kernel)."""
    bias: FloatArray
    activation: str = "identity"
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class Contents:
    """What a teacher file holds, read without running anything in it."""

    path: Path
    kind: str
    """What the file is, in words: "Stable-Baselines3 zip", "ONNX", ..."""
    layers: tuple[Layer, ...]
    output: Output
    algorithm: str | None = None
    library_version: str | None = None
    observation: Space | None = None
    action: Space | None = None
    squash: Squash = "clip"
    output_clip: float | None = None
    scale_images: bool = True
    """Divide uint8 images by 255."""
    activation: str | None = None
    activation_source: str | None = None
    log_std: tuple[float, ...] | None = None
    policy: NumpyPolicy | None = None
    """The policy itself where the file holds its spec (files that pops wrote)."""
    notes: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def n_outputs(self) -> int:
        """Number of values that the last layer puts out."""
        return int(self.layers[-1].weight.shape[0])


def check_finite(path: Path, layers: tuple[Layer, ...]) -> None:
    """Raise if a weight or a bias is NaN or infinite.

    Raises:
        TeacherError: naming the layer.
    """
    for layer in layers:
        bad = int((~np.isfinite(layer.weight)).sum() + (~np.isfinite(layer.bias)).sum())
        if bad:
            raise TeacherError(
                f"{path}: layer {layer.name!r} holds {bad} NaN or infinite weights; expected "
                "finite numbers. Training diverged or the file is damaged: use an earlier "
                "checkpoint."
            )


def check_chain(path: Path, layers: tuple[Layer, ...]) -> None:
    """Raise unless each dense layer reads what the one before puts out, convolutions first.

    Raises:
        TeacherError: naming the two layers that do not fit.
    """
    if not layers:
        raise TeacherError(
            f"{path} holds no Linear or Conv layers; expected the weights of a policy. "
            "Save the whole policy again."
        )
    for before, after in zip(layers, layers[1:]):
        out, needed = before.weight.shape[0], after.weight.shape[1]
        both_conv = before.weight.ndim == 4 and after.weight.ndim == 4
        flatten = before.weight.ndim == 4 and after.weight.ndim == 2
        backwards = before.weight.ndim == 2 and after.weight.ndim == 4
        if backwards or (flatten and needed % out) or (not flatten and out != needed):
            what = "a convolution" if both_conv else "a layer"
            raise TeacherError(
                f"{path}: {after.name!r} has weights of shape {after.weight.shape} and does not "
                f"follow {before.name!r}, {what} with {out} outputs. Expected one chain of "
                "Conv and Linear layers; extract the actor's layers and save them in order."
            )


def architecture(path: Path, layers: tuple[Layer, ...], input_shape: tuple[int, ...]) -> NetArch:
    """The architecture of a chain of layers on inputs (features,) or (channels, height, width).

    Raises:
        TeacherError: if the layers do not fit the input.
    """
    try:
        convs = []
        for layer in layers:
            if layer.weight.ndim != 4:
                break
            out, _, height, width = layer.weight.shape
            if height != width:
                raise PopsError(f"the {height}×{width} kernel of {layer.name!r} is not square")
            convs.append(Conv(out, height, layer.stride, layer.padding, layer.activation))
        dense = layers[len(convs) :]
        if not dense:
            raise PopsError("the network has no dense layer after its convolutions")
        arch = NetArch(
            input_shape=input_shape,
            outputs=int(dense[-1].weight.shape[0]),
            widths=tuple(int(layer.weight.shape[0]) for layer in dense[:-1]),
            activations=tuple(layer.activation for layer in dense[:-1]),
            convs=tuple(convs),
            output_activation=dense[-1].activation,
        )
        for layer, expected in zip(layers, arch.layers()):
            if layer.weight.shape != expected.weight:
                raise PopsError(
                    f"layer {layer.name!r} has weights of shape {layer.weight.shape}, but on "
                    f"inputs of shape {input_shape} it would need {expected.weight}"
                )
    except PopsError as error:
        raise TeacherError(
            f"{path}: the network does not fit ({error}). Check that the environment, its "
            "wrappers and its frame stack are those the teacher was trained with."
        ) from error
    return arch


def num_parameters(layers: tuple[Layer, ...]) -> int:
    """Weights and biases of a chain of layers."""
    return sum(math.prod(layer.weight.shape) + layer.bias.size for layer in layers)


def with_activation(layers: tuple[Layer, ...], activation: str) -> tuple[Layer, ...]:
    """The same layers, each but the last followed by `activation`."""
    hidden = tuple(replace(layer, activation=activation) for layer in layers[:-1])
    return (*hidden, *layers[-1:])
