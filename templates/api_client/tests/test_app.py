"""The program: concurrency, limits, cancellation, output, commands of the README."""

import asyncio
import re
import shlex
import sys
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import aiohttp
import cyclopts
import pytest
from aiohttp import web
from cyclopts.config import Env

from api_client.app import fetch_data, main
from api_client.client import PATH, CatFact, Fact

Capture = pytest.CaptureFixture[str]
Script = deque[web.Response | int | str]


def now() -> float:
    """The loop's time: a virtual clock starts at 0, and only waiting moves it."""
    return asyncio.get_running_loop().time()


# --- Many facts


@pytest.mark.asyncio
async def test_all_facts_arrive(loaded_data: list[Fact]) -> None:
    assert len(set(loaded_data)) == 3


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_the_number_of_concurrent_requests_is_limited(
    client: CatFact, script: Script, request_times: list[float]
) -> None:
    script += ["slow"] * 25
    await fetch_data(client, 25, concurrency=10)
    assert Counter(round(time) for time in request_times) == {0: 10, 1: 10, 2: 5}


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_facts_are_handed_over_as_they_arrive(
    client: CatFact, script: Script
) -> None:
    arrivals: list[float] = []

    async def note(_fact: Fact) -> None:
        arrivals.append(now())

    script.append("slow")
    await fetch_data(client, 3, concurrency=2, on_fact=note)
    assert arrivals == pytest.approx([0, 0, 1])


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_slow_consumer_slows_the_requests_down(
    client: CatFact, request_times: list[float]
) -> None:
    async def consume(_fact: Fact) -> None:
        await asyncio.sleep(5)

    await fetch_data(client, 6, concurrency=2, on_fact=consume)
    assert request_times == pytest.approx([0, 0, 5, 5, 10, 10])


@pytest.mark.asyncio
async def test_failures_are_counted_and_the_other_facts_arrive(
    client: CatFact, script: Script
) -> None:
    script += [404, web.Response(text="?"), 404]
    facts, errors = await fetch_data(client, 5)
    assert len(facts) == 2
    assert sorted(errors.values()) == [1, 2]
    assert errors["AnswerError: not JSON: ?"] == 1


@pytest.mark.parametrize("failure", ["hang", "stall"])
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_the_deadline_ends_every_wait_and_keeps_what_arrived(
    session: aiohttp.ClientSession, base_url: str, script: Script, failure: str
) -> None:
    script += ["slow", failure]
    api = CatFact(session, base_url, timeout=99)
    facts, errors = await fetch_data(api, 2, deadline=30)
    assert now() == pytest.approx(30)
    assert len(facts) == 1
    assert errors == {"timed out after 30 s": 1}


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_work_that_ends_with_the_deadline_is_no_failure() -> None:
    async def end_with_the_deadline(_fact: Fact) -> None:
        # Less than the resolution of the clock: both timers fire in the same step.
        await asyncio.sleep(30 - 0.000_000_5)

    api = create_autospec(CatFact, instance=True)
    facts, errors = await fetch_data(api, 1, deadline=30, on_fact=end_with_the_deadline)
    assert len(facts) == 1
    assert errors == {}


@pytest.mark.asyncio
async def test_limits_must_be_positive(client: CatFact) -> None:
    with pytest.raises(ValueError, match="concurrency must be positive"):
        await fetch_data(client, 1, concurrency=0)
    for deadline in (0.0, float("nan")):
        with pytest.raises(ValueError, match="deadline must be positive"):
            await fetch_data(client, 1, deadline=deadline)


# --- Rate limits


@pytest.mark.parametrize(
    ("status", "headers", "pause"),
    [
        (429, {"Retry-After": "2"}, 2),
        (503, {"Retry-After": "2"}, 2),
        (429, {}, 0.1),
    ],
    ids=["429_with_a_pause", "503_with_a_pause", "429_without_a_pause"],
)
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_all_facts_arrive_from_an_api_with_a_rate_limit(
    base_url: str,
    rate_limiter: Any,
    request_times: list[float],
    capsys: Capture,
    caplog: pytest.LogCaptureFixture,
    status: int,
    headers: dict[str, str],
    pause: float,
) -> None:
    rate_limiter.rate = 5
    rate_limiter.status = status
    rate_limiter.headers = headers
    rate_limiter.pause = pause
    assert await main(40, base_url=base_url, concurrency=40) == 0
    assert len(capsys.readouterr().out.splitlines()) == 40
    assert rate_limiter.too_early == []
    # The first 40 requests start together; later ones adapt to the rate.
    assert len(request_times) < 40 + 40 + 20
    assert len(caplog.messages) == 1


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_pause_beyond_the_deadline_ends_the_run_at_once(
    base_url: str, rate_limiter: Any, request_times: list[float], capsys: Capture
) -> None:
    rate_limiter.rate = 1e-9
    rate_limiter.headers = {"Retry-After": "1795991616"}
    assert await main(40, base_url=base_url, concurrency=10) == 1
    out, err = capsys.readouterr()
    assert out == "Cat number 1 sleeps.\n"
    assert err.startswith("39 of 40 facts failed: 39 x RateLimitError: 429 Too Many")
    assert "next request in 1795991616 s, after the deadline" in err
    # Those that were under way when the first refusal arrived.
    assert len(request_times) < 20
    assert now() == 0


