"""Retries: repeat what failed while the database was not available."""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .errors import UnavailableError

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.1  # seconds
MAX_PAUSE = 2.0  # seconds
WARNING_INTERVAL = 10.0  # seconds


class Recovery:
    """Retries the operations of all workers while the database is not available.

    Each is retried for up to `reconnect_timeout` seconds. During an outage there is a
    warning every WARNING_INTERVAL seconds, for all workers together.
    """

    def __init__(self, reconnect_timeout: float) -> None:
        self.reconnect_timeout = reconnect_timeout
        self._warned_at = -math.inf

    async def call(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Return what the operation returns, after retries if necessary.

        It must be safe to repeat. Raises the UnavailableError of the last attempt when
        the time limit is reached, and any other error at once.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.reconnect_timeout
        failures = 0
        while True:
            try:
                return await operation()
            except UnavailableError as error:
                failures += 1
                pause = backoff(failures)
                if loop.time() + pause > deadline:
                    raise
                self._warn(error)
            await asyncio.sleep(pause)

    def _warn(self, error: UnavailableError) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._warned_at >= WARNING_INTERVAL:
            self._warned_at = now
            log.warning(
                "trying again for up to %g s: %s", self.reconnect_timeout, error
            )


def backoff(failures: int) -> float:
    """Return the seconds to wait after this number of failures in a row.

    The pause doubles each time. A random part keeps the workers from coming back at the
    same moment.
    """
    longest = min(MAX_PAUSE, FIRST_PAUSE * 2.0 ** min(failures, 100))
    return random.uniform(longest / 2, longest)  # noqa: S311 - no secret
