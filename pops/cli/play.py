"""`pops play`: which policies a path names, opened for one recording."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import tyro

from pops.cli.commands import EnvOptions, Here, load_teacher_at, open_artifact, print_json
from pops.errors import UsageError
from pops.play import PlayConfig, Player, check_destination


def play(
    path: tyro.conf.Positional[Path],
    where: Annotated[EnvOptions, Here],
    config: Annotated[PlayConfig, Here],
    alone: bool = False,
    runtime: Optional[str] = None,
    file: Literal["int8", "fp32"] = "int8",
    vecnormalize: Optional[Path] = None,
    activation: Optional[str] = None,
    json: bool = False,
) -> int:
    """Record an episode as a video, the student beside its teacher on the same seed.

    Args:
        path: a run, an artifact, a teacher or a policy file.
        where: the environment.
        config: what to record.
        alone: leave the teacher out.
        runtime: for an artifact: onnx, litert, c, tflite-micro, or board:PORT.
        file: for an artifact: which of its files to run.
        vecnormalize: VecNormalize statistics of a teacher file.
        activation: of the hidden layers, where a file does not tell it.
        json: print JSON.
    """
    from pops.play import play as record

    check_destination(config)
    with _terminated_as_interrupted(), contextlib.ExitStack() as stack:
        if (path / "artifact.json").is_file():
            players = _of_artifact(path, where, runtime or "c", file, stack)
        elif runtime is not None:
            raise UsageError(f"{path} is no artifact, so --runtime has nothing to run; export it.")
        else:
            players = _of_files(path, where, vecnormalize, activation)
        result = record(players[:1] if alone else players, config)
    if json:
        print_json(result.to_json())
        return 0
    for episode in result.episodes:
        end = "" if episode["over"] else ", cut off"
        print(
            f"seed {episode['seed']}, {episode['title']}: return {episode['return']:.2f} in "
            f"{episode['steps']:,} steps{end}"
        )
    print(f"{result.path}: {result.frames:,} frames, {result.bytes:,} bytes")
    return 0


def _of_artifact(
    path: Path, where: EnvOptions, runtime: str, file: str, stack: contextlib.ExitStack
) -> list[Player]:
    from pops.artifact import load_policy, read_json

    policy, env, parameters = open_artifact(path, runtime, file, where)
    stack.callback(getattr(policy, "close", lambda: None))
    facts = read_json(path / "artifact.json")
    role = str(facts.get("role", "student"))
    title = f"{role}, {parameters:,} parameters, {runtime.partition(':')[0]} {file}"
    players = [Player(title, policy, env)]
    teacher = path / "proof" / "teacher.safetensors"
    if role == "student" and teacher.is_file():
        players.append(_teacher(load_policy(teacher)[0], where, env))
    return players


def _of_files(
    path: Path, where: EnvOptions, vecnormalize: Path | None, activation: str | None
) -> list[Player]:
    from pops.artifact import Run

    if (path / "manifest.json").is_file():
        run = Run(path)
        student = run.student
        env = where.spec(student.spec.env)
        title = f"student, {student.arch.num_parameters:,} parameters"
        return [Player(title, student, env), _teacher(run.teacher, where, env)]
    loaded, env = load_teacher_at(path, where, vecnormalize, activation)
    return [_teacher(loaded.policy, where, env)]


def _teacher(policy: Any, where: EnvOptions, otherwise: Any) -> Player:
    title = f"teacher, {policy.arch.num_parameters:,} parameters"
    return Player(title, policy, where.spec(policy.spec.env or otherwise))


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM leaves nothing half-written, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
