"""The program: its exit status and its stages."""

import asyncio
import gc
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web

from etl.api import ApiSource
from etl.app import main
from etl.load import Loader
from etl.pipeline import Batch, pipeline

Capture = pytest.CaptureFixture[str]
Make = Callable[[str, str | bytes], str]
Load = Callable[..., Awaitable[int]]
Execute = Callable[..., Awaitable[list[tuple[object, ...]]]]


@pytest.fixture
def load(sqlite_url: str, rejects: Path) -> Load:
    """The program, on SQLite."""
    return partial(main, database_url=sqlite_url, rejects=rejects)


@pytest.mark.asyncio
async def test_it_prints_the_counts(csv_file: str, load: Load, capsys: Capture) -> None:
    assert await load(csv_file) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout.startswith("rows: 8 read, 7 loaded, 1 rejected; ")
    assert stderr == ""


@pytest.mark.parametrize(
    ("good", "bad", "max_rejects", "status"),
    [
        (0, 0, 0.5, 0),
        (0, 1, 0.5, 1),
        (1, 1, 0.5, 0),
        (1, 2, 0.5, 1),
        (1, 2, 0.7, 0),
        (9, 1, 0.0, 1),
        (9, 0, 0.0, 0),
        (0, 3, 1.0, 0),
    ],
)
@pytest.mark.asyncio
async def test_too_many_rejects_are_a_failure_and_nothing_is_lost(
    make: Make,
    load: Load,
    sqlite_url: str,
    rejects: Path,
    execute: Execute,
    capsys: Capture,
    good: int,
    bad: int,
    max_rejects: float,
    status: int,
) -> None:
    lines = [f"{n},tea,2026-05-31,5\n" for n in range(1, good + 1)]
    lines += ["bad\n"] * bad
    source = make("sales.csv", "id,item,day,cents\n" + "".join(lines))
    assert await load(source, max_rejects=max_rejects) == status
    stderr = capsys.readouterr().err
    if status == 1:
        assert stderr == (
            f"{source}: {bad} of {good + bad} rows were rejected, the reasons are in "
            f"{rejects}\n"
        )
    else:
        assert stderr == ""
    assert await execute(sqlite_url, "SELECT count(*) FROM sales") == [(good,)]
    assert await execute(sqlite_url, "SELECT count(*) FROM rejects") == [(bad,)]


@pytest.mark.asyncio
async def test_after_a_failure_the_rejects_that_were_saved_are_in_the_file(
    load: Load,
    rejects: Path,
    api_url: str,
    pages: list[list[object]],
    script: deque[web.Response | str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved = asyncio.Event()
    save = Loader.save

    async def save_and_notify(self: Loader, batch: Batch) -> None:
        await save(self, batch)
        saved.set()

    async def read(self: ApiSource, previous: Batch) -> Batch:
        if previous.mark:
            await saved.wait()
        return await read_page(self, previous)

    read_page = ApiSource.read
    monkeypatch.setattr(Loader, "save", save_and_notify)
    monkeypatch.setattr(ApiSource, "read", read)
    pages[0].append("bad")
    link = {"Link": '</sales?page=2>; rel="next"'}
    script += [web.json_response(pages[0], headers=link), web.Response(status=404)]
    assert await load(api_url) == 1
    assert '"row":"bad"' in await asyncio.to_thread(rejects.read_text)


# --- Stages


@pytest.mark.parametrize(("buffer", "most"), [(5, 7), (0, 3)])
@pytest.mark.asyncio
async def test_a_slow_stage_slows_down_those_before_it(buffer: int, most: int) -> None:
    made = 0
    started = asyncio.Event()

    async def fast(_previous: Batch) -> Batch:
        nonlocal made
        made += 1
        if made > most:
            raise RuntimeError("too many batches")
        return Batch("more")

    async def slow(batch: Batch) -> Batch:
        started.set()
        await asyncio.Event().wait()
        return batch

    work = asyncio.create_task(pipeline(Batch(), fast, slow, buffer=buffer))
    await started.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    # One batch is in the slow stage, five (or one) are in the queue, and one waits for
    # room in the queue.
    assert made == most
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


@pytest.mark.shuffled(5)
@pytest.mark.asyncio
async def test_batches_keep_their_order() -> None:
    seen: dict[str, list[int]] = {"check": [], "save": []}

    async def read(previous: Batch) -> Batch:
        await asyncio.sleep(0)
        mark = "more" if previous.line < 9 else ""
        return Batch(mark, previous.line + 1)

    async def work(name: str, batch: Batch) -> Batch:
        await asyncio.sleep(0)
        seen[name].append(batch.line)
        return batch

    check = partial(work, "check")
    save = partial(work, "save")
    await pipeline(Batch(), read, check, save, buffer=2)
    assert seen == {"check": [*range(1, 11)], "save": [*range(1, 11)]}


@pytest.mark.asyncio
async def test_a_batch_of_any_size_leaves_the_loop_free_and_progress_is_logged(
    make: Make,
    load: Load,
    sqlite_url: str,
    execute: Execute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [f"{n},tea,2026-05-31,1\n" for n in range(1, 20_001)]
    source = make("sales.csv", "".join(["id,item,day,cents\n", *lines]))
    assert await load(source, batch=10**30) == 0
    assert await execute(sqlite_url, "SELECT count(*) FROM sales") == [(20_000,)]


@pytest.mark.asyncio
async def test_python_seldom_searches_for_cycles_during_a_load(
    make: Make, load: Load
) -> None:
    lines = [f"{n},tea,2026-05-31,1\n" for n in range(1, 20_001)]
    source = make("sales.csv", "".join(["id,item,day,cents\n", *lines]))
    threshold = gc.get_threshold()
    searches = 0

    def count(phase: str, _info: dict[str, int]) -> None:
        nonlocal searches
        if phase == "start":
            searches += 1

    gc.callbacks.append(count)
    try:
        assert await load(source) == 0
    finally:
        gc.callbacks.remove(count)
    assert searches < 20
    assert gc.get_threshold() == threshold
