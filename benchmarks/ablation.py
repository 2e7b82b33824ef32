"""What each step beyond the published method is worth.

Compresses the built-in teachers with the default preset, and again with one
improvement switched off at a time, over several seeds. Prints the size
reached, whether the gate passed, CPU seconds of all processes, and environment steps. Run it with:
python benchmarks/ablation.py --seeds 5 --json ablation.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any, Callable

from pops import CompressConfig, compress
from pops.builtin import builtin_path
from pops.teacher.load import load_teacher


def _distill(**changes: Any) -> Callable[[CompressConfig], CompressConfig]:
    return lambda c: dataclasses.replace(c, distill=dataclasses.replace(c.distill, **changes))


def _search(**changes: Any) -> Callable[[CompressConfig], CompressConfig]:
    return lambda c: dataclasses.replace(c, search=dataclasses.replace(c.search, **changes))


VARIANTS: dict[str, Callable[[CompressConfig], CompressConfig]] = {
    "default": lambda c: c,
    "without student states": _distill(student_states=False),
    "temperature 0.01": _distill(temperature=0.01),
    "without standardised inputs": _distill(standardise=False),
    "without warm start": _distill(race_warm_start=False),
    "magnitude by layer": lambda c: dataclasses.replace(
        c, prune=dataclasses.replace(c.prune, ranking="layer")
    ),
    "without search": _search(enabled=False),
    "without descent": _search(descend=False),
    "without fewer layers": _search(fewer_layers=False),
    "without fewer inputs": _search(fewer_inputs=False),
    "without polish": lambda c: dataclasses.replace(
        c, polish=dataclasses.replace(c.polish, enabled=False)
    ),
    "paper": lambda c: dataclasses.replace(c, preset="paper"),
}


def run(name: str, variant: str, seed: int, effort: str, workers: int | None) -> dict[str, Any]:
    """One compression; its row."""
    teacher = load_teacher(builtin_path(name))
    env = teacher.policy.spec.env
    assert env is not None
    config = VARIANTS[variant](CompressConfig(seed=seed, effort=effort))  # type: ignore[arg-type]
    before = _cpu_seconds()
    with tempfile.TemporaryDirectory() as folder:
        result = compress(teacher, env, Path(folder) / "run", config, workers=workers)
    manifest = result.manifest
    return {
        "teacher": name,
        "variant": variant,
        "seed": seed,
        "num_parameters": manifest["student"]["num_parameters"],
        "passed": result.verdict.passed,
        "mean": manifest["evaluation"]["student"]["mean"],
        "seconds": manifest["seconds"],
        "cpu_seconds": _cpu_seconds() - before,
        "environment_steps": manifest["environment_steps"],
    }


def _cpu_seconds() -> float:
    """Of this process and of the workers that have ended; other programs do not disturb it."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def main() -> None:
    """Measure, print one line a variant, and keep every row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--teachers", default="cartpole,lunarlander")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--effort", default="standard")
    parser.add_argument("--workers", type=int, help="processes; all cores by default")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in arguments.teachers.split(","):
        print(f"{name}: parameters (each seed), gates passed, CPU seconds, environment steps")
        for variant in arguments.variants.split(","):
            mine = [
                run(name, variant, seed, arguments.effort, arguments.workers)
                for seed in range(arguments.seeds)
            ]
            rows += mine
            sizes = [row["num_parameters"] for row in mine]
            print(
                f"  {variant:<28} {statistics.median(sizes):>6g} {sizes}  "
                f"{sum(row['passed'] for row in mine)}/{len(mine)}  "
                f"{statistics.median(row['cpu_seconds'] for row in mine):.1f} s  "
                f"{statistics.median(row['environment_steps'] for row in mine):,.0f}",
                flush=True,
            )
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
