"""The set-up itself: pins, extras, the Makefile, the toolchain script, what is committed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())


def needed(extra: str) -> dict[str, Requirement]:
    """Requirements of an extra with those of the extras that it takes in."""
    found = {}
    for text in EXTRAS[extra]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            for other in requirement.extras:
                found.update(needed(other))
        else:
            found[canonicalize_name(requirement.name)] = requirement
    return found


def test_every_requirement_of_demo_and_tests_is_pinned_within_its_bounds() -> None:
    base = {canonicalize_name(Requirement(t).name): Requirement(t) for t in PROJECT["dependencies"]}
    for name, requirement in {**base, **needed("train"), **needed("dev")}.items():
        assert name in PINS, f"{name} has no pin in constraints.txt"
        assert requirement.specifier.contains(PINS[name], prereleases=True), requirement


def test_pins_are_exact_sorted_and_name_no_place() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names))
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line) for line in lines)


def test_what_is_installed_is_what_is_pinned() -> None:
    for name in needed("dev"):
        assert Version(metadata.version(name)).public == Version(PINS[name]).public, name


def test_everything_that_an_installed_requirement_requires_is_pinned() -> None:
    """The whole closure of the extra `dev`, as installed here."""
    todo, seen = [("pops-rl", frozenset({"dev"}))], set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            wanted = [{**default_environment(), "extra": extra} for extra in (*extras, "")]
            marker = requirement.marker
            if marker is None or any(marker.evaluate(w) for w in wanted):  # type: ignore[arg-type]
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    unpinned = {name for name, _ in seen} - set(PINS) - {"pops-rl"}
    # What a wheel of torch for graphics cards brings along; the tests run on the processor.
    unpinned = {n for n in unpinned if not n.startswith(("nvidia-", "cuda-")) and n != "triton"}
    assert unpinned == set()


def test_the_wheel_holds_the_three_packages(tmp_path: Path) -> None:
    files = metadata.distribution("pops-rl").files or []
    assert any("pops_rl" in str(f) for f in files)
    for package in ("pops", "pops_export", "pops_deploy"):
        found = __import__(package).__file__
        assert found is not None
        assert Path(found).is_relative_to(ROOT) or "site-packages" in found


def make(*arguments: str) -> str:
    command = ["make", "-n", "-C", str(ROOT), "VENV=absent", *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_demo_installs_under_the_constraints_and_runs_the_demo() -> None:
    lines = make("demo")
    assert lines.index("-m venv absent") < lines.index("-c constraints.txt -e '.[train]'")
    assert lines.index("'.[train]'") < lines.index("absent/bin/pops demo")


def test_make_test_installs_lints_types_and_tests_in_this_order() -> None:
    lines = make("test")
    steps = [
        "-c constraints.txt -e '.[dev]'",
        ".ci/toolchains",
        "absent/bin/ruff check .",
        "absent/bin/ruff format --check .",
        "absent/bin/mypy",
        "-m pytest -n 2",
    ]
    assert [lines.index(step) for step in steps] == sorted(lines.index(step) for step in steps)


def test_ci_runs_make_test() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    script = (ROOT / ".ci" / "run").read_text()
    assert re.search(r"^exec make test$", script, re.MULTILINE)
    for path in (".ci/run", ".ci/toolchains"):
        subprocess.run(["bash", "-n", str(ROOT / path)], check=True)


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A PATH on which there is an `id` that says the user is not root, and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "id").write_text("#!/bin/sh\necho 1000\n")
    (folder / "id").chmod(0o755)
    return folder


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_missing_toolchains_are_named_and_fail_in_ci(bare_path: Path, ci: str, status: int) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, str(ROOT / ".ci" / "toolchains")],
        env={"PATH": str(bare_path), "CI": ci},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status
    for package in ("gcc-arm-none-eabi", "libnewlib-arm-none-eabi", "qemu-system-arm", "cppcheck"):
        assert package in done.stderr
    assert ("Going on" in done.stderr) == (not ci)


def test_toolchains_are_complete_here() -> None:
    done = subprocess.run([str(ROOT / ".ci" / "toolchains")], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        return []  # an archive without its history
    return [ROOT / name for name in done.stdout.splitlines()]


def test_nothing_committed_names_a_package_registry() -> None:
    hosts = (
        "pypi" + ".org",
        "download" + ".pytorch.org",
        "--extra-" + "index-url",
        "find-" + "links",
    )
    texts = (".py", ".toml", ".txt", ".md", ".cfg", ".yml", "Makefile", "run", "toolchains")
    for path in tracked():
        if path.name.endswith(texts) and path.is_file():
            text = path.read_text(errors="replace")
            assert not [host for host in hosts if host in text], path
