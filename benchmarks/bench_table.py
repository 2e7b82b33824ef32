"""The table of a host bench in Markdown, and how far several runs of it agree.

    pops bench runs/cartpole --json a.json
    pops bench runs/cartpole --json b.json
    python benchmarks/bench_table.py a.json b.json

Medians are those of the first file. Exits with 1 where a row's medians differ by more than 10 %.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pops_deploy.bench.report import micro, size

TOLERANCE = 0.10
NAMES = {
    "sb3": "Stable-Baselines3 `predict`",
    "torch": "torch",
    "onnx": "ONNX Runtime",
    "litert": "LiteRT",
    "c": "C",
}


def timed(path: Path) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    """The rows of a file that hold a time on this computer, by policy, runtime and file."""
    rows = json.loads(path.read_text())["rows"]
    return {
        (r["role"], r["policy"], r["runtime"], r["file"]): r
        for r in rows
        if r["target"] == "host" and r["latency"]
    }


def line(key: tuple[str, str, str, str], row: dict[str, Any], medians: list[float]) -> str:
    role, policy, runtime, file = key
    latency, memory, returns = row["latency"], row["memory"], row["returns"]
    cells = [
        f"{role} {policy}",
        f"{NAMES.get(runtime, runtime)} {file}",
        micro(latency["median"]),
        f"{micro(latency['low'])} to {micro(latency['high'])}",
        micro(latency["p99"]),
        size(row["bytes"]),
        size(memory["gained"]) if memory else "",
        f"{returns['mean']:.1f}" if returns else "not evaluated",
    ]
    if len(medians) > 1:
        cells.append(f"{max(medians) / min(medians) - 1:.1%}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="+", type=Path, help="what `pops bench --json` wrote")
    runs = [timed(path) for path in parser.parse_args().files]
    heads = ["policy", "runtime", "µs/call", "windows", "p99", "file", "RSS gained", "return"]
    heads += ["runs differ by"] if len(runs) > 1 else []
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    worst = 0.0
    for key, row in runs[0].items():
        medians = [run[key]["latency"]["median"] for run in runs]
        worst = max(worst, max(medians) / min(medians) - 1)
        print(line(key, row, medians))
    if len(runs) > 1:
        print(f"\nLargest difference of a row's medians between {len(runs)} runs: {worst:.1%}")
    sys.exit(1 if worst > TOLERANCE else 0)


if __name__ == "__main__":
    main()
