"""Targets: where policies are measured. Adding one is one file in this package.

A target's module states `PREFIX` (names that begin with it, or with one of them, are its own) and
`measure(target, subjects, config, context) -> Iterator[Row]`, which yields rows as soon as they
are known, so that an interrupted bench keeps them.
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
    prefixes: list[str] = []
    for module in pkgutil.iter_modules(__path__):
        if module.ispkg:
            continue
        imported = import_module(f"{__name__}.{module.name}")
        prefix: str | tuple[str, ...] = getattr(imported, "PREFIX", ())
        own = (prefix,) if isinstance(prefix, str) else prefix
        if name.startswith(own):
            return imported
        prefixes.extend(own)
    raise UsageError(
        f"Target {name!r} is unknown, expected one that begins with: {', '.join(sorted(prefixes))}."
    )
