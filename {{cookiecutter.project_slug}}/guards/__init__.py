"""What the guards share: the record of the test that runs, and where a task waits.

Begin with conftest.py in the folder above.
"""

import asyncio
import gc
import traceback
from types import AsyncGeneratorType
from typing import Any, ClassVar
from weakref import WeakSet

import pytest

Task = asyncio.Task[Any]


class Record:
    """What the guards saw while one test ran."""

    current: ClassVar["Record | None"] = None  # of the test that runs

    def __init__(self, item: pytest.Item) -> None:
        self.item, self.failures = item, item.session.testsfailed
        self.problems = list[str]()
        self.tasks, self.generators = (
            WeakSet[Task](),
            list[AsyncGeneratorType[Any, Any]](),
        )

    def allows(self, marker: str) -> bool:
        return self.item.get_closest_marker(marker) is not None

    def add(self, opt_out: str, problem: str) -> None:
        if not self.allows(opt_out):
            self.problems.append(problem)

    def judge(self) -> None:
        """Fail the test, unless it has failed already: that may be the cause."""
        if self.problems and self.item.session.testsfailed == self.failures:
            pytest.fail(
                "\n".join([f"guards of {self.item.nodeid}:", *self.problems]), False
            )


async def unfinished(tasks: WeakSet[Task]) -> set[Task]:
    """Return those that still run, after a moment to end in."""
    left = {task for task in tasks if not task.done()} - {asyncio.current_task()}
    return (await asyncio.wait(left, timeout=0.05))[1] if left else left


def where(waits: Any) -> str:
    """Return the lines at which a task or coroutine waits, the innermost last."""
    name, frames = "", list[tuple[Any, int]]()
    if isinstance(waits, asyncio.Task):
        name, waits = f"{waits.get_name()}\n", waits.get_coro()
    while waits is not None:
        if type(waits).__name__ in ("async_generator_asend", "coroutine_wrapper"):
            waits = gc.get_referents(waits)[0]  # it does not say itself whose it is
        kind = next(
            (kind for kind in ("cr", "ag", "gi") if hasattr(waits, f"{kind}_frame")), ""
        )
        if not (frame := getattr(waits, f"{kind}_frame", None)):
            break
        frames.append((frame, frame.f_lineno))
        waits = getattr(waits, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
    return name + "".join(traceback.StackSummary.extract(iter(frames)).format())
