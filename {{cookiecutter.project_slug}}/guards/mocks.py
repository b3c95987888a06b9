"""Mocks without a spec, which accept misspelt names and any arguments."""

import sys
from typing import Any
from unittest.mock import NonCallableMock

import pytest

from guards.places import frames, is_ours, place_of
from guards.record import Record

plain_init: Any = NonCallableMock.__init__
ADVICE = (
    "use create_autospec(X), autospec=True or mocker.async_stub(), "
    "or mark the test with bare_mocks"
)


def install(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(NonCallableMock, "__init__", init)


def init(
    self: Any,
    spec: Any = None,
    wraps: Any = None,
    name: Any = None,
    spec_set: Any = None,
    *more: Any,
    **options: Any,
) -> None:
    """Create the mock, or fail the test if the mock has no spec."""
    __tracebackhide__ = True
    has_spec = spec is not None or spec_set is not None or wraps is not None
    record = Record.current
    if not has_spec and record is not None and not record.allows("bare_mocks"):
        fail_if_ours()
    plain_init(self, spec, wraps, name, spec_set, *more, **options)


def fail_if_ours() -> None:
    """Fail the test if the project's own code creates the mock."""
    __tracebackhide__ = True
    for frame in frames(sys._getframe(2)):
        # The constructors of the mock's own classes come first.
        if frame.f_code.co_name != "__init__":
            if is_ours(frame.f_code):
                place = place_of(frame)
                what = f"{place}: a mock without a spec\n    {place.source()}"
                pytest.fail(f"{what}\n  {ADVICE}", pytrace=False)
            return
