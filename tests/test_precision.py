"""How many screening episodes noisy returns ask for."""

import dataclasses

import pytest
from core_cases import steer_teacher, tiny

from pops.config import CompressConfig
from pops.pipeline import compress
from pops.precision import MOST, times_more, with_more_episodes
from pops.spec import EnvSpec
from pops.tracking import Tracker


@pytest.mark.parametrize(
    ("deviation", "allowed", "episodes", "expected"),
    [
        (4.2, 1.64, 40, 1),  # Pong: 40 games have an error of 0.66
        (1000.0, 100.0, 40, 3),  # (1000 / 100)² = 100 episodes
        (1000.0, 85.0, 40, 4),  # 138.4
        (1000.0, 1.0, 40, MOST),
        (0.0, 0.0, 40, 1),  # a teacher that always returns the same
    ],
)
def test_the_error_of_a_mean_comes_down_to_the_margin(deviation, allowed, episodes, expected):
    assert times_more(deviation, allowed, episodes) == expected


def test_all_screening_episodes_grow_and_nothing_else():
    config = CompressConfig()
    more = with_more_episodes(config, 3)
    assert more.screen == dataclasses.replace(
        config.screen, distilled=144, validation=600, confirmation=1200
    )
    assert (more.prune.guard_episodes, more.search.episodes) == (48, 72)
    assert (more.episodes, more.gate, more.distill) == (100, config.gate, config.distill)
    assert with_more_episodes(config, 1) == config


def test_returns_that_vary_much_are_screened_on_more_episodes(tmp_path, capsys):
    out = tmp_path / "run"
    config = tiny()
    usual = config.screen.validation
    gamble = EnvSpec("core_envs:Gamble-v0")
    with Tracker(out, "plain") as tracker:
        result = compress(steer_teacher(), gamble, out, config, workers=1, tracker=tracker)
    (episodes,) = {rung["episodes"] for rung in result.manifest["ladder"]}
    # A deviation of 40, a margin of 1.7: (40 / 1.7)² is about 550.
    assert episodes == 3 * usual
    said = capsys.readouterr().out
    assert "may fail a student that is as good as its teacher; --episodes " in said
