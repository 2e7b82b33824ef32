"""The code in docs/export.md and in an artifact's README runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from export_cases import cartpole_run

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parent.parent / "docs" / "export.md"


def block(text: str, mark: str) -> str:
    found = re.search(rf"{mark}\n```\w+\n(.*?)```", text, re.S)
    assert found, mark
    return found.group(1)


@pytest.fixture
def folder(tmp_path, tmp_path_factory):
    (tmp_path / "run").symlink_to(cartpole_run(tmp_path_factory.getbasetemp()))
    return tmp_path


def run(command, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("mark", ["onnx", "litert"])
def test_python_in_the_docs_plays_an_episode(folder, mark):
    code = block(DOCS.read_text(), f"<!-- test: {mark} -->")
    assert run([sys.executable, "-c", code], folder).splitlines()[-1] == "500.0"
    lines = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 10


def test_c_in_the_docs_builds_and_acts(folder):
    text = DOCS.read_text()
    (folder / "main.c").write_text(block(text, "<!-- test: c -->"))
    assert run(["sh", "-ec", block(text, "<!-- test: c-build -->")], folder) == "1"


def test_the_artifacts_own_readme_runs(folder):
    artifact = folder / "run" / "artifact"
    text = (artifact / "README.md").read_text()
    python = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(python) == 2
    actions = {run([sys.executable, "-c", code], artifact).splitlines()[-1] for code in python}
    assert len(actions) == 1
    (folder / "main.c").write_text(re.findall(r"```c\n(.*?)```", text, re.S)[0])
    build = "cc -std=c99 -Wall -Wextra -Werror -I run/artifact/c main.c run/artifact/c/policy.c -lm"
    assert run(["sh", "-ec", f"{build} && ./a.out"], folder) in ("0", "1")
