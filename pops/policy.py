"""NumpyPolicy: a network's forward pass whose result does not depend on the batch it sits in.

Each observation is multiplied on its own, by a BLAS call whose shape never
depends on how many observations came together (`np.matmul` over a leading
axis). A batch of 100 and a batch of 1 therefore give the same bits, and so do
an evaluation with many environments side by side and one with a single
environment. Numpy only: this is also what `pops.load(RUN)` returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pops.arch import Conv, NetArch
from pops.errors import PopsError
from pops.spec import Array, FloatArray, PolicySpec

Parameters = Sequence["tuple[FloatArray, FloatArray]"]
"""(weight, bias) of each layer in torch's layout: (out, in) or (out, in, kernel, kernel)."""


def activate(name: str, x: FloatArray) -> FloatArray:
    """Apply an activation by name, in float32."""
    one = np.float32(1.0)
    if name == "relu":
        return np.maximum(x, np.float32(0.0))
    if name == "tanh":
        return np.tanh(x)
    if name == "elu":
        elu: FloatArray = np.where(x > 0, x, np.expm1(np.minimum(x, np.float32(0.0))))
        return elu
    if name == "leaky_relu":
        leaky: FloatArray = np.where(x > 0, x, x * np.float32(0.01)).astype(np.float32)
        return leaky
    if name == "sigmoid":
        return np.divide(one, one + np.exp(-x), dtype=np.float32)
    if name == "silu":
        return np.divide(x, one + np.exp(-x), dtype=np.float32)
    return x


def check_parameters(arch: NetArch, parameters: Parameters) -> None:
    """Raise unless the parameters have the architecture's shapes and are finite.

    Raises:
        PopsError: naming the layer, its shape found and expected.
    """
    layers = arch.layers()
    if len(layers) != len(parameters):
        raise PopsError(f"Found {len(parameters)} layers of weights, expected {len(layers)}.")
    for index, (layer, (weight, bias)) in enumerate(zip(layers, parameters)):
        if weight.shape != layer.weight or bias.shape != (layer.weight[0],):
            raise PopsError(
                f"Layer {index} has weights {weight.shape} and biases {bias.shape}, expected "
                f"{layer.weight} and {(layer.weight[0],)}."
            )
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise PopsError(
                f"Layer {index} holds NaN or infinite weights; a policy like that cannot act. "
                "Train or save it again."
            )


def _right_hand_sides(arch: NetArch, parameters: Parameters) -> tuple[FloatArray, ...]:
    """Each layer's weights as (in, out), contiguous: what matmul wants on its right.

    Images are multiplied with their channels last: a row of a window is then one piece of memory.
    """
    matrices = []
    layers = arch.layers()
    for index, (weight, _) in enumerate(parameters):
        if weight.ndim == 4:
            weight = weight.transpose(0, 2, 3, 1)
        elif index and index == len(arch.convs):
            grouped = weight.reshape(-1, *layers[index - 1].output_shape)
            weight = grouped.transpose(0, 2, 3, 1)
        matrices.append(np.ascontiguousarray(weight.reshape(weight.shape[0], -1).T))
    return tuple(matrices)


class NumpyPolicy:
    """A feed-forward policy in numpy: the reference for every other runtime."""

    def __init__(self, spec: PolicySpec, arch: NetArch, parameters: Parameters) -> None:
        if arch.input_shape != spec.input_shape or arch.outputs != spec.n_outputs:
            raise PopsError(
                f"The network maps {arch.input_shape} to {arch.outputs} outputs, but the policy's "
                f"spec wants {spec.input_shape} to {spec.n_outputs}."
            )
        self.spec = spec
        self.arch = arch
        self.parameters = tuple(
            (np.asarray(w, dtype=np.float32), np.asarray(b, dtype=np.float32))
            for w, b in parameters
        )
        check_parameters(arch, self.parameters)
        self._matrices = _right_hand_sides(arch, self.parameters)

    def outputs(self, observations: Array) -> FloatArray:
        """Observations (N, *observation_shape) to raw outputs (N, n_outputs) float32."""
        return self.forward(self.spec.preprocess(observations))

    def forward(self, x: FloatArray) -> FloatArray:
        """Network inputs (N, *input_shape) float32 to raw outputs (N, n_outputs) float32."""
        layers = self.arch.layers()
        index = 0
        if self.arch.convs:
            x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        for conv in self.arch.convs:
            x = self._convolve(conv, x, index)
            index += 1
        x = x.reshape(x.shape[0], -1)
        if self.arch.inputs is not None:
            x = np.ascontiguousarray(x[:, list(self.arch.inputs)])
        for layer in layers[index:]:
            product = np.matmul(x[:, None, :], self._matrices[index])[:, 0, :]
            x = activate(layer.activation, product + self.parameters[index][1])
            index += 1
        return x

    def _convolve(self, conv: Conv, x: FloatArray, index: int) -> FloatArray:
        """(N, height, width, channels) to the same of the next map."""
        if conv.padding:
            pad = (conv.padding, conv.padding)
            x = np.pad(x, ((0, 0), pad, pad, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (conv.kernel, conv.kernel), (1, 2))
        windows = windows[:, :: conv.stride, :: conv.stride]
        n, height, width = windows.shape[:3]
        columns = windows.transpose(0, 1, 2, 4, 5, 3).reshape(n, height * width, -1)
        y = np.matmul(columns, self._matrices[index])
        y += self.parameters[index][1]
        return activate(conv.activation, y).reshape(n, height, width, -1)

    def act(self, observations: Array) -> Array:
        """Observations (N, *observation_shape) to deterministic actions (N, *act_shape)."""
        return self.spec.decode(self.outputs(observations))

    def predict(
        self,
        observation: Array,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """Stable-Baselines3's `predict`: one observation or a batch to (action, state).

        Args:
            observation: (*observation_shape) or (N, *observation_shape).
            state: returned as it is; the policy has no memory.
            episode_start: ignored.
            deterministic: must be True; the policy has no other way to act.

        Raises:
            PopsError: if the observation's shape does not fit, or `deterministic` is False.
        """
        if not deterministic:
            raise PopsError("A compressed policy acts deterministically; drop deterministic=False.")
        batch = np.asarray(observation)
        shape = self.spec.observation_shape
        single = batch.shape == shape
        if not single and batch.shape[1:] != shape:
            raise PopsError(
                f"Found an observation of shape {batch.shape}, expected {shape} or (N, *{shape})."
            )
        actions = self.act(batch[None] if single else batch)
        return (actions[0] if single else actions), state
