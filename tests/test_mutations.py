"""The starters' suites test something: break one promise of a program and its suite turns red."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Run, tool

# starter, what is broken, the line of app.py as it is, and as it is broken
MUTATIONS = [
    ("api_client", "no bound on requests in flight", "range(min(concurrency, count))", "range(count)"),
    ("api_client", "no limit for one try", "asyncio.timeout(self.timeout), ", ""),
    ("api_client", "no retry", "attempts=self.attempts, timeout=None", "attempts=1, timeout=None"),
    ("api_client", "no deadline", "asyncio.timeout(deadline), ", ""),
    ("api_client", "no await", "await on_fact(fact)", "on_fact(fact)"),
]


@pytest.mark.parametrize(
    ("starter", "old", "new"),
    [
        pytest.param(starter, old, new, marks=pytest.mark.xdist_group(f"{starter}-auto"), id=f"{starter}: {promise}")
        for starter, promise, old, new in MUTATIONS
    ],
)
def test_a_broken_promise_turns_the_suite_red(
    project: Callable[[str, str], Path], run: Run, starter: str, old: str, new: str
) -> None:
    folder = project(starter, "auto")
    (app,) = folder.glob("src/*/app.py")
    sound = app.read_text(encoding="utf-8")
    assert sound.count(old) == 1, "the mutation no longer fits the program"
    app.write_text(sound.replace(old, new), encoding="utf-8")
    try:
        told = run(folder, tool(folder, "pytest"), "-q", "-x", "--timeout=20", status=1)
    finally:
        app.write_text(sound, encoding="utf-8")
    assert "failed" in told or "error" in told
