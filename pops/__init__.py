"""pops compresses trained reinforcement-learning policies and proves that they still work.

Names load when they are first used (PEP 562), so `import pops` imports neither
torch nor gymnasium.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pops.config import CompressConfig as CompressConfig
    from pops.errors import PopsError as PopsError
    from pops.loading import load as load
    from pops.pipeline import compress as compress
    from pops.spec import PolicySpec as PolicySpec

__version__ = "0.1.0"

_HOMES = {
    "CompressConfig": "pops.config",
    "PolicySpec": "pops.spec",
    "PopsError": "pops.errors",
    "compress": "pops.pipeline",
    "load": "pops.loading",
}

__all__ = ["CompressConfig", "PolicySpec", "PopsError", "__version__", "compress", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pops' has no attribute {name!r}")
    # No home may bear the name of what it holds: importing it would put the module in its place.
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
