"""What each command about policies does: options in, one stage called, its result printed.

Nothing heavy is imported before the options are understood.
"""

from __future__ import annotations

import dataclasses
import json as json_module
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import tyro

from pops.config import CompressConfig
from pops.errors import UsageError
from pops.spec import EnvSpec
from pops.train.config import TrainConfig, parse_env_kwargs

if TYPE_CHECKING:
    from pops.policy import NumpyPolicy
    from pops.spec import Policy
    from pops.teacher.load import Teacher

Here = tyro.conf.arg(name="")


@dataclasses.dataclass(frozen=True)
class EnvOptions:
    """Where episodes are played."""

    env: Optional[str] = None
    """Environment id, or module:Id for one that importing the module registers."""
    env_kwargs: tuple[str, ...] = ()
    """Keyword arguments of the environment, as key=value."""
    wrapper: tuple[str, ...] = ()
    """Wrappers as module:Class or module:Class,key=value, the innermost first."""
    frame_stack: int = 0
    """Frames stacked on the last axis, zeros at reset."""

    def spec(self, otherwise: EnvSpec | None = None) -> EnvSpec:
        """The environment that was asked for; what is left open is as in `otherwise`."""
        name = self.env or (otherwise.id if otherwise is not None else None)
        if name is None:
            raise UsageError("Found no --env; expected an environment id such as CartPole-v1.")
        kwargs = parse_env_kwargs(self.env_kwargs)
        return EnvSpec(name, kwargs, self.wrapper, self.frame_stack).like(otherwise)


def info(
    file: tyro.conf.Positional[Path],
    vecnormalize: Optional[Path] = None,
    activation: Optional[str] = None,
    json: bool = False,
) -> int:
    """Tell what a teacher file holds, without running anything in it.

    Args:
        file: a Stable-Baselines3 zip, safetensors, state dict, CleanRL model or ONNX file.
        vecnormalize: VecNormalize statistics.
        activation: of the hidden layers, where the file does not tell it.
        json: print JSON.
    """
    from pops.teacher.info import info as describe
    from pops.teacher.info import print_info

    data = describe(file, vecnormalize, activation)
    if json:
        print_json(data)
    else:
        print_info(data)
    return 0


def eval(
    path: tyro.conf.Positional[Path],
    where: Annotated[EnvOptions, Here],
    episodes: int = 100,
    seed: int = 10_000,
    vecnormalize: Optional[Path] = None,
    activation: Optional[str] = None,
    runtime: Optional[str] = None,
    file: Literal["int8", "fp32"] = "int8",
    against: Optional[Path] = None,
    max_drop: Optional[float] = None,
    workers: Optional[int] = None,
    json: bool = False,
) -> int:
    """Play episodes; episode i is reset with seed + i, actions are deterministic.

    Args:
        path: a teacher file, a run, a policy file, or an artifact.
        where: the environment.
        episodes: how many.
        seed: of the first episode.
        vecnormalize: VecNormalize statistics of a teacher file.
        activation: of the hidden layers, where a file does not tell it.
        runtime: for an artifact: onnx, litert, c, tflite-micro, or board:PORT.
        file: for an artifact: which of its files to run.
        against: a teacher that plays the same episodes; the gate's verdict decides the exit status.
        max_drop: for --against: share of (teacher - random) that may be lost; 0.05 if unset.
        workers: processes; as many as cores if unset. The result does not depend on it.
        json: print JSON.
    """
    from pops.evaluate import evaluate
    from pops.workers import available_cores

    if episodes < (least := 1 if against is None else 20):
        raise UsageError(f"Found --episodes {episodes}, expected at least {least}.")
    if max_drop is not None and against is None:
        raise UsageError("Found --max-drop without --against, which it belongs to.")
    if max_drop is None:
        max_drop = CompressConfig().max_drop
    if not 0 < max_drop < 1:
        raise UsageError(f"Found --max-drop {max_drop}, expected more than 0 and less than 1.")
    seeds = range(seed, seed + episodes)
    if (path / "artifact.json").is_file():
        policy, env, parameters = open_artifact(path, runtime or "c", file, where)
        try:
            rival = _rival(against, env)
            result = evaluate(policy, env, seeds, 1, side_by_side=1)
        finally:
            getattr(policy, "close", lambda: None)()
    else:
        if runtime is not None:
            raise UsageError(f"{path} is no artifact, so --runtime has nothing to run; export it.")
        teacher, env = load_teacher_at(path, where, vecnormalize, activation)
        parameters, rival = teacher.policy.arch.num_parameters, _rival(against, env)
        result = evaluate(teacher.policy, env, seeds, workers or available_cores())
    data = result.to_json(parameters, returns=True)
    verdict = None
    if rival is not None:
        from pops.compare import compare

        count = workers or available_cores()
        compared = compare(result, rival, env, max_drop=max_drop, workers=count)
        data["against"] = compared.to_json(rival.arch.num_parameters)
        verdict = compared.verdict
    if json:
        print_json(data)
    else:
        _print_episodes(path, data)
        if verdict is not None:
            _print_episodes(against, data["against"]["teacher"])
            print(f"{'passed' if verdict.passed else 'failed'}: {verdict.reason}")
    return 3 if verdict is not None and not verdict.passed else 0


