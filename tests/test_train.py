"""`pops train`: stops early, repeats itself, goes on after a kill, keeps what it promised."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_cases import cartpole_teacher, random_policy
from rich.console import Console

from pops.arch import NetArch
from pops.artifact import load_policy, read_json, save_policy
from pops.errors import UsageError
from pops.evaluate import evaluate
from pops.policy import NumpyPolicy
from pops.spec import ContinuousActions, EnvSpec, PolicySpec
from pops.teacher.load import load_teacher
from pops.train.config import TrainConfig
from pops.train.loop import Interrupted, train
from pops.train.view import print_result

QUICK: dict[str, Any] = {
    "env": "CartPole-v1",
    "quiet": True,
    "device": "cpu",
    "eval_episodes": 5,
    "final_episodes": 10,
}


def config(out: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(out=out, **{**QUICK, **changes})


def test_ppo_meets_a_small_objective_and_stops_early(tmp_path: Path) -> None:
    result = train(config(tmp_path / "t", algo="ppo", objective=60.0, eval_every=2048))

    assert result.met
    assert result.exit_code == 0
    manifest = read_json(tmp_path / "t" / "train.json")
    assert manifest == result.manifest
    assert manifest["state"] == "finished"
    assert manifest["timesteps_trained"] < 30_000 < manifest["plan"]["timesteps"]
    assert manifest["evaluation"]["mean"] >= 60
    assert manifest["seconds"] > 0
    assert next(e["timesteps"] for e in manifest["history"]) == 2048
    assert list((tmp_path / "t" / "tensorboard").glob("events.*"))

    policy, extra = load_policy(result.path)
    assert policy.arch.widths == (64, 64)
    assert policy.arch.activation == "tanh"
    assert policy.spec.env == EnvSpec("CartPole-v1")
    assert extra["algorithm"] == "PPO"
    assert extra["timesteps"] == manifest["timesteps"]

    # The final evaluation can be repeated from the files alone, and shares no seed with
    # the episodes that chose the teacher.
    first = manifest["evaluation"]["seed"]
    again = evaluate(policy, EnvSpec("CartPole-v1"), range(first, first + 10))
    assert again.mean == manifest["evaluation"]["mean"]

    console = Console(record=True, width=100, file=open(os.devnull, "w"))  # noqa: SIM115
    print_result(result, console)
    assert "4,610" in console.export_text()


def test_the_policy_is_what_stable_baselines3_predicts(tmp_path: Path) -> None:
    from stable_baselines3 import SAC

    result = train(
        config(
            tmp_path,
            env="Pendulum-v1",
            algo="sac",
            timesteps=150,
            eval_every=150,
            net_arch=(16, 16),
            eval_episodes=1,
            final_episodes=1,
        )
    )
    assert result.exit_code == 3
    assert "is not met after 150 steps" in result.reason
    model = SAC.load(tmp_path / "model.zip", device="cpu")
    observations = np.random.default_rng(0).uniform(-1, 1, (1000, 3)).astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True)
    for policy in (load_policy(result.path)[0], load_teacher(tmp_path / "model.zip").policy):
        np.testing.assert_allclose(policy.act(observations), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("algo", "steps", "env_kwargs"),
    [
        ("dqn", 512, ()),  # learns from step 1,000 on, in the second segment
        ("ppo", 512, ()),
        ("a2c", 200, ()),
        ("sac", 128, ("actions=box",)),
    ],
)
def test_the_same_seed_gives_the_same_bytes_even_when_interrupted(
    tmp_path: Path, algo: Any, steps: int, env_kwargs: tuple[str, ...]
) -> None:
    """An interrupted and resumed training ends with the very file of one that was not."""
    changes: dict[str, Any] = {
        "env": "train_envs:PopsTame-v0",
        "algo": algo,
        "timesteps": 3 * steps,
        "eval_every": steps,
        "n_envs": 1,
        "eval_episodes": 2,
        "final_episodes": 2,
        "net_arch": (8,),
        "seed": 3,
        # A fault that never happens here, so that both trainings share one plan.
        "env_kwargs": (*env_kwargs, "at=1000000000"),
    }
    whole = train(config(tmp_path / "whole", **changes))

    stopped = config(tmp_path / "stopped", **changes)
    with interrupt_after(13 * steps // 5), pytest.raises(Interrupted) as stop:
        train(stopped)
    assert stop.value.exit_code == 130
    assert f"pops train --env {stopped.env}" in str(stop.value)
    assert str(stop.value).endswith("--resume")
    assert not (tmp_path / "stopped" / "teacher.safetensors").exists()
    assert (tmp_path / "stopped" / "checkpoint" / "state.pt").exists()
    resumed = train(config(tmp_path / "stopped", **changes, resume=True))

    assert resumed.path.read_bytes() == whole.path.read_bytes()
    assert resumed.manifest["history"] == whole.manifest["history"]


class interrupt_after:
    """Ctrl-C at the given step of the training environment."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def __enter__(self) -> None:
        from train_envs import Tame

        self._original, seen = Tame.step, [0]

        def step(env: Any, action: Any) -> Any:
            seen[0] += 1
            if seen[0] == self._steps:
                raise KeyboardInterrupt
            return self._original(env, action)

        Tame.step = step  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        from train_envs import Tame

        Tame.step = self._original  # type: ignore[method-assign]


