"""What `pops export` and `pops verify` print."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Union

from pops_export.config import FORMATS
from pops_export.export import ExportResult
from pops_export.verify import VerifyResult

if TYPE_CHECKING:
    from rich.console import Console

Result = Union[ExportResult, VerifyResult]
PLAIN_WIDTH = 140
"""Characters a line where the output is not a terminal, so that no cell is folded."""


def print_result(result: Result, console: Console | None = None, as_json: bool = False) -> None:
    """Print one row a file: bytes, proof, changed actions, closed loop.

    Args:
        result: of `export` or `verify`.
        console: where to print; the terminal if None.
        as_json: print `VerifyResult.to_json()` instead.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = console or Console()
    if not console.is_terminal and console.width < PLAIN_WIDTH:
        console.width = PLAIN_WIDTH
    if as_json and isinstance(result, VerifyResult):
        console.print_json(json.dumps(result.to_json()))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("file", no_wrap=True)
    table.add_column("bytes", no_wrap=True, justify="right")
    for name in ("proof", "changed actions", "closed loop"):
        table.add_column(name)
    files = result.artifact["files"]
    for key in sorted(files, key=lambda key: (FORMATS.index(_format(key)), key)):
        entry = files[key]
        table.add_row(
            entry["path"],
            f"{entry['bytes']:,}",
            _proof(entry["verified"]),
            _changed(entry["verified"]),
            _loop(entry),
        )
    console.print(table)
    for line in conclusions(result):
        console.print(line, soft_wrap=True, highlight=False)


def conclusions(result: Result) -> list[str]:
    """In words: where the artifact lies, and what failed and why."""
    lines = [f"{result.path}: id {result.artifact['id'][:16]}"]
    chosen = (result.artifact.get("quantisation_aware") or {}).get("chosen", "post-training")
    if chosen != "post-training":
        lines.append(f"int8 cost return on development seeds; its weights were {chosen}.")
    for key in result.failures:
        entry = result.artifact["files"][key]
        if not entry["verified"]["passed"]:
            lines.append(f"{entry['path']} does not compute what the student computes; see above.")
        verdict = entry.get("verdict")
        if verdict and not verdict["passed"]:
            lines.append(f"{entry['path']} failed the gate. {verdict['reason']}")
    if result.failures:
        lines.append("The artifact is kept and marked: artifact.json says passed: false.")
    return lines


def _format(key: str) -> str:
    return key.partition("_")[0]


def _proof(verified: dict[str, Any]) -> str:
    if "oracle" in verified:
        return (
            f"{verified['oracle_mismatches']} of {verified['oracle_inputs']:,} differ from "
            f"{verified['oracle']}"
        )
    if "bound" in verified:
        share = verified["largest_share_of_bound"]
        word = "within" if verified["passed"] else "OUTSIDE of"
        return f"{word} the float32 bound ({share:.0%} of it)"
    return "quantised; judged by the closed loop"


def _changed(verified: dict[str, Any]) -> str:
    if "largest_action_difference" in verified:
        return (
            f"at most {verified['largest_action_difference']:.3g}, "
            f"mean {verified['mean_action_difference']:.3g}"
        )
    text = f"{verified['changed_actions_share']:.2%} of {verified['changed_actions_of']:,}"
    ties = verified.get("ties", 0)
    return f"{text}, {ties:,} ties" if ties else text


def _loop(entry: dict[str, Any]) -> str:
    verdict, played = entry.get("verdict"), entry.get("evaluation")
    if not verdict or not played:
        return "not run"
    word = "passed" if verdict["passed"] else "FAILED"
    return f"{word}: {played['mean']:.2f} on {played['episodes']}"
