"""The table at the end and the figures, from manifests as `pops compress` writes them."""

from __future__ import annotations

import copy
import io
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pops.report.figures import draw
from pops.report.interval import half_width
from pops.report.table import print_result, verdict_text


def evaluation(mean: float, std: float, **more: Any) -> dict[str, Any]:
    data = {"episodes": 100, "seed": 10_000, "mean": mean, "std": std, "min": mean - 2 * std}
    return {
        **data,
        "max": mean + std,
        "mean_length": 200.0,
        "worst_5_percent": mean - 2 * std,
    } | more


def curve(mean: float) -> list[dict[str, Any]]:
    return [
        {
            "update": 200 * (k + 1),
            "sparsity": 1 - 0.5 ** (k + 1),
            "nonzeros": 4000 >> k,
            "mean": mean - 20 * k**2,
            "std": 30.0,
            "pruning": k < 4,
        }
        for k in range(6)
    ]


@pytest.fixture
def manifest() -> dict[str, Any]:
    sizes = [
        ("iteration 1", 251, 240.0, "iteration"),
        ("iteration 2", 114, 238.5, "iteration"),
        ("search 1", 60, 236.0, "search"),
        ("search 2", 36, 150.0, "search"),
        ("search 3", 18, -900.0, "search"),
        ("search 2 polish", 36, 249.0, "polish"),
    ]
    ladder = [
        {"name": n, "num_parameters": p, "mean": m, "std": 40.0, "episodes": 48, "stage": s}
        for n, p, m, s in sizes
    ]
    iterations = [
        {"index": i, "num_parameters": 251, "mean": 240.0, "std": 40.0, "episodes": 48}
        | {"curve": curve(240.0 - i)}
        for i in (1, 2)
    ]
    return {
        "teacher": {"num_parameters": 4996, "macs": 4864, "net_arch": None},
        "student": {"num_parameters": 36, "macs": 32},
        "iterations": iterations,
        "ladder": ladder,
        "evaluation": {
            "teacher": evaluation(246.0, 42.0, num_parameters=4996),
            "student": evaluation(249.0, 21.0, num_parameters=36),
            "random": evaluation(-180.0, 100.0, num_parameters=None),
        },
        "verdict": {
            "passed": True,
            "mean_drop": -3.0,
            "lower_bound": -4.0,
            "margin": 21.0,
            "reason": "On 100 paired episodes the student returned 249.00, the teacher 246.00.",
        },
        "gate": {"looks": [{"seed": 1}]},
        "env": {"id": "LunarLander-v3"},
    }


def printed(manifest: dict[str, Any], width: int = 100) -> str:
    stream = io.StringIO()
    print_result(manifest, Console(file=stream, width=width))
    return stream.getvalue()


def test_the_interval_is_students_t() -> None:
    from scipy.stats import t

    for episodes in (5, 6, 8, 10, 24, 100, 1000):
        expected = t.ppf(0.975, episodes - 1) * 10.0 / math.sqrt(episodes - 1)
        found = half_width({"mean": 0.0, "std": 10.0, "episodes": episodes})
        assert found == pytest.approx(expected, rel=5e-3 if episodes < 10 else 1e-3)
    assert half_width({"mean": 1.0, "std": 3.0, "episodes": 1}) == 0.0
    assert half_width({"mean": 1.0, "std": 0.0, "episodes": 100}) == 0.0


def test_the_interval_holds_the_mean_in_95_of_100_experiments() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(7.0, 3.0, (4000, 12))
    held = [
        abs(s.mean() - 7.0) <= half_width({"std": float(s.std()), "episodes": 12}) for s in samples
    ]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)


def test_the_table_shows_teacher_student_ratio_and_verdict(manifest: dict[str, Any]) -> None:
    text = printed(manifest)
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    for value in ("4,996", "4,864", "19,984", "246.00 ± 8.38", "162.00"):
        assert value in rows["teacher"]
    for value in ("36", "32", "144", "249.00 ± 4.19", "207.00"):
        assert value in rows["student"]
    assert re.findall(r"[\d.,]+ ×", rows["ratio"]) == ["139 ×", "152 ×", "139 ×"]
    assert "success" not in text
    assert "Gate passed: no worse. On 100 paired episodes" in text


def test_the_table_shows_success_where_the_environment_reports_it(
    manifest: dict[str, Any],
) -> None:
    for role, rate in (("teacher", 0.93), ("student", 0.95)):
        manifest["evaluation"][role]["success_rate"] = rate
    text = printed(manifest)
    assert "success" in text
    assert "93%" in text
    assert "95%" in text