# --- Cancellation


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_cancelled_at_any_await_it_leaves_nothing_behind(
    base_url: str, cancel_everywhere: Callable[..., Awaitable[int]]
) -> None:
    async def run() -> None:
        await main(2, base_url=base_url)

    assert await cancel_everywhere(run) > 0


@pytest.mark.asyncio
async def test_cancelling_the_program_closes_its_connections(
    base_url: str, script: Script, busy: asyncio.Event, hung_up: asyncio.Event
) -> None:
    script.append("hang")
    program = asyncio.create_task(main(1, base_url=base_url))
    await busy.wait()
    program.cancel()
    with pytest.raises(asyncio.CancelledError):
        await program
    await hung_up.wait()


# --- Output

# An emoji family and a Persian word, whose parts are joined or separated by invisible
# characters.
FAMILY = "\N{WOMAN}\u200d\N{WOMAN}\u200d\N{GIRL}"
PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0631\u062f"


@pytest.mark.asyncio
async def test_each_fact_is_a_line_on_stdout(base_url: str, capsys: Capture) -> None:
    assert await main(2, base_url=base_url, concurrency=1) == 0
    assert capsys.readouterr() == ("Cat number 1 sleeps.\nCat number 2 sleeps.\n", "")
    assert await main(1, base_url=base_url, json=True) == 0
    assert capsys.readouterr().out == '{"fact": "Cat number 3 sleeps.", "length": 20}\n'


@pytest.mark.asyncio
async def test_a_fact_cannot_control_the_terminal_but_keeps_its_text(
    base_url: str, script: Script, capsys: Capture
) -> None:
    fact = {"fact": f"Cats\nsleep.\x1b[2J\ud800{FAMILY} {PERSIAN}", "length": 11}
    script.append(web.json_response(fact))
    assert await main(1, base_url=base_url) == 0
    assert capsys.readouterr().out == f"Cats sleep. [2J {FAMILY} {PERSIAN}\n"


@pytest.mark.asyncio
async def test_an_explanation_keeps_its_text(
    base_url: str, script: Script, capsys: Capture
) -> None:
    script.append(web.Response(text=f"{PERSIAN}\x1b[2J", status=400))
    assert await main(1, base_url=base_url) == 1
    assert f"400 Bad Request: {PERSIAN} [2J (http" in capsys.readouterr().err


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_failures_are_one_line_and_status_1(
    base_url: str, script: Script, capsys: Capture
) -> None:
    script += ["hang", 404]
    assert await main(3, base_url=base_url, timeout=3, attempts=1) == 1
    out, err = capsys.readouterr()
    assert out == "Cat number 3 sleeps.\n"
    assert err == (
        "2 of 3 facts failed: 1 x StatusError: 404 Not Found "
        f"({base_url.rstrip('/')}{PATH}); 1 x TimeoutError: no response within 3 s\n"
    )


