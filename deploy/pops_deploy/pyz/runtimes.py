"""From a file in the bundle to a policy that acts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .contents import Bundle
from .failure import DeviceError
from .policy import DevicePolicy

RUNTIMES = ("c", "onnx", "litert")


@dataclass(frozen=True)
class Entry:
    """One policy file of the bundle."""

    policy: dict[str, Any]
    """The policy's entry in bundle.json."""
    key: str
    """The file's key in artifact.json, for example "c_int8"."""
    facts: dict[str, Any]
    """The file's entry in bundle.json."""

    @property
    def name(self) -> str:
        """What messages and the option --file call it, for example student/c_int8."""
        return f"{self.policy['name']}/{self.key}"

    @property
    def runtime(self) -> str:
        """The runtime that runs it: "c", "onnx" or "litert"."""
        return str(self.facts["runtime"])


def entries(bundle: Bundle, runtimes: tuple[str, ...] = ()) -> Iterator[Entry]:
    """The policy files of the bundle, those of some runtimes only if any are named."""
    for policy in bundle.policies:
        for key, facts in policy["files"].items():
            if not runtimes or facts["runtime"] in runtimes:
                yield Entry(policy, key, facts)


def choose(bundle: Bundle, name: str) -> Entry:
    """The entry called `policy/key`, `key` or `runtime`; the first policy's first if empty.

    Raises:
        DeviceError: if there is none.
    """
    found = list(entries(bundle))
    for entry in found:
        if name in ("", entry.name, entry.key, entry.runtime):
            return entry
    names = ", ".join(entry.name for entry in found)
    raise DeviceError(f"The bundle holds no file {name!r}, expected one of: {names}.")


def load(bundle: Bundle, entry: Entry) -> DevicePolicy:
    """Load a policy file into its runtime.

    Raises:
        RuntimeMissing: if the runtime is not installed here; says which package.
        FileDamaged: if the file does not match its hash.
    """
    spec = entry.policy["spec"]
    if entry.runtime == "c":
        from .native import NativePolicy, library_for_this_device

        libraries = entry.facts["libraries"]
        library = libraries[library_for_this_device(libraries)]
        versions = {"compiler": str(library["compiler"]), "flags": str(library["flags"])}
        data = bundle.member(str(library["member"]))
        native = NativePolicy(spec, data, str(entry.policy["id"]), versions)
        native.code_bytes = int(library["code_bytes"])
        return native
    data = bundle.member(str(entry.facts["member"]))
    if entry.runtime == "onnx":
        from .onnx import OnnxPolicy

        return OnnxPolicy(spec, data)
    from .litert import LitertPolicy

    return LitertPolicy(spec, data, entry.facts.get("io") or {})
