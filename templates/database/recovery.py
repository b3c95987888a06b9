"""Go on after an outage: repeat what failed while the database was not available."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .errors import UnavailableError

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.1  # seconds
MAX_PAUSE = 2.0  # seconds


class Recovery:
    """Repeats operations of all workers while the database is not available.

    Each may be repeated for up to `patience` seconds. An outage is logged once, and so
    is its end, however many workers it concerns.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._outage = False

    async def call(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Return what the operation returns, repeating it if necessary.

        It must be safe to repeat. Raises the UnavailableError of the last attempt when
        the patience is exhausted, and any other error at once.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.patience
        failures = 0
        while True:
            try:
                result = await operation()
            except UnavailableError as error:
                failures += 1
                pause = backoff(failures)
                if loop.time() + pause > deadline:
                    raise
                self._report_outage(error)
            else:
                self._report_recovery()
                return result
            await asyncio.sleep(pause)

    def _report_outage(self, error: UnavailableError) -> None:
        if not self._outage:
            self._outage = True
            log.warning("trying again for up to %g s: %s", self.patience, error)

    def _report_recovery(self) -> None:
        if self._outage:
            self._outage = False
            log.info("the database is available again")


def backoff(failures: int) -> float:
    """Return the seconds to wait after this number of failures in a row.

    The pause doubles each time. A random part keeps the workers from coming back at the
    same moment.
    """
    longest = min(MAX_PAUSE, FIRST_PAUSE * 2.0 ** min(failures, 100))
    return random.uniform(longest / 2, longest)  # noqa: S311 - no secret
