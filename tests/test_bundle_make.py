"""`pops deploy bundle`: what goes into policy.pyz, and what is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bundle_fixtures import golden_artifact, small_bundle

from pops.artifact import read_json, sha256_file, write_arrays, write_json
from pops.errors import ArtifactError, PopsError, UsageError
from pops_deploy.bundle import bundle, print_bundle
from pops_deploy.bundle_config import BundleConfig
from pops_deploy.pyz.contents import Bundle

pytestmark = pytest.mark.pi

ALL = "x86_64,aarch64,armv7,armv6"
MACHINES = {
    "x86_64": ("ELF64", "Advanced Micro Devices X86-64"),
    "aarch64": ("ELF64", "AArch64"),
    "armv7": ("ELF32", "ARM"),
    "armv6": ("ELF32", "ARM"),
}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for every architecture."""
    return small_bundle(tmp_path_factory.mktemp("bundle"), ALL).path


def libraries(path: Path, folder: Path) -> dict[str, Path]:
    facts = Bundle(path)
    found = {}
    for name, library in facts.policies[0]["files"]["c_int8"]["libraries"].items():
        found[name] = folder / f"{name}.so"
        found[name].write_bytes(facts.member(library["member"]))
    return found


def readelf(path: Path, *options: str) -> str:
    done = subprocess.run(
        ["readelf", "-W", *options, str(path)], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_libraries_need_no_other_and_fit_their_machines(full: Path, tmp_path: Path) -> None:
    found = libraries(full, tmp_path)
    assert sorted(found) == sorted(MACHINES)
    for name, path in found.items():
        header = readelf(path, "-h")
        assert all(word in header for word in MACHINES[name])
        dynamic = readelf(path, "-d", "--dyn-syms")
        assert "NEEDED" not in dynamic
        symbols = re.findall(r"(GLOBAL|WEAK) +(\w+) +(\w+) +(\w+)", dynamic)
        assert {symbol[3] for symbol in symbols if symbol[2] != "UND"} == {
            "pops_act",
            "pops_act_many",
            "pops_id",
            "pops_infer",
            "pops_self_test",
            "pops_size",
        }
        assert [symbol for symbol in symbols if symbol[2] == "UND"] == []
        assert path.stat().st_size < 8192


def test_arm_libraries_are_hard_float_of_the_right_version(full: Path, tmp_path: Path) -> None:
    found = libraries(full, tmp_path)
    for name, version, unit in (("armv7", "v7", "VFPv3"), ("armv6", "v6", "VFPv2")):
        attributes = readelf(found[name], "-A")
        assert f"Tag_CPU_arch: {version}\n" in attributes
        assert f"Tag_FP_arch: {unit}\n" in attributes
        assert "Tag_ABI_VFP_args: VFP registers" in attributes


def test_same_artifact_same_bytes(full: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.pyz"
    artifact = full.parent / "student"
    result = bundle(BundleConfig((artifact,), again, ALL))
    assert again.read_bytes() == full.read_bytes()
    assert result.sha256 == sha256_file(again)
    assert result.bytes == again.stat().st_size
    assert os.access(again, os.X_OK)
    with zipfile.ZipFile(again) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == sorted(archive.namelist())


def test_nothing_of_this_machine_is_in_the_bundle(full: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(full) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            assert str(full.parent).encode() not in data
            assert str(Path.home()).encode() + b"/" not in data


def test_two_policies_and_visited_observations(tmp_path: Path) -> None:
    student = golden_artifact(tmp_path / "student")
    teacher = golden_artifact(tmp_path / "teacher", "teacher")
    config = BundleConfig((student, teacher, student), tmp_path / "policy.pyz", "x86_64")
    states = np.linspace(-1, 1, 4000).astype(np.float32).reshape(1000, 4)
    bundle(config, {student: states})
    opened = Bundle(config.out)
    assert [policy["name"] for policy in opened.policies] == ["student", "teacher", "student-2"]
    visited = opened.golden(opened.policies[0])["visited"]
    assert visited.shape == (512, 4)
    assert visited.row(0).tolist() == states[0].tolist()
    assert visited.row(511).tolist() == states[-1].tolist()
    assert "visited" not in opened.golden(opened.policies[1])
    assert opened.check() == len(opened.facts["members"])


def test_states_that_the_artifact_carries(tmp_path: Path) -> None:
    folder = golden_artifact(tmp_path / "student")
    states = np.ones((3, 4), np.float32)
    write_arrays(folder / "proof" / "states.npz", {"observations": states})
    facts = read_json(folder / "artifact.json")
    digest = sha256_file(folder / "proof" / "states.npz")
    facts["proof"] = {"states": {"path": "proof/states.npz", "sha256": digest}}
    write_json(folder / "artifact.json", facts)
    config = BundleConfig((folder,), tmp_path / "policy.pyz", "x86_64")
    bundle(config)
    opened = Bundle(config.out)
    assert opened.golden(opened.policies[0])["visited"].shape == (3, 4)
    (folder / "proof" / "states.npz").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"states\.npz is missing or damaged"):
        bundle(config)


def test_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = small_bundle(tmp_path)
    print_bundle(result)
    shown = capsys.readouterr().out
    assert "c_int8" in shown
    assert f"{result.bytes:,} bytes" in shown
    assert json.loads(json.dumps(result.to_json()))["architectures"] == ["x86_64"]


def test_usage() -> None:
    with pytest.raises(UsageError, match="Nothing to bundle"):
        bundle(BundleConfig(()))
    with pytest.raises(UsageError, match=r"'riscv' is unknown, expected .*armv6"):
        BundleConfig((Path("a"),), architectures="riscv")


def test_no_cross_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = golden_artifact(tmp_path / "student")
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, package in (
        ("aarch64", "gcc-aarch64-linux-gnu"),
        ("armv6", "gcc-arm-linux-gnueabihf"),
        ("x86_64", "gcc-x86-64-linux-gnu"),
    ):
        with pytest.raises(PopsError, match=f"apt install {package}; or leave {name} out"):
            bundle(BundleConfig((folder,), tmp_path / "policy.pyz", name))
    assert not (tmp_path / "policy.pyz").exists()


def test_no_architecture_carries_no_library(tmp_path: Path) -> None:
    folder = golden_artifact(tmp_path / "student")
    bundle(BundleConfig((folder,), tmp_path / "policy.pyz", ""))
    assert Bundle(tmp_path / "policy.pyz").policies[0]["files"]["c_int8"]["libraries"] == {}


def test_c_that_does_not_compile(tmp_path: Path) -> None:
    folder = golden_artifact(tmp_path / "student")
    source = folder / "c" / "policy.c"
    source.write_text(source.read_text() + "\nint broken = missing_name;\n")
    facts = read_json(folder / "artifact.json")
    facts["files"]["c_int8"]["sha256"] = sha256_file(source)
    write_json(folder / "artifact.json", facts)
    with pytest.raises(PopsError, match=r"does not compile the policy for x86_64: .*missing_name"):
        bundle(BundleConfig((folder,), tmp_path / "policy.pyz", "x86_64"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("policy.onnx", "is damaged: its SHA-256"),
        ("c/policy.c", "is damaged: its SHA-256"),
        ("golden.npz", "is damaged: its SHA-256"),
        ("artifact.json", "artifact.json"),
    ],
)
def test_damaged_artifact(name: str, message: str, tmp_path: Path) -> None:
    folder = golden_artifact(tmp_path / "student")
    data = bytearray((folder / name).read_bytes())
    data[0] ^= 0x55
    (folder / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=message) as caught:
        bundle(BundleConfig((folder,), tmp_path / "policy.pyz", "x86_64"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "policy.pyz").exists()


def test_damaged_header_and_missing_golden(tmp_path: Path) -> None:
    folder = golden_artifact(tmp_path / "student")
    facts = read_json(folder / "artifact.json")
    config = BundleConfig((folder,), tmp_path / "policy.pyz", "x86_64")
    facts["files"]["c_int8"]["header_sha256"] = "0" * 64
    write_json(folder / "artifact.json", facts)
    with pytest.raises(ArtifactError, match=r"policy\.h is damaged"):
        bundle(config)
    del facts["files"]["c_int8"]
    write_arrays(folder / "golden.npz", {"observations": np.zeros((2, 4), np.float32)})
    facts["golden"]["sha256"] = sha256_file(folder / "golden.npz")
    write_json(folder / "artifact.json", facts)
    with pytest.raises(ArtifactError, match=r"golden\.npz holds no outputs for onnx_fp32"):
        bundle(config)
    facts["files"] = {}
    write_json(folder / "artifact.json", facts)
    with pytest.raises(ArtifactError, match="holds no file that a device can run"):
        bundle(config)


def test_not_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an artifact"):
        bundle(BundleConfig((tmp_path,), tmp_path / "policy.pyz"))
