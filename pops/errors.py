"""The errors that users meet: what was found, what was expected, what to do next.

The command line prints a `PopsError` as one message without a traceback and
exits with its `exit_code`: 2 for usage, 3 for a gate that failed, 1 otherwise.
"""

from __future__ import annotations


class PopsError(Exception):
    """Anything that a user can understand and act on."""

    exit_code = 1


class UsageError(PopsError):
    """The command line or a configuration asks for something that cannot be."""

    exit_code = 2


class GateFailed(PopsError):
    """A policy exists but could not be shown to be no worse than its teacher."""

    exit_code = 3


class TeacherError(PopsError):
    """A teacher file cannot be read, or holds something that is not supported."""


class EnvironmentFailure(PopsError):
    """An environment is unknown, does not fit the policy, or misbehaved."""


class ArtifactError(PopsError):
    """A run or an artifact on disk is missing, damaged, or of another version."""


class MissingPackage(PopsError):
    """An optional package is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'pops-rl[{extra}]'"
        )
