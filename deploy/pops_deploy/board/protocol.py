"""The serial protocol of firmware_demo: frames (COBS, CRC-32) and what their payloads mean.

The authority is firmware_demo/app/frame.h and link.h; both sides are tested against each other.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from pops.errors import PopsError

VERSION = 1
HEADER = struct.Struct("<BBHHH")
MAX_FRAME = 70_000
"""Bytes between two delimiters after which a line is talking about something else."""

HELLO, OPEN, OBSERVE, ENABLE, STATUS, OUTPUTS = 1, 2, 3, 4, 5, 6
REPLY = 0x80
ERROR = 0xFE
EVENT = 0xFF

FLAG_ENABLED, FLAG_TIMED_OUT, FLAG_STOPPED = 1, 2, 4
EVENT_TIMEOUT = 1

ERRORS = {
    1: "it speaks another protocol version",
    2: "it does not know the request",
    3: "the payload's length does not fit the request",
    4: "the session is not the open one",
    5: "the sequence number is neither the next nor the last one",
    6: "the actuator's time-out must be 1 to 10,000 ms",
    7: "its self-test failed and it has stopped",
}
POLICY_STATUS = ("ok", "out of range", "not finite", "bad argument", "self-test failed")


class BoardError(PopsError):
    """A board does not answer, or not as the protocol says."""


@dataclass(frozen=True)
class Frame:
    """One frame, decoded and checked."""

    type: int
    session: int
    sequence: int
    payload: bytes = b""
    version: int = VERSION

    def encode(self) -> bytes:
        """The bytes on the wire, a delimiter at both ends."""
        body = HEADER.pack(self.version, self.type, self.session, self.sequence, len(self.payload))
        body += self.payload
        body += struct.pack("<I", zlib.crc32(body))
        return b"\0" + cobs_encode(body) + b"\0"


def cobs_encode(data: bytes) -> bytes:
    """Consistent overhead byte stuffing (Cheshire and Baker 1999): no zero in the result."""
    result = bytearray()
    for run in data.split(b"\0"):
        while len(run) >= 254:
            result += b"\xff" + run[:254]
            run = run[254:]
        result += bytes([len(run) + 1]) + run
    return bytes(result)


def cobs_decode(data: bytes) -> bytes | None:
    """Undo `cobs_encode`; None if `data` is no such encoding."""
    result = bytearray()
    at = 0
    while at < len(data):
        code = data[at]
        block = data[at + 1 : at + code]
        if code == 0 or len(block) != code - 1:
            return None
        result += block
        at += code
        if code != 0xFF and at < len(data):
            result.append(0)
    return bytes(result)


def decode_frame(wire: bytes) -> Frame | None:
    """What stood between two delimiters as a frame; None if it was something else."""
    body = cobs_decode(wire)
    if body is None or len(body) < HEADER.size + 4:
        return None
    (crc,) = struct.unpack("<I", body[-4:])
    if zlib.crc32(body[:-4]) != crc:
        return None
    version, kind, session, sequence, length = HEADER.unpack_from(body)
    payload = body[HEADER.size : -4]
    if version != VERSION or length != len(payload):
        return None
    return Frame(kind, session, sequence, payload)


class Decoder:
    """Frames out of a stream of bytes; what lies between them is kept as text."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self.text = bytearray()
        """What came outside of frames: the firmware's telemetry, or noise."""

    def feed(self, data: bytes) -> list[Frame]:
        """Take received bytes; the frames that they complete."""
        frames = []
        *ended, rest = data.split(b"\0")
        for part in ended:
            self._pending += part
            frame = decode_frame(bytes(self._pending)) if self._pending else None
            if frame is None:
                self.text += self._pending
            else:
                frames.append(frame)
            self._pending.clear()
        self._pending += rest
        if len(self._pending) > MAX_FRAME:
            self.text += self._pending
            self._pending.clear()
        del self.text[:-MAX_FRAME]
        return frames


@dataclass(frozen=True)
class Hello:
    """Who a board is."""

    observation_size: int
    output_size: int
    action_size: int
    continuous: bool
    value_bytes: int
    """Bytes of one value of an observation: 4 for float32, 1 for uint8."""
    period_us: int
    """Of the control loop, in microseconds."""
    timer_hz: int
    """Ticks a second of the timings that the board reports."""
    flags: int
    policy_id: str
    board: str
    build: str

    @classmethod
    def parse(cls, payload: bytes) -> Hello:
        """Read a HELLO frame's payload.

        Raises:
            BoardError: if it is not one of this version.
        """
        try:
            fields = struct.unpack_from("<HHHBBIIBBH", payload)
            texts, at = [], 20
            for _ in range(3):
                size = payload[at]
                texts.append(payload[at + 1 : at + 1 + size].decode("ascii"))
                at += 1 + size
            if at != len(payload) or not fields[6] or not fields[5]:
                raise ValueError(f"{len(payload)} bytes")
        except (struct.error, IndexError, ValueError) as error:
            raise BoardError(
                f"The board's HELLO cannot be read ({error}); expected that of protocol version "
                f"{VERSION}. Flash the firmware of this version of pops."
            ) from error
        return cls(
            observation_size=fields[0],
            output_size=fields[1],
            action_size=fields[2],
            continuous=bool(fields[3]),
            value_bytes=fields[4],
            period_us=fields[5],
            timer_hz=fields[6],
            flags=fields[7],
            policy_id=texts[0],
            board=texts[1],
            build=texts[2],
        )


@dataclass(frozen=True)
class Acted:
    """What the board answered to an observation."""

    status: int
    """The policy's status: an index into POLICY_STATUS."""
    flags: int
    missed: int
    """Control steps so far that did not end within their period."""
    inference: int
    """Timer ticks that the policy took."""
    longest: int
    """The most that it has taken since reset."""
    action: bytes
    """int32 or float32 values."""

    @classmethod
    def parse(cls, payload: bytes) -> Acted:
        """Read the payload of a reply to OBSERVE."""
        if len(payload) < 16:
            raise BoardError(f"The board answered {len(payload)} bytes, expected 16 or more.")
        status, flags, missed, inference, longest = struct.unpack_from("<BBHII", payload)
        return cls(status, flags, missed, inference, longest, payload[12:])


@dataclass(frozen=True)
class Status:
    """The board's counters."""

    flags: int
    steps: int
    missed: int
    longest: int
    boot: int
    """Timer ticks from the timer's start to the first control tick."""
    damaged: int
    """Frames that were noise."""
    refused: int
    """Frames that were intact and got an error."""
    stack_free: int
    """Bytes of the stack that were never used."""

    @classmethod
    def parse(cls, payload: bytes) -> Status:
        """Read the payload of a reply to STATUS."""
        if len(payload) != 32:
            raise BoardError(f"The board answered {len(payload)} bytes, expected 32.")
        return cls(*struct.unpack("<B3x7I", payload))
