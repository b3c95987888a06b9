"""What the program promises, shown on a real HTTP server that misbehaves on request."""

import asyncio
import gzip
import socket
import sys
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from functools import partial
from itertools import pairwise

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from api_client.app import (
    LARGEST,
    AnswerError,
    CatFact,
    Fact,
    fetch_data,
    main,
    retry_after,
)

Capture = pytest.CaptureFixture[str]
Script = deque[web.Response | int | str]

date = partial(formatdate, usegmt=True)


def now() -> float:
    """The loop's time: a virtual clock starts at 0, and only waiting moves it."""
    return asyncio.get_running_loop().time()


def too_many(retry_after: str, **headers: str) -> web.Response:
    """A "429 Too Many Requests" that says when to come back."""
    return web.Response(status=429, headers={"Retry-After": retry_after, **headers})


# --- One fact, tried again and again


@pytest.mark.asyncio
async def test_a_fact_is_what_the_api_says(client: CatFact) -> None:
    assert await client.get_cat_fact() == Fact("Cat number 1 sleeps.", 20)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"<html>Welcome!</html>",
        b"null",
        b'["fact", "length"]',
        b'{"fact": "Cats sleep."}',
        b'{"fact": "Cats sleep.", "length": "11"}',
        b'{"fact": "Cats sleep.", "length": true}',
        b'{"fact": null, "length": 11}',
        b'{"fact": "Cats sl',
        b"\xff\xfe\xff",
        b"[" * 100_000,
    ],
)
def test_garbage_is_no_fact(garbage: bytes) -> None:
    with pytest.raises(AnswerError, match=r"^not a fact: b"):
        Fact.parse(garbage)


@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.asyncio
async def test_an_answer_has_so_many_bytes_and_no_more(
    client: CatFact, script: Script, coding: str
) -> None:
    for size in (LARGEST, LARGEST + 1):
        body = b'{"fact": "Cats nap.", "length": 9}'.ljust(
            size
        )  # blanks are no error in JSON
        body = gzip.compress(body) if coding == "gzip" else body
        script.append(web.Response(body=body, headers={"Content-Encoding": coding}))
    assert await client.get_cat_fact() == Fact("Cats nap.", 9)
    with pytest.raises(AnswerError, match="not a fact"):
        await client.get_cat_fact()


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_an_answer_without_end_is_not_read_to_its_end(
    client: CatFact, script: Script
) -> None:
    script += ["flood"]
    with pytest.raises(AnswerError, match="not a fact"):
        await client.get_cat_fact()
    assert now() == 0


# "drop" stands twice, as aiohttp itself repeats a GET that was dropped.
@pytest.mark.parametrize(
    "trouble", [429, 500, 502, 503, 504, "drop drop", "cut", "hang", "stall"]
)
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_trouble_that_may_pass_is_tried_again(
    client: CatFact, script: Script, trouble: int | str
) -> None:
    script += trouble.split() if isinstance(trouble, str) else [trouble]
    await client.get_cat_fact()
    assert not script
    assert now() >= 0.1


@pytest.mark.parametrize("status", [200, 204, 400, 401, 403, 404, 410, 422])
@pytest.mark.asyncio
async def test_a_refusal_and_garbage_are_final(
    client: CatFact, script: Script, seen: list[float], status: int
) -> None:
    script += [web.Response(status=status, headers={"Retry-After": "0"})]
    with pytest.raises(
        (aiohttp.ClientResponseError, AnswerError), match=f"{status}|not a fact"
    ):
        await client.get_cat_fact()
    assert len(seen) == 1


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_the_last_try_tells_its_error(
    session: aiohttp.ClientSession, base_url: str, script: Script
) -> None:
    script += [500, 501, 502, 503]
    with pytest.raises(aiohttp.ClientResponseError, match="502"):
        await CatFact(session, base_url, attempts=3).get_cat_fact()
    assert script == deque([503])


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_pauses_double_and_are_jittered(
    session: aiohttp.ClientSession, base_url: str, script: Script, seen: list[float]
) -> None:
    script += [500] * 6
    await CatFact(session, base_url, attempts=7).get_cat_fact()
    pauses = [after - before for before, after in pairwise(seen)]
    jitter = {pause - 0.1 * 2**n for n, pause in enumerate(pauses)}
    assert (min(jitter) >= 0, max(jitter) <= 1, len(jitter)) == (True, True, 6)


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_server_that_says_when_to_come_back_is_obeyed(
    client: CatFact, script: Script, seen: list[float]
) -> None:
    # Both dates are the server's, and its clock may be years behind ours.
    script += [too_many("7"), too_many(date(90), Date=date(60)), too_many("0")]
    await client.get_cat_fact()
    assert seen == pytest.approx([0, 7, 7 + 30, 7 + 30])


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({}, True),
        ({"Retry-After": "soon"}, True),
        ({"Retry-After": "-5"}, True),
        ({"Retry-After": "Wed, 99 Oct 2015 07:28:00 GMT"}, True),
        ({"Retry-After": date(90), "Date": "today"}, True),
        ({"Retry-After": "Fri, 31 Dec 99999999999999999999 23:59:59 GMT"}, True),
        ({"Retry-After": "1e999"}, True),
        ({"Retry-After": "nan"}, True),
        ({"Retry-After": "9" * 400}, True),
        ({"Retry-After": "9" * 5000}, True),
        ({"Retry-After": "120"}, 120.0),
        ({"Retry-After": date(60)}, 0.0),
        ({"Retry-After": date(60), "Date": date(90)}, 0.0),
        ({"Retry-After": date(90), "Date": date(60)}, 30.0),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_garbage(
    headers: dict[str, str], pause: bool | float
) -> None:
    answer = retry_after(headers)
    assert (type(answer), answer) == (type(pause), pause)  # True == 1.0


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_server_that_starts_late_is_waited_for(
    session: aiohttp.ClientSession,
    application: web.Application,
    closed_port: socket.socket,
) -> None:
    server = TestServer(application, socket_factory=lambda *_: closed_port)
    url = f"http://127.0.0.1:{closed_port.getsockname()[1]}"
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(CatFact(session, url).get_cat_fact())
        await asyncio.sleep(0.09)  # the first pause is longer
        await server.start_server()
    await server.close()
    assert waiting.result().length == 20


