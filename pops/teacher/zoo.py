"""What rl-zoo keeps beside a teacher: config.yml, args.yml and VecNormalize statistics."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_YAML_BYTES = 1 << 20
_STEPS = re.compile(r"(.+)_(\d+)_steps")
_KEPT = ("normalize", "normalize_kwargs", "env_wrapper", "policy", "policy_kwargs", "n_timesteps")


@dataclass(frozen=True)
class Zoo:
    """The few settings of a zoo folder that say how a teacher sees its environment."""

    frame_stack: int = 0
    env_id: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def folders(file: Path) -> list[Path]:
    """Where rl-zoo keeps settings: beside the file, and in a folder named for the environment."""
    beside = file.parent
    named = beside / file.stem
    try:
        inner = sorted(p.parent for p in beside.glob("*/config.yml"))
    except OSError:
        inner = []
    found = [beside, *([named] if named.is_dir() else []), *(inner if len(inner) == 1 else [])]
    return list(dict.fromkeys(found))


def find_vecnormalize(file: Path) -> Path | None:
    """Statistics whose name says that they belong to `file`; None if there are none."""
    stem = file.stem
    names = [f"{stem}-vecnormalize.pkl", f"{stem}_vecnormalize.pkl"]
    steps = _STEPS.fullmatch(stem)
    if steps:
        names.append(f"{steps.group(1)}_vecnormalize_{steps.group(2)}_steps.pkl")
    names += ["vecnormalize.pkl", "vec_normalize.pkl"]
    for folder in folders(file):
        for name in names:
            if (folder / name).is_file():
                return folder / name
    return None


def read_zoo(file: Path) -> Zoo:
    """Read `config.yml` and `args.yml` beside a teacher; an empty Zoo where there are none.

    Python tags (rl-zoo writes OrderedDict) are read as plain lists and constructed as nothing.
    """
    config: dict[str, Any] = {}
    args: dict[str, Any] = {}
    for folder in folders(file):
        config = config or _read_yaml(folder / "config.yml")
        args = args or _read_yaml(folder / "args.yml")
    stack = config.get("frame_stack")
    env_id = args.get("env")
    facts = {key: _plain(config[key]) for key in _KEPT if key in config}
    return Zoo(
        frame_stack=stack if isinstance(stack, int) and 1 < stack <= 64 else 0,
        env_id=env_id if isinstance(env_id, str) else None,
        facts=facts,
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file() or path.stat().st_size > MAX_YAML_BYTES:
        return {}
    try:
        import yaml
    except ImportError:
        return {}

    class PlainLoader(yaml.SafeLoader):
        """A safe loader that reads python tags as the plain node below them."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                # An alias in an alias in an alias can grow without bound.
                raise yaml.YAMLError("aliases are not read")
            return super().compose_node(parent, index)

    def plain(loader: Any, suffix: str, node: Any) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        return loader.construct_scalar(node)

    PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", plain)
    PlainLoader.add_multi_constructor("!", plain)
    try:
        data = yaml.load(path.read_bytes(), Loader=PlainLoader)
        return _pairs(data)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OSError):
        return {}


def _pairs(data: Any) -> dict[str, Any]:
    """A mapping, or OrderedDict's `[[[key, value], ...]]`, as a dictionary."""
    if isinstance(data, dict):
        return {str(key): value for key, value in data.items()}
    if isinstance(data, list) and len(data) == 1 and isinstance(data[0], list):
        data = data[0]
    if isinstance(data, list) and all(isinstance(p, list) and len(p) == 2 for p in data):
        return {str(key): value for key, value in data}
    return {}


def _plain(value: Any) -> Any:
    """JSON-ready and short."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (dict, list)):
        pairs = _pairs(value)
        if pairs:
            return {key: _plain(inner) for key, inner in list(pairs.items())[:32]}
        return [_plain(inner) for inner in list(value)[:32]]
    return str(value)[:500]