@pytest.mark.asyncio
async def test_the_three_most_frequent_reasons_are_shown(
    base_url: str, script: Script, capsys: Capture
) -> None:
    script += [400, 401, 401, 403, 403, 404, 404]
    assert await main(7, base_url=base_url, concurrency=1) == 1
    err = capsys.readouterr().err
    assert err.startswith("7 of 7 facts failed: 2 x StatusError: 401")
    assert err.endswith("; ...\n")
    assert "400" not in err


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_an_error_message_of_many_lines_is_shown_on_one(
    base_url: str, script: Script, caplog: pytest.LogCaptureFixture, capsys: Capture
) -> None:
    for _ in range(2):
        headers = {"Content-Encoding": "gzip"}
        script.append(web.Response(body=b"not compressed", headers=headers))
    assert await main(1, base_url=base_url, attempts=2) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("Can not decode content-encoding: gzip")
    [message] = caplog.messages
    assert len(message.splitlines()) == 1


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_each_fact_has_at_most_one_warning(
    base_url: str, script: Script, caplog: pytest.LogCaptureFixture, capsys: Capture
) -> None:
    script += [500] * 20
    assert await main(4, base_url=base_url, attempts=5) == 1
    assert len(caplog.messages) == 4
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_no_message_shows_credentials(
    base_url: str, script: Script, caplog: pytest.LogCaptureFixture, capsys: Capture
) -> None:
    url = base_url.replace("http://", "http://ada:secret@")
    echo = "you asked for http://ada:secret@127.0.0.1/fact?api_key=secret"
    for status in [500, 400]:
        script.append(web.Response(text=echo, status=status))
    assert await main(1, base_url=url) == 1
    assert await main(1, base_url="http://ada:secret@[") == 1
    assert await main(1, base_url=base_url, token="sécret") == 1  # noqa: S106
    stderr = capsys.readouterr().err
    assert len(stderr.splitlines()) == 3
    assert "ada:***@" in stderr
    assert len(caplog.messages) == 1
    assert "secret" not in stderr + caplog.text
    assert "sécret" not in stderr


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
@pytest.mark.asyncio
async def test_an_invalid_host_name_is_one_line(host: str, capsys: Capture) -> None:
    assert await main(1, base_url=f"http://{host}") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("1 of 1 facts failed: 1 x ClientConnectorDNSError: ")
    assert f" {host}:80 " in line


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_the_options_are_the_limits(
    base_url: str, script: Script, request_times: list[float]
) -> None:
    script += ["slow"] * 9
    assert await main(9, base_url=base_url, concurrency=2, deadline=2.5) == 1
    assert Counter(round(time) for time in request_times) == {0: 2, 1: 2, 2: 2}
    assert now() == pytest.approx(2.5)


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_there_are_no_other_limits(
    base_url: str, script: Script, request_times: list[float], capsys: Capture
) -> None:
    # The defaults of aiohttp are 100 connections and 300 seconds.
    script += ["slow"] * 101
    assert await main(101, base_url=base_url, concurrency=101) == 0
    assert Counter(round(time) for time in request_times) == {0: 101}
    script.append("hang")
    assert await main(1, base_url=base_url, timeout=900, deadline=9000, attempts=1) == 1
    assert "no response within 900 s" in capsys.readouterr().err
    assert now() == pytest.approx(1 + 900)


@pytest.mark.asyncio
async def test_without_a_terminal_progress_is_logged(
    base_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert await main(20, base_url=base_url) == 0
    messages = [
        record.message for record in caplog.records if record.name.endswith(".progress")
    ]
    assert messages == [f"{number} of 20 facts" for number in range(2, 21, 2)]


@pytest.mark.asyncio
async def test_on_a_terminal_a_bar_goes_to_stderr_and_facts_go_to_stdout(
    base_url: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert await main(1, base_url=base_url) == 0
    out, err = capsys.readouterr()
    assert out == "Cat number 1 sleeps.\n"
    assert "100%" in err


def test_the_token_can_come_from_the_environment_and_is_not_in_the_help(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "se-cret"  # noqa: S105
    monkeypatch.setenv("CATS_TOKEN", token)
    app = cyclopts.App(config=Env("CATS_", command=False))
    app.default(main)
    _, bound, _ = app.parse_args([])
    assert bound.arguments["token"] == token
    app.help_print([])
    text = capsys.readouterr().out
    assert "CATS_TOKEN" in text
    assert token not in text


# --- The README


def readme_commands() -> list[str]:
    """Return the commands of the README that fetch facts."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    # In a project, the README has other sections before and after this one.
    program = text.partition("\n## The program\n")[2] or text
    section = program.partition("\n## ")[0]
    blocks = re.findall(r"^```console\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return "".join(blocks).splitlines()


@pytest.mark.parametrize("command", readme_commands())
@pytest.mark.asyncio
async def test_the_commands_of_the_readme_work(
    base_url: str, capsys: Capture, command: str
) -> None:
    words = shlex.split(command.partition(" > ")[0], comments=True)
    assert words[:2] == ["uv", "run"]
    app = cyclopts.App()
    app.default(main)
    function, bound, _ = app.parse_args(words[3:])
    # The local API takes the place of the one that the command names.
    bound.arguments["base_url"] = base_url
    assert await function(*bound.args, **bound.kwargs) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == bound.arguments.get("count", 5)


def test_the_readme_has_commands() -> None:
    assert len(readme_commands()) == 5