# --- Many facts


@pytest.mark.asyncio
async def test_all_facts_arrive(loaded_data: list[Fact]) -> None:
    assert {fact.fact for fact in loaded_data} == {
        f"Cat number {n} sleeps." for n in (1, 2, 3)
    }


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_as_many_requests_as_allowed_are_under_way(
    client: CatFact, script: Script, seen: list[float]
) -> None:
    script += ["slow"] * 25
    await fetch_data(client, 25, concurrency=10)
    assert Counter(round(time) for time in seen) == {0: 10, 1: 10, 2: 5}


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_facts_are_handed_over_as_they_arrive(
    client: CatFact, script: Script
) -> None:
    async def note(_fact: Fact) -> None:
        arrivals.append(now())

    arrivals: list[float] = []
    script += ["slow"]
    await fetch_data(client, 3, concurrency=2, on_fact=note)
    assert arrivals == pytest.approx([0, 0, 1])


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_slow_consumer_slows_the_requests_down(
    client: CatFact, seen: list[float]
) -> None:
    async def consume(_fact: Fact) -> None:
        await asyncio.sleep(5)

    await fetch_data(client, 6, concurrency=2, on_fact=consume)
    assert seen == pytest.approx([0, 0, 5, 5, 10, 10])


@pytest.mark.asyncio
async def test_what_failed_is_counted_and_the_rest_arrives(
    client: CatFact, script: Script
) -> None:
    script += [404, web.Response(text="?"), 404]
    facts, errors = await fetch_data(client, 5)
    assert (len(facts), sorted(errors.values())) == (2, [1, 2])
    assert errors["AnswerError: not a fact: b'?'"] == 1


@pytest.mark.parametrize("trouble", ["hang", "stall", "86400"])
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_the_deadline_ends_every_wait_and_keeps_what_arrived(
    session: aiohttp.ClientSession, base_url: str, script: Script, trouble: str
) -> None:
    script += ["slow", too_many(trouble) if trouble.isdecimal() else trouble]
    facts, errors = await fetch_data(
        CatFact(session, base_url, timeout=99), 2, deadline=30
    )
    assert now() == pytest.approx(30)
    assert (len(facts), errors) == (1, {"not there after 30 s": 1})


