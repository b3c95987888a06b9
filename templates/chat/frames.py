"""Counts the WebSocket frames of a client, before aiohttp puts them together.

aiohttp passes on whole messages. A client could keep it busy with frames that never
complete a message, such as empty continuation frames. So the rate limit is applied to
frames.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from aiohttp import WSCloseCode

LENGTH_MASK = 0x7F
LONG_LENGTHS = {126: 2, 127: 8}  # bytes of the length that follows, by the short length
MASKED = 0x80
MASK_SIZE = 4


class FrameCounter:
    """Finds the beginning of each frame in a stream of bytes."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self.is_too_large = False  # a frame was; what follows it is not looked at
        self._header = bytearray()
        self._payload_left = 0

    def feed(self, data: bytes) -> int:
        """Return the number of frames whose headers end in these bytes."""
        frames = 0
        position = 0
        while position < len(data) and not self.is_too_large:
            if self._payload_left > 0:
                skipped = min(self._payload_left, len(data) - position)
                self._payload_left -= skipped
                position += skipped
                continue
            self._header.append(data[position])
            position += 1
            if self._is_header_complete():
                frames += 1
                self._payload_left = self._length()
                self.is_too_large = self._payload_left > self._max_size
                self._header.clear()
        return frames

    def _is_header_complete(self) -> bool:
        if len(self._header) < 2:
            return False
        size = 2 + LONG_LENGTHS.get(self._header[1] & LENGTH_MASK, 0)
        if self._header[1] & MASKED:
            size += MASK_SIZE
        return len(self._header) == size

    def _length(self) -> int:
        short_length = self._header[1] & LENGTH_MASK
        if short_length not in LONG_LENGTHS:
            return short_length
        return int.from_bytes(self._header[2 : 2 + LONG_LENGTHS[short_length]])


class RateLimiter(asyncio.Protocol):
    """Counts the frames that a transport passes on to its protocol.

    Calls `on_excess` with a close code and a reason when more than `rate` frames have
    arrived within one second, or when a frame is larger than `max_size` bytes.
    """

    def __init__(
        self,
        protocol: asyncio.Protocol,
        *,
        rate: int,
        max_size: int,
        on_excess: Callable[[int, str], None],
    ) -> None:
        self._protocol = protocol
        self._rate = rate
        self._on_excess = on_excess
        self._frames = FrameCounter(max_size)
        # When the last frames arrived: one more than are allowed in a second. The limit
        # may be a huge number, but then no list of that size is allocated.
        self._arrivals: deque[float] = deque(maxlen=rate + 1)

    def data_received(self, data: bytes) -> None:
        """Count the frames in the data, and pass it on."""
        now = asyncio.get_running_loop().time()
        for _ in range(self._frames.feed(data)):
            self._arrivals.append(now)
        if self._frames.is_too_large:
            self._on_excess(WSCloseCode.MESSAGE_TOO_BIG, "the message is too large")
        elif len(self._arrivals) > self._rate and now - self._arrivals[0] < 1:
            self._on_excess(WSCloseCode.POLICY_VIOLATION, "too many messages")
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass it on."""
        return self._protocol.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """Pass it on."""
        self._protocol.connection_lost(error)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._protocol.resume_writing()
