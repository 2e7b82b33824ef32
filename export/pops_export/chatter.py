"""Converters talk a lot, from Python and from C++; this sends all of it to a log file."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def to_log(path: Path) -> Iterator[None]:
    """Append everything that is written to stdout and stderr to `path`.

    The file descriptors themselves are redirected, because C++ libraries write
    to them past Python; Python's own streams as well, because a caller (pytest,
    a notebook) may have replaced them.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    try:
        with path.open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(_on_descriptor(1)))
            stack.enter_context(contextlib.redirect_stderr(_on_descriptor(2)))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("default")
            yield
    finally:
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        os.close(saved[0])
        os.close(saved[1])


def _on_descriptor(number: int) -> TextIO:
    """A stream that stays usable: a converter's log handler keeps it for good."""
    return open(number, "w", 1, "utf-8", "replace", closefd=False)
