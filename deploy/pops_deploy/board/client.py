"""BoardClient: requests and replies over a line, one in flight, asked again when none comes."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from pops_deploy.board import protocol
from pops_deploy.board.protocol import Acted, BoardError, Decoder, Frame, Hello, Status
from pops_deploy.board.transport import Transport

Clock = Callable[[], float]


class BoardClient:
    """The computer's end of the protocol.

    A reply that does not come within `timeout` seconds is asked for again, `attempts` times in
    all; the board answers a repeated request from its cache and does nothing twice.
    """

    def __init__(
        self,
        transport: Transport,
        timeout: float = 0.5,
        attempts: int = 20,
        clock: Clock = time.monotonic,
    ) -> None:
        self.transport = transport
        self.decoder = Decoder()
        self.events: list[Frame] = []
        """EVENT frames that the board sent by itself, at most the last hundred."""
        self.repeats = 0
        """Requests that were sent again."""
        self._timeout = timeout
        self._attempts = attempts
        self._clock = clock
        self._session = 0
        self._sequence = 0

    def hello(self) -> Hello:
        """Ask the board who it is.

        Raises:
            BoardError: if nothing answers, or something else does.
        """
        return Hello.parse(self._exchange(Frame(protocol.HELLO, 0, 0)))

    def open(self, session: int, timeout_ms: int) -> None:
        """Start a session (1 .. 65535), the actuator disabled.

        Args:
            session: a number that no session before had; older frames are refused by it.
            timeout_ms: milliseconds without a usable observation that disable the actuator.
        """
        self._session, self._sequence = session, 0
        self._exchange(Frame(protocol.OPEN, session, 0, struct.pack("<I", timeout_ms)))

    def observe(self, observation: bytes) -> Acted:
        """Send one observation, get its action."""
        return Acted.parse(self.request(protocol.OBSERVE, observation))

    def outputs(self, observation: bytes) -> bytes:
        """Send one observation, get the network's raw outputs: float32 values."""
        return self.request(protocol.OUTPUTS, observation)[4:]

    def enable(self, enabled: bool) -> int:
        """Let actions reach the actuator, or no longer; the flags after it."""
        return self.request(protocol.ENABLE, bytes([enabled]))[0]

    def status(self) -> Status:
        """The board's counters."""
        return Status.parse(self.request(protocol.STATUS))

    def request(self, kind: int, payload: bytes = b"") -> bytes:
        """Send the next request of the session; the reply's payload.

        Raises:
            BoardError: if no reply comes, or the board refuses.
        """
        self._sequence = (self._sequence + 1) & 0xFFFF
        return self._exchange(Frame(kind, self._session, self._sequence, payload))

    def _exchange(self, frame: Frame) -> bytes:
        wire = frame.encode()
        for attempt in range(self._attempts):
            self.repeats += attempt > 0
            self.transport.write(wire)
            reply = self._await(frame)
            if reply is not None:
                return reply
        text = bytes(self.decoder.text[-200:]).decode("ascii", "replace").strip()
        raise BoardError(
            f"The board gave no answer to {self._attempts} requests in "
            f"{self._attempts * self._timeout:g} s. Check that it runs this firmware, that the "
            "line is the right one, at 115,200 baud, and reset it."
            + (f" What came from it last: {text!r}" if text else "")
        )

    def _await(self, frame: Frame) -> bytes | None:
        deadline = self._clock() + self._timeout
        while True:
            left = deadline - self._clock()
            if left <= 0:
                return None
            answer: Frame | None = None
            for found in self.decoder.feed(self.transport.read(left)):
                if found.type == protocol.EVENT:
                    self.events = [*self.events[-99:], found]
                elif (found.session, found.sequence) == (frame.session, frame.sequence):
                    answer = found  # any other answers a request that was sent twice
            if answer is None:
                continue
            if answer.type == protocol.ERROR:
                code = answer.payload[0] if answer.payload else 0
                raise BoardError(
                    f"The board refuses: {protocol.ERRORS.get(code, f'error {code}')}."
                )
            if answer.type == frame.type | protocol.REPLY:
                return answer.payload

    def close(self) -> None:
        """Hang up."""
        self.transport.close()
