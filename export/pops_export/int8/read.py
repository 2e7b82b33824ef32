"""Read an int8 .tflite into an IntegerNetwork."""

from __future__ import annotations

from pathlib import Path

from pops_export.int8.network import IntegerNetwork


def read_integer_network(path: Path | str) -> IntegerNetwork:
    """Read an int8 .tflite.

    Raises:
        ArtifactError: if the file is missing, damaged, or holds an operation, a type or an order
            of operations that the integer arithmetic here does not cover.
    """
    raise NotImplementedError
