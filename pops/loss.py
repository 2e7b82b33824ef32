"""The losses of policy distillation (Rusu et al. 2016, arXiv 1511.06295), with their gradients.

One implementation for every learner: the gradient with respect to the network's
outputs is a line of algebra, and all that backpropagation needs from a loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pops.spec import ContinuousActions, FloatArray, PolicySpec


class PolicyLoss(Protocol):
    """How far a student's outputs lie from its teacher's."""

    def targets(self, labels: FloatArray) -> FloatArray:
        """The teacher's outputs (N, n_outputs) as `value` and `gradient` want them, once."""
        ...

    def value(self, outputs: FloatArray, targets: FloatArray) -> float:
        """The mean loss of outputs (N, n_outputs)."""
        ...

    def gradient(self, outputs: FloatArray, targets: FloatArray) -> FloatArray:
        """The gradient (N, n_outputs) of `value` with respect to `outputs`."""
        ...


def policy_loss(spec: PolicySpec, temperature: float) -> PolicyLoss:
    """KL(softmax(teacher/τ) ‖ softmax(student)); for continuous actions a regression."""
    actions = spec.actions
    if not isinstance(actions, ContinuousActions):
        return Divergence(temperature)
    if actions.squash == "tanh":
        return SquashedRegression(spec.output_clip)
    low, high = (np.asarray(bound, np.float32) for bound in (actions.low, actions.high))
    half = np.maximum((high - low) * np.float32(0.5), np.float32(1e-6))
    return ClippedRegression((high + low) * np.float32(0.5), half, spec.output_clip)


def _softmax(logits: FloatArray) -> FloatArray:
    exponentials: FloatArray = np.exp(logits - logits.max(axis=1, keepdims=True))
    exponentials /= exponentials.sum(axis=1, keepdims=True)
    return exponentials


@dataclass(frozen=True)
class Divergence:
    """KL(softmax(teacher/τ) ‖ softmax(student)), summed over actions, mean over states."""

    temperature: float

    def targets(self, labels: FloatArray) -> FloatArray:
        """The teacher's action probabilities."""
        return _softmax(np.asarray(labels, np.float32) / np.float32(self.temperature))

    def value(self, outputs: FloatArray, targets: FloatArray) -> float:
        """In nats."""
        shifted = outputs - outputs.max(axis=1, keepdims=True)
        log_student = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        tiny = np.finfo(np.float32).tiny
        terms = targets * (np.log(np.maximum(targets, tiny)) - log_student)
        return float(terms.sum(axis=1, dtype=np.float64).mean())

    def gradient(self, outputs: FloatArray, targets: FloatArray) -> FloatArray:
        """softmax(student) - softmax(teacher/τ), over the number of states."""
        difference = _softmax(outputs)
        difference -= targets
        difference *= np.float32(1.0 / len(outputs))
        return difference


@dataclass(frozen=True, eq=False)
class ClippedRegression:
    """Squared error of the action in units of half its range.

    A Gaussian policy's mean overshoots the clip: where teacher and student
    saturate on the same side they act alike, and there is no loss.
    """

    centre: FloatArray
    half: FloatArray
    output_clip: float | None

    def targets(self, labels: FloatArray) -> FloatArray:
        """The teacher's actions in units of half the range, clipped to [-1, 1]."""
        scaled = (_clipped(labels, self.output_clip) - self.centre) / self.half
        targets: FloatArray = np.clip(scaled, -1.0, 1.0)
        return targets

    def _error(self, outputs: FloatArray, targets: FloatArray) -> FloatArray:
        student = (outputs - self.centre) / self.half
        alike = ((targets >= 1) & (student >= 1)) | ((targets <= -1) & (student <= -1))
        error: FloatArray = np.where(alike, np.float32(0.0), student - targets)
        return error

    def value(self, outputs: FloatArray, targets: FloatArray) -> float:
        """Mean over states and action components."""
        return float(np.mean(self._error(outputs, targets).astype(np.float64) ** 2))

    def gradient(self, outputs: FloatArray, targets: FloatArray) -> FloatArray:
        """Zero where both saturate on the same side."""
        gradient: FloatArray = self._error(outputs, targets) / self.half
        gradient *= np.float32(2.0 / outputs.size)
        return gradient


@dataclass(frozen=True)
class SquashedRegression:
    """Squared error of the action after tanh, for teachers that squash theirs."""

    output_clip: float | None

    def targets(self, labels: FloatArray) -> FloatArray:
        """The teacher's squashed actions."""
        squashed: FloatArray = np.tanh(_clipped(labels, self.output_clip))
        return squashed

    def value(self, outputs: FloatArray, targets: FloatArray) -> float:
        """Mean over states and action components."""
        return float(np.mean((np.tanh(outputs) - targets).astype(np.float64) ** 2))

    def gradient(self, outputs: FloatArray, targets: FloatArray) -> FloatArray:
        """Through the tanh."""
        squashed = np.tanh(outputs)
        gradient: FloatArray = (squashed - targets) * (1 - squashed * squashed)
        gradient *= np.float32(2.0 / outputs.size)
        return gradient


def _clipped(labels: FloatArray, limit: float | None) -> FloatArray:
    labels = np.asarray(labels, np.float32)
    return labels if limit is None else np.clip(labels, -limit, limit)
