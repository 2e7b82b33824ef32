"""play(): an episode as a video, each policy on the same seed in a picture of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

import numpy as np

from pops.artifact import atomic_path
from pops.envs import make_env
from pops.errors import EnvironmentFailure, UsageError
from pops.panels import Panels
from pops.spec import Array, EnvSpec, Policy
from pops.video import GifWriter, Mp4Writer, check_video, open_writer

GIF_WIDTH = 320
"""Pixels that a picture gets at most in a GIF when nothing else was asked for."""
FPS = 30.0
"""Where the environment does not tell."""


@dataclass(frozen=True)
class PlayConfig:
    """What to record."""

    out: Path
    """The video to write; its name ends in .mp4 or .gif."""
    seed: int = 10_000
    """Seed of the episode; the next episode has the next one."""
    episodes: int = 1
    """Episodes, one after the other."""
    max_steps: Optional[int] = None
    """Steps of an episode at most; whole episodes if unset."""
    every: int = 1
    """Record every n-th step alone."""
    fps: Optional[float] = None
    """Frames a second; as the environment says if unset, divided by --every."""
    width: Optional[int] = None
    """Pixels across for each policy; as the environment draws if unset, in a GIF at most 320."""
    overwrite: bool = False
    """Replace a video that is already there."""

    def __post_init__(self) -> None:
        if self.seed < 0 or self.episodes < 1 or self.every < 1 or (self.max_steps or 1) < 1:
            raise UsageError(
                f"Found --seed {self.seed}, --episodes {self.episodes}, --every {self.every} and "
                f"--max-steps {self.max_steps}; expected a seed of 0 or more, and 1 or more of "
                "all else."
            )
        if self.fps is not None and not 1 <= self.fps <= 100:
            raise UsageError(f"Found --fps {self.fps:g}, expected 1 to 100.")
        if self.width is not None and not 80 <= self.width <= 1920:
            raise UsageError(f"Found --width {self.width}, expected 80 to 1920 pixels.")


@dataclass(frozen=True)
class Player:
    """A policy with what stands below its picture."""

    title: str
    """For example "student, 108 parameters"."""
    policy: Policy
    env: EnvSpec


@dataclass(frozen=True)
class Recording:
    """What was recorded."""

    path: Path
    frames: int
    bytes: int
    episodes: tuple[dict[str, Any], ...]
    """For each episode and player: title, seed, return, steps, and whether it ended."""

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {
            "path": str(self.path),
            "frames": self.frames,
            "bytes": self.bytes,
            "episodes": list(self.episodes),
        }


@dataclass
class _Episode:
    """One player's episode while it runs."""

    player: Player
    env: Any
    observation: Array
    picture: Array
    total: float = 0.0
    steps: int = 0
    over: bool = False

    @property
    def state(self) -> str:
        """The line that tells how it stands."""
        end = ", over" if self.over else ""
        return f"return {self.total:,.1f}, step {self.steps:,}{end}"

    def step(self) -> None:
        """Let the policy act once."""
        action = self.player.policy.act(self.observation[None])[0]
        if getattr(self.env.action_space, "n", None) is not None:
            action = int(action)
        observation, reward, terminated, truncated, _ = self.env.step(action)
        self.observation = np.asarray(observation)
        self.total += float(reward)
        self.steps += 1
        self.over = bool(terminated or truncated)
        self.picture = _picture(self.env, self.player.env)


@dataclass
class _Film:
    """The file in the making: opened at the first frame, which tells its size."""

    path: Path
    config: PlayConfig
    panels: Panels | None = None
    writer: GifWriter | Mp4Writer | None = None
    frames: int = 0
    results: list[dict[str, Any]] = field(default_factory=list)

    def add(self, episodes: Sequence[_Episode]) -> None:
        """Add one frame."""
        if self.panels is None or self.writer is None:
            kind, first = self.config.out.suffix, episodes[0]
            shape = first.picture.shape
            width = self.config.width or 0
            if not width and kind.lower() == ".gif":
                width = min(GIF_WIDTH, shape[1])
            self.panels = Panels(shape, width, [e.player.title for e in episodes])
            fps = self.config.fps or _own_fps(first.env) / self.config.every
            self.writer = open_writer(self.path, kind, self.panels.size, max(1.0, fps))
        pictures = [e.picture for e in episodes]
        self.writer.add(self.panels.compose(pictures, [e.state for e in episodes]))
        self.frames += 1

    def finish(self) -> None:
        """Write what is left."""
        if self.writer is not None:
            self.writer.finish()

    def close(self) -> None:
        """Let go of the writer, whatever happened."""
        if self.writer is not None:
            self.writer.close()


