"""verify(): the whole proof of an artifact, repeated from what lies on disk."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pops.artifact import ARTIFACT_FORMAT, load_policy, read_arrays, read_json, sha256_file
from pops.errors import ArtifactError
from pops.policy import NumpyPolicy
from pops.spec import Array, EnvSpec, Policy
from pops.workers import Workers, available_cores
from pops_export.chatter import to_log
from pops_export.closed_loop import Bar, failed, gate_facts, judge_file, quietly, raise_bar
from pops_export.config import VerifyConfig
from pops_export.proof import draw, infer, open_policy, prove_file

if TYPE_CHECKING:
    from pops_export.c.compile import CompiledPolicy


@dataclass(frozen=True)
class VerifyResult:
    """What the proof found."""

    path: Path
    artifact: dict[str, Any]
    """artifact.json with every `verified`, `evaluation` and `verdict` as found now."""

    @property
    def failures(self) -> tuple[str, ...]:
        """Files whose verdict or proof is negative."""
        files = self.artifact["files"]
        unproven = [key for key, facts in files.items() if not facts["verified"]["passed"]]
        return tuple(sorted({*failed(files), *unproven}))

    @property
    def exit_code(self) -> int:
        """0 if every file passed its proof and the gate, 3 otherwise."""
        return 3 if self.failures else 0

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary for `pops verify --json`."""
        return {
            "artifact": str(self.path),
            "id": self.artifact["id"],
            "passed": not self.failures,
            "failures": list(self.failures),
            "gate": self.artifact["gate"],
            "files": {
                key: {k: facts.get(k) for k in ("verified", "evaluation", "verdict", "sha256")}
                for key, facts in self.artifact["files"].items()
            },
        }


def verify(config: VerifyConfig, begin: Callable[[str], None] = quietly) -> VerifyResult:
    """Check every hash, then prove every file again.

    Args:
        config: what to verify.
        begin: told each stage as it begins.

    Raises:
        ArtifactError: if the folder is no artifact, or bytes do not match their hash.
    """
    folder = config.artifact
    begin("check hashes")
    facts = copy.deepcopy(read_artifact(folder))
    for entry in facts["files"].values():
        entry.update(verified={}, evaluation=None, verdict=None)
    with Workers(config.workers or available_cores()) as workers:
        prove(folder, facts, config.episodes, workers, begin)
    return VerifyResult(folder, facts)


def read_artifact(folder: Path) -> dict[str, Any]:
    """artifact.json, every file that it names checked against its hash.

    Raises:
        ArtifactError: naming the first file that is missing or differs.
    """
    if not (folder / "artifact.json").is_file():
        raise ArtifactError(
            f"{folder} is not an artifact: it has no artifact.json. Expected a folder that "
            "`pops export` wrote."
        )
    facts = read_json(folder / "artifact.json")
    if facts.get("format") != ARTIFACT_FORMAT:
        raise ArtifactError(
            f"{folder} was written in format {facts.get('format')!r}, this version reads "
            f"{ARTIFACT_FORMAT!r}. Use the pops version that wrote it, or export again."
        )
    try:
        hashes = dict(_hashes(facts))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ArtifactError(
            f"{folder / 'artifact.json'} is damaged ({error!r}). Export again."
        ) from error
    root = folder.resolve()
    for name, expected in hashes.items():
        path = (root / name).resolve()
        if root not in path.parents:
            raise ArtifactError(
                f"{folder / 'artifact.json'} names {name!r}, which lies outside of the artifact; "
                "refused. Export again."
            )
        try:
            found = sha256_file(path)
        except OSError as error:
            raise ArtifactError(
                f"Cannot read {path}: {error.strerror}. The artifact is incomplete; export again."
            ) from error
        if found != expected:
            raise ArtifactError(
                f"{path} does not match its hash: found {found[:16]}…, artifact.json says "
                f"{str(expected)[:16]}…. Nothing that was proven holds for these bytes; copy the "
                "artifact again, or export again."
            )
    return facts


def _hashes(facts: dict[str, Any]) -> list[tuple[str, str]]:
    found = [(str(facts["golden"]["path"]), str(facts["golden"]["sha256"]))]
    for entry in (*facts["files"].values(), *facts["proof"].values()):
        found.append((str(entry["path"]), str(entry["sha256"])))
        if "header" in entry:
            found.append((str(entry["header"]), str(entry["header_sha256"])))
            found += [(str(k), str(v)) for k, v in entry.get("others", {}).items()]
    return found


def prove(
    folder: Path,
    facts: dict[str, Any],
    episodes: int,
    workers: Workers,
    begin: Callable[[str], None],
) -> None:
    """Fill in `verified`, and with episodes `evaluation` and `verdict`, of every file."""
    env = None if facts["env"] is None else _env(facts["env"])
    files, bar = facts["files"], None
    if episodes and env is not None:
        begin(f"play the teacher on {episodes} episodes")
        teacher = load_policy(folder / facts["proof"]["teacher"]["path"])[0]
        first = int(facts["gate"]["seed"])
        bar = raise_bar(teacher, env, range(first, first + episodes), workers)
        facts["gate"] = gate_facts(bar, teacher.arch.num_parameters)
    loop = "" if bar is None else f", each on {episodes} episodes"
    begin(f"prove {len(files)} {'file' if len(files) == 1 else 'files'}{loop}")
    tasks = [(folder, facts, key, bar) for key in files]
    for entry, found in zip(files.values(), workers.map(prove_entry, tasks)):
        entry.update(found)


def prove_entry(folder: Path, facts: dict[str, Any], key: str, bar: Bar | None) -> dict[str, Any]:
    """`verified`, `evaluation` and `verdict` of one file; runs in a process of its own."""
    proof, entry = facts["proof"], facts["files"][key]
    policy = load_policy(folder / proof["student"]["path"])[0]
    states = read_arrays(folder / proof["states"]["path"])["observations"]
    seen = draw(policy, states, int(facts["seed"]))
    with to_log(Path(os.devnull)):  # LiteRT tells of its kernels
        file = open_policy(folder, key, entry, policy)
        verified = prove_file(key, file, policy, seen)
        verified.update(_integers(folder, facts, key, file, policy, seen.visited))
    if bar is None:
        return {"verified": verified, "evaluation": None, "verdict": None}
    evaluation, verdict = judge_file(file, bar, policy.arch.num_parameters)
    return {"verified": verified, "evaluation": evaluation, "verdict": verdict.to_json()}


def _integers(
    folder: Path,
    facts: dict[str, Any],
    key: str,
    file: Policy,
    policy: NumpyPolicy,
    visited: Array,
) -> dict[str, Any]:
    """What is proven of int8 files beyond `prove_file`."""
    from pops_export.c_files import against_oracle, prove_integers

    if "core" not in facts["proof"]:
        return {}
    core = folder / facts["proof"]["core"]["path"]
    if key in ("c_int8", "arduino_int8"):
        return prove_integers(
            cast("CompiledPolicy", file), core, policy, visited, int(facts["seed"])
        )
    if key == "tflite_int8":
        return against_oracle(*infer(file, visited), core, policy, visited)
    return {}


def _env(data: dict[str, Any]) -> EnvSpec:
    return EnvSpec(**{**data, "wrappers": tuple(data["wrappers"])})
