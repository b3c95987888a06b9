"""The observations of the guards during one test, and the verdict."""

import asyncio
import threading
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import ReferenceType, WeakKeyDictionary

import pytest

from guards.places import Place, format_error, our_caller, our_line_of
from guards.settings import settings


@dataclass
class Problem:
    """One thing that is wrong."""

    what: str
    # The line of the project that causes the problem, if it is known, and the verb for
    # what happened there.
    place: Place | None = None
    happened: str = ""
    details: str = ""
    # It is formatted only for the verdict: an error may occur in the middle of a
    # garbage collection, where it is dangerous to run much code.
    error: BaseException | None = None

    def text(self, test: Place) -> str:
        """Return the message, which begins with the place of a line of the project."""
        place = self.place
        if place is None and self.error is not None:
            place = our_line_of(self.error)
        if place is None:
            lines = [f"{test}: {self.what}, during this test"]
        else:
            what = self.what
            if self.happened:
                what += f", {self.happened} here"
            lines = [f"{place}: {what}", f"    {place.source()}"]
        if self.details:
            lines.append(self.details)
        if self.error is not None:
            lines.append(format_error(self.error))
        return "\n".join(lines)


@dataclass(frozen=True)
class Origin:
    """The place where a task or timer was created, or a generator started."""

    place: Place | None
    # Whether the project itself did it, and not a library.
    by_us: bool
    loop_id: int


@dataclass(frozen=True)
class StartedGenerator:
    """An async generator. The reference is weak, so it does not keep it alive."""

    reference: ReferenceType[Any]
    origin: Origin


class Record:
    """The observations of the guards during one test."""

    # The record of the current test. It is global because the guards are called from
    # other code, which cannot pass it on.
    current: ClassVar["Record | None"] = None

    def __init__(self, item: pytest.Item, collections: list[int]) -> None:
        self.item = item
        # How often each generation of objects had been collected when the test began.
        self.collections = collections
        self.problems: list[Problem] = []
        # Whether the test has failed or was skipped. If so, that is the reason for what
        # it leaves over.
        self.has_ended_otherwise = False
        self.has_failed_it = False
        self.is_in_call = False
        # Whether the guards are cancelling tasks that the test has left.
        self.is_cleaned_up = False
        self.blocking_lines: set[Place] = set()
        self.tasks: WeakKeyDictionary[Any, Origin] = WeakKeyDictionary()
        self.timers: WeakKeyDictionary[Any, Origin] = WeakKeyDictionary()
        # By the id of the generator: when a generator is dropped, Python clears the
        # weak references to it before it calls the hook.
        self.generators: dict[int, StartedGenerator] = {}
        self.reported_generators: set[int] = set()

    def allows(self, opt_out: str) -> bool:
        if opt_out in settings.allowed:
            return True
        return self.item.get_closest_marker(opt_out) is not None

    def add(self, problem: Problem) -> None:
        """Record a problem, once for each line of the project."""
        if problem.place is not None:
            for known in self.problems:
                if (known.place, known.what) == (problem.place, problem.what):
                    return
        self.problems.append(problem)

    def judge(self) -> None:
        """Fail the test if there were problems, unless it has failed by itself."""
        messages = self.messages()
        self.problems = []
        if messages and not self.has_ended_otherwise:
            self.has_failed_it = True
            pytest.fail("\n".join(messages), pytrace=False)

    def messages(self) -> list[str]:
        test = self.place()
        return [problem.text(test) for problem in self.problems]

    def place(self) -> Place:
        """Return the first line of the test."""
        # pytest has computed `location` before the test; `reportinfo` would compute it
        # again.
        _file, line, name = self.item.location
        if line is None:
            line = 0
        return Place(str(self.item.path), line + 1, name)

    def note_report(self, report: pytest.TestReport) -> None:
        """Hold a passed test back until its fixtures have been torn down.

        Only then do the guards know whether it has left something behind. The test is
        counted once, as passed or as failed, when its teardown is reported.
        """
        passed = report.outcome == "passed" and not hasattr(report, "wasxfail")
        if report.when == "call" and passed:
            report.guards = "held back"  # type: ignore[attr-defined]
        if report.when == "teardown" and not self.has_ended_otherwise:
            if passed:
                report.guards = "passed"  # type: ignore[attr-defined]
            elif self.has_failed_it:
                report.guards = "failed"  # type: ignore[attr-defined]
        if not passed:
            self.has_ended_otherwise = True


# The test to which the running code belongs. It is set for the whole test, and its
# tasks inherit it. It is None during the setup of a fixture of a wider scope and in all
# tasks that such a fixture has started, because these belong to no test.
owner: ContextVar[Record | None] = ContextVar("owner")
# A thread inherits no context, so this maps it to its owner.
thread_owners: WeakKeyDictionary[threading.Thread, Record | None] = WeakKeyDictionary()


def current_owner() -> Record | None:
    """Return the record of the test that the running code belongs to."""
    of_the_thread = thread_owners.get(threading.current_thread(), Record.current)
    return owner.get(of_the_thread)


def our_line() -> Place | None:
    """Return the line of the project that has led to this call, if there is one.

    In a task that a library has created, it is the line that led to the task.
    """
    place = our_caller()
    record = current_owner()
    if place is None and record is not None:
        try:
            task = asyncio.current_task()
        except RuntimeError:
            # No loop runs in this thread.
            return None
        if task in record.tasks:
            return record.tasks[task].place
    return place
