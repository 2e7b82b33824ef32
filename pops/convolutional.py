"""How convolutional networks learn: by torch's autograd, on the CPU or a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from pops.arch import NetArch
from pops.batch_norm import NormalisedNetwork
from pops.loss import PolicyLoss
from pops.network import PolicyNetwork
from pops.policy import Parameters
from pops.replay import ReplayBuffer
from pops.spec import Array, FloatArray
from pops.weights import fold

SETTLED_BY = 1024
"""States that the statistics of batch normalisation are taken from."""


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ConvolutionalLearner:
    """A `pops.learner.Learner` by torch's autograd, on the CPU or a GPU."""

    def __init__(
        self,
        arch: NetArch,
        parameters: Parameters,
        loss: PolicyLoss,
        device: str,
        *,
        batch_norm: bool = False,
        fresh: bool = False,
        threads: int = 1,
    ) -> None:
        self.arch = arch
        self._given: Parameters | None = parameters
        self._loss = loss
        self._device = device
        self._network = NormalisedNetwork(arch) if batch_norm else PolicyNetwork(arch)
        self._network.load(parameters)
        # Channels last is what the CPU's convolutions are fast on: 1.4 times for NatureCNN.
        self._network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        learnt = [p for p in self._network.parameters() if p.requires_grad]
        self._optimiser = torch.optim.Adam(learnt, lr=1e-3, fused=True)
        self._threads = threads
        self._fresh, self._settled = fresh, True
        self._masks: list[torch.Tensor] | None = None
        self._buffer: ReplayBuffer | None = None

    def study(self, buffer: ReplayBuffer) -> None:
        """Learn from these states from now on; images stay as they came until they are used."""
        first, self._buffer = self._buffer is None, buffer
        if first and not self._fresh:
            self._settle(unchanged=True)

    def _settle(self, unchanged: bool = False) -> None:
        """Take batch normalisation's statistics from states all over the buffer."""
        self._settled = True
        if isinstance(self._network, NormalisedNetwork):
            assert self._buffer is not None
            count = len(self._buffer)
            rows = np.linspace(0, count - 1, min(count, SETTLED_BY)).astype(np.int64)
            self._network.settle(self._images(rows)[0], unchanged=unchanged)

    def _images(self, rows: Array) -> tuple[torch.Tensor, FloatArray]:
        """Network inputs and labels."""
        assert self._buffer is not None
        inputs, labels = self._buffer.batch(rows)
        images = torch.from_numpy(inputs).to(self._device, memory_format=torch.channels_last)
        return images, labels

    def _outputs(self, rows: Array) -> tuple[torch.Tensor, FloatArray, FloatArray]:
        """The network's outputs, and the same in numpy with their targets."""
        images, labels = self._images(rows)
        outputs = self._network(images)
        return outputs, outputs.detach().cpu().numpy(), self._loss.targets(labels)

    def update(self, rows: Array, learning_rate: float) -> None:
        """Forward, backward, one step of Adam."""
        self._network.train()
        self._given, self._settled = None, False
        with torch_threads(self._threads):
            outputs, values, targets = self._outputs(rows)
            slope = torch.from_numpy(np.ascontiguousarray(self._loss.gradient(values, targets)))
            self._optimiser.zero_grad(set_to_none=True)
            outputs.backward(slope.to(self._device))  # type: ignore[no-untyped-call]
            self._optimiser.param_groups[0]["lr"] = learning_rate
            self._optimiser.step()
        self._remask()

    def loss(self, rows: Array) -> float:
        """Mean loss on the states at `rows` (batch,), 256 at a time."""
        if not self._settled:
            self._settle()
        self._network.eval()
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(rows), 256):
                part = rows[start : start + 256]
                _, values, targets = self._outputs(part)
                total += self._loss.value(values, targets) * len(part)
        return total / len(rows)

    def weights(self) -> list[FloatArray]:
        """Each layer's weights as the policy will have them, biases left out."""
        return [weight for weight, _ in self.parameters()]

    def mask(self, masks: list[FloatArray]) -> None:
        """Set weights to zero where a mask is zero, now and after every update."""
        self._masks = [torch.from_numpy(mask).to(self._device) for mask in masks]
        self._remask()

    def _remask(self) -> None:
        if self._masks is not None:
            with torch.no_grad():
                for layer, mask in zip(self._network.weighted(), self._masks):
                    layer.weight.mul_(mask)

    def parameters(self) -> list[tuple[FloatArray, FloatArray]]:
        """Copies of (weight, bias) of each layer, batch normalisation folded in."""
        if not self._settled:
            self._settle()
        pairs = self._network.folded() if self._given is None else self._given
        return fold(self.arch, pairs, None)