def play(players: Sequence[Player], config: PlayConfig) -> Recording:
    """Play episodes on the same seeds and write them as a video.

    The file appears whole, or not at all. Returns are those of `evaluate` on the same seeds.

    Raises:
        UsageError: if the file exists and is not to be replaced, or names no video.
        MissingPackage: if a package that draws or encodes is not installed.
        EnvironmentFailure: if an environment cannot be made, cannot be drawn, or fails.
    """
    check_destination(config)
    # Nothing is shown, and pygame would look for a display.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    with atomic_path(config.out) as beside:
        film = _Film(beside, config)
        try:
            for seed in range(config.seed, config.seed + config.episodes):
                _record(players, seed, film)
            film.finish()
        finally:
            film.close()
    size = config.out.stat().st_size
    return Recording(config.out, film.frames, size, tuple(film.results))


def check_destination(config: PlayConfig) -> None:
    """Raise unless the video may be written.

    Raises:
        UsageError: if it exists and is not to be replaced, or its name is no video's.
        MissingPackage: if a package is not installed.
    """
    check_video(config.out)
    if config.out.is_dir():
        raise UsageError(f"{config.out} is a folder; expected the name of a video.")
    if config.out.exists() and not config.overwrite:
        raise UsageError(
            f"{config.out} exists already. Add --overwrite to replace it, or choose another --out."
        )


def _record(players: Sequence[Player], seed: int, film: _Film) -> None:
    config = film.config
    episodes: list[_Episode] = []
    try:
        for player in players:
            episodes.append(_begin(player, seed))
        film.add(episodes)
        step = 0
        while not all(e.over for e in episodes) and step != config.max_steps:
            for episode in episodes:
                if not episode.over:
                    _advance(episode, seed)
            step += 1
            if step % config.every == 0 or all(e.over for e in episodes):
                film.add(episodes)
    finally:
        for episode in episodes:
            episode.env.close()
    film.results += [
        {
            "title": e.player.title,
            "seed": seed,
            "return": e.total,
            "steps": e.steps,
            "over": e.over,
        }
        for e in episodes
    ]


def _begin(player: Player, seed: int) -> _Episode:
    env = _make_drawn(player.env)
    try:
        observation, _ = env.reset(seed=seed)
        return _Episode(player, env, np.asarray(observation), _picture(env, player.env))
    except BaseException:
        env.close()
        raise


def _make_drawn(spec: EnvSpec) -> Any:
    try:
        return make_env(replace(spec, kwargs={**spec.kwargs, "render_mode": "rgb_array"}))
    except EnvironmentFailure:
        make_env(spec).close()  # raises where drawing is not what is wrong
        raise EnvironmentFailure(_cannot_be_drawn(spec, "it takes no such argument")) from None


def _cannot_be_drawn(spec: EnvSpec, why: str) -> str:
    return (
        f"{spec.id} cannot be recorded: {why}. Expected an environment that knows "
        "render_mode='rgb_array' and draws an image (height, width, 3) of bytes."
    )


def _advance(episode: _Episode, seed: int) -> None:
    try:
        episode.step()
    except EnvironmentFailure:
        raise
    except Exception as e:
        raise EnvironmentFailure(
            f"The environment {episode.player.env.id} raised {type(e).__name__}: {e} (episode "
            f"seed {seed}, step {episode.steps}). Nothing was recorded."
        ) from e


def _picture(env: Any, spec: EnvSpec) -> Array:
    try:
        drawn = env.render()
    except ImportError as error:
        raise EnvironmentFailure(
            f"Drawing {spec.id} needs the package {error.name or error!s}, which is not "
            "installed. pip install 'pops-rl[play]'"
        ) from error
    picture = np.asarray(drawn)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise EnvironmentFailure(_cannot_be_drawn(spec, f"it draws a {type(drawn).__name__}"))
    return picture


def _own_fps(env: Any) -> float:
    try:
        return float(env.metadata["render_fps"])
    except (KeyError, TypeError, ValueError):
        return FPS
