"""The teachers that come with the package: their sizes, and that they play."""

from __future__ import annotations

import pytest

from pops.artifact import load_policy
from pops.builtin import BUILTINS, builtin_path
from pops.errors import UsageError
from pops.evaluate import evaluate
from pops.spec import EnvSpec
from pops.train.presets import (
    CONTINUOUS_ALGORITHMS,
    DISCRETE_ALGORITHMS,
    TABLE,
    default_algorithm,
    find_preset,
)


def test_cartpole_has_the_papers_size_and_never_falls() -> None:
    policy, extra = load_policy(builtin_path("cartpole"))
    assert policy.arch.widths == (256, 256, 128)
    assert policy.arch.num_parameters == 100_226
    assert policy.spec.output == "q_values"
    assert policy.spec.env == EnvSpec(BUILTINS["cartpole"].env)
    assert extra["algorithm"] == "DQN"
    assert extra["evaluation"]["mean"] == 500.0
    result = evaluate(policy, EnvSpec("CartPole-v1"), range(20_000, 20_020))
    assert result.returns.tolist() == [500.0] * 20


def test_lunarlander_has_the_papers_size_and_lands() -> None:
    policy, extra = load_policy(builtin_path("lunarlander"))
    assert policy.arch.widths == (64, 64, 64)
    assert policy.arch.num_parameters == 9_156
    assert policy.spec.output == "logits"
    assert policy.spec.env == EnvSpec(BUILTINS["lunarlander"].env)
    assert extra["evaluation"]["mean"] >= 240
    result = evaluate(policy, EnvSpec("LunarLander-v3"), range(20_000, 20_020))
    assert result.mean >= 230


def test_the_paper_preset_has_the_papers_networks() -> None:
    assert find_preset("CartPole-v1", "dqn", "paper").widths == (256, 256, 128)
    assert find_preset("LunarLander-v3", "ppo", "paper").widths == (64, 64, 64)
    assert find_preset("LunarLander-v3", "ppo", "paper").activation == "relu"


def test_every_environment_of_the_table_has_a_default_algorithm() -> None:
    for env_id, entry in TABLE.items():
        for discrete, fitting in ((True, DISCRETE_ALGORITHMS), (False, CONTINUOUS_ALGORITHMS)):
            algorithm = default_algorithm(env_id, discrete)
            assert algorithm in fitting
            assert find_preset(f"some_module:{env_id}", algorithm, "default") is not None
            if set(entry) & set(fitting):
                assert algorithm in entry
    assert default_algorithm("Unheard-v0", True) == "ppo"
    assert default_algorithm("Unheard-v0", False) == "sac"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match="cartpole, lunarlander"):
        builtin_path("pong")
