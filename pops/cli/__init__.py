"""The commands. Each one parses its options, calls one stage and prints what it returned."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Callable

COMMANDS = {
    "info": "tell what a teacher file holds, without running anything in it",
    "eval": "play episodes with a teacher, a run or an artifact",
    "compress": "prune and shrink a teacher to the smallest student that is no worse",
    "pick": "take another rung of a run's ladder, and gate it",
    "polish": "let a run's image student learn on from its return, and gate it",
    "export": "write ONNX, TFLite and C99 from a run, fp32 and int8",
    "verify": "repeat an artifact's proof on what lies on disk",
    "bench": "measure latency and memory of teacher and student",
    "play": "record an episode as a video, the student beside its teacher",
    "deploy": "bundle an artifact for a Raspberry Pi, or build firmware from it",
    "train": "train a teacher",
    "demo": "compress a built-in teacher and show the result",
}
_MODULES = {
    "pick": "pops.cli.runs",
    "polish": "pops.cli.runs",
    "play": "pops.cli.play",
    "export": "pops.cli.artifacts",
    "verify": "pops.cli.artifacts",
    "bench": "pops.cli.artifacts",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, 2 for wrong usage, 3 where a gate did not pass, 1 for any other error, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        _print_overview()
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        from pops import __version__

        print(f"pops {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(
            f"pops: there is no command {arguments[0]!r}; expected one of {known}.", file=sys.stderr
        )
        return 2
    return _guarded(arguments[0], arguments[1:])


def _print_overview() -> None:
    width = max(map(len, COMMANDS))
    print("Compress trained reinforcement-learning policies, and prove that they still work.\n")
    print("usage: pops COMMAND [OPTIONS]    (pops COMMAND --help tells a command's options)\n")
    for name, summary in COMMANDS.items():
        print(f"  {name:<{width}}  {summary}")
    print("\nexit status: 0 done, 1 error, 2 wrong usage, 3 a gate or budget was not met")


def _guarded(command: str, arguments: list[str]) -> int:
    from pops.errors import PopsError

    try:
        return _run(command, arguments)
    except PopsError as error:
        print(f"pops {command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second press must not lose the message
        print(
            f"\npops {command}: interrupted.{_how_to_resume(command, arguments)}", file=sys.stderr
        )
        return 130
    except ModuleNotFoundError as error:
        extra = {"export": "export", "verify": "export", "train": "train", "play": "play"}.get(
            command, "all"
        )
        print(
            f"pops {command}: the package {error.name!r} is not installed. "
            f"pip install 'pops-rl[{extra}]'",
            file=sys.stderr,
        )
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        print(f"pops {command}: {error.strerror or error}{where}", file=sys.stderr)
        return 1


def _how_to_resume(command: str, arguments: list[str]) -> str:
    if command == "play":
        return " No video was written."
    if command not in ("compress", "polish", "train"):
        return ""
    import shlex

    again = [a for a in arguments if a not in ("--overwrite", "--resume")]
    return f" What was finished is kept; go on with:\n  pops {command} {shlex.join(again)} --resume"


def _run(command: str, arguments: list[str]) -> int:
    if command == "deploy":
        return _run_deploy(arguments)
    module = _MODULES.get(command, "pops.cli.commands")
    function = getattr(import_module(module), command)
    return _parse_and_call(function, f"pops {command}", arguments)


def _run_deploy(arguments: list[str]) -> int:
    from pops.errors import UsageError

    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: pops deploy bundle ARTIFACT... [OPTIONS]\n"
            "       pops deploy firmware ARTIFACT --board BOARD [OPTIONS]"
        )
        return 0 if arguments else 2
    if arguments[0] not in ("bundle", "firmware"):
        raise UsageError(f"Found {arguments[0]!r}, expected `bundle` or `firmware`.")
    function = getattr(import_module("pops.cli.artifacts"), f"deploy_{arguments[0]}")
    return _parse_and_call(function, f"pops deploy {arguments[0]}", arguments[1:])


def _parse_and_call(function: Callable[..., int], prog: str, arguments: list[str]) -> int:
    import tyro

    try:
        return tyro.cli(
            function,
            prog=prog,
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
