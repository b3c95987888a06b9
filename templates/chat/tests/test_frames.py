"""Frames are found and counted in any stream of bytes."""

import pytest

from chat.frames import FrameCounter


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """Return a final frame with an empty mask, as a client sends it."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 2**16:
        length = bytes([0x80 | 126]) + size.to_bytes(2)
    else:
        length = bytes([0x80 | 127]) + size.to_bytes(8)
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


SIZES = [0, 1, 125, 126, 1000, 65_536]


@pytest.mark.parametrize("size", SIZES)
def test_frames_of_any_size_are_counted(size: int) -> None:
    counter = FrameCounter(max_size=100_000)
    assert counter.feed(frame(b"x" * size) * 3) == 3


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_frames_are_counted_however_the_stream_is_cut(step: int) -> None:
    data = b"".join(frame(b"\x81" * size) for size in SIZES[:-1])
    counter = FrameCounter(max_size=100_000)
    counts = [
        counter.feed(data[start : start + step]) for start in range(0, len(data), step)
    ]
    assert sum(counts) == len(SIZES) - 1


def test_an_unmasked_frame_is_counted() -> None:
    assert FrameCounter(max_size=100).feed(b"\x81\x02hi" * 2) == 2


def test_nothing_after_a_frame_that_is_too_large_is_counted() -> None:
    counter = FrameCounter(max_size=60)
    header = b"\x82\xff" + (2**60).to_bytes(8) + bytes(4)
    assert counter.feed(frame(b"x" * 60) + header + frame(b"") * 20) == 2
    assert counter.is_too_large
    assert counter.feed(frame(b"")) == 0
