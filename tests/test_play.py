"""`pops play`: frames, sizes, bytes, exit codes, and nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from export_cases import cartpole_policy, cartpole_run, make_run, random_policy
from PIL import Image

from pops.arch import Conv, NetArch
from pops.cli import main
from pops.errors import EnvironmentFailure, UsageError
from pops.evaluate import evaluate
from pops.play import PlayConfig, Player, Recording, play
from pops.policy import NumpyPolicy
from pops.spec import DiscreteActions, EnvSpec, Normaliser, PolicySpec

CARTPOLE = EnvSpec("CartPole-v1")


def falling(sign: float) -> NumpyPolicy:
    """Pushes where the pole does not need it: over within some ten steps."""
    rule = np.array([[0.0, 0.0, sign, 0.0], [0.0, 0.0, -sign, 0.0]], np.float32)
    spec = PolicySpec((4,), DiscreteActions(2), "q_values", env=CARTPOLE)
    return NumpyPolicy(spec, NetArch((4,), 2), [(rule, np.zeros(2, np.float32))])


PLAYERS = (
    Player("student, 10 parameters", falling(1.0), CARTPOLE),
    Player("teacher, 11 parameters", cartpole_policy(8), CARTPOLE),
)


def record(tmp_path: Path, name: str, **options: object) -> Recording:
    return play(PLAYERS, PlayConfig(tmp_path / name, **options))  # type: ignore[arg-type]


def shown(path: Path) -> tuple[int, int]:
    """(different pictures, hundredths of a second) of a GIF."""
    with Image.open(path) as image:
        times = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            times.append(image.info["duration"])
    return len(times), sum(times) // 10


def test_a_gif_has_a_frame_for_each_step(tmp_path: Path) -> None:
    result = record(tmp_path, "game.gif", max_steps=24, fps=25)
    assert result.frames == 25
    assert result.bytes == (tmp_path / "game.gif").stat().st_size < 100_000
    assert shown(tmp_path / "game.gif") == (25, 100)
    with Image.open(tmp_path / "game.gif") as image:
        width, height = image.size
    assert width == 2 * 320 + 4  # 600 pixels across were drawn, a GIF gets 320
    assert 213 < height < 290
    assert os.listdir(tmp_path) == ["game.gif"]


def test_returns_are_those_of_an_evaluation(tmp_path: Path) -> None:
    result = record(tmp_path, "game.gif", max_steps=80, episodes=2, every=10, width=100)
    played = evaluate(PLAYERS[0].policy, CARTPOLE, [10_000, 10_001])
    students = [e for e in result.episodes if e["title"].startswith("student")]
    assert [e["seed"] for e in students] == [10_000, 10_001]
    assert [e["return"] for e in students] == played.returns.tolist()
    assert [e["steps"] for e in students] == played.lengths.tolist()
    assert all(e["over"] for e in students)
    teachers = [e for e in result.episodes if e["title"].startswith("teacher")]
    assert [(e["return"], e["over"]) for e in teachers] == [(80.0, False)] * 2
    assert result.frames == 2 * (1 + 80 // 10)


@pytest.mark.parametrize("name", ["game.gif", "game.mp4"])
def test_the_same_seed_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate((1, 1, 2)):
        record(tmp_path / str(number), name, max_steps=10, seed=seed, width=120)
        found.append((tmp_path / str(number) / name).read_bytes())
    assert found[0] == found[1] != found[2]


def test_an_mp4_has_as_many_frames(tmp_path: Path) -> None:
    import imageio_ffmpeg

    result = record(tmp_path, "game.mp4", max_steps=29, fps=15)
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "game.mp4"))
    assert (frames, result.frames) == (30, 30)
    assert seconds == pytest.approx(2.0, abs=0.01)
    assert os.listdir(tmp_path) == ["game.mp4"]


class Interrupted(NumpyPolicy):
    """Is interrupted at its fifth step."""

    left = 5

    def act(self, observations):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return super().act(observations)


@pytest.mark.parametrize("name", ["game.gif", "game.mp4"])
def test_an_interrupted_recording_leaves_what_was_there(name: str, tmp_path: Path) -> None:
    policy = cartpole_policy()
    broken = Interrupted(policy.spec, policy.arch, policy.parameters)
    (tmp_path / name).write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt):
        play(
            [Player("student", broken, CARTPOLE)],
            PlayConfig(tmp_path / name, overwrite=True),
        )
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"before"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_says_so(number: int, tmp_path: Path) -> None:
    make_run(tmp_path / "run", cartpole_policy())
    out = tmp_path / "video" / "game.mp4"
    command = [sys.executable, "-m", "pops.cli", "play", str(tmp_path / "run")]
    environment = {**os.environ, "SDL_VIDEODRIVER": "dummy"}
    process = subprocess.Popen(
        [*command, "--out", str(out), "--episodes", "500"],
        stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        until = time.monotonic() + 400
        while not (out.parent.is_dir() and any(f.stat().st_size for f in out.parent.iterdir())):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        process.send_signal(number)
        error = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130
    assert "pops play: interrupted. No video was written." in error
    assert os.listdir(out.parent) == []


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(make_run(tmp_path / "run", falling(1.0), teacher=falling(-1.0)))
    out = tmp_path / "game.gif"
    arguments = ["play", run, "--out", str(out), "--width", "90", "--max-steps", "4"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "seed 10000, student, 10 parameters: return 4.00 in 4 steps, cut off" in text
    assert "teacher, 10 parameters" in text
    assert main(arguments) == 2
    assert "exists already. Add --overwrite" in capsys.readouterr().err
    first = out.read_bytes()
    assert main([*arguments, "--overwrite", "--alone", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["frames"], data["bytes"]) == (5, out.stat().st_size)
    assert [e["title"] for e in data["episodes"]] == ["student, 10 parameters"]
    assert out.read_bytes() != first
    assert sorted(os.listdir(tmp_path)) == ["game.gif", "run"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--out", "game.avi"], 2, "ends in .mp4 or .gif"),
        (["--out", "game.gif", "--every", "0"], 2, "--every 0"),
        (["--out", "game.gif", "--fps", "500"], 2, "expected 1 to 100"),
        (["--out", "game.gif", "--width", "7"], 2, "80 to 1920"),
        (["--out", "game.gif", "--runtime", "c"], 2, "is no artifact"),
        (["--out", "game.gif", "--env", "Nowhere-v0"], 1, "is not registered"),
    ],
)
def test_bad_input(arguments, code, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run", falling(1.0))
    assert main(["play", "run", *arguments]) == code
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["run"]
    assert main(["play", "nothing", "--out", "game.gif"]) == 2


def test_missing_packages_are_named(tmp_path, monkeypatch, capsys) -> None:
    make_run(tmp_path / "run", falling(1.0))
    arguments = ["play", str(tmp_path / "run"), "--out", str(tmp_path / "game.mp4")]
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "imageio_ffmpeg", None)
        assert main(arguments) == 1
    assert "pip install 'pops-rl[play]'" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "ale_py", None)
        for name in [n for n in gymnasium.registry if "Pong" in n]:
            patched.delitem(gymnasium.registry, name)
        assert main([*arguments, "--env", "PongNoFrameskip-v4"]) == 1
    assert "pip install 'pops-rl[atari]'" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["run"]


class Blank(gymnasium.Env):
    """Knows render modes, and draws nothing."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def render(self):
        return None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("core_envs:Steer-v0", "takes no such argument.*render_mode='rgb_array'"),
        ("test_play:Blank-v0", "draws a NoneType.*render_mode='rgb_array'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(name: str, message: str, tmp_path: Path) -> None:
    if name.endswith("Blank-v0") and "Blank-v0" not in gymnasium.registry:
        gymnasium.register("Blank-v0", entry_point=Blank)
    policy = random_policy(PolicySpec((3,), DiscreteActions(2), "logits"), NetArch((3,), 2))
    spec = EnvSpec(name.removeprefix("test_play:"))
    with pytest.raises(EnvironmentFailure, match=message):
        play([Player("student", policy, spec)], PlayConfig(tmp_path / "game.gif"))
    assert os.listdir(tmp_path) == []


def test_an_environment_that_fails_is_told_with_its_step(tmp_path: Path) -> None:
    class Fails(NumpyPolicy):
        def act(self, observations):
            return np.array([7])

    policy = cartpole_policy()
    failing = Player("student", Fails(policy.spec, policy.arch, policy.parameters), CARTPOLE)
    with pytest.raises(EnvironmentFailure, match=r"seed 10000, step 0.*Nothing was rec"):
        play([failing], PlayConfig(tmp_path / "game.gif"))
    assert os.listdir(tmp_path) == []


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        play(PLAYERS, PlayConfig(tmp_path / "folder.gif", overwrite=True))


@pytest.mark.slow
def test_an_artifact_plays_in_its_runtime(tmp_path_factory, tmp_path, capsys) -> None:
    run = cartpole_run(tmp_path_factory.getbasetemp())
    for runtime in ("c", "onnx"):
        out = tmp_path / f"{runtime}.gif"
        arguments = ["play", str(run / "artifact"), "--out", str(out), "--max-steps", "20"]
        assert main([*arguments, "--runtime", runtime, "--json"]) == 0
        data = json.loads(capsys.readouterr().out)
        titles = [e["title"] for e in data["episodes"]]
        assert titles == [f"student, 58 parameters, {runtime} int8", "teacher, 58 parameters"]
        assert [e["return"] for e in data["episodes"]] == [20.0, 20.0]


def test_atari(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    wrappers = ("pops.atari:AtariFrames", "pops.atari:OnlyActions,keep=NOOP+RIGHT+LEFT")
    env = EnvSpec("PongNoFrameskip-v4", {}, wrappers, 4)
    spec = PolicySpec(
        (84, 84, 4), DiscreteActions(3), "logits", "uint8",
        channels_last=True, normaliser=Normaliser((0.0,), (255.0,)), env=env,
    )  # fmt: skip
    arch = NetArch((4, 84, 84), 3, (8,), ("relu",), (Conv(4, 8, 4), Conv(4, 4, 2)))
    players = [Player(name, random_policy(spec, arch, n), env) for n, name in enumerate("ab")]
    config = PlayConfig(tmp_path / "pong.gif", max_steps=40)
    result = play(players, config)
    assert result.frames == 41
    assert result.bytes < 60_000
    with Image.open(config.out) as image:
        assert image.size[0] == 2 * 160 + 4
        assert 210 < image.size[1] < 270
        colours = len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0))
    assert colours < 100