def _rival(against: Path | None, env: EnvSpec) -> NumpyPolicy | None:
    """The teacher that is to play the same episodes."""
    from pops.teacher.load import load_teacher

    if against is None:
        return None
    if not against.exists():
        raise UsageError(f"There is nothing at {against}.")
    return load_teacher(against, env=env).policy


def _print_episodes(path: Path | None, data: dict[str, Any]) -> None:
    success = f", success rate {data['success_rate']:.0%}" if "success_rate" in data else ""
    print(
        f"{path}: {data['mean']:.2f} ± {data['std']:.2f} over {data['episodes']} episodes "
        f"(min {data['min']:.2f}, max {data['max']:.2f}, mean length "
        f"{data['mean_length']:.1f}{success}); {data['num_parameters']:,} parameters"
    )


def load_teacher_at(
    path: Path, where: EnvOptions, vecnormalize: Path | None, activation: str | None
) -> tuple[Teacher, EnvSpec]:
    """A teacher, run or policy file, and the environment that was asked for or that it names."""
    from pops.teacher.load import load_teacher

    if not path.exists():
        raise UsageError(f"There is nothing at {path}.")
    known = _known_env(path) if where.env is None else None
    env = where.spec(known)
    teacher = load_teacher(path, env=env, vecnormalize=vecnormalize, activation=activation)
    return teacher, teacher.policy.spec.env or env


def _known_env(path: Path) -> EnvSpec | None:
    """The environment that a run or a policy file of ours names."""
    from pops.artifact import Run, load_policy

    if (path / "manifest.json").is_file():
        return Run(path).student.spec.env
    if (path / "teacher.safetensors").is_file():
        path = path / "teacher.safetensors"
    if path.suffix == ".safetensors" and path.is_file():
        return load_policy(path)[0].spec.env
    return None


def open_artifact(
    path: Path, runtime: str, file: str, where: EnvOptions
) -> tuple[Policy, EnvSpec, int]:
    """A file of an artifact in a runtime, its environment, and its parameters."""
    from pops.artifact import read_json

    facts = read_json(path / "artifact.json")
    policy: Policy
    if runtime.startswith("board:"):
        from pops_deploy.board.runtime import BoardPolicy

        policy = BoardPolicy(path, runtime.partition(":")[2], file)
    else:
        from pops_deploy.runtime import open_runtime

        policy = open_runtime(path, runtime, file)
    return policy, where.spec(policy.spec.env), int(facts["num_parameters"])


def compress(
    teacher: Path,
    out: Path,
    where: Annotated[EnvOptions, Here],
    config: Annotated[CompressConfig, Here],
    vecnormalize: Optional[Path] = None,
    activation: Optional[str] = None,
    workers: Optional[int] = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    json: bool = False,
) -> int:
    """Prune and shrink a teacher to the smallest student that is provably no worse.

    Args:
        teacher: a Stable-Baselines3 zip, safetensors, state dict, CleanRL model, ONNX, or a run.
        out: the run's folder.
        where: the environment.
        config: the method.
        vecnormalize: VecNormalize statistics; found beside the teacher when its name says so.
        activation: of the hidden layers, where the file does not tell it.
        workers: processes; as many as cores if unset. The result does not depend on it.
        resume: go on with the run in --out from its last finished stage.
        overwrite: remove the run in --out first.
        quiet: print nothing but errors.
        json: print the manifest as JSON, and nothing else.
    """
    loaded, env = load_teacher_at(teacher, where, vecnormalize, activation)
    return _compress(loaded, env, out, config, workers, resume, overwrite, quiet, json)


def _compress(
    teacher: Teacher,
    env: EnvSpec,
    out: Path,
    config: CompressConfig,
    workers: int | None,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    json: bool,
) -> int:
    from rich.console import Console

    from pops.pipeline import compress as run
    from pops.report.table import print_result
    from pops.tracking import Tracker, choose_mode

    with Tracker(out, choose_mode(quiet, json)) as tracker:
        result = run(
            teacher,
            env,
            out,
            config,
            workers=workers,
            resume=resume,
            overwrite=overwrite,
            tracker=tracker,
            command=shlex.join(["pops", *sys.argv[1:]]),
        )
    if json:
        print_json(result.manifest)
    elif not quiet:
        print_result(result.manifest, Console())
        print(f"\n{out}  (next: pops export {shlex.quote(str(out))})")
    return 0 if result.verdict.passed else 3


def train(config: Annotated[TrainConfig, Here]) -> int:
    """Train a teacher with Stable-Baselines3, and keep it as safetensors with its spec.

    Args:
        config: what to train and for how long.
    """
    from pops.train import print_result
    from pops.train import train as run

    result = run(config)
    if not config.quiet:
        print_result(result)
    return result.exit_code


def demo(
    teacher: Literal["cartpole", "lunarlander"] = "cartpole",
    out: Path = Path("runs/demo"),
    workers: Optional[int] = None,
    quiet: bool = False,
) -> int:
    """Compress a built-in teacher and show the result.

    Args:
        teacher: which one.
        out: the run's folder; an earlier demo there is replaced.
        workers: processes; as many as cores if unset.
        quiet: print nothing but errors.
    """
    from pops.builtin import builtin_path

    loaded, env = load_teacher_at(builtin_path(teacher), EnvOptions(), None, None)
    return _compress(loaded, env, out, CompressConfig(), workers, False, True, quiet, False)


def print_json(data: Any) -> None:
    """Print JSON with sorted keys."""
    print(json_module.dumps(data, indent=2, sort_keys=True, allow_nan=False))
