"""The pictures of a run: size against return, sparsity against return."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(run_dir: Path, manifest: dict[str, Any]) -> list[Path]:
    """Draw a run's figures into `run_dir/figures`.

    Args:
        run_dir: the run's folder.
        manifest: its manifest.

    Returns:
        The files written, PNG and SVG of each figure.
    """
    raise NotImplementedError