def test_a_gate_that_failed_and_further_looks_are_said(manifest: dict[str, Any]) -> None:
    manifest["verdict"]["passed"] = False
    manifest["gate"]["looks"] = [{}, {}, {}]
    assert verdict_text(manifest).startswith("Gate not passed. On 100 paired")
    assert verdict_text(manifest).endswith("(3 looks, each on fresh episodes.)")


def test_a_teacher_whose_layers_are_unknown_has_no_size(manifest: dict[str, Any]) -> None:
    manifest["teacher"] = {"num_parameters": None, "macs": None, "net_arch": None}
    rows = [line for line in printed(manifest).splitlines() if "│ teacher" in line]
    assert rows[0].count("?") == 3


def test_the_table_fits_a_terminal_of_80_columns(manifest: dict[str, Any]) -> None:
    manifest["teacher"]["num_parameters"] = 1_686_000
    manifest["teacher"]["macs"] = 9_346_000
    lines = printed(manifest, width=80).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert any("1,686,000" in line and "246.00 ± 8.38" in line for line in lines)


def test_figures_are_png_and_svg_and_parse(manifest: dict[str, Any], tmp_path: Path) -> None:
    written = draw(tmp_path, manifest)
    assert [p.relative_to(tmp_path).as_posix() for p in written] == [
        "figures/size_vs_return.png",
        "figures/size_vs_return.svg",
        "figures/sparsity_vs_return.png",
        "figures/sparsity_vs_return.svg",
    ]
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == sorted(
        p.name for p in written
    )
    for path in written:
        data = path.read_bytes()
        if path.suffix == ".png":
            assert data.startswith(b"\x89PNG\r\n")
            assert int.from_bytes(data[16:20], "big") == 1440
        else:
            assert ElementTree.fromstring(data).tag.endswith("svg")
            assert b"<dc:date>" not in data


def test_the_same_manifest_gives_the_same_bytes_in_another_process(
    manifest: dict[str, Any], tmp_path: Path
) -> None:
    import json

    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    code = (
        "import json, sys; from pathlib import Path; from pops.report.figures import draw\n"
        "draw(Path(sys.argv[2]), json.loads(Path(sys.argv[1]).read_text()))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "manifest.json"), str(tmp_path / "b")]
    subprocess.run(command, check=True, timeout=120)
    for path in draw(tmp_path / "a", manifest):
        assert path.read_bytes() == (tmp_path / "b" / "figures" / path.name).read_bytes()


def test_what_the_pictures_show(manifest: dict[str, Any]) -> None:
    from pops.report.figures import size_against_return, sparsity_against_return

    (axes,) = size_against_return(manifest).axes
    labels = axes.get_legend_handles_labels()[1]
    assert labels == [
        "pruned and shrunk",
        "search below convergence",
        "polished by return",
        "teacher",
        "chosen student",
        "teacher's mean",
        "teacher − margin",
        "random actions",
        "return below the picture",
    ]
    points = {line.get_label(): line for line in axes.get_lines()}
    assert points["pruned and shrunk"].get_xdata().tolist() == [251, 114]
    assert points["chosen student"].get_ydata().tolist() == [249.0]
    assert points["teacher − margin"].get_ydata() == [225.0, 225.0]
    assert axes.get_xscale() == "log"
    assert axes.get_ylim()[0] >= -180 - 0.3 * 426

    (axes,) = sparsity_against_return(manifest).axes
    labels = axes.get_legend_handles_labels()[1]
    assert labels[:3] == ["iteration 1", "iteration 2", "recovering, not pruned"]
    line = next(line for line in axes.get_lines() if line.get_label() == "iteration 1")
    assert np.allclose(line.get_xdata(), [0.5 ** (k + 1) for k in range(6)])
    assert axes.xaxis_inverted()


def test_runs_without_variance_iterations_or_margin_are_drawn_too(
    manifest: dict[str, Any], tmp_path: Path
) -> None:
    for role in ("teacher", "student"):
        manifest["evaluation"][role].update(mean=500.0, std=0.0)
    manifest["evaluation"]["random"]["mean"] = 22.0
    manifest["verdict"]["margin"] = 0.0
    manifest["env"] = None
    manifest["iterations"] = []
    manifest["ladder"] = []
    manifest["teacher"]["num_parameters"] = None
    names = [path.name for path in draw(tmp_path, manifest)]
    assert names == ["size_vs_return.png", "size_vs_return.svg"]


def test_everything_pruned_away_and_a_mean_that_is_missing(
    manifest: dict[str, Any], tmp_path: Path
) -> None:
    manifest["iterations"][0]["curve"][-1]["sparsity"] = 1.0
    manifest["iterations"][1]["mean"] = None
    before = copy.deepcopy(manifest)
    assert len(draw(tmp_path, manifest)) == 4
    assert manifest == before