@pytest.mark.asyncio
async def test_limits_must_be_positive(
    client: CatFact, session: aiohttp.ClientSession
) -> None:
    for limits in ({"timeout": 0}, {"timeout": float("nan")}, {"attempts": 0}):
        with pytest.raises(ValueError, match="limits must be positive"):
            CatFact(session, "http://cats", **limits)
    for count, concurrency, deadline in ((-1, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="limits must be positive"):
            await fetch_data(client, count, concurrency=concurrency, deadline=deadline)


# --- Cancellation


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_cancelled_at_any_await_it_leaves_nothing_behind(
    base_url: str, script: Script, cancel_everywhere: Callable[..., Awaitable[int]]
) -> None:
    async def ask_twice() -> Fact:
        script.clear()
        script.append(500)
        async with aiohttp.ClientSession() as session:
            return await CatFact(session, base_url).get_cat_fact()

    assert await cancel_everywhere(ask_twice) > 3  # connect, answer, pause, answer
    assert await cancel_everywhere(lambda: main(2, base_url=base_url)) > 0


@pytest.mark.asyncio
async def test_cancelling_the_program_hangs_up(
    base_url: str, script: Script, busy: asyncio.Event, hung_up: asyncio.Event
) -> None:
    script += ["hang"]
    program = asyncio.create_task(main(1, base_url=base_url))
    await busy.wait()
    program.cancel()
    with pytest.raises(asyncio.CancelledError):
        await program
    await hung_up.wait()


# --- The program


@pytest.mark.asyncio
async def test_facts_go_to_stdout_a_line_each(base_url: str, capsys: Capture) -> None:
    assert await main(2, base_url=base_url, concurrency=1) == 0
    assert capsys.readouterr() == ("Cat number 1 sleeps.\nCat number 2 sleeps.\n", "")
    assert await main(1, base_url=base_url, json=True) == 0
    assert capsys.readouterr().out == '{"fact": "Cat number 3 sleeps.", "length": 20}\n'


@pytest.mark.asyncio
async def test_an_answer_cannot_break_lines_or_rule_the_terminal(
    base_url: str, script: Script, capsys: Capture
) -> None:
    script += [web.json_response({"fact": "Cats\nsleep.\x1b[2J\ud800", "length": 11})]
    assert await main(1, base_url=base_url) == 0
    assert capsys.readouterr().out == "Cats sleep. [2J \n"


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_failures_are_one_line_and_status_1(
    base_url: str, script: Script, capsys: Capture
) -> None:
    script += ["hang", 404]
    assert await main(3, base_url=base_url, timeout=3, attempts=1) == 1
    out, err = capsys.readouterr()
    assert out == "Cat number 3 sleeps.\n"
    assert err.startswith("2 of 3 facts failed: 1 x ClientResponseError: 404, ")
    assert err.endswith("; 1 x TimeoutError: no answer within 3 s\n")


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_failure_of_many_lines_is_told_in_one(
    base_url: str, script: Script, caplog: pytest.LogCaptureFixture, capsys: Capture
) -> None:
    script += [
        web.Response(body=b"packed?", headers={"Content-Encoding": "gzip"})
        for _ in "12"
    ]
    assert await main(1, base_url=base_url, attempts=2) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("Can not decode content-encoding: gzip")
    assert len(caplog.messages[0].splitlines()) == 1


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
@pytest.mark.asyncio
async def test_a_host_that_cannot_be_is_told_in_one_line_wherever_it_comes_from(
    base_url: str, script: Script, capsys: Capture, host: str
) -> None:
    script += [web.Response(status=302, headers={"Location": f"http://{host}/"})]
    for url in (base_url, f"http://{host}"):
        assert await main(1, base_url=url) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("1 of 1 facts failed: 1 x UnicodeError: ")


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_its_options_limit_it(
    base_url: str, script: Script, seen: list[float]
) -> None:
    script += ["slow"] * 9
    assert await main(9, base_url=base_url, concurrency=2, deadline=2.5) == 1
    assert Counter(round(time) for time in seen) == {0: 2, 1: 2, 2: 2}
    assert now() == pytest.approx(2.5)


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_nothing_but_its_options_limits_it(
    base_url: str, script: Script, seen: list[float], capsys: Capture
) -> None:
    script += ["slow"] * 101  # aiohttp's own limits would be 100 connections and 300 s
    assert await main(101, base_url=base_url, concurrency=101) == 0
    assert Counter(round(time) for time in seen) == {0: 101}
    script += ["hang"]
    assert await main(1, base_url=base_url, timeout=900, deadline=9000, attempts=1) == 1
    assert "no answer within 900 s" in capsys.readouterr().err
    assert now() == pytest.approx(1 + 900)


@pytest.mark.parametrize(
    "url",
    [
        *["", "htp:/x", "cats", "http://", "http://x:99999", "http://[::"],
        *["http://x?y=1", "http://x/y#z", "http://x?", "http://x/#"],
    ],
)
@pytest.mark.asyncio
async def test_a_broken_url_is_one_line_and_status_1(url: str, capsys: Capture) -> None:
    assert await main(1, base_url=url) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(repr(url))


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_without_a_terminal_progress_and_retries_are_logged(
    base_url: str, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger=main.__module__)
    script += [too_many("7")]
    assert await main(20, base_url=base_url) == 0
    assert caplog.messages[0].startswith("next try in 7.0 s: 429")
    assert caplog.messages[1:] == [f"{n} of 20 facts" for n in range(2, 21, 2)]


@pytest.mark.asyncio
async def test_on_a_terminal_a_bar_goes_to_stderr_and_facts_still_to_stdout(
    base_url: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert await main(1, base_url=base_url) == 0
    out, err = capsys.readouterr()
    assert out == "Cat number 1 sleeps.\n"
    assert "100%" in err
