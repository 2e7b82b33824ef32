"""Numbers and tables as C text; the templates."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pops.errors import MissingPackage, PopsError

TEMPLATES = Path(__file__).parent / "templates"
WIDTH = 100


def c_float(value: float) -> str:
    """A float32 constant that reads back to the same bits."""
    single = np.float32(value)
    if not np.isfinite(single):
        raise PopsError(f"{value} is not a finite float32 and cannot stand in generated C.")
    text = format(float(single), ".9g")
    if not any(mark in text for mark in ".e"):
        text += ".0"
    return text + "f"


def c_int(value: int) -> str:
    """An int32 constant; the most negative one has no literal of its own."""
    return "(-2147483647 - 1)" if value == -(1 << 31) else str(int(value))


def c_rows(items: Iterable[str]) -> str:
    """Items with commas between, broken into indented lines."""
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 2 > WIDTH:
            lines.append(line)
            line = "   "
        line += f" {item},"
    lines.append(line)
    return "\n".join(lines).rstrip(",")


def c_table(declaration: str, items: Sequence[str], indent: str = "") -> str:
    """A constant table: `static const declaration[n] = {...};` and a line break."""
    body = c_rows(items).replace("\n", "\n" + indent)
    return f"{indent}static const {declaration}[{len(items)}] = {{\n{indent}{body}}};\n"


def column(
    values: Sequence[Any], kind: str, name: str, write: Any, index: str = "i"
) -> tuple[str, str]:
    """One value for each feature: (table text, expression); no table where all are the same."""
    items = [write(value) for value in values]
    if len(set(items)) == 1:
        return "", items[0]
    return c_table(f"{kind} {name}", items), f"{name}[{index}]"


@functools.lru_cache(maxsize=1)
def environment() -> Any:
    """The templates' environment."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingPackage("jinja2", "export", "Generating C") from error
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


def render(template: str, context: dict[str, Any]) -> str:
    """Fill a template; never more than one empty line in a row."""
    text = environment().get_template(template).render(context)
    lines: list[str] = []
    for raw in text.split("\n"):
        line = raw.rstrip()
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines).rstrip("\n") + "\n"
