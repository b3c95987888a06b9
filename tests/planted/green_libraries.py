"""Background work of installed libraries, and quick calls, are allowed."""

import argparse
import asyncio
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

LIBRARY = '''
import asyncio
import threading

class Monitor(threading.Thread):
    """A monitor like that of tqdm."""

    def __init__(self):
        super().__init__(daemon=True)
        self.start()

    def run(self):
        threading.Event().wait(5)

async def watch():
    """Like a task of sse-starlette: one for each loop, until the loop is closed."""
    await asyncio.Event().wait()

watchers = []

def ensure_watcher():
    watchers.append(asyncio.get_running_loop().create_task(watch()))

class Response:
    """A response like that of httpx."""

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        pass

    async def aiter_lines(self):
        yield "one"
        await asyncio.sleep(0)
        yield "two"
'''


async def main() -> str:
    """Start a program: parse arguments, and make quick calls to the system."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="you")
    options = parser.parse_args([])
    os.path.abspath("data.db")
    os.path.islink("data.db")
    os.path.exists("no such file")
    os.stat(__file__)
    os.getcwd()
    name: str = options.name
    return name


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "a_library.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "a_library", raising=False)
    return import_module("a_library")


@pytest.mark.asyncio
async def test_a_thread_of_a_library(library: ModuleType) -> None:
    library.Monitor()


@pytest.mark.asyncio
async def test_a_task_of_a_library(library: ModuleType) -> None:
    library.ensure_watcher()
    await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_an_unfinished_generator_of_a_library(library: ModuleType) -> None:
    async with library.Response() as response:
        async for line in response.aiter_lines():
            assert line == "one"
            break


@pytest.mark.asyncio
async def test_the_start_of_a_program() -> None:
    assert await import_module("app.planted").main() == "you"


@pytest.mark.asyncio
async def test_cpu_work_of_a_test() -> None:
    end = time.thread_time() + 0.8
    while time.thread_time() < end:
        sum(range(1000))
    await asyncio.sleep(0.1)
