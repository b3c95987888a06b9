"""Progress on stderr: a bar on a terminal, log messages elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

log = logging.getLogger(__name__)

LOG_INTERVAL = 10.0  # seconds between log messages, if the total is not known
MIN_LOGGED_STEPS = 20  # with a smaller total, only the end is logged


class Progress:
    """Shows how many items are done, while it is entered as a context manager.

    `what` names the items in the plural. `total` is None if their number is unknown.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self._logged = 0
        self._logged_at = time.monotonic()
        self._bars: Bars | None = None
        if sys.stderr.isatty():
            self._bars = make_bars()
            self._task = self._bars.add_task(what, total=total)

    def advance(self, count: int = 1) -> None:
        """Count `count` more items as done."""
        self.done += count
        if self._bars is not None:
            self._bars.advance(self._task, count)
        elif self._is_time_to_log():
            self._log()

    @contextmanager
    def track(
        self, name: str, total: int | None, done: int = 0
    ) -> Iterator[Callable[[int], None]]:
        """Show a bar for one large item, such as the bytes of a file, during the block.

        Yields a function that counts more of the item as done. Nothing is logged.
        """
        if self._bars is None:
            yield ignore
            return
        bars = self._bars
        from rich.markup import escape

        task = bars.add_task(escape(name), total=total, completed=done)

        def advance(count: int) -> None:
            bars.advance(task, count)

        try:
            yield advance
        finally:
            bars.remove_task(task)

    def _is_time_to_log(self) -> bool:
        if self.total is None:
            return time.monotonic() - self._logged_at >= LOG_INTERVAL
        if self.total < MIN_LOGGED_STEPS:
            return self.done >= self.total > self._logged
        step = self.total // 10
        return self.done // step > self._logged // step

    def _log(self) -> None:
        self._logged = self.done
        self._logged_at = time.monotonic()
        if self.total is None:
            log.info("%d %s", self.done, self.what)
        else:
            log.info("%d of %d %s", self.done, self.total, self.what)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()


def make_bars() -> "Bars":
    """Return progress bars on stderr."""
    # Imported here because only a terminal needs them, and the import takes a while.
    import rich.progress
    from rich.console import Console

    return rich.progress.Progress(
        console=Console(stderr=True),
        # Printed lines go above the bar, unless stdout is a file or a pipe.
        redirect_stdout=sys.stdout.isatty(),
    )


def ignore(count: int) -> None:
    """Count nothing, since there is no bar."""
