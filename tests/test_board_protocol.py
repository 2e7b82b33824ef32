"""The protocol from the computer's side, against the firmware's own C and against bad boards."""

from __future__ import annotations

import ctypes
import random
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pops_deploy.board import protocol
from pops_deploy.board.build import firmware_source
from pops_deploy.board.client import BoardClient
from pops_deploy.board.protocol import BoardError, Decoder, Frame, Hello, decode_frame


class Header(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_uint8),
        ("session", ctypes.c_uint16),
        ("sequence", ctypes.c_uint16),
    ]


@pytest.fixture(scope="module")
def frame_c(tmp_path_factory: pytest.TempPathFactory) -> Any:
    library = tmp_path_factory.mktemp("frame") / "frame.so"
    source = firmware_source() / "app" / "frame.c"
    subprocess.run(["gcc", "-std=c99", "-shared", "-fPIC", source, "-o", library], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.frame_encode.argtypes = [ctypes.c_char_p, Header, ctypes.c_char_p, ctypes.c_uint16]
    loaded.frame_encode.restype = ctypes.c_uint16
    return loaded


@given(data=st.binary(max_size=1000))
def test_cobs_comes_back_and_holds_no_zero(data: bytes) -> None:
    wire = protocol.cobs_encode(data)
    assert 0 not in wire
    assert len(wire) <= len(data) + 1 + len(data) // 254
    assert protocol.cobs_decode(wire) == data


def test_both_sides_encode_the_same_bytes(frame_c: Any) -> None:
    draw = random.Random(0)
    for length in [*range(0, 600, 7), 244, 245, 246, 247, 248, 500]:
        zeros = draw.random()
        payload = bytes(0 if draw.random() < zeros else draw.randrange(256) for _ in range(length))
        frame = Frame(draw.randrange(256), draw.randrange(65536), draw.randrange(65536), payload)
        wire = ctypes.create_string_buffer(2000)
        header = Header(frame.type, frame.session, frame.sequence)
        n = frame_c.frame_encode(wire, header, payload, length)
        assert wire.raw[:n] == frame.encode()
        assert decode_frame(wire.raw[1 : n - 1]) == frame


@given(noise=st.binary(max_size=200))
def test_noise_is_no_frame(noise: bytes) -> None:
    decoder = Decoder()
    assert decoder.feed(noise + b"\0") == []
    frame = Frame(protocol.HELLO, 1, 2, b"abc")
    assert decoder.feed(b"text" + frame.encode()) == [frame]


def test_every_flipped_bit_is_found() -> None:
    wire = Frame(protocol.OBSERVE, 7, 9, bytes(range(16))).encode()[1:-1]
    for bit in range(8 * len(wire)):
        damaged = bytearray(wire)
        damaged[bit // 8] ^= 1 << bit % 8
        assert all(decode_frame(part) is None for part in bytes(damaged).split(b"\0"))


def test_an_endless_line_without_delimiters_is_not_kept() -> None:
    decoder = Decoder()
    for _ in range(100):
        decoder.feed(b"x" * 10_000)
    assert len(decoder.text) <= protocol.MAX_FRAME
    frame = Frame(protocol.HELLO, 1, 2)
    assert decoder.feed(frame.encode()) == [frame]


def test_a_hello_is_read_or_refused() -> None:
    head = struct.pack("<HHHBBIIBBH", 4, 2, 1, 0, 4, 20000, 16_000_000, 1, 1, 0)
    payload = head + b"\x40" + b"ab" * 32 + b"\x04fake" + b"\x030.1"
    hello = Hello.parse(payload)
    assert (hello.policy_id, hello.board, hello.build) == ("ab" * 32, "fake", "0.1")
    assert (hello.period_us, hello.timer_hz, hello.flags) == (20000, 16_000_000, 1)
    for broken in (payload[:-1], payload + b"x", payload[:10], b"", head + b"\x40"):
        with pytest.raises(BoardError, match="HELLO cannot be read"):
            Hello.parse(broken)


class Script:
    """A line whose other end answers each request with what a function returns."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.sent, self.pending, self.now = answer, [], b"", 0.0

    def read(self, timeout: float) -> bytes:
        data, self.pending = self.pending, b""
        self.now += 0.0 if data else timeout
        return data

    def write(self, data: bytes) -> None:
        frame = decode_frame(data[1:-1])
        assert frame is not None
        self.sent.append(frame)
        self.pending += self.answer(frame, len(self.sent))

    def close(self) -> None:
        pass

    def clock(self) -> float:
        return self.now


def client(answer: Any, attempts: int = 20) -> tuple[BoardClient, Script]:
    line = Script(answer)
    return BoardClient(line, timeout=0.5, attempts=attempts, clock=line.clock), line


def reply(frame: Frame, payload: bytes = b"") -> bytes:
    return Frame(frame.type | protocol.REPLY, frame.session, frame.sequence, payload).encode()


def test_a_lost_reply_is_asked_for_again_with_the_same_number() -> None:
    board, line = client(lambda frame, n: b"" if n in (2, 3) else reply(frame, b"\x01"))
    board.open(5, 100)
    assert board.enable(True) == 1
    assert [frame.sequence for frame in line.sent] == [0, 1, 1, 1]
    assert board.repeats == 2


def test_a_late_reply_is_not_taken_for_the_next_ones() -> None:
    def answer(frame: Frame, n: int) -> bytes:
        if frame.type == protocol.OPEN:
            return reply(frame)
        stale = Frame(protocol.ENABLE | protocol.REPLY, 5, frame.sequence - 1, b"\x09").encode()
        other = Frame(protocol.ENABLE | protocol.REPLY, 6, frame.sequence, b"\x08").encode()
        return stale + other + b"noise" + reply(frame, bytes([frame.sequence]))

    board, _ = client(answer)
    board.open(5, 100)
    assert [board.enable(True) for _ in range(3)] == [1, 2, 3]


def test_events_are_kept_aside() -> None:
    event = Frame(protocol.EVENT, 5, 0, struct.pack("<B3xI", 1, 1234))
    board, _ = client(lambda frame, n: event.encode() + reply(frame, b"\x00") + event.encode())
    board.open(5, 100)
    assert board.enable(False) == 0
    assert board.events == [event] * 4


@pytest.mark.parametrize("code", protocol.ERRORS)
def test_refusals_are_said_in_words(code: int) -> None:
    def answer(frame: Frame, n: int) -> bytes:
        return Frame(protocol.ERROR, frame.session, frame.sequence, bytes([code])).encode()

    board, _ = client(answer)
    with pytest.raises(BoardError, match=protocol.ERRORS[code]):
        board.open(5, 100)


def test_silence_is_an_error_that_quotes_what_came() -> None:
    board, line = client(lambda frame, n: b"hello from another firmware\r\n\0", attempts=4)
    with pytest.raises(BoardError, match=r"no answer to 4 requests in 2 s.*another firmware"):
        board.hello()
    assert len(line.sent) == 4


def test_another_version_is_no_frame() -> None:
    body = protocol.HEADER.pack(2, 1, 0, 0, 0)
    wire = protocol.cobs_encode(body + struct.pack("<I", zlib.crc32(body)))
    assert decode_frame(wire) is None


def test_a_missing_serial_device_is_named(tmp_path: Path) -> None:
    from pops_deploy.board.transport import open_serial

    with pytest.raises(BoardError, match=r"no serial device .*ttyNONE.*qemu-microbit"):
        open_serial(str(tmp_path / "ttyNONE"))
