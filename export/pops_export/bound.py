"""How far may a float32 file lie from the student? A bound for each output of each input.

Summation order alone moves outputs by more than any fixed relative bound, so
each output is bounded by f·u·B + T: u = 2^-24, B the forward pass with absolute
weights, biases and inputs (Higham, Accuracy and Stability of Numerical
Algorithms, chapter 3), f 8 or half of the largest window of a convolution if that is
more, and T what transcendental activations add, 2^-21 for each of their outputs,
carried through the layers behind by absolute weights.

Errors of a sum of n products mostly cancel, to about √n·u; not so where pixels are
alike: equal products added one by one are all rounded to the same side, and the
partial sums S·k/n bound the error by Σ u·S·k/n = n/2·u·S.
"""

from __future__ import annotations

import math

import numpy as np

from pops.arch import NetArch
from pops.policy import NumpyPolicy
from pops.spec import Array, ContinuousActions

UNIT = 2.0**-24
FACTOR = 8.0
TRANSCENDENTAL = 2.0**-21
"""Runtimes' tanh, exp and expm1 differ by some units in the last place of numbers up to one."""
SMOOTH = ("tanh", "sigmoid", "silu", "elu")
STEEPEST = {"silu": 1.1}
"""The largest slope of an activation where it is above one."""


def rounding_factor(arch: NetArch) -> float:
    """The f of f·u·B: 8 without convolutions."""
    windows = [math.prod(layer.weight[1:]) for layer in arch.layers() if len(layer.weight) == 4]
    return max(FACTOR, max(windows, default=0) / 2)


def output_bound(policy: NumpyPolicy, observations: Array) -> Array:
    """Allowed absolute difference (N, n_outputs) float64 from the student's outputs."""
    spec, arch = policy.spec, policy.arch
    x = np.asarray(observations)
    inputs = np.abs(spec.preprocess(x).astype(np.float64))
    size, term = _input_size(policy, x, inputs), np.zeros_like(inputs)
    index = 0
    for conv in arch.convs:
        weight, bias = (np.abs(p.astype(np.float64)) for p in policy.parameters[index])
        size = _convolve(size, weight, conv.stride, conv.padding) + bias[:, None, None]
        term = _convolve(term, weight, conv.stride, conv.padding)
        size, term = _activation(conv.activation, size, term)
        index += 1
    size, term = size.reshape(len(size), -1), term.reshape(len(term), -1)
    if arch.inputs is not None:
        size, term = size[:, list(arch.inputs)], term[:, list(arch.inputs)]
    for layer in arch.layers()[index:]:
        weight, bias = (np.abs(p.astype(np.float64)) for p in policy.parameters[index])
        size, term = _activation(layer.activation, size @ weight.T + bias, term @ weight.T)
        index += 1
    return np.asarray(rounding_factor(arch) * UNIT * size + term)


def action_bound(policy: NumpyPolicy, outputs: Array, bound: Array) -> Array:
    """Allowed absolute difference of continuous actions (N, n_outputs) float64."""
    actions = policy.spec.actions
    assert isinstance(actions, ContinuousActions)
    low, high = np.asarray(actions.low, np.float64), np.asarray(actions.high, np.float64)
    largest = np.maximum(np.abs(low), np.abs(high))
    if actions.squash == "tanh":
        half = (high - low) / 2
        # tanh is no steeper than one; the affine map after it rounds at the size of the bounds.
        return np.asarray(half * (bound + TRANSCENDENTAL) + FACTOR * UNIT * largest)
    return np.asarray(bound + UNIT * np.minimum(np.abs(outputs), largest))


def undecided(outputs: Array, bound: Array) -> Array:
    """(N,) bool: whether the two best outputs lie closer than twice the bound.

    Only there may a float32 file choose another discrete action.
    """
    if outputs.shape[1] < 2:
        return np.zeros(len(outputs), bool)
    order = np.argsort(-outputs.astype(np.float64), axis=1, kind="stable")[:, :2]
    rows = np.arange(len(outputs))
    best, second = order[:, 0], order[:, 1]
    gap = outputs[rows, best].astype(np.float64) - outputs[rows, second]
    return np.asarray(gap <= 2 * np.maximum(bound[rows, best], bound[rows, second]))


def _input_size(policy: NumpyPolicy, x: Array, inputs: Array) -> Array:
    """Size of the network's inputs for B: (|x| + |mean|) / std where no clip acts."""
    normaliser = policy.spec.normaliser
    if normaliser is None or policy.spec.one_hot:
        return inputs
    if policy.spec.channels_last:
        x = np.moveaxis(x, -1, 1)
    x = x.reshape(inputs.shape).astype(np.float64)
    mean, std = (np.asarray(v, np.float64) for v in (normaliser.mean, normaliser.std))
    if mean.size > 1:
        mean, std = mean.reshape(inputs.shape[1:]), std.reshape(inputs.shape[1:])
    size = np.asarray((np.abs(x) + np.abs(mean)) / std)
    if normaliser.clip is None:
        return size
    # Well outside of the clip every file puts out the clip itself.
    outside = np.abs(x - mean) / std > normaliser.clip + FACTOR * UNIT * size
    return np.asarray(np.where(outside, normaliser.clip, size))


def _activation(name: str, size: Array, term: Array) -> tuple[Array, Array]:
    slope = STEEPEST.get(name, 1.0)
    added = TRANSCENDENTAL if name in SMOOTH else 0.0
    if name == "sigmoid":
        # At most a quarter steep, but sigmoid(0) is a half: B keeps that offset.
        return size / 4 + 0.5, term / 4 + added
    return size * slope, term * slope + added * (np.maximum(1.0, size) if name == "silu" else 1.0)


def _convolve(x: Array, weight: Array, stride: int, padding: int) -> Array:
    if padding:
        pad = (padding, padding)
        x = np.pad(x, ((0, 0), (0, 0), pad, pad))
    kernel = weight.shape[2]
    windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (2, 3))
    windows = windows[:, :, ::stride, ::stride]
    n, _, height, width = windows.shape[:4]
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n, height * width, -1)
    y = columns @ weight.reshape(weight.shape[0], -1).T
    return np.asarray(y.transpose(0, 2, 1).reshape(n, -1, height, width))
