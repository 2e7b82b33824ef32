"""What `pops train` refuses: one clear message, the right exit status, nothing half-written."""

from __future__ import annotations

import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from pops.artifact import read_json, write_json
from pops.errors import ArtifactError, EnvironmentFailure, PopsError, UsageError
from pops.train.config import TrainConfig, parse_env_kwargs
from pops.train.loop import train

TAME = "train_envs:PopsTame-v0"


def config(out: Path, **changes: Any) -> TrainConfig:
    small: dict[str, Any] = {
        "env": TAME,
        "algo": "ppo",
        "quiet": True,
        "device": "cpu",
        "eval_episodes": 2,
        "final_episodes": 2,
        "timesteps": 256,
        "eval_every": 256,
        "n_envs": 1,
    }
    return TrainConfig(out=out, **{**small, **changes})


REFUSED: dict[str, tuple[dict[str, Any], str, int]] = {
    "unknown environment": ({"env": "NoSuchThing-v0"}, "is not registered", 1),
    "unknown module": ({"env": "no_such_module:Thing-v0"}, "no_such_module", 1),
    "unknown argument": ({"env_kwargs": ("wheels=3",)}, "wheels", 1),
    "malformed argument": ({"env_kwargs": ("wheels",)}, "expected key=value", 2),
    "argument twice": ({"env_kwargs": ("at=1", "at=2")}, "twice", 2),
    "argument not finite": ({"env_kwargs": ("at=NaN",)}, "finite numbers", 2),
    "unknown wrapper": ({"wrapper": ("no_such_module:Wrap",)}, "module:Class", 1),
    "dqn on a box": ({"algo": "dqn", "env": "Pendulum-v1"}, "expected --algo sac or ppo", 2),
    "sac on discrete": ({"algo": "sac"}, "sac does not fit the discrete actions", 2),
    "multidiscrete": ({"env_kwargs": ("actions=multi",)}, "MultiDiscrete", 2),
    "unbounded box": ({"env_kwargs": ("actions=unbounded",)}, "bounded Box", 2),
    "actions from one": ({"env_kwargs": ("start=1",)}, "start at zero", 2),
    "dict observations": ({"env": "train_envs:PopsDict-v0"}, "expected Box or Discrete", 2),
    "no steps": ({"timesteps": 0}, "--timesteps 0, expected at least 1", 2),
    "no episodes": ({"eval_episodes": -3}, "--eval-episodes -3", 2),
    "negative seed": ({"seed": -1}, "--seed -1", 2),
    "empty layer": ({"net_arch": (8, 0)}, "--net-arch", 2),
    "objective that is not finite": ({"objective": float("nan")}, "--objective nan", 2),
    "unknown device": ({"device": "abacus"}, "--device abacus", 2),
    "both flags": ({"resume": True, "overwrite": True}, "give one of them", 2),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_words_before_anything_is_written(tmp_path: Path, name: str) -> None:
    changes, words, code = REFUSED[name]
    with pytest.raises(PopsError) as error:
        train(config(tmp_path / "t", **changes))
    assert words in str(error.value)
    assert error.value.exit_code == code
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("fault", ["raise", "nan reward", "nan observation"])
def test_an_environment_that_fails_in_mid_run(tmp_path: Path, fault: str) -> None:
    with pytest.raises(EnvironmentFailure) as error:
        train(config(tmp_path / "t", env_kwargs=(f"fault={fault}", "at=300"), timesteps=5120))
    words = "ValueError: the motor is on fire" if fault == "raise" else "that is not finite"
    assert words in str(error.value)
    assert "--resume" in str(error.value)
    assert not (tmp_path / "t" / "teacher.safetensors").exists()
    assert read_json(tmp_path / "t" / "train.json")["state"] == "training"


def test_an_existing_folder_is_not_touched_unless_asked(tmp_path: Path) -> None:
    out = tmp_path / "t"
    result = train(config(out))
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for changes, words in (
        ({}, "already holds a training"),
        ({"resume": True, "seed": 1}, "another seed"),
        ({"resume": True, "net_arch": (8, 8)}, "another widths"),
    ):
        with pytest.raises(UsageError, match=words):
            train(config(out, **changes))
        assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    other = train(config(out, overwrite=True, seed=1))
    assert other.path.read_bytes() != before[result.path]

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    for flags in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(UsageError, match="is not a training of pops"):
            train(config(foreign, **flags))
    (tmp_path / "file").write_text("also mine")
    with pytest.raises(UsageError, match="is not a training of pops"):
        train(config(tmp_path / "file", overwrite=True))
    assert (foreign / "thesis.tex").read_text() == "years of work"


def test_a_damaged_checkpoint_and_another_version_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "t"
    train(config(out))
    checkpoint = out / "checkpoint" / "state.pt"
    whole = checkpoint.read_bytes()
    for data in (b"", whole[: len(whole) // 2], b"cos\nsystem\n(S'touch pwned'\ntR."):
        checkpoint.write_bytes(data)
        with pytest.raises(ArtifactError, match="cannot be resumed from"):
            train(config(out, resume=True))
    assert not Path("pwned").exists()
    write_json(out / "train.json", {"format": "pops-train-0"})
    with pytest.raises(ArtifactError, match="pops-train-0"):
        train(config(out, resume=True))


def test_a_full_disk_is_said_and_the_checkpoint_before_it_kept(tmp_path: Path) -> None:
    """A limit on file sizes stands in for the full disk: writing fails half-way, as there."""
    out = tmp_path / "t"
    train(config(out, timesteps=256, objective=1e9))
    before = (out / "checkpoint" / "state.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(ArtifactError, match="Cannot write"):
            train(config(out, timesteps=8192, objective=1e9, resume=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (out / "checkpoint" / "state.pt").read_bytes() == before
    assert not list(out.glob("checkpoint/.*"))


def test_arguments_of_the_environment_are_json_or_text() -> None:
    pairs = ("continuous=true", "wind=1.5", "mode=rgb", "debug=False", "shape=[3, 4]", "path=a=b")
    assert parse_env_kwargs(pairs) == {
        "continuous": True,
        "wind": 1.5,
        "mode": "rgb",
        "debug": False,
        "shape": [3, 4],
        "path": "a=b",
    }
