"""Progress on stderr: a bar on a terminal, log messages elsewhere."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

import rich.progress
from rich.console import Console

log = logging.getLogger(__name__)

LOG_INTERVAL = 10.0  # seconds between log messages, if the total is not known


class Progress:
    """Shows how many items are done, while it is entered as a context manager.

    `what` names the items in the plural. `total` is None if nobody knows how many there
    will be.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self._logged = 0
        self._logged_at = time.monotonic()
        self._bar = rich.progress.Progress(
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            # Printed lines go above the bar, unless stdout is a file or a pipe.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._bar.add_task(what, total=total)

    def advance(self, count: int = 1) -> None:
        """Count `count` more items as done."""
        self.done += count
        self._bar.advance(self._task, count)
        if self._bar.disable and self._is_time_to_log():
            self._log()

    def _is_time_to_log(self) -> bool:
        if self.total is None:
            return time.monotonic() - self._logged_at >= LOG_INTERVAL
        step = max(1, self.total // 10)
        return self.done // step > self._logged // step

    def _log(self) -> None:
        self._logged = self.done
        self._logged_at = time.monotonic()
        if self.total is None:
            log.info("%d %s", self.done, self.what)
        else:
            log.info("%d of %d %s", self.done, self.total, self.what)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()
