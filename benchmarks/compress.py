"""The table of results: whole `pops compress` commands, over several seeds.

Each command runs as a process of its own, from start to table, as a user runs
it. Prints one line of a Markdown table for each teacher. Run it with:
python benchmarks/compress.py TEACHER=ENV [TEACHER=ENV ...] --seeds 5 --json results.json
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HEAD = (
    "| teacher | environment | parameters | student, each seed | times smaller | "
    "teacher's return | student's return | lowest bound of the difference | gate | seconds |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def run(teacher: str, env: str, seed: int, options: list[str]) -> dict[str, Any]:
    """One command; its row."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, "-m", "pops.cli", "compress", "--teacher", teacher]
        command += ["--env", env, "--out", f"{folder}/run", "--seed", str(seed), "--json"]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode not in (0, 3):
            raise SystemExit(done.stderr)
        manifest = json.loads(done.stdout)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    return {
        "teacher": Path(teacher).name,
        "env": env,
        "seed": seed,
        "teacher_parameters": manifest["teacher"]["num_parameters"],
        "num_parameters": manifest["student"]["num_parameters"],
        "widths": manifest["student"]["net_arch"]["widths"],
        "inputs": manifest["student"]["net_arch"]["inputs"],
        "passed": manifest["verdict"]["passed"],
        "looks": len(manifest["gate"]["looks"]),
        "teacher_mean": manifest["evaluation"]["teacher"]["mean"],
        "student_mean": manifest["evaluation"]["student"]["mean"],
        "lower_bound": manifest["verdict"]["lower_bound"],
        "margin": manifest["verdict"]["margin"],
        "environment_steps": manifest["environment_steps"],
        "seconds": seconds,
        "peak_mib": peak,
    }


def line(rows: list[dict[str, Any]]) -> str:
    """The rows of one teacher as a line of the table."""
    sizes = [row["num_parameters"] for row in rows]
    first = rows[0]
    passed = sum(row["passed"] for row in rows)
    ratio = first["teacher_parameters"] / statistics.median(sizes)
    teacher = statistics.mean(row["teacher_mean"] for row in rows)
    student = statistics.mean(row["student_mean"] for row in rows)
    seconds = statistics.median(row["seconds"] for row in rows)
    worst = min(rows, key=lambda row: float(row["lower_bound"] + row["margin"]))
    return (
        f"| {first['teacher']} | {first['env']} | {first['teacher_parameters']:,} | "
        f"{', '.join(map(str, sizes))} | {ratio:,.0f} | {teacher:.1f} | {student:.1f} | "
        f"{worst['lower_bound']:+.2f} of {-worst['margin']:.2f} | {passed} of {len(rows)} | "
        f"{seconds:.0f} |"
    )


def main() -> None:
    """Run every teacher with every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teachers", nargs="+", metavar="TEACHER=ENV")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments, options = parser.parse_known_args()
    kept: list[dict[str, Any]] = []
    print(HEAD, flush=True)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    for pair in arguments.teachers:
        teacher, _, env = pair.partition("=")
        rows = []
        for seed in seeds:
            rows.append(run(teacher, env, seed, options))
            kept.append(rows[-1])
            if arguments.json:
                arguments.json.write_text(json.dumps(kept, indent=1) + "\n")
        print(line(rows), flush=True)


if __name__ == "__main__":
    main()
