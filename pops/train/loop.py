"""train(): a teacher from Stable-Baselines3, evaluated as it learns, the best one kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pops.artifact import read_json, save_policy, sha256_file, write_bytes, write_json
from pops.errors import ArtifactError, MissingPackage, PopsError
from pops.evaluate import EvalResult, evaluate
from pops.seeds import derive, screening_seeds, training_block
from pops.spec import EnvSpec
from pops.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from pops.train.config import TrainConfig
from pops.train.folder import TRAIN_FORMAT, TrainFolder
from pops.train.model import build_model, check_finite, policy_of, zip_bytes
from pops.train.plan import Plan, make_plan
from pops.train.start import begin_with, critic_alone
from pops.train.view import View, resume_command
from pops.workers import available_cores

MAX_LOOKS = 90
"""Blocks of seeds for final evaluations; `screening_seeds` has a hundred that are disjoint."""


BESIDE_BLOCK = 99
BESIDE_EPISODES = 30


class Interrupted(PopsError):
    """Ctrl-C; the message says how to go on."""

    exit_code = 130


@dataclass(frozen=True)
class TrainResult:
    """A finished training."""

    path: Path
    """The teacher's file."""
    manifest: dict[str, Any]
    """What train.json holds."""
    met: bool
    """The objective was met on the final evaluation, or there was none."""
    reason: str
    """Why training stopped, in words."""

    @property
    def exit_code(self) -> int:
        """0 when the objective was met, 3 when it was not; the teacher is kept either way."""
        return 0 if self.met else 3


def train(config: TrainConfig) -> TrainResult:
    """Train a teacher until it meets the objective or the budget of steps is spent.

    Every `eval_every` steps the policy plays `eval_episodes` episodes, always the same, and the
    best so far is kept. Where that mean reaches the objective, `final_episodes` episodes
    with seeds never used before decide; if they agree, training stops.

    Raises:
        UsageError: if the configuration asks for what cannot be, or the folder is in use.
        EnvironmentFailure: if the environment cannot be made, raises, or returns NaN.
        MissingPackage: if Stable-Baselines3 is not installed.
        Interrupted: on Ctrl-C.
    """
    plan = make_plan(config)
    threads = available_cores() if plan.preset.images else 1
    with _threads(threads), View(plan, quiet=config.quiet) as view:
        model = build_model(plan, config.device)
        try:
            if config.start is not None:
                begin_with(model, config.start, plan)
            folder = TrainFolder(config.out, plan, resume=config.resume, overwrite=config.overwrite)
            return _Session(plan, folder, model, view).run()
        except KeyboardInterrupt as stop:
            raise Interrupted(
                f"Stopped. Everything up to the last evaluation is kept in {config.out}; go on "
                f"with: {resume_command(config)}"
            ) from stop
        except OSError as error:  # TensorBoard's writer; everything else is an ArtifactError
            raise ArtifactError(
                f"Cannot write into {config.out}: {error.strerror or error}. What was trained up "
                "to the last evaluation is kept; free space, then add --resume."
            ) from error
        finally:
            model.env.close()


