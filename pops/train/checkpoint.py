"""Everything that a training needs to go on, in one file that is replaced whole.

Training advances in segments. A segment starts from a checkpoint and seeds that are derived
from its number alone: the environments are reset, and every generator is seeded. So a
training that was killed and resumed takes the very steps of one that was not.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pops.artifact import atomic_path
from pops.errors import ArtifactError

CHECKPOINT_FORMAT = "pops-train-checkpoint-1"
MAX_REPLAY_BYTES = 1 << 30
_COUNTERS = (
    "num_timesteps",
    "_n_updates",
    "_n_calls",
    "_episode_num",
    "_current_progress_remaining",
    "exploration_rate",
)
_REPLAY_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


@dataclass
class Progress:
    """Where a training is, apart from its model."""

    segment: int = 0
    """Segments finished."""
    looks: int = 0
    """Final evaluations played, each on seeds of its own."""
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    """One for each evaluation: timesteps, mean, std, min, max."""
    best: bytes | None = None
    """The best model, as Stable-Baselines3 saves it."""
    best_mean: float = float("-inf")
    best_timesteps: int = 0
    final: dict[str, Any] | None = None
    """The final evaluation of the best, once it was played."""


def save_checkpoint(path: Path, model: Any, progress: Progress) -> None:
    """Write model, optimiser, counters, replay buffer and progress; whole or not at all."""
    import torch

    data: dict[str, Any] = {
        "format": CHECKPOINT_FORMAT,
        "parameters": model.get_parameters(),
        "variables": {name: getattr(model, name).detach() for name in _variables(model)},
        "counters": {n: getattr(model, n) for n in _COUNTERS if hasattr(model, n)},
        "replay": _replay_state(model),
        "progress": {
            "segment": progress.segment,
            "looks": progress.looks,
            "seconds": progress.seconds,
            "history": progress.history,
            "best_mean": progress.best_mean,
            "best_timesteps": progress.best_timesteps,
            "final": progress.final,
        },
        "best": None if progress.best is None else _from_bytes(progress.best),
    }
    with atomic_path(path) as beside:
        try:
            torch.save(data, beside)
        except RuntimeError as error:  # torch's writer reports a full disk like this
            raise ArtifactError(
                f"Cannot write {path}: {error}. The checkpoint before it is kept; free space, "
                "then add --resume to the command."
            ) from error


def load_checkpoint(path: Path, model: Any) -> Progress:
    """Put a checkpoint into a freshly built model. Nothing in the file is run.

    Raises:
        ArtifactError: if the file is damaged, or of another version or network.
    """
    import torch

    try:
        data = torch.load(path, map_location=model.device, weights_only=True)
        if data["format"] != CHECKPOINT_FORMAT:
            raise ValueError(f"format {data['format']!r}, expected {CHECKPOINT_FORMAT!r}")
        model.set_parameters(data["parameters"], exact_match=True, device=model.device)
        for name, value in data["variables"].items():
            getattr(model, name).data = value.to(model.device)
        for name, value in data["counters"].items():
            if name in _COUNTERS:
                setattr(model, name, value)
        _restore_replay(model, data["replay"])
        best = None if data["best"] is None else data["best"].cpu().numpy().tobytes()
        return Progress(best=best, **data["progress"])
    except OSError as error:
        raise ArtifactError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.PickleError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArtifactError(
            f"{path} cannot be resumed from ({first}); it is damaged or was written by another "
            "version. Start anew with --overwrite."
        ) from error


def _variables(model: Any) -> list[str]:
    return list(model._get_torch_save_params()[1])


def _from_bytes(data: bytes) -> Any:
    import numpy as np
    import torch

    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def _replay_state(model: Any) -> dict[str, Any] | None:
    """The filled part of the replay buffer; None without one, or where it is too large."""
    import torch

    buffer = getattr(model, "replay_buffer", None)
    if buffer is None:
        return None
    filled = buffer.size()
    arrays = {name: getattr(buffer, name)[:filled] for name in _REPLAY_ARRAYS}
    if sum(a.nbytes for a in arrays.values()) > MAX_REPLAY_BYTES:
        return None
    tensors = {name: torch.from_numpy(a.copy()) for name, a in arrays.items()}
    return {"pos": buffer.pos, "full": buffer.full, **tensors}


def _restore_replay(model: Any, state: dict[str, Any] | None) -> None:
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None or state is None:
        return
    for name in _REPLAY_ARRAYS:
        values = state[name].cpu().numpy()
        getattr(buffer, name)[: len(values)] = values
    buffer.pos, buffer.full = int(state["pos"]), bool(state["full"])
