"""Reading containers from strangers: zip members and torch tensors, sizes bounded, no code run."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from pops.arch import MAX_PARAMETERS
from pops.errors import MissingPackage, TeacherError
from pops.spec import Array

MAX_FILE_BYTES = 1 << 30
MAX_UNPACKED_BYTES = 2 << 30
MAX_DATA_BYTES = 64 << 20
MAX_RATIO = 200
"""Compressed weights shrink by a few percent, JSON by a factor of ten; a bomb by a thousand."""
MAX_MEMBERS = 10_000


def read_file(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """Read a file whole.

    Raises:
        TeacherError: if it is missing, empty, unreadable or larger than `limit` bytes.
    """
    try:
        size = path.stat().st_size
        if size == 0:
            raise TeacherError(
                f"{path} is empty; expected a trained policy. Copy or download it again."
            )
        if size > limit:
            raise TeacherError(
                f"{path} has {size:,} bytes; at most {limit:,} are read. It is not the file of a "
                "policy that pops can compress."
            )
        return path.read_bytes()
    except OSError as error:
        raise TeacherError(
            f"Cannot read {path}: {error.strerror or error}. Check the path."
        ) from error


def open_zip(raw: bytes, name: str) -> zipfile.ZipFile:
    """Open a zip and bound what it would unpack to, before anything is unpacked.

    Raises:
        TeacherError: if it is truncated, damaged, or unpacks to more than `MAX_UNPACKED_BYTES`.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(raw))
        members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError) as error:
        raise TeacherError(
            f"{name} starts like a zip but cannot be opened ({error}). It is truncated or damaged; "
            "copy or download it again."
        ) from error
    if not members or min(member.header_offset for member in members):
        # zipfile also opens a zip that lies inside another file, such as the policy.pth in what
        # is left of a truncated download.
        raise TeacherError(
            f"{name} starts like a zip but its table of contents is missing. It is truncated or "
            "damaged; copy or download it again."
        )
    total = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    largest = max((m.file_size / max(m.compress_size, 1) for m in members), default=0)
    if len(members) > MAX_MEMBERS or total > MAX_UNPACKED_BYTES:
        raise TeacherError(
            f"{name} would unpack to {total:,} bytes in {len(members):,} members; at most "
            f"{MAX_UNPACKED_BYTES:,} bytes in {MAX_MEMBERS:,} are read. It was not unpacked: "
            "this is not the file of a policy."
        )
    if total > 16 << 20 and (largest > MAX_RATIO or total > MAX_RATIO * max(packed, 1)):
        raise TeacherError(
            f"{name} would unpack {largest:,.0f}-fold, to {total:,} bytes, as a zip bomb does and "
            "weights never do. It was not unpacked."
        )
    return archive


def read_member(archive: zipfile.ZipFile, member: str, name: str, limit: int) -> bytes:
    """Read one member of at most `limit` bytes.

    Raises:
        TeacherError: if it is missing, damaged or larger.
    """
    try:
        with archive.open(member) as file:
            content = file.read(limit + 1)
    except KeyError as error:
        raise TeacherError(
            f"{name} has no member {member!r}, found {', '.join(archive.namelist()[:8])}. Expected "
            "a file that Stable-Baselines3's model.save() wrote."
        ) from error
    except Exception as error:  # zlib, struct, zipfile and the file system raise their own
        raise TeacherError(
            f"{name}: member {member!r} cannot be unpacked ({error}). The file is damaged; copy or "
            "download it again."
        ) from error
    if len(content) > limit:
        raise TeacherError(
            f"{name}: member {member!r} is larger than {limit:,} bytes. It was not read further: "
            "this is not the file of a policy."
        )
    return content


def load_tensors(raw: bytes, name: str) -> dict[str, Array]:
    """Read a torch state dict as numpy arrays; anything that is not a tensor is refused unread.

    A tuple or list of state dicts (CleanRL's actor and critics) gives the first.

    Raises:
        TeacherError: if the bytes are damaged, hold other objects, or are too large.
        MissingPackage: if torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingPackage("torch", "train", "Reading torch weights") from error
    if raw[:2] == b"PK":
        open_zip(raw, name)
    try:
        loaded = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TeacherError(
            f"{name} holds something other than weights ({_first_line(error)}). Nothing of it was "
            "run. Expected a state dict: save it with torch.save(module.state_dict(), path)."
        ) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError... on damage
        raise TeacherError(
            f"{name} is not a readable torch file ({type(error).__name__}: {_first_line(error)}). "
            "It is truncated, damaged or of another kind; copy or download it again."
        ) from error
    return _arrays(_state_dict(loaded, name), name)


def _state_dict(loaded: Any, name: str) -> dict[str, Any]:
    if isinstance(loaded, (tuple, list)) and loaded and isinstance(loaded[0], dict):
        loaded = loaded[0]
    if isinstance(loaded, dict):
        for key in ("state_dict", "model_state_dict", "policy_state_dict"):
            if isinstance(loaded.get(key), dict):
                loaded = loaded[key]
                break
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise TeacherError(
            f"{name} holds a {type(loaded).__name__}; expected a state dict. Save it with "
            "torch.save(module.state_dict(), path)."
        )
    return dict(loaded)


def _arrays(tensors: dict[str, Any], name: str) -> dict[str, Array]:
    import torch

    kept = {key: value for key, value in tensors.items() if isinstance(value, torch.Tensor)}
    # Strides can make a small storage look huge: count elements before copying any.
    total = sum(math.prod(value.shape) for value in kept.values())
    if total > 4 * MAX_PARAMETERS:
        raise TeacherError(
            f"{name} holds tensors of {total:,} elements; at most {4 * MAX_PARAMETERS:,} are read."
        )
    try:
        return {
            key: np.ascontiguousarray(
                value.detach().to(torch.float32).numpy()
                if value.dtype.is_floating_point
                else value.detach().numpy()
            )
            for key, value in kept.items()
        }
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise TeacherError(
            f"{name} holds tensors that cannot be read ({_first_line(error)}); expected dense "
            "float tensors."
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    for line in text.splitlines():
        if "WeightsUnpickler error" in line:
            return line.strip()
    return text.splitlines()[0].strip() if text else type(error).__name__
