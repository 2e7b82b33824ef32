"""The labelled replay buffer: every state that was visited, with the teacher's outputs."""

from __future__ import annotations

import numpy as np

from pops.frames import Stacks, States, join_states
from pops.spec import Array, FloatArray, PolicySpec


class ReplayBuffer:
    """States with the teacher's outputs, all kept.

    Dense observations are preprocessed once; images stay as they came, every plane once.
    """

    def __init__(self, spec: PolicySpec) -> None:
        self._spec = spec
        self._is_image = len(spec.input_shape) == 3
        self._inputs: list[States] = []
        self._labels: list[FloatArray] = []

    def __len__(self) -> int:
        """Number of states."""
        return sum(len(part) for part in self._labels)

    def add(self, observations: States, labels: FloatArray) -> None:
        """Keep observations (N, *observation_shape) with labels (N, n_outputs)."""
        if not self._is_image:
            observations = self._spec.preprocess(np.asarray(observations))
        elif not isinstance(observations, Stacks):
            observations = Stacks.of(observations, self._spec.channels_last)
        self._inputs.append(observations)
        self._labels.append(np.asarray(labels, np.float32))

    def arrays(self) -> tuple[States, FloatArray]:
        """Everything: inputs (N, ...) as they are kept, and labels (N, n_outputs)."""
        if len(self._labels) > 1:
            self._inputs = [join_states(self._inputs)]
            self._labels = [np.concatenate(self._labels)]
        return self._inputs[0], self._labels[0]

    def extend(self, inputs: States, labels: FloatArray) -> None:
        """Add what another buffer's `arrays` gave."""
        self._inputs.append(inputs)
        self._labels.append(labels)

    def copy(self) -> ReplayBuffer:
        """A buffer with the same states that can grow by itself."""
        other = ReplayBuffer(self._spec)
        other._inputs, other._labels = list(self._inputs), list(self._labels)
        return other

    def batch(self, index: Array) -> tuple[FloatArray, FloatArray]:
        """Inputs (batch, *input_shape) float32 and labels of the states at `index`."""
        inputs, labels = self.arrays()
        if not isinstance(inputs, Stacks):
            return inputs[index], labels[index]
        normaliser = self._spec.normaliser
        if normaliser is not None and (len(normaliser.mean) > 1 or normaliser.clip is not None):
            return self._spec.preprocess(inputs.observations(index)), labels[index]
        images = inputs.gather(index).astype(np.float32)
        if normaliser is not None:
            images -= np.float32(normaliser.mean[0])
            images /= np.float32(normaliser.std[0])
        return images, labels[index]
