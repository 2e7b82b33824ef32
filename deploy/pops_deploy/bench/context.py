"""Context: what a bench was given by its caller, and what it notes while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pops.spec import Policy

Evaluator = Callable[[Policy, int], "dict[str, Any]"]
"""(policy, episodes) to {mean, std, episodes}, played in the policy's own environment."""


def quietly(stage: str) -> None:
    """Whoever wants to know the stages of a bench passes another function."""


@dataclass(frozen=True)
class Context:
    """Handed to every target."""

    suppliers: Mapping[str, str] = field(default_factory=dict)
    """Runtimes from outside of pops_deploy: name to "module:function"."""
    evaluate: Evaluator | None = None
    begin: Callable[[str], None] = quietly
    """Told each stage as it begins."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What a target found out about how it measured; goes into the JSON."""
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keep a sentence for the report, once."""
        if text not in self.notes:
            self.notes.append(text)
