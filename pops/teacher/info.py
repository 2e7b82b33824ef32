"""info(): what a teacher's file holds, without an environment and without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pops.artifact import sha256_file
from pops.teacher.contents import num_parameters
from pops.teacher.fit import num_policy_macs
from pops.teacher.load import contents_facts, observation_statistics, statistics_facts
from pops.teacher.read import read_contents, teacher_file
from pops.teacher.spaces import spaces_of
from pops.teacher.zoo import read_zoo


def info(
    path: Path | str, vecnormalize: Path | None = None, activation: str | None = None
) -> dict[str, Any]:
    """What a teacher's file holds, JSON-ready.

    Keys: file, bytes, sha256, kind, algorithm, library_version, observation_space, action_space
    (null where the file does not tell), layers (name, shape, activation), activation,
    activation_source, num_parameters, macs (null where unknown), output, squash, normaliser
    (null where there is none), and further facts where known.

    Raises:
        TeacherError: if the file is damaged or holds something that is not supported.
    """
    file = teacher_file(Path(path))
    contents = read_contents(file, activation)
    statistics = observation_statistics(file, contents, vecnormalize)
    policy = contents.policy
    observation, action = contents.observation, contents.action
    if policy is not None:
        observation, action = spaces_of(policy.spec)
    data: dict[str, Any] = {
        "file": str(file),
        "bytes": file.stat().st_size,
        "sha256": sha256_file(file),
        **contents_facts(contents, read_zoo(file)),
        "observation_space": observation.to_json() if observation else None,
        "action_space": action.to_json() if action else None,
        "layers": [
            {
                "name": layer.name,
                "shape": list(layer.weight.shape),
                "activation": None if layer.activation == "hidden" else layer.activation,
            }
            for layer in contents.layers
        ],
        "num_parameters": num_parameters(contents.layers),
        "macs": num_policy_macs(contents),
        "output": contents.output,
        "squash": contents.squash if contents.output == "mean" else None,
        "normaliser": None,
    }
    if statistics is not None:
        data["normaliser"] = statistics_facts(statistics)
    if policy is not None:
        spec = policy.spec.to_json()
        data.update(spec=spec, normaliser=spec["normaliser"], squash=spec["actions"].get("squash"))
    return data


def print_info(data: dict[str, Any]) -> None:
    """Print what `info` returned as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _rows(data):
        table.add_row(label, value)
    Console().print(table)


def _rows(data: dict[str, Any]) -> list[tuple[str, str]]:
    activation = data["activation"] or "unknown: give --activation"
    source = f" ({data['activation_source']})" if data["activation_source"] else ""
    rows = [
        ("file", f"{data['file']} ({data['bytes']:,} bytes)"),
        ("kind", str(data["kind"])),
        ("algorithm", data["algorithm"] or "not told by the file"),
        ("library version", data["library_version"] or "not told by the file"),
        ("observations", _space(data["observation_space"])),
        ("actions", _space(data["action_space"])),
        ("layers", "\n".join(_layer(layer) for layer in data["layers"])),
        ("activation", f"{activation}{source}"),
        ("parameters", f"{data['num_parameters']:,}"),
        ("output", data["output"] + (f", {data['squash']}" if data["squash"] else "")),
        ("normaliser", _normaliser(data["normaliser"])),
        ("sha256", data["sha256"]),
    ]
    if data.get("env"):
        rows.insert(1, ("environment", str(data["env"])))
    rows += [("note", note) for note in data.get("notes", [])]
    return rows


def _layer(layer: dict[str, Any]) -> str:
    shape = " × ".join(str(n) for n in layer["shape"])
    return f"{layer['name']}  {shape}  {layer['activation'] or '?'}"


def _space(space: dict[str, Any] | None) -> str:
    if space is None:
        return "not told by the file"
    if space["kind"] == "Discrete":
        return f"Discrete({space['n']})"
    text = f"Box{tuple(space.get('shape', ()))} {space.get('dtype', '')}"
    if "low" in space and "high" in space and len(space["low"]) <= 8:
        text += f", from {space['low']} to {space['high']}"
    return text


def _normaliser(normaliser: dict[str, Any] | None) -> str:
    if normaliser is None:
        return "none"
    if "path" in normaliser:
        return f"{normaliser['path']}, {normaliser['features']} features"
    return f"in the file, {len(normaliser['mean'])} features"
