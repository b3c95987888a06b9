"""Blocking calls in threads, in logging and in imports are allowed."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest

SLOW_MODULE = """
import time

end = time.thread_time() + 0.7
while time.thread_time() < end:
    pass
"""

log = logging.getLogger(__name__)


async def log_something() -> None:
    log.warning("logged on the loop, by the package")


async def sleep_in_a_thread() -> None:
    await asyncio.to_thread(time.sleep, 0.01)


async def import_something() -> None:
    import_module("xmlrpc.server")
    import_module("slow_to_import")


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    handler = logging.FileHandler(tmp_path / "log", encoding="utf-8")
    logging.getLogger().addHandler(handler)
    yield tmp_path / "log"
    logging.getLogger().removeHandler(handler)
    handler.close()


@pytest.mark.asyncio
async def test_a_blocking_call_in_a_thread() -> None:
    await import_module("app.planted").sleep_in_a_thread()


@pytest.mark.asyncio
async def test_a_log_file(log_file: Path) -> None:
    await import_module("app.planted").log_something()
    assert "on the loop" in log_file.read_text(encoding="utf-8")


@pytest.mark.asyncio
async def test_an_import_in_a_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_to_import.py").write_text(SLOW_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    await import_module("app.planted").import_something()


@pytest.mark.asyncio
async def test_an_executor_that_is_shut_down() -> None:
    with ThreadPoolExecutor(2) as pool:
        assert await asyncio.get_running_loop().run_in_executor(pool, len, "four") == 4


@pytest.mark.asyncio
async def test_a_slow_thread_beside_the_loop() -> None:
    def spin() -> None:
        end = time.monotonic() + 0.8
        while time.monotonic() < end:
            pass

    await asyncio.gather(asyncio.to_thread(spin), asyncio.to_thread(spin))


def test_a_thread_in_a_sync_test() -> None:
    thread = threading.Thread(target=time.sleep, args=(0.01,))
    thread.start()
    thread.join()


def test_a_sync_test_can_run_a_loop() -> None:
    async def nap() -> str:
        await asyncio.sleep(0.01)
        return "rested"

    assert asyncio.run(nap()) == "rested"