KILLED = """
import sys
from pathlib import Path
from pops.train.config import TrainConfig
from pops.train.loop import train
train(TrainConfig(env="CartPole-v1", out=Path(sys.argv[1]), algo="dqn", timesteps=2560,
      eval_every=512, eval_episodes=5, final_episodes=10, net_arch=(16,), objective=1e9,
      quiet=True, device="cpu"))
"""


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "algo": "dqn",
        "timesteps": 2560,
        "eval_every": 512,
        "net_arch": (16,),
        "objective": 1e9,
    }
    checkpoint = tmp_path / "killed" / "checkpoint" / "state.pt"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "killed")])
    deadline = time.monotonic() + 240
    while not checkpoint.exists():
        assert process.poll() is None, "the training ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "teacher.safetensors").exists()

    # What a kill in the middle of writing leaves.
    (checkpoint.parent / ".state.pt.k1ll3d").write_bytes(b"half of a checkp")

    resumed = train(config(tmp_path / "killed", **changes, resume=True))
    whole = train(config(tmp_path / "whole", **changes))
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    assert resumed.exit_code == 3
    assert not list((tmp_path / "killed").glob("**/.*"))


def test_a_finished_training_goes_on_with_more_steps(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "env": "train_envs:PopsTame-v0",
        "algo": "ppo",
        "eval_every": 512,
        "objective": 1e9,
    }
    first = train(config(tmp_path / "t", **changes, timesteps=512))
    before = first.path.read_bytes()
    again = train(config(tmp_path / "t", **changes, timesteps=512, resume=True))
    assert again.path.read_bytes() == before
    more = train(config(tmp_path / "t", **changes, timesteps=4608, resume=True))
    assert len(first.manifest["history"]) == 1
    assert more.manifest["timesteps_trained"] > first.manifest["timesteps_trained"]
    assert more.manifest["history"][0] == first.manifest["history"][0]


def test_images_are_trained_on_with_convolutions(tmp_path: Path) -> None:
    from stable_baselines3 import PPO

    result = train(
        config(
            tmp_path,
            env="train_envs:PopsImage-v0",
            algo="ppo",
            timesteps=64,
            eval_every=64,
            n_envs=1,
            net_arch=(8,),
            eval_episodes=1,
            final_episodes=1,
        )
    )
    policy, _ = load_policy(result.path)
    assert len(policy.arch.convs) == 3
    assert policy.arch.widths == (512, 8)
    observations = np.random.default_rng(0).integers(0, 256, (50, 36, 36, 1), np.uint8)
    model = PPO.load(tmp_path / "model.zip", device="cpu")
    expected, _ = model.predict(observations, deterministic=True)
    assert policy.act(observations).tolist() == expected.tolist()


def test_a_training_begins_with_a_policy_and_never_keeps_worse(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"algo": "ppo", "eval_every": 2048, "n_envs": 8}
    first = train(config(tmp_path / "first", objective=100.0, **changes))
    good, _ = load_policy(first.path)
    later = train(
        config(tmp_path / "later", start=first.path, timesteps=4096, objective=501.0, **changes)
    )
    history = later.manifest["history"]
    assert [entry["timesteps"] for entry in history] == [0, 2048, 4096]
    # The critic alone learned in the first segment: the policy plays as it did.
    assert history[0] == {**history[1], "timesteps": 0}
    assert history[2] != {**history[1], "timesteps": 4096}
    kept, _ = load_policy(later.path)
    best = max(history, key=lambda entry: entry["mean"])
    assert later.manifest["timesteps"] == best["timesteps"]
    same = all(np.array_equal(a, b) for a, b in zip(_flat(kept), _flat(good)))
    assert same == (best["timesteps"] < 4096)


def _flat(policy: NumpyPolicy) -> list[Any]:
    return [part for pair in policy.parameters for part in pair]


def test_a_convolutional_policy_is_begun_with_too(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "env": "train_envs:PopsImage-v0",
        "algo": "ppo",
        "timesteps": 64,
        "eval_every": 64,
        "n_envs": 1,
        "net_arch": (8,),
        "eval_episodes": 1,
        "final_episodes": 1,
    }
    first = train(config(tmp_path / "first", **changes))
    later = train(config(tmp_path / "later", start=first.path, seed=1, **changes))
    images = np.random.default_rng(0).integers(0, 256, (20, 36, 36, 1), np.uint8)
    outputs = [load_policy(result.path)[0].outputs(images) for result in (first, later)]
    np.testing.assert_array_equal(outputs[0], outputs[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algo": "dqn"}, "expected --algo ppo or a2c"),
        ({"net_arch": (16,)}, "the training builds"),
        ({"start": Path("nothing.zip")}, "which is not a file"),
    ],
)
def test_a_start_that_does_not_fit_leaves_nothing(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    start = tmp_path / "start.safetensors"
    save_policy(start, cartpole_teacher())
    with pytest.raises(UsageError, match=message):
        train(config(tmp_path / "t", **{"algo": "ppo", "start": start, **changes}))
    assert not (tmp_path / "t").exists()


def test_a_start_that_squashes_its_actions_is_refused(tmp_path: Path) -> None:
    """SAC's actor puts tanh behind the layers that PPO's has; copied it would play differently."""
    spec = PolicySpec((3,), ContinuousActions((-2.0,), (2.0,), "tanh"), "mean")
    start = tmp_path / "start.safetensors"
    save_policy(start, random_policy(NetArch((3,), 1, (64, 64), ("tanh", "tanh")), spec))
    with pytest.raises(UsageError, match="it would play differently"):
        train(config(tmp_path / "t", env="Pendulum-v1", algo="ppo", net_arch=(64, 64), start=start))
    assert not (tmp_path / "t").exists()
