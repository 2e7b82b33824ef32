"""The emulated Raspberry-Pi-class machines, 64-bit and 32-bit."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_fixtures import small_policy, small_run
from bundle_fixtures import golden_artifact, small_bundle

from pops.errors import ArtifactError, PopsError
from pops_deploy.bench.context import Context
from pops_deploy.bench.subjects import find_subjects
from pops_deploy.bundle import bundle
from pops_deploy.bundle_config import BundleConfig
from pops_deploy.config import BenchConfig
from pops_deploy.remote import emulated
from pops_deploy.remote.emulated import AARCH64, ARMV7, machine_folder
from pops_deploy.targets.aarch64 import EMULATED, EmulatedConfig, aarch64_bench, measure

pytestmark = [pytest.mark.pi, pytest.mark.slow, pytest.mark.timeout(600)]

QUICK = EmulatedConfig(runtimes=("c",), seconds=0.002)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pops export` makes of a small student: every format, fp32 and int8."""
    from pops_export.config import ExportConfig
    from pops_export.export import export

    folder = tmp_path_factory.mktemp("exported")
    run = small_run(folder / "run", small_policy(hidden=16), small_policy())
    return export(ExportConfig(run, episodes=0, qat=False, force=True, workers=1)).path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("bundle"), "aarch64,armv7").path


