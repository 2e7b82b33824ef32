"""Session: commands and one file over the system's OpenSSH, with the user's own configuration."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pops.errors import PopsError, UsageError

CONNECT_SECONDS = 20
MAX_OUTPUT_BYTES = 64 << 20
CONNECTION_LOST = 255
"""The exit status of ssh itself, where the connection failed."""

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\$?")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")


class ConnectionLost(PopsError):
    """The connection to the device ended before the command did."""


@dataclass(frozen=True)
class Address:
    """`user@host:port`; what is not given, the user's configuration decides."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `[user@]address[:port]`; an IPv6 address with a port stands in brackets.

        Raises:
            UsageError: if it is anything else. What ssh could take for an option is refused.
        """
        rest = text
        user: str | None = None
        port: int | None = None
        if "@" in rest:
            user, rest = rest.rsplit("@", 1)
        if rest.startswith("["):
            host, bracket, tail = rest[1:].partition("]")
            port_text = tail[1:] if tail.startswith(":") else None
            good = bool(bracket) and (tail == "" or port_text is not None)
            good = good and _IPV6.fullmatch(host) is not None
        elif rest.count(":") > 1:
            host, port_text, good = rest, None, _IPV6.fullmatch(rest) is not None
        else:
            host, colon, tail = rest.partition(":")
            port_text = tail if colon else None
            good = _HOST.fullmatch(host) is not None
        if port_text is not None:
            good = good and port_text.isascii() and port_text.isdigit() and len(port_text) <= 5
            port = int(port_text) if good else None
            good = good and port is not None and 1 <= port <= 65535
        if user is not None:
            good = good and _USER.fullmatch(user) is not None
        if not good:
            raise UsageError(
                f"The address {text!r} cannot be used, expected user@address or "
                "user@address:port, for example ssh:pi@raspberrypi.local. Names of users and "
                "hosts start with a letter or a digit, so that ssh takes none for an option."
            )
        return cls(host, user, port)

    def __str__(self) -> str:
        user = "" if self.user is None else f"{self.user}@"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{user}{host}" + ("" if self.port is None else f":{self.port}")

    @property
    def by_hand(self) -> str:
        """What to type behind `ssh`."""
        user = "" if self.user is None else f"{self.user}@"
        return ("" if self.port is None else f"-p {self.port} ") + user + self.host

    @property
    def known_as(self) -> str:
        """What the file of known hosts calls it."""
        return self.host if self.port in (None, 22) else f"'[{self.host}]:{self.port}'"


@dataclass(frozen=True)
class Done:
    """A finished command."""

    status: int
    output: str
    errors: str


class Session:
    """One connection; every command goes over it. Use it in a `with` statement."""

    def __init__(
        self, address: Address, accept_new_host_key: bool = False, config: Path | None = None
    ) -> None:
        """Prepare; nothing is sent before `__enter__`.

        Args:
            address: where to.
            accept_new_host_key: trust a host that is not known yet; a key that changed is
                refused all the same.
            config: an ssh configuration file instead of the user's own.

        Raises:
            PopsError: if ssh is not installed.
        """
        program = shutil.which("ssh")
        if program is None:
            raise PopsError(
                "Reaching a device needs OpenSSH's client, and there is no ssh here. "
                "Install it with: apt install openssh-client"
            )
        self.address = address
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "accept-new" if accept_new_host_key else "yes",
            "ConnectTimeout": str(CONNECT_SECONDS),
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "4",
            "ClearAllForwardings": "yes",
            "PermitLocalCommand": "no",
            "RemoteCommand": "none",
            "ControlMaster": "no",
        }
        self._command = [program, "-T", "-x", "-a"]
        if config is not None:
            self._command += ["-F", str(config)]
        for name, value in options.items():
            self._command += ["-o", f"{name}={value}"]
        if address.port is not None:
            self._command += ["-p", str(address.port)]
        if address.user is not None:
            self._command += ["-l", address.user]
        self._stack = contextlib.ExitStack()
        self._master: subprocess.Popen[bytes] | None = None
        self.finished: Done | None = None

    def __enter__(self) -> Session:
        """Connect.

        Raises:
            PopsError: if the device is unreachable, unknown, or refuses the key.
        """
        try:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="pops-")))
            socket, log = folder / "s", folder / "log"
            self._command += ["-S", str(socket)]
            self._stack.callback(self._hang_up)
            with log.open("wb") as errors:
                self._master = subprocess.Popen(
                    [*self._command, "-M", "-N", "--", self.address.host],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    # Ctrl-C is for us: the connection is still needed to clean up.
                    start_new_session=True,
                )
            deadline = time.monotonic() + CONNECT_SECONDS + 10
            while not socket.exists():
                if self._master.poll() is not None or time.monotonic() > deadline:
                    text = readable(log.read_bytes())
                    raise PopsError(explain(self.address, text))
                time.sleep(0.02)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _hang_up(self) -> None:
        if self._master is None:
            return
        # ssh may miss a signal that arrives just before it waits for the network.
        for _ in range(50):
            self._master.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._master.wait(0.1)
                return
        self._master.kill()
        self._master.wait()

    def start(self, command: str, stdin: int, stderr: int) -> subprocess.Popen[bytes]:
        """Start a command of the device's shell; the caller waits for it."""
        return subprocess.Popen(
            [*self._command, "--", self.address.host, command],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )

    def run(self, command: str, stdin: bytes = b"", timeout: float = 120.0) -> Done:
        """Run a command of the device's shell to its end.

        Raises:
            ConnectionLost: if the connection failed.
            PopsError: if it takes longer than `timeout` seconds.
        """
        process = self.start(command, subprocess.PIPE, subprocess.PIPE)
        try:
            output, errors = process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired as error:
            raise PopsError(
                f"{self.address} did not answer within {timeout:.0f} s; it is overloaded or the "
                "connection is too slow. Try again."
            ) from error
        finally:
            stop(process)
        done = Done(
            process.returncode,
            readable(output[:MAX_OUTPUT_BYTES]),
            readable(errors[:MAX_OUTPUT_BYTES]),
        )
        if done.status == CONNECTION_LOST:
            raise ConnectionLost(explain(self.address, done.errors))
        return done

    def lines(self, command: str, script: bytes, timeout: float) -> Iterator[bytes]:
        """Run a command and yield its output line by line; `finished` tells how it ended.

        One that takes longer than `timeout` seconds or puts out too much is stopped;
        its status is then that of a lost connection.
        """
        self.finished = None
        expired = threading.Event()
        with tempfile.TemporaryFile() as errors:
            process = self.start(command, subprocess.PIPE, errors.fileno())
            source, sink = process.stdout, process.stdin
            assert source is not None
            assert sink is not None

            def expire() -> None:
                expired.set()
                process.kill()

            watchdog = threading.Timer(timeout, expire)
            watchdog.start()
            try:
                with contextlib.suppress(BrokenPipeError):
                    sink.write(script)
                    sink.close()
                total = 0
                for line in iter(lambda: source.readline(MAX_OUTPUT_BYTES), b""):
                    total += len(line)
                    if total > MAX_OUTPUT_BYTES:
                        break
                    yield line
                status = process.wait(30) if total <= MAX_OUTPUT_BYTES else CONNECTION_LOST
            finally:
                watchdog.cancel()
                stop(process)
            errors.seek(0)
            text = readable(errors.read(1 << 20))
        if expired.is_set():
            text = f"it did not finish within {timeout:.0f} s"
        elif total > MAX_OUTPUT_BYTES:
            text = f"it put out more than {MAX_OUTPUT_BYTES >> 20} MiB"
        self.finished = Done(CONNECTION_LOST if expired.is_set() else status, "", text)


