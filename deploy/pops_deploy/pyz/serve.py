"""Observations in, actions out: lines on standard input, or on a Unix socket."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any, BinaryIO

from .failure import DeviceError
from .policy import DevicePolicy

MAX_LINE_BYTES = 1 << 24


def answer(policy: DevicePolicy, line: bytes) -> bytes:
    """One line to one line.

    A JSON list (nested as the observation is, or flat) is answered in JSON, numbers
    separated by blanks or commas are answered as numbers separated by blanks. A line
    that is no observation is answered with `{"error": ...}` or `error: ...`, and the
    service goes on.
    """
    text = line.strip()
    as_json = text[:1] in (b"[", b"{")
    try:
        values = _flat(json.loads(text)) if as_json else _numbers(text)
        if len(values) != policy.observation_size:
            raise ValueError(
                f"found {len(values)} values, expected an observation of {policy.observation_size}"
            )
        action = policy.step(policy.convert(values))
    except (ValueError, TypeError, OverflowError, RecursionError, DeviceError) as error:
        message = str(error).replace("\n", " ")
        reply = json.dumps({"error": message}) if as_json else f"error: {message}"
        return reply.encode() + b"\n"
    if as_json:
        return json.dumps(action).encode() + b"\n"
    numbers = action if isinstance(action, list) else [action]
    return " ".join(map(repr, numbers)).encode() + b"\n"


def _flat(value: Any) -> list[float]:
    if isinstance(value, dict):
        value = value["observation"] if "observation" in value else _expected_list(value)
    if isinstance(value, list):
        return [number for item in value for number in _flat(item)]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"found {value!r}, expected numbers")
    return [value]


def _expected_list(value: dict[str, Any]) -> Any:
    raise ValueError(f'found keys {sorted(value)}, expected a list or {{"observation": [...]}}')


def _numbers(text: bytes) -> list[float]:
    return [float(word) for word in text.replace(b",", b" ").split()]


def serve_lines(policy: DevicePolicy, source: BinaryIO, sink: BinaryIO) -> int:
    """Answer line by line until the source ends; the number of lines answered.

    Raises:
        DeviceError: if a line is longer than `MAX_LINE_BYTES`.
    """
    count = 0
    while True:
        line = source.readline(MAX_LINE_BYTES)
        if not line:
            return count
        if len(line) >= MAX_LINE_BYTES:
            raise DeviceError(f"A line is longer than {MAX_LINE_BYTES >> 20} MiB; closed.")
        if not line.strip():
            continue
        sink.write(answer(policy, line))
        sink.flush()
        count += 1


def serve_socket(policy: DevicePolicy, path: Path) -> None:
    """Listen on a Unix socket that only this user can reach; one client after the other.

    A stale socket is replaced; any other file is left alone. Returns never, but for an
    interrupt; the socket is removed then.

    Raises:
        DeviceError: if the path is taken or cannot be used.
    """
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.closing(server):
        _bind(server, path)
        try:
            server.listen(4)
            while True:
                client, _ = server.accept()
                _serve_client(policy, client)
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _serve_client(policy: DevicePolicy, client: socket.socket) -> None:
    """Answer one client until it hangs up; what it does wrong ends its connection only."""
    with contextlib.suppress(OSError, DeviceError), contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(client))
        # Two files: one for both ways would let reading wait for writing.
        source = stack.enter_context(client.makefile("rb"))
        sink = stack.enter_context(client.makefile("wb"))
        serve_lines(policy, source, sink)


def _bind(server: socket.socket, path: Path) -> None:
    try:
        if path.exists():
            if not stat.S_ISSOCK(path.stat().st_mode):
                raise DeviceError(f"{path} exists and is not a socket. Choose another --socket.")
            if _answers(path):
                raise DeviceError(f"Another service listens on {path}. Choose another --socket.")
            path.unlink()
        mask = os.umask(0o177)
        try:
            server.bind(str(path))
        finally:
            os.umask(mask)
    except OSError as error:
        raise DeviceError(
            f"Cannot listen on {path}: {error.strerror or error}. Choose another --socket, in a "
            "folder that this user may write to and with a path under 100 characters."
        ) from error


def _answers(path: Path) -> bool:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.closing(probe):
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