@pytest.fixture(scope="module")
def fresh_armv7(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The 32-bit machine in a cache of its own."""
    before = system_apt()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        folder = machine_folder(ARMV7)
        assert system_apt() == before, "the system's apt was changed"
        yield folder


def test_exported_files_agree_with_x86_64(exported: Path, tmp_path: Path) -> None:
    config = BundleConfig((exported,), tmp_path / "policy.pyz", "aarch64")
    report = aarch64_bench(bundle(config).path)
    assert report["complete"]
    assert report["emulated"]
    assert report["times"] == EMULATED
    assert report["missing"] == []
    assert report["failed"] == []
    rows = {row["file"]: row for row in report["rows"]}
    assert set(rows) == {
        "c_f32",
        "c_int8",
        "onnx_fp32",
        "onnx_int8",
        "tflite_fp32",
        "tflite_int8",
    }
    for key in ("c_f32", "c_int8", "onnx_fp32"):
        assert rows[key]["golden"]["bit_for_bit"], key
    # XNNPACK sums and rounds in another order on ARM, and the golden vectors of the int8 ONNX file
    # come from a newer onnxruntime: within rounding, and the same actions.
    for key in ("onnx_int8", "tflite_fp32", "tflite_int8"):
        assert rows[key]["golden"]["outside_tolerance"] == 0
        assert rows[key]["golden"]["identical"] > 0
        assert rows[key]["golden"]["actions_changed"] == 0
    assert rows["onnx_fp32"]["versions"] == {"onnxruntime": "1.17.3", "numpy": "1.26.4"}
    assert rows["tflite_int8"]["versions"]["tflite-runtime"] == "2.14.0"
    assert {row["observations"] for row in report["rows"]} == {"visited"}
    assert report["machine"]["machine"] == "aarch64"
    assert report["machine"]["processor"].startswith("cortex-a72, emulated on ")


def test_rows_of_pops_bench(tmp_path: Path) -> None:
    subjects = find_subjects((golden_artifact(tmp_path / "artifact"),), 32)
    context = Context()
    config = BenchConfig((tmp_path,), target="aarch64", runtime="c,torch", windows=5)
    rows = list(measure("aarch64", subjects, config, context))
    assert [row.title for row in rows] == ["student 4-8-2, c fp32", "student 4-8-2, c int8"]
    for row in rows:
        assert row.target == "aarch64"
        assert row.notes == (
            EMULATED,
            "agrees with x86-64 in every bit on 64 golden vectors",
        )
        assert row.memory is None
    assert (
        "aarch64: student 4-8-2, c int8 agrees with x86-64 in every bit on 64 golden vectors."
        in (context.notes)
    )
    assert any("emulated, not a latency" in note for note in context.notes)
    assert any(note.startswith("torch runs on this computer only") for note in context.notes)
    with pytest.raises(PopsError, match="A device runs c, onnx, litert, found --runtime torch"):
        list(measure("aarch64", subjects, replace(config, runtime="torch"), context))


def test_32_bit_machine_runs_the_generated_c(fresh_armv7: Path, small: Path) -> None:
    report = aarch64_bench(small, replace(QUICK, machine=ARMV7, runtimes=()))
    assert report["machine"]["bits"] == 32
    assert report["machine"]["library_architecture"] == "armv7"
    assert {row["file"] for row in report["rows"]} == {"c_f32", "c_int8"}
    assert all(row["golden"]["bit_for_bit"] for row in report["rows"])
    (missing,) = report["missing"]
    assert "no onnxruntime package for 32-bit ARM" in missing["message"]


def test_machine_is_made_once(fresh_armv7: Path) -> None:
    assert (fresh_armv7 / "complete.json").is_file()
    inode = fresh_armv7.stat().st_ino
    assert machine_folder(ARMV7).stat().st_ino == inode
    assert [path.name for path in fresh_armv7.parent.iterdir()] == [fresh_armv7.name]


def system_apt() -> dict[str, Any]:
    paths = [Path("/var/lib/dpkg/status"), Path("/var/lib/dpkg/arch"), Path("/var/cache/apt")]
    paths += sorted(Path("/var/lib/apt/lists").glob("*"))
    return {str(path): path.stat().st_mtime_ns for path in paths if path.exists()}


def test_timeout_keeps_what_was_measured(fresh_armv7: Path, small: Path) -> None:
    config = replace(QUICK, machine=ARMV7, windows=1000, timeout=10.0)
    report = aarch64_bench(small, config)
    assert not report["complete"]
    assert "took too long and was stopped" in report["interrupted"]
    assert all(0 < len(r["latency_ns"]["window_medians"]) < 1000 for r in report["rows"])


def test_damaged_bundle(fresh_armv7: Path, tmp_path: Path) -> None:
    artifact = golden_artifact(tmp_path / "artifact")
    out = bundle(BundleConfig((artifact,), tmp_path / "policy.pyz", "armv7")).path
    data = bytearray(out.read_bytes())
    # The first member's data; the zip's directory lies at the end.
    data[len(b"#!/usr/bin/env python3\n") + 60] ^= 0xFF
    out.write_bytes(data)
    with pytest.raises(PopsError, match="On the emulated armv7 machine: ") as caught:
        aarch64_bench(out, replace(QUICK, machine=ARMV7))
    assert "\n" not in str(caught.value)
    with pytest.raises(ArtifactError, match="does not exist"):
        aarch64_bench(tmp_path / "none.pyz")


@pytest.mark.parametrize(
    ("absent", "package"),
    [
        ("qemu-aarch64-static", "qemu-user-static"),
        ("apt-get", "apt"),
        ("dpkg", "dpkg"),
    ],
)
def test_missing_tool_names_its_package(
    absent: str, package: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for program in ("qemu-aarch64-static", "apt-get", "apt-config", "dpkg"):
        found = shutil.which(program)
        if program != absent and found is not None:
            (tools / program).symlink_to(found)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(PopsError, match=f"needs {absent}, .* apt install {package}$"):
        aarch64_bench(small)
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_missing_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulated, "KEYRING", tmp_path / "none.gpg")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(PopsError, match="apt install debian-archive-keyring"):
        machine_folder(AARCH64)


def test_mirror_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("POPS_DEBIAN_MIRROR", "http://127.0.0.1:1/debian")
    with pytest.raises(PopsError, match=r"Fetching Debian's packages failed \(.*Check the network"):
        machine_folder(AARCH64)
    assert list((tmp_path / "pops").iterdir()) == []


def test_wheel_with_another_hash_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = replace(AARCH64.wheels[1], sha256="0" * 64)
    with pytest.raises(PopsError, match=r"Fetching the wheels .* failed \("):
        emulated._fetch_wheels(replace(AARCH64, wheels=(wheel,)), tmp_path)
    assert os.listdir(tmp_path / "site") == []
    # A Python without pip: this one, without its packages.
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(PopsError, match=r"needs pip, .* apt install python3-pip"):
        emulated._fetch_wheels(AARCH64, tmp_path / "other")
