"""The static worst case of a policy's stack, and the library code that it pulls in.

Generated functions: gcc's own figures (`-fcallgraph-info=su`), which also list the calls into the
compiler's library (float arithmetic on cores without an FPU). Library functions have no such
figures: theirs are read off the disassembly of the linked code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pops_deploy.board.stack import parse

_NODE = re.compile(r'node: \{ title: "([^"]+)" label: "([^"]*)"')
_EDGE = re.compile(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"')
_FRAME = re.compile(r"(\d+) bytes \((static|dynamic|dynamic,bounded|bounded)\)")


@dataclass
class CallGraph:
    """Bytes of stack of each function, and whom it calls. A frame of None has no bound."""

    frames: dict[str, int | None] = field(default_factory=dict)
    calls: dict[str, set[str]] = field(default_factory=dict)

    def add(self, name: str, frame: int | None) -> None:
        """Add a function."""
        self.frames[name] = frame
        self.calls.setdefault(name, set())

    def worst(self, root: str, seen: tuple[str, ...] = ()) -> int | None:
        """Most bytes of stack from `root` on; None for recursion or an unbounded frame."""
        frame = self.frames.get(root)
        if frame is None or root in seen:
            return None
        deepest = 0
        for callee in self.calls.get(root, ()):
            below = self.worst(callee, (*seen, root))
            if below is None:
                return None
            deepest = max(deepest, below)
        return frame + deepest


def read_callgraph(text: str) -> CallGraph:
    """Read a .ci file of gcc. Functions without a frame in it are left out of `frames`."""
    graph = CallGraph()
    for title, label in _NODE.findall(text):
        frame = _FRAME.search(label)
        if frame is not None:
            graph.add(title, None if frame.group(2) == "dynamic" else int(frame.group(1)))
    for source, target in _EDGE.findall(text):
        graph.calls.setdefault(source, set()).add(target)
    return graph


def worst_stack(
    roots: Sequence[str], callgraph: str, disassembly: str, symbols: str = ""
) -> int | None:
    """Static worst case in bytes over all `roots`; None where it has no bound.

    Args:
        roots: names of the functions that the firmware calls.
        callgraph: gcc's .ci file of the policy.
        disassembly: `objdump -d` of the policy linked with the libraries it needs.
        symbols: `nm` of the same; a disassembly names only one of several names of a function.
    """
    graph = read_callgraph(callgraph)
    functions = parse(disassembly)
    for name, other in _aliases(symbols, functions).items():
        functions.setdefault(name, functions[other])
    for name, function in functions.items():
        if name not in graph.frames:
            graph.add(name, None if function.indirect else function.frame)
            graph.calls[name] = function.calls
    worst = [graph.worst(root) for root in roots if root in graph.frames]
    bounded = [value for value in worst if value is not None]
    return max(bounded) if bounded and len(bounded) == len(worst) else None


def _aliases(symbols: str, known: Mapping[str, object]) -> dict[str, str]:
    """Names that the disassembly leaves out, each with the name that it shows for the address."""
    by_address: dict[str, list[str]] = {}
    for line in symbols.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in "tTwW":
            by_address.setdefault(words[0], []).append(words[2])
    return {
        name: shown
        for names in by_address.values()
        for shown in names
        if shown in known
        for name in names
        if name not in known
    }
