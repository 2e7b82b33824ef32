"""Who may import whom, and how fast: fresh interpreters and the source's own import statements."""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "gymnasium", "onnx", "stable_baselines3", "matplotlib", "tensorboard", "scipy")
CONTRACT = ("pops.spec", "pops.artifact", "pops.errors", "pops.arch")
NUMPY_ONLY = (*CONTRACT, "pops.policy")


@functools.cache
def fresh_import(module: str, times: int = 1) -> tuple[float, frozenset[str]]:
    """Seconds of `import module`, the best of some new interpreters, and what it loads."""
    code = (
        "import json, sys, time; t = time.perf_counter()\n"
        f"import {module}; t = time.perf_counter() - t\n"
        "print(json.dumps([t, sorted(sys.modules)]))"
    )
    command = [sys.executable, "-c", code]
    results = [
        json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        for _ in range(times)
    ]
    loaded = {name.partition(".")[0] for name in results[0][1]}
    return min(seconds for seconds, _ in results), frozenset(loaded)


@pytest.mark.parametrize(
    ("module", "seconds"), [("pops", 0.1), ("pops_deploy", 0.15), ("pops_export", 0.5)]
)
def test_importing_a_package_is_quick_and_light(module: str, seconds: float) -> None:
    took, loaded = fresh_import(module, times=5)
    assert took < seconds
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("module", [*NUMPY_ONLY, "pops.config", "pops.loading", "pops.tracking"])
def test_what_a_small_computer_imports_is_light(module: str) -> None:
    assert not fresh_import(module)[1] & set(HEAVY)


def test_compressing_dense_policies_needs_no_torch() -> None:
    """Its worker processes start in a third of the time, and take a quarter of a GB less."""
    assert "torch" not in fresh_import("pops.pipeline")[1]


def test_help_answers_in_under_half_a_second() -> None:
    command = [sys.executable, "-m", "pops.cli", "--help"]
    times = []
    for _ in range(5):
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, check=True)
        times.append(time.perf_counter() - started)
        assert b"compress" in done.stdout
    assert min(times) < 0.5


def test_the_command_line_loads_nothing_heavy_before_a_command_runs() -> None:
    assert not fresh_import("pops.cli")[1] & {"pops_export", "pops_deploy", "tyro", *HEAVY}
    assert not fresh_import("pops.cli.commands")[1] & set(HEAVY)
    assert not fresh_import("pops.cli.artifacts")[1] & set(HEAVY)


def sources(package: Path) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, ast.parse(path.read_text(), str(path))


def imports(tree: ast.Module, module: str, package: bool) -> Iterator[str]:
    """Dotted names that a module imports anywhere, in functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + (1 if package else 0)]
                base = ".".join([*parents, base] if base else parents)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(package: Path) -> dict[str, set[str]]:
    found = {}
    for name, tree in sources(package):
        is_package = (package.parent / Path(*name.split(".")) / "__init__.py").is_file()
        found[name] = set(imports(tree, name, is_package))
    return found


def test_nothing_in_pops_imports_export_or_deploy_but_the_command_line() -> None:
    for module, names in imports_of(ROOT / "pops").items():
        if f"{module}.".startswith("pops.cli."):
            continue
        foreign = {n for n in names if n.partition(".")[0] in ("pops_export", "pops_deploy")}
        assert not foreign, module


def test_deploy_imports_the_contract_and_nothing_else_of_ours() -> None:
    for module, names in imports_of(ROOT / "deploy" / "pops_deploy").items():
        ours = {n for n in names if n.partition(".")[0] in ("pops", "pops_export")}
        allowed = {n for n in ours if n == "pops" or n.startswith(CONTRACT)}
        assert ours <= allowed, (module, ours - allowed)
        assert not {n for n in names if n.partition(".")[0] in ("torch", "gymnasium")}, module


def test_export_imports_pops_and_not_deploy() -> None:
    for module, names in imports_of(ROOT / "export" / "pops_export").items():
        assert not {n for n in names if n.startswith("pops_deploy")}, module


@pytest.mark.parametrize("module", NUMPY_ONLY)
def test_the_contract_needs_numpy_safetensors_and_the_standard_library(module: str) -> None:
    names = imports_of(ROOT / "pops")[module]
    others = {n.partition(".")[0] for n in names} - set(sys.stdlib_module_names)
    assert others <= {"numpy", "safetensors", "pops"}
    ours = {n for n in names if n.startswith("pops.")}
    assert all(n.startswith(NUMPY_ONLY) for n in ours), ours
