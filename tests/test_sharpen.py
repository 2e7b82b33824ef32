"""How decided a policy is, and the factor that makes it more so."""

import math

import numpy as np
import pytest

from pops.sharpen import REACH, entropy_share, sharpening

OUTPUTS = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)


def test_the_entropy_of_random_actions_is_all_there_is():
    assert entropy_share(np.zeros((3, 5), np.float32)) == pytest.approx(1.0)
    assert entropy_share(np.array([[100.0, 0.0]], np.float32)) == pytest.approx(0.0, abs=1e-9)
    even = np.array([[0.0, 0.0, -100.0, -100.0]], np.float32)
    assert entropy_share(even) == pytest.approx(0.5)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.9])
def test_the_factor_gives_the_share(share):
    factor = np.float32(sharpening(OUTPUTS, share))
    assert entropy_share(OUTPUTS * factor) == pytest.approx(share, abs=1e-3)


def test_it_does_not_depend_on_the_scale_of_the_outputs():
    assert sharpening(4 * OUTPUTS, 0.1) == pytest.approx(sharpening(OUTPUTS, 0.1) / 4, rel=1e-2)


def test_it_keeps_within_reach_where_no_factor_would_do():
    assert sharpening(np.zeros((3, 5), np.float32), 0.1) == pytest.approx(math.exp(REACH))
    assert sharpening(1e4 * OUTPUTS, 0.5) == pytest.approx(math.exp(-REACH))