def readable(data: bytes) -> str:
    """What a device says as text, without the control characters that a terminal would obey."""
    text = data.decode(errors="replace")
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a local process that may still run, and close its pipes."""
    if process.poll() is None:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


REASONS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the one that is known: it was installed anew, or something stands in "
        "between. If it was installed anew, remove the old key with: ssh-keygen -R {known}",
    ),
    (
        "Host key verification failed",
        "its host key is not known here. Connect once by hand (ssh {hand}) and compare the "
        "fingerprint, or trust it with --accept-new-host-key",
    ),
    (
        "Permission denied",
        "it refused every key that was offered, and passwords are not asked for. Put your public "
        "key there with: ssh-copy-id {hand}",
    ),
    (
        "Too many authentication failures",
        "it refused every key that was offered. Name the right one in ~/.ssh/config with "
        "IdentityFile and IdentitiesOnly",
    ),
    (
        "Could not resolve hostname",
        "there is no host of that name. Check the spelling, or use its IP address",
    ),
    (
        "Connection refused",
        "it is there, but no ssh service listens. Enable it on the device (sudo raspi-config, "
        "Interface Options, SSH), or check the port",
    ),
    (
        "Bad configuration option",
        "your ssh configuration or an old ssh does not accept an option that is needed; OpenSSH "
        "7.6 or newer is expected",
    ),
)


def explain(address: Address, errors: str) -> str:
    """Turn what ssh says into one message: what was found, and what to do."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    for sign, reason in REASONS:
        if sign in errors:
            said = next(line for line in lines if sign in line).strip("@ ")
            advice = reason.format(hand=address.by_hand, known=address.known_as)
            return f"Cannot reach {address}: {advice}. (ssh: {said})"
    last = lines[-1] if lines else "no answer"
    return (
        f"Cannot reach {address}: is it switched on and on this network? (ssh: {last}) "
        f"Try by hand: ssh {address.by_hand}"
    )
