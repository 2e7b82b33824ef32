"""Training a teacher with Stable-Baselines3.

Names load when they are first used (PEP 562): the command line imports `TrainConfig` to print
its help, and must not import torch for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pops.train.config import TrainConfig as TrainConfig
    from pops.train.loop import TrainResult as TrainResult
    from pops.train.loop import train as train
    from pops.train.view import print_result as print_result

_HOMES = {
    "TrainConfig": "pops.train.config",
    "TrainResult": "pops.train.loop",
    "print_result": "pops.train.view",
    "train": "pops.train.loop",
}

__all__ = ["TrainConfig", "TrainResult", "print_result", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pops.train' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
