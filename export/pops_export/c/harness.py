"""The batch harness that tests and verification compile round a generated file."""

from __future__ import annotations

from pops_export.c.text import render


def harness(prefix: str) -> str:
    """C text that includes `<prefix>.c` and calls it in batches."""
    return render("harness.c.j2", {"p": prefix, "P": prefix.upper()})
