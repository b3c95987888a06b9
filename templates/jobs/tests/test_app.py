"""What the program promises: on one machine, and on a fleet with real brokers and
workers.
"""

import asyncio
import json
import logging
import os
import pickle
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from hashlib import sha256
from itertools import count, pairwise
from pathlib import Path
from subprocess import Popen
from typing import Any

import cyclopts
import pytest
import stamina
from nats.aio.client import Client
from nats.js.client import JetStreamContext
from pytest_mock import MockerFixture
from redis.asyncio import Redis
from taskiq import async_shared_broker

from jobs.app import (
    QUEUE,
    connected,
    describe,
    main,
    run,
)

Report = Callable[[str, object], None]
Start = Callable[[str], asyncio.Task[int]]
A_TXT, B_PNG, C = (
    sha256(name * 1000).hexdigest() for name in (b"a.txt", b"b.png", b"deep/c")
)

# Tasks of these tests, as you would write yours.


@async_shared_broker.task
async def double(item: str) -> str:
    return item * 2


@async_shared_broker.task
async def doze(item: str) -> str:
    await asyncio.sleep(float(item))
    return item


tried: defaultdict[str, list[float]] = defaultdict(list)


@async_shared_broker.task
async def stumble(item: str) -> str:
    """Fail as often as the item says."""
    tried[item].append(asyncio.get_running_loop().time())
    if len(tried[item]) <= int(item):
        raise OSError(5, "the disk stumbles")
    return item


def shrink(path: Path) -> Path:
    """Stand for a function of your program, one of `media`: it blocks, and knows no
    tasks.
    """
    small = path.with_suffix(".small")
    small.write_bytes(path.read_bytes()[:10])
    return small


@async_shared_broker.task
async def thumbnail(path: str) -> str:
    return str(await asyncio.to_thread(shrink, Path(path)))


Holding = tuple[asyncio.Queue[str], asyncio.Event]
holdings: list[Holding] = []


@async_shared_broker.task
async def hold(item: str) -> str:
    """Tell that it has begun, and last until the test lets it end."""
    begun, end = holdings[-1]
    begun.put_nowait(item)
    await end.wait()
    return item


@pytest.fixture
def holding() -> Holding:
    """What `hold` tells, and waits for."""
    holdings.append((asyncio.Queue(), asyncio.Event()))
    return holdings[-1]


@pytest.fixture
def reports() -> list[tuple[str, Any]]:
    """What has been reported, in this order."""
    tried.clear()
    return []


@pytest.fixture
def report(reports: list[tuple[str, Any]]) -> Report:
    """Note what is reported."""
    return lambda item, outcome: reports.append((item, outcome))


