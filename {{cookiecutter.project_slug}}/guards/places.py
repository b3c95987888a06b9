"""Who wrote a file, and the line of the project that a message begins with."""

import gc
import linecache
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any

from guards.settings import settings

# Path() chooses its class by os.name at each call, and a test may patch os.name.
SystemPath = type(Path(__file__))
THESE_FILES = SystemPath(__file__).parent
STANDARD_LIBRARY = sysconfig.get_path("stdlib")
# Such as .venv/bin, which contains the command `pytest`.
COMMANDS = sysconfig.get_path("scripts")


class Whose(Enum):
    """Who wrote a file."""

    OURS = "the project: its package and its tests"
    PYTHON = "the standard library, or the guards"
    LIBRARY = "an installed library"


@dataclass(frozen=True)
class Place:
    """A line of code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        path = SystemPath(self.file)
        if path.is_relative_to(settings.root):
            path = path.relative_to(settings.root)
        return f"{path}:{self.line}"

    def source(self) -> str:
        return linecache.getline(self.file, self.line).strip()

    def shown(self) -> str:
        """Return two lines: the place and the source."""
        return f"  {self}, in {self.function}\n    {self.source()}"


@cache
def whose(file: str) -> Whose:
    path = SystemPath(file)
    if file.startswith("<") or is_guard(file):
        return Whose.PYTHON
    if "site-packages" in path.parts or "dist-packages" in path.parts:
        return Whose.LIBRARY
    if path.is_relative_to(COMMANDS):
        return Whose.LIBRARY
    if path.is_relative_to(STANDARD_LIBRARY):
        return Whose.PYTHON
    if path.is_relative_to(settings.root) or is_in_package(file):
        return Whose.OURS
    return Whose.LIBRARY


def is_guard(file: str) -> bool:
    return SystemPath(file).is_relative_to(THESE_FILES)


@cache
def is_in_package(file: str) -> bool:
    """Say whether a file is code of the watched package, and not one of its tests."""
    path = SystemPath(file)
    for package in settings.packages:
        if path == package:
            return True
        if path.is_relative_to(package):
            inside = path.relative_to(package)
            return not is_test(inside)
    return False


def is_test(path: Path) -> bool:
    name = path.name
    named_like_one = name.startswith("test_") or name.endswith("_test.py")
    in_a_folder = "tests" in path.parts or "test" in path.parts
    return named_like_one or in_a_folder or name == "conftest.py"


def is_ours(code: CodeType) -> bool:
    return whose(code.co_filename) is Whose.OURS


def frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame and all its callers, the innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def place_of(frame: FrameType) -> Place:
    code = frame.f_code
    return Place(code.co_filename, frame.f_lineno, code.co_name)


def our_caller() -> Place | None:
    """Return the line of the project that has led to this call, if there is one."""
    for frame in frames(sys._getframe(1)):
        if is_ours(frame.f_code):
            return place_of(frame)
    return None


def called_by_us() -> bool:
    """Say whether the project makes this call, directly or through Python's own code.

    It is False if an installed library makes the call for its own purposes.
    """
    for frame in frames(sys._getframe(1)):
        author = whose(frame.f_code.co_filename)
        if author is not Whose.PYTHON:
            return author is Whose.OURS
    return False


def our_line_of(error: BaseException) -> Place | None:
    """Return the innermost line of the project in an error's traceback."""
    found = None
    step: TracebackType | None = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if is_ours(code):
            found = Place(code.co_filename, step.tb_lineno, code.co_name)
        step = step.tb_next
    return found


def where_it_waits(awaitable: Any) -> list[Place]:
    """Return the lines at which a coroutine or generator waits, the innermost last."""
    places = []
    while awaitable is not None:
        if type(awaitable).__name__ in ("async_generator_asend", "coroutine_wrapper"):
            # These have no attribute for their generator, but they refer to it.
            awaitable = gc.get_referents(awaitable)[0]
        if hasattr(awaitable, "cr_frame"):
            frame, inner = awaitable.cr_frame, awaitable.cr_await
        elif hasattr(awaitable, "ag_frame"):
            frame, inner = awaitable.ag_frame, awaitable.ag_await
        elif hasattr(awaitable, "gi_frame"):
            frame, inner = awaitable.gi_frame, awaitable.gi_yieldfrom
        else:
            break
        if frame is None:
            break
        places.append(place_of(frame))
        awaitable = inner
    return places


def shown(places: list[Place]) -> str:
    return "\n".join(place.shown() for place in places)


def innermost_of_ours(places: list[Place]) -> Place | None:
    for place in reversed(places):
        if whose(place.file) is Whose.OURS:
            return place
    return None


def format_error(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()
