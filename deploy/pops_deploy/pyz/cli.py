"""`python3 policy.pyz selftest | bench | serve`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

from .bench import bench
from .contents import Bundle
from .failure import DeviceError
from .memory import measure_here
from .runtimes import RUNTIMES, choose, load
from .selftest import selftest
from .serve import serve_lines, serve_socket
from .table import bench_table, selftest_table
from .timing import TimingConfig

OUT_OF_MEMORY = 75
"""Exit status where Python could not get memory; whoever called tells it from other failures."""
INTERRUPTED = 130


def main(arguments: list[str], path: Path) -> int:
    """Run one command; the exit status.

    0: done. 1: a message on standard error says what is wrong. 2: usage. 75: out of
    memory. 130: interrupted; what `bench` had measured was written.
    """
    options = _parser().parse_args(arguments)
    try:
        return _run(options, path)
    except DeviceError as error:
        print(f"policy.pyz: {error}", file=sys.stderr)
        return 1
    except MemoryError:
        print(
            "policy.pyz: this device is out of memory. Close other programs, or bundle a smaller "
            "policy or fewer files.",
            file=sys.stderr,
        )
        return OUT_OF_MEMORY
    except BrokenPipeError:
        # Nobody reads any more; Python must not complain about it again at exit.
        sys.stdout = open("/dev/null", "w")  # noqa: SIM115
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(options: argparse.Namespace, path: Path) -> int:
    bundle = Bundle(path)
    if options.command == "selftest":
        result = selftest(bundle, _runtimes(options.runtime))
        print(json.dumps(result) if options.json else selftest_table(result), flush=True)
        return 0 if result["passed"] else 1
    if options.command == "bench":
        return _bench(bundle, options)
    if options.command == "memory":
        print(json.dumps(measure_here(bundle, choose(bundle, options.file))))
        return 0
    policy = load(bundle, choose(bundle, options.file))
    if options.socket is None:
        serve_lines(policy, sys.stdin.buffer, sys.stdout.buffer)
    else:
        # Whoever stops a service sends SIGTERM; the socket is removed on the way out.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        serve_socket(policy, options.socket)
    return 0


def _bench(bundle: Bundle, options: argparse.Namespace) -> int:
    timing = TimingConfig(
        windows=options.windows,
        window_seconds=options.seconds,
        warmup_seconds=options.warmup,
    )
    # An ended connection or a shutdown is an interrupt as well: what was measured is written.
    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) is not signal.SIG_IGN:
            signal.signal(name, _interrupt)
    report: dict[str, Any] | None = None
    interrupted = False
    try:
        for report in bench(bundle, timing, _runtimes(options.runtime), options.memory):
            if options.stream:
                print(json.dumps(report), flush=True)
    except KeyboardInterrupt:
        interrupted = True
        if report is None:
            raise
    if options.json and not options.stream:
        print(json.dumps(report, indent=2), flush=True)
    elif not options.stream and report is not None:
        print(bench_table(report), flush=True)
    return INTERRUPTED if interrupted else 0


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _runtimes(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = sorted(set(names) - set(RUNTIMES))
    if unknown:
        raise DeviceError(
            f"Runtime {unknown[0]!r} is unknown here, expected one or more of: "
            f"{', '.join(RUNTIMES)}."
        )
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="policy.pyz", description="A compressed policy: check it, measure it, run it."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    test = commands.add_parser("selftest", help="replay the golden vectors on this device")
    measure = commands.add_parser("bench", help="measure latency and memory on this device")
    for command in (test, measure):
        command.add_argument("--runtime", default="", help="c, onnx, litert; all if not given")
        command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    measure.add_argument("--windows", type=_windows, default=5, help="at least 5")
    measure.add_argument("--seconds", type=_seconds, default=0.2, help="length of one window")
    measure.add_argument("--warmup", type=_seconds, default=0.1, help="seconds before measuring")
    measure.add_argument(
        "--no-memory", dest="memory", action="store_false", help="leave resident memory out"
    )
    measure.add_argument(
        "--stream", action="store_true", help="print the report so far as one line a round"
    )
    service = commands.add_parser("serve", help="answer observations with actions, line by line")
    service.add_argument("--socket", type=Path, help="listen on a Unix socket instead of stdin")
    memory = commands.add_parser("memory", help="resident memory of one file, in this process")
    for command in (service, memory):
        command.add_argument("--file", default="", help="for example c, c_int8 or student/c_int8")
    return parser


def _windows(text: str) -> int:
    value = int(text)
    if not 5 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"found {value}, expected 5 to 1000")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 60:
        raise argparse.ArgumentTypeError(f"found {value:g}, expected more than 0, at most 60")
    return value
