"""Targets: where policies are measured. Adding one is one file in this package.

A target's module states `PREFIX` (names that begin with it are its own) and `measure(target,
subjects, config, suppliers) -> Iterator[Row]`, which yields rows as soon as they are known, so
that an interrupted bench keeps them.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType

from pops.errors import UsageError


def find_target(name: str) -> ModuleType:
    """The module that measures on the target called `name`.

    Raises:
        UsageError: if there is none.
    """
    prefixes = []
    for module in pkgutil.iter_modules(__path__):
        if module.ispkg:
            continue
        imported = import_module(f"{__name__}.{module.name}")
        prefix = getattr(imported, "PREFIX", None)
        if prefix is None:
            continue
        if name.startswith(prefix):
            return imported
        prefixes.append(prefix)
    raise UsageError(
        f"Target {name!r} is unknown, expected one that begins with: {', '.join(sorted(prefixes))}."
    )
