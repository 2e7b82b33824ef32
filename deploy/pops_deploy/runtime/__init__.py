"""open_runtime(): an exported policy in any runtime, behind one interface.

Adding a runtime is one file in this package. It states `NAME` (what the command line calls it),
`FORMAT` ("onnx", "tflite" or "c": which of an artifact's files it runs) and
`open_file(artifact, file) -> Runtime`, and imports its library inside `open_file`. Runtimes that
pops_deploy must not depend on (torch, Stable-Baselines3) are supplied by the caller.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from pops.errors import UsageError

if TYPE_CHECKING:
    from pops_deploy.runtime.base import Runtime


def available() -> dict[str, ModuleType]:
    """The runtimes of this package by name; whether their library is installed is not looked at."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        imported = import_module(f"{__name__}.{module.name}")
        if hasattr(imported, "open_file"):
            found[str(imported.NAME)] = imported
    return dict(sorted(found.items()))


def open_runtime(
    artifact: Path | str,
    name: str,
    file: str = "int8",
    suppliers: Mapping[str, str] | None = None,
) -> Runtime:
    """Load a policy into a runtime.

    Args:
        artifact: folder that `pops export` wrote; for a supplied runtime whatever it takes (those
            of pops take a run's policy file).
        name: "onnx", "litert", "c", "tflite-micro", or a name in `suppliers`.
        file: "int8" or "fp32".
        suppliers: further runtimes as "module:function", called with (path, file). Only names
            that the caller knows; nothing of a file ever gets in here.

    Raises:
        UsageError: if there is no such runtime or file.
        PopsError: if the runtime's library or a compiler is not installed (says which).
        ArtifactError: if the artifact is damaged or lacks the file.
    """
    if file not in ("int8", "fp32"):
        raise UsageError(f"File {file!r} is unknown, expected int8 or fp32.")
    if suppliers and name in suppliers:
        module, _, function = suppliers[name].partition(":")
        return cast("Runtime", getattr(import_module(module), function)(Path(artifact), file))
    runtimes = available()
    if name not in runtimes:
        names = ", ".join([*runtimes, *(suppliers or ())])
        raise UsageError(f"Runtime {name!r} is unknown, expected one of: {names}.")
    from pops_deploy.folder import Artifact

    return cast("Runtime", runtimes[name].open_file(Artifact(artifact), file))