@pytest.fixture
def logged() -> Iterator[asyncio.Queue[str]]:
    """The program's log."""
    messages, log = asyncio.Queue[str](), logging.getLogger(main.__module__)
    handler = logging.Handler()
    handler.emit = lambda record: messages.put_nowait(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    yield messages
    log.removeHandler(handler)


def printed(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """Return the lines on stdout by their path, each of which is there once, and
    stderr.
    """
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    by_path = {line.pop("path"): line for line in lines}
    assert len(lines) == len(by_path)
    return by_path, err


def assert_whole(lines: dict[str, Any]) -> None:
    """Assert that the lines tell all of `tree`."""
    assert {path: (line["size"], line["sha256"]) for path, line in lines.items()} == {
        "a.txt": (5000, A_TXT),
        "b.png": (5000, B_PNG),
        "deep/c": (6000, C),
        "empty": (0, sha256().hexdigest()),
    }


# On one machine.


@pytest.mark.asyncio
async def test_every_file_is_reported_once(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await main(tree) == 0
    assert_whole(printed(capsys)[0])


@pytest.mark.asyncio
async def test_an_empty_folder_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await main(tmp_path) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.asyncio
async def test_only_files_are_read(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows has no FIFOs")
    os.mkfifo(tree / "waits for ever")
    (tree / "leads nowhere").symlink_to(tree / "gone")
    (tree / "deep" / "leads round").symlink_to(tree)
    assert await main(tree) == 0
    assert_whole(printed(capsys)[0])


@pytest.mark.asyncio
async def test_the_size_is_that_of_what_is_in_the_checksum(pipes: list[str]) -> None:
    """A pipe has no size, and a file that grows soon has another one."""
    describing = asyncio.create_task(describe(pipes[0]))
    with await asyncio.to_thread(open, pipes[0], "wb") as writer:
        writer.write(b"a.txt" * 1000)
    assert await describing == {"size": 5000, "sha256": A_TXT}


@pytest.mark.parametrize("name", ["ä 猫", "line\nbreak", "quo\"te's", "-rf"])
@pytest.mark.asyncio
async def test_odd_names_stay_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("this file system has no such names")
    assert await main(tmp_path) == 0
    assert list(printed(capsys)[0]) == [name]


@pytest.mark.asyncio
async def test_a_missing_folder_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await main(tmp_path / "gone") == 1
    assert "gone" in capsys.readouterr().err


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_file_that_cannot_be_read_is_named_and_the_others_are_done(
    tree: Path, capsys: pytest.CaptureFixture[str], mocker: MockerFixture
) -> None:
    genuine = describe.original_func

    async def read(path: str) -> dict[str, int | str]:
        if path.endswith("b.png"):
            raise PermissionError(13, "not yours")
        return await genuine(path)

    mocker.patch.object(describe, "original_func", read)
    assert await main(tree) == 1
    lines, err = printed(capsys)
    assert len(lines) == 4
    assert lines["b.png"] == {"error": "PermissionError: [Errno 13] not yours"}
    assert "1 failed" in err
    assert "b.png" in err.splitlines()[-1]


@pytest.mark.asyncio
async def test_progress_is_logged_where_there_is_no_terminal(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name in range(36):
        (tree / str(name)).touch()
    await main(tree)
    assert caplog.messages == [f"{n} of 40 files" for n in range(4, 41, 4)]


@pytest.mark.asyncio
async def test_a_terminal_shows_a_bar_and_the_report_goes_where_it_is_sent(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert await main(tree) == 0
    lines, err = printed(capsys)
    assert_whole(lines)
    assert "files" in err
    assert "100%" in err


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_task_that_fails_is_tried_again_after_growing_pauses(
    reports: list[tuple[str, Any]], report: Report
) -> None:
    async with connected("memory://") as broker:
        await run(broker, stumble, ["3"], report, attempts=4)
    pauses = [after - before for before, after in pairwise(tried["3"])]
    assert reports == [("3", "3")]
    assert all(
        pause >= least for pause, least in zip(pauses, [0.1, 0.2, 0.4], strict=True)
    )


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_task_that_keeps_failing_is_reported_with_its_last_error(
    reports: list[tuple[str, Any]], report: Report
) -> None:
    async with connected("memory://") as broker:
        await run(broker, stumble, ["9", "0"], report, attempts=3)
    assert [len(tried[item]) for item in "90"] == [3, 1]
    assert [(item, str(outcome)) for item, outcome in reports if item == "9"] == [
        ("9", "OSError: [Errno 5] the disk stumbles")
    ]
    assert len(reports) == 2


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_as_many_tasks_run_at_a_time_as_allowed_and_no_more(
    report: Report,
) -> None:
    loop = asyncio.get_running_loop()
    async with connected("memory://") as broker:
        await run(broker, doze, ["1"] * 25, report, concurrency=10)
        assert loop.time() == 3


@pytest.mark.asyncio
async def test_there_are_no_more_tasks_than_there_is_to_do() -> None:
    most = 0

    def count_tasks(_item: str, _outcome: object) -> None:
        nonlocal most
        most = max(most, len(asyncio.all_tasks()))

    async with connected("memory://") as broker:
        await run(broker, double, "abc", count_tasks, concurrency=10_000)
    assert most <= 4  # and this one


@pytest.mark.asyncio
async def test_hundreds_of_results_are_neither_lost_nor_hoarded(
    reports: list[tuple[str, Any]], report: Report
) -> None:
    drawn, ahead = count(), 0

    def note(item: str, outcome: object) -> None:
        nonlocal ahead
        report(item, outcome)
        ahead = max(ahead, int(repr(drawn)[6:-1]) - len(reports))

    async with connected("memory://", 8) as broker:
        items = (str(n) for n, _ in zip(drawn, range(300), strict=False))
        await run(broker, double, items, note, concurrency=8)
        assert len(getattr(broker.result_backend, "results")) == 8  # noqa: B009
    assert Counter(reports) == Counter((str(n), str(n) * 2) for n in range(300))
    assert ahead <= 8


@pytest.mark.asyncio
async def test_tasks_that_never_wait_leave_others_a_turn(
    reports: list[tuple[str, Any]], report: Report
) -> None:
    begun = asyncio.Event()

    def note(item: str, outcome: object) -> None:
        report(item, outcome)
        begun.set()

    async with connected("memory://") as broker, asyncio.TaskGroup() as group:
        group.create_task(run(broker, double, map(str, range(300)), note))
        await begun.wait()
        assert len(reports) < 300
    assert len(reports) == 300


@pytest.mark.shuffled(8)
@pytest.mark.asyncio
async def test_in_any_order_each_item_is_reported_once(
    reports: list[tuple[str, Any]], report: Report
) -> None:
    async with connected("memory://", 3) as broker:
        await run(broker, doze, [f"{n / 10}" for n in range(20)], report, concurrency=3)
    assert sorted(reports) == sorted((f"{n / 10}", f"{n / 10}") for n in range(20))


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_task_without_a_result_in_time_is_given_up(
    reports: list[tuple[str, Any]], report: Report
) -> None:
    async with connected("memory://") as broker:
        await run(broker, doze, ["50", "60"], report, attempts=1, result_ttl=55)
    assert [(item, type(outcome)) for item, outcome in reports] == [
        ("50", str),
        ("60", TimeoutError),
    ]


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_cancelled_anywhere_it_stops_and_leaves_nothing_behind(
    cancel_everywhere: Callable[..., Awaitable[int]], report: Report
) -> None:
    async with connected("memory://") as broker:
        awaits = await cancel_everywhere(
            lambda: run(broker, doze, ["1", "2", "3"], report, concurrency=2)
        )
    assert awaits > 0


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_cancelled_in_the_middle_of_a_task_it_begins_no_other(
    reports: list[tuple[str, Any]], report: Report
) -> None:
    async with connected("memory://") as broker:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                await run(broker, doze, ["1"] * 9, report, concurrency=1)
    assert len(reports) == 2


@pytest.mark.asyncio
async def test_a_big_file_is_let_go_when_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await describe(str(path))


@pytest.mark.parametrize("limit", ["concurrency", "attempts", "result_ttl"])
@pytest.mark.asyncio
async def test_a_limit_must_be_positive(report: Report, limit: str) -> None:
    async with connected("memory://") as broker:
        with pytest.raises(ValueError, match=f"{limit}=0"):
            await run(broker, double, [], report, **{limit: 0})


@pytest.mark.parametrize("seconds", ["inf", "nan", "0", "1e300"])
@pytest.mark.parametrize("option", ["--result-ttl", "--redeliver"])
def test_a_time_that_no_broker_can_keep_is_refused(option: str, seconds: str) -> None:
    cli = cyclopts.App(default_command=main, print_error=False, exit_on_error=False)
    with pytest.raises(cyclopts.ValidationError, match=f"{option}. Must be"):
        cli.parse_args([option, seconds])


@pytest.mark.asyncio
async def test_a_worker_is_refused_where_nobody_could_give_it_a_task(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await main(worker=True) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("no broker at memory://: ")


REDIS = (
    pytest.mark.blocks_loop
)  # for each connection, redis-py reads the version of redis-py
NOBODY = [
    "htp://x",
    "nats://127.0.0.1:1",
    pytest.param("redis://127.0.0.1:1", marks=REDIS),
]


@pytest.mark.parametrize("url", NOBODY)
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_broker_that_is_not_there_is_one_line(
    url: str, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await main(tree, broker_url=url) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"no broker at {url}: ")


# On a fleet.


@pytest.mark.asyncio
async def test_workers_report_what_one_machine_would(
    nats_url: str, start_worker: Start, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _ = start_worker(nats_url)
    _ = start_worker(nats_url)
    assert await main(tree, broker_url=nats_url) == 0
    assert_whole(printed(capsys)[0])


@pytest.mark.asyncio
async def test_work_of_your_own_moves_into_a_task(
    nats_url: str,
    start_worker: Start,
    tree: Path,
    reports: list[tuple[str, Any]],
    report: Report,
    logged: asyncio.Queue[str],
) -> None:
    _ = start_worker(nats_url)
    paths = [str(tree / "a.txt"), str(tree / "b.png")]
    async with connected(nats_url) as broker:
        await run(broker, thumbnail, paths, report)
    assert sorted(reports) == [
        (path, str(Path(path).with_suffix(".small"))) for path in paths
    ]
    assert (tree / "a.small").read_bytes() == b"a.txta.txt"
    assert logged.empty()  # to leave the broker is no trouble


@REDIS
@pytest.mark.asyncio
async def test_the_redis_protocol_will_do_as_well(
    redis_url: str, start_worker: Start, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _ = start_worker(redis_url)
    assert await main(tree, broker_url=redis_url) == 0
    assert_whole(printed(capsys)[0])


@REDIS
@pytest.mark.asyncio
async def test_each_worker_takes_only_what_it_can_begin(
    redis_url: str, start_worker: Start, holding: Holding, report: Report
) -> None:
    begun, end = holding
    async with connected(redis_url) as broker, asyncio.TaskGroup() as group:
        group.create_task(run(broker, hold, "abcdefgh", report))
        async with Redis.from_url(redis_url) as redis:
            while await redis.xlen(QUEUE) < 8:
                pass
        for _ in range(2):
            _ = start_worker(redis_url)
            for _ in range(4):
                await begun.get()
        end.set()


@REDIS
@pytest.mark.asyncio
async def test_a_result_that_is_code_is_never_run(
    redis_url: str, tmp_path: Path
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "was here"),)

    async with connected(redis_url) as broker:
        async with Redis.from_url(redis_url) as redis:
            await redis.set("evil", pickle.dumps(Evil()))
        with pytest.raises(ValueError, match=r"can't decode|Expecting value"):
            await broker.result_backend.get_result("evil")
    assert not (tmp_path / "was here").exists()


@REDIS
@pytest.mark.asyncio
async def test_a_result_may_be_kept_for_less_than_a_second(
    redis_url: str, start_worker: Start, reports: list[tuple[str, Any]], report: Report
) -> None:
    _ = start_worker(redis_url)
    async with connected(redis_url, result_ttl=0.5) as broker:
        await run(broker, double, ["x"], report)
    assert reports == [("x", "xx")]


@pytest.mark.asyncio
async def test_a_failure_far_away_is_told_here(
    nats_url: str, start_worker: Start, reports: list[tuple[str, Any]], report: Report
) -> None:
    _ = start_worker(nats_url)
    async with connected(nats_url) as broker:
        with stamina.set_testing(
            True, attempts=sys.maxsize, cap=True
        ):  # without the pauses
            await run(broker, stumble, ["1", "9"], report, attempts=2)
    assert [len(tried[item]) for item in "19"] == [2, 2]
    assert str(dict(reports)["9"]) == "OSError: [Errno 5] the disk stumbles"


@pytest.mark.asyncio
async def test_a_worker_told_to_stop_first_finishes_what_it_has_begun(
    nats_url: str,
    start_worker: Start,
    holding: Holding,
    reports: list[tuple[str, Any]],
    report: Report,
) -> None:
    worker = start_worker(nats_url)
    begun, end = holding
    async with connected(nats_url, redeliver=1) as broker, asyncio.TaskGroup() as group:
        group.create_task(run(broker, hold, ["x"], report))
        await begun.get()
        worker.cancel()
        await asyncio.sleep(0)
        assert not worker.done()
        end.set()
        assert await worker == 0
    assert reports == [("x", "x")]


@pytest.mark.deadline(30)
@pytest.mark.asyncio
async def test_a_broker_that_restarts_loses_no_task(
    nats_start: Callable[[], str],
    start_worker: Start,
    holding: Holding,
    reports: list[tuple[str, Any]],
    report: Report,
    logged: asyncio.Queue[str],
) -> None:
    url = await asyncio.to_thread(nats_start)
    begun, end = holding
    _ = start_worker(url)
    async with connected(url, redeliver=1) as broker, asyncio.TaskGroup() as group:
        group.create_task(run(broker, hold, map(str, range(20)), report, concurrency=8))
        for _ in range(4):
            await begun.get()
        assert await asyncio.to_thread(nats_start) == url
        for news in ("gone; tasks wait until it is back", "back; the work goes on"):
            for _ in ("the worker", "we"):
                while await logged.get() != f"broker: {news}":
                    pass
        end.set()
    assert sorted(reports) == sorted((str(n), str(n)) for n in range(20))


@pytest.mark.deadline(30)
@pytest.mark.asyncio
async def test_a_broker_may_be_away_for_long(
    nats_start: Callable[[], str],
    nats_stop: Callable[[], None],
    start_worker: Start,
    reports: list[tuple[str, Any]],
    report: Report,
    logged: asyncio.Queue[str],
    mocker: MockerFixture,
) -> None:
    """It would last seconds: here, the pauses between two tries are shorter."""
    connect, fetch, asked = (
        Client.connect,
        JetStreamContext.PullSubscription.fetch,
        asyncio.Event(),
    )

    async def connect_soon(self: Client, *url: Any, **options: Any) -> None:
        await connect(self, *url, **options | {"reconnect_time_wait": 0.01})

    async def fetch_soon(self: Any, batch: int, timeout: float | None) -> Any:  # noqa: ASYNC109
        asked.set()
        return await fetch(self, batch, timeout and timeout / 10)

    mocker.patch.object(Client, "connect", connect_soon)
    mocker.patch.object(JetStreamContext.PullSubscription, "fetch", fetch_soon)
    url = await asyncio.to_thread(nats_start)
    _ = start_worker(url)
    async with connected(url, redeliver=1) as broker:
        await asked.wait()
        await asyncio.to_thread(nats_stop)
        for _ in range(20):
            await logged.get()
        await asyncio.to_thread(nats_start)
        await run(broker, double, ["x"], report)
    assert reports == [("x", "xx")]


# Nats-py's own, when its close fails: what ends the loop ends it, too.
@pytest.mark.leaves_tasks
@pytest.mark.asyncio
async def test_a_broker_that_is_gone_can_be_left(
    nats_start: Callable[[], str],
    nats_stop: Callable[[], None],
    logged: asyncio.Queue[str],
) -> None:
    async with connected(await asyncio.to_thread(nats_start)) as broker:
        await asyncio.to_thread(nats_stop)
        while await logged.get() != "broker: gone; tasks wait until it is back":
            pass
        await vars(broker)["client"].publish("later", b"sent when the broker is back")


@pytest.mark.deadline(30)
@pytest.mark.asyncio
async def test_the_task_of_a_killed_worker_is_done_by_the_other_one(
    nats_url: str,
    start_process: Callable[[str], Popen[str]],
    pipes: list[str],
    reports: list[tuple[str, Any]],
    report: Report,
) -> None:
    """Two tasks read pipes, and so wait for us: to open one for writing tells that it
    is read.
    """
    arrived = asyncio.Event()

    def note(item: str, outcome: object) -> None:
        report(item, outcome)
        arrived.set()

    starting = [asyncio.to_thread(start_process, nats_url) for _ in ("killed", "other")]
    killed, other = await asyncio.gather(*starting)
    async with connected(nats_url, redeliver=1) as broker, asyncio.TaskGroup() as group:
        group.create_task(run(broker, describe, pipes, note))
        writers = [await asyncio.to_thread(open, pipe, "wb") for pipe in pipes]
        killed.kill()  # in the middle of one of the two tasks
        await asyncio.to_thread(killed.wait)
        for writer in writers:
            writer.close()
        await arrived.wait()
        (lost,) = {*pipes} - {item for item, _ in reports}
        again = await asyncio.to_thread(open, lost, "wb")
        other.send_signal(signal.SIGTERM)  # in the middle of it, too
        assert other.stderr
        while "Stopping prefetching" not in await asyncio.to_thread(
            other.stderr.readline
        ):
            assert other.poll() is None
        again.close()
    nothing = {"size": 0, "sha256": sha256().hexdigest()}
    assert dict(reports) == dict.fromkeys(pipes, nothing)
    assert len(reports) == 2
    assert await asyncio.to_thread(other.wait) == 0


@pytest.mark.asyncio
async def test_nothing_is_kept_on_the_broker_for_ever(nats_url: str) -> None:
    async with connected(nats_url, result_ttl=60) as broker:
        jetstream: Any = vars(broker)["js"]
        results = await jetstream.stream_info(f"KV_{QUEUE}")
        tasks = await jetstream.stream_info(QUEUE)
    assert results.config.max_age in (60, 3600)  # what the first one who came has said
    assert (tasks.config.retention, tasks.config.storage) == ("workqueue", "file")
