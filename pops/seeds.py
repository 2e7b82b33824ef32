"""Where every random number comes from.

Four disjoint blocks of episode seeds: training, screening, gate, random
policy. What chooses a student sees training and screening seeds only.
"""

from __future__ import annotations

import zlib

import numpy as np

_BLOCK = 250_000_000
_TRAINING, _SCREENING, _GATE, _RANDOM = 1, 2, 3, 4
"""Blocks; the first 250 million seeds are left to users (`pops eval --seed`)."""


def derive(seed: int, *name: int | str) -> int:
    """A 32-bit seed for (stage, iteration, candidate, ...), from the run's seed."""
    words = [seed, *(n if isinstance(n, int) else zlib.crc32(n.encode()) for n in name)]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def training_block(seed: int, *name: int | str) -> int:
    """The first of a block of training seeds; blocks may overlap each other, nothing else."""
    return _TRAINING * _BLOCK + derive(seed, "training", *name) % (_BLOCK - 10_000_000)


def screening_seeds(seed: int, count: int, block: int = 0) -> range:
    """Episode seeds on which candidates are compared; `block` 0 to 99 are disjoint."""
    start = _SCREENING * _BLOCK + (derive(seed, "screening") % 20) * 10_000_000 + block * 100_000
    return range(start, start + count)


def gate_start(seed: int) -> int:
    """The first seed of the gate's block."""
    return _GATE * _BLOCK + (derive(seed, "gate") % 200) * 1_000_000


def random_seeds(seed: int, count: int) -> range:
    """Episode seeds of the random policy."""
    start = _RANDOM * _BLOCK + (derive(seed, "random") % 200) * 1_000_000
    return range(start, start + count)
