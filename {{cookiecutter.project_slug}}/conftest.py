"""The guards: rules for every test, so that wrong async code fails the test.

This file connects the guards to pytest; each rule has its own module in guards/. The
README, "The guards", says which bug each one finds and how a test opts out. Delete this
file and guards/ to go back to plain pytest-asyncio.
"""

import gc
import inspect
import threading
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest

from guards import (
    blocking,
    cancellation,
    clock,
    loops,
    mocks,
    resources,
    settings,
    tasks,
    threads,
)
from guards.record import Record, owner
from guards.watchdog import Watch, Watchdog

BLOCKING_CALLS = pytest.StashKey[blocking.BlockingCalls]()
PATCH = pytest.StashKey[pytest.MonkeyPatch]()


def pytest_addoption(
    parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager
) -> None:
    settings.add_options(parser, has_timeout=pluginmanager.has_plugin("timeout"))


def pytest_configure(config: pytest.Config) -> None:
    settings.add_markers(config)
    settings.settings.read(config)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start to watch threads, loops, mocks and blocking calls."""
    watchdog = Watchdog()
    watchdog.start()
    session.config.add_cleanup(watchdog.stop)
    blocking_calls = blocking.BlockingCalls()
    session.config.add_cleanup(blocking_calls.stop)
    session.config.stash[BLOCKING_CALLS] = blocking_calls
    patch = pytest.MonkeyPatch()
    session.config.add_cleanup(patch.undo)
    loops.install(patch)
    mocks.install(patch)
    resources.install(patch)
    threads.install(patch)
    session.config.stash[PATCH] = patch


def pytest_collection_finish(session: pytest.Session) -> None:
    resources.note_lines_of_clients(session.config.stash[PATCH])
    # Imported modules stay in memory, so the garbage collections after the tests need
    # not look at them.
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    clock.add_seeds(metafunc)


def pytest_enter_pdb() -> None:
    Watch.in_pdb = True


# --- One test, from its setup to the verdict


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    Record.current = Record(item, resources.collections())
    item.config.stash[BLOCKING_CALLS].watch(Record.current)
    yield


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any],
) -> Generator[None, object, object]:
    """Let tasks and threads belong to the fixture that has started them.

    This is for a fixture of a wider scope. Otherwise they would belong to the first
    test that uses it.
    """
    if fixturedef.scope == "function":
        return (yield)
    token = owner.set(None)
    try:
        return (yield)
    finally:
        owner.reset(token)


@pytest.fixture(autouse=True)
def guards() -> Generator[None]:
    """Watch a test: set up before its other fixtures and torn down after them."""
    record = Record.current
    assert record is not None
    threads_before = set(threading.enumerate())
    signal_handlers = threads.signal_handlers()
    token = owner.set(record)
    yield
    owner.reset(token)
    loops.look_into_open_loops(record)
    threads.report_threads(record, threads_before)
    threads.restore_signal_handlers(record, signal_handlers)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call() -> Generator[None]:
    record = Record.current
    assert record is not None
    record.is_in_call = True
    try:
        yield
    finally:
        record.is_in_call = False
    record.judge()


def pytest_fixture_post_finalizer(fixturedef: pytest.FixtureDef[Any]) -> None:
    """Report a fixture whose value is a coroutine that no test has awaited."""
    cached = fixturedef.cached_result
    if cached is not None and inspect.iscoroutine(cached[0]):
        resources.report_if_never_awaited(cached[0])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None]:
    record = Record.current
    assert record is not None
    try:
        yield
    finally:
        # The values of the fixtures are no longer needed. What they have left open must
        # be reported for this test, not for the next one.
        getattr(item, "funcargs", {}).clear()
        tasks.report_failed_tasks(record)
        # Fixtures of a wider scope may have been torn down too.
        is_last_in_parent = nextitem is None or nextitem.parent is not item.parent
        resources.collect_garbage(record.collections, everything=is_last_in_parent)
    record.judge()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[
    None, pytest.TestReport, pytest.TestReport
]:
    report = yield
    if Record.current is not None:
        Record.current.note_report(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    result = yield
    Record.current = None
    return result


# --- The output of pytest


def pytest_report_teststatus(
    report: pytest.TestReport,
) -> tuple[str, str, str] | None:
    """Count a test once, after the verdict of the guards."""
    verdict = getattr(report, "guards", None)
    if verdict == "held back":
        return "", "", ""
    if verdict == "passed":
        return "passed", ".", "PASSED"
    if verdict == "failed":
        return "failed", "F", "FAILED"
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not settings.settings.packages:
        terminalreporter.write_line(
            "guards: no package found to watch for blocking calls; "
            "set guards_packages in pytest's configuration"
        )


@pytest.fixture
def cancel_everywhere() -> Callable[..., Awaitable[int]]:
    """The function `guards.cancellation.cancel_everywhere`."""
    return cancellation.cancel_everywhere
