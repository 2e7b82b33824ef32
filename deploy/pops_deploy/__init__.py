"""Run and measure exported policies on a computer, a Raspberry Pi or a microcontroller.

Names load when they are first used (PEP 562): `import pops_deploy` imports neither a runtime
nor numpy, and no part of this package ever imports torch, gymnasium or onnx.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pops_deploy.bench import bench as bench
    from pops_deploy.config import BenchConfig as BenchConfig
    from pops_deploy.runtime import open_runtime as open_runtime

_HOMES = {
    "BenchConfig": "pops_deploy.config",
    "bench": "pops_deploy.bench",
    "open_runtime": "pops_deploy.runtime",
}

__all__ = ["BenchConfig", "bench", "open_runtime"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pops_deploy' has no attribute {name!r}")
    home = import_module(_HOMES[name])
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