class _Session:
    def __init__(self, plan: Plan, folder: TrainFolder, model: Any, view: View) -> None:
        self.plan, self.folder, self.model, self.view = plan, folder, model, view
        self.progress = Progress()
        if folder.checkpoint.is_file():
            self.progress = load_checkpoint(folder.checkpoint, model)
            view.say(f"Going on from step {model.num_timesteps:,}.")
            if getattr(model, "replay_buffer", None) is not None and not model.replay_buffer.size():
                view.say("The replay buffer was too large to keep; it fills anew.")
        _log_to(model, folder.tensorboard)

    def run(self) -> TrainResult:
        if self.plan.start_sha256 is not None and not self.progress.history:
            self._evaluate()  # what training makes worse is not kept
        while not self._met() and self.model.num_timesteps < self.plan.timesteps:
            started = time.perf_counter()
            self._learn()
            self._evaluate()
            self.progress.seconds += time.perf_counter() - started
            save_checkpoint(self.folder.checkpoint, self.model, self.progress)
        if self.progress.final is None:
            assert self.progress.best is not None
            self.progress.final = self._look(self.progress.best)
            save_checkpoint(self.folder.checkpoint, self.model, self.progress)
        return self._finish()

    def _learn(self) -> None:
        """One segment, a function of the model's state and the segment's number."""
        model, segment = self.model, self.progress.segment
        model.set_random_seed(derive(self.plan.seed, "segment", segment))
        model.env.seed(training_block(self.plan.seed, "train", segment))
        model._last_obs = None  # learn() then resets the environments
        steps = min(self.plan.eval_every, self.plan.timesteps - model.num_timesteps)
        continued = self.plan.start_sha256 is not None and segment == 0
        try:
            with critic_alone(model) if continued else nullcontext():
                model.learn(steps, callback=self.view.callback(), reset_num_timesteps=False)
        except (ValueError, RuntimeError, FloatingPointError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise PopsError(
                f"Stable-Baselines3 gave up at step {model.num_timesteps:,} ({first}). What was "
                "trained up to the last evaluation is kept. Try another --seed or --algo."
            ) from error
        self.progress.segment += 1

    def _evaluate(self) -> None:
        progress, steps = self.progress, int(self.model.num_timesteps)
        check_finite(self.model)
        zipped = zip_bytes(self.model)
        result = self._play(zipped, screening_seeds(self._block(), self.plan.eval_episodes))
        progress.history.append({"timesteps": steps, **_facts(result)})
        self.model.logger.record("eval/mean_return", result.mean)
        self.model.logger.dump(steps)
        objective, final, met = self.plan.objective, None, False
        if objective is not None and result.mean >= objective and progress.looks < MAX_LOOKS:
            final = self._look(zipped)
            met = final["mean"] >= objective
        if met or progress.best is None or result.mean > progress.best_mean:
            progress.best, progress.best_mean = zipped, result.mean
            progress.best_timesteps, progress.final = steps, final
        self.view.evaluated(steps, result, progress.best_mean)

    def _look(self, zipped: bytes) -> dict[str, Any]:
        """Play on seeds that nothing has seen."""
        self.progress.looks += 1
        block = self.progress.looks
        seeds = screening_seeds(self._block(), self.plan.final_episodes, block=block)
        return self._play(zipped, seeds).to_json(None)

    def _met(self) -> bool:
        final, objective = self.progress.final, self.plan.objective
        return final is not None and objective is not None and final["mean"] >= objective

    def _block(self) -> int:
        return derive(self.plan.seed, "train", "evaluation")

    def _play(self, zipped: bytes, seeds: range, env: EnvSpec | None = None) -> EvalResult:
        policy = policy_of(zipped, self.plan.env)
        workers = available_cores() if self.plan.preset.images else 1
        return evaluate(policy, env or self.plan.env, seeds, workers)

    def _finish(self) -> TrainResult:
        plan, progress, folder = self.plan, self.progress, self.folder
        assert progress.best is not None
        assert progress.final is not None
        write_bytes(folder.model, progress.best)
        policy = policy_of(progress.best, plan.env)
        met, reason = self._met() or plan.objective is None, self._reason()
        evaluation = {**progress.final, "num_parameters": policy.arch.num_parameters}
        variant = plan.env.variant()
        if variant is not None:
            seeds = screening_seeds(self._block(), BESIDE_EPISODES, block=BESIDE_BLOCK)
            beside = self._play(progress.best, seeds, variant).to_json(None)
            evaluation["beside"] = {"env_kwargs": variant.kwargs, **beside}
        extra = {
            "algorithm": plan.algorithm.upper(),
            "library_version": version("stable-baselines3"),
            "preset": plan.preset_name,
            "seed": plan.seed,
            "timesteps": progress.best_timesteps,
            "evaluation": evaluation,
            "versions": {n: version(n) for n in ("stable-baselines3", "torch", "gymnasium")},
        }
        save_policy(folder.teacher, policy, extra)
        manifest = {
            **extra,
            "format": TRAIN_FORMAT,
            "state": "finished",
            "plan": plan.to_json(),
            "met": met,
            "reason": reason,
            "objective": plan.objective,
            "timesteps_trained": int(self.model.num_timesteps),
            "seconds": round(progress.seconds, 3),
            "looks": progress.looks,
            "history": progress.history,
            "net_arch": policy.arch.to_json(),
            "num_parameters": policy.arch.num_parameters,
            "sha256": sha256_file(folder.teacher),
        }
        write_json(folder.manifest, manifest)
        return TrainResult(folder.teacher, read_json(folder.manifest), met, reason)

    def _reason(self) -> str:
        final, objective = self.progress.final, self.plan.objective
        assert final is not None
        played = f"{final['mean']:.1f} on {final['episodes']} episodes not seen before"
        if objective is None:
            return (
                f"The budget of {self.plan.timesteps:,} steps is spent; the best earned {played}."
            )
        if self._met():
            return f"The objective of {objective:g} is met: {played}."
        return (
            f"The objective of {objective:g} is not met after {self.model.num_timesteps:,} steps: "
            f"the best earned {played}. Go on with --resume and more --timesteps, try another "
            "--seed or --algo, or ask for less with --objective."
        )


def _facts(result: EvalResult) -> dict[str, float]:
    data = result.to_json(None)
    return {key: data[key] for key in ("mean", "std", "min", "max", "mean_length")}


def _log_to(model: Any, folder: Path) -> None:
    from stable_baselines3.common import logger

    try:
        import tensorboard  # noqa: F401

        formats = ["tensorboard"]
    except ImportError:
        formats = []
    model.set_logger(logger.configure(str(folder), formats))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Dense networks this small are slower on several threads; convolutions use every core."""
    try:
        from pops.convolutional import torch_threads
    except ImportError as error:
        raise MissingPackage("torch", "train", "pops train") from error

    with torch_threads(count):
        yield
