"""The whole program: its options, its bots and its end."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import cyclopts
import pytest
from yarl import URL

from chat.app import main
from chat.limits import Limits
from chat.model import ModelOptions

Enter = Callable[..., Awaitable[Any]]


@pytest.mark.asyncio
async def test_a_signal_closes_all_connections_properly(
    enter: Enter, address: asyncio.Future[str], session: aiohttp.ClientSession
) -> None:
    async with asyncio.TaskGroup() as tasks:
        program = tasks.create_task(main(port=0))
        url = await address
        peers = [await enter("Ann", at=url) for _ in range(5)]
        await peers[0].say("@bot Tell me a long story.")
        await peers[0].heard(2)
        program.cancel()  # as __main__ does
        for peer in peers:
            assert await peer.goodbye() == (1001, "the server stops")
    assert program.result() == 0
    with pytest.raises(aiohttp.ClientConnectorError):
        await session.get(url)


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_client_that_does_not_read_delays_the_end_by_the_grace_period_at_most(
    enter: Enter, address: asyncio.Future[str], enter_raw: Enter
) -> None:
    limits = Limits(rate=1000, message_size=2**16, outbox=10**7, grace=8)
    async with asyncio.TaskGroup() as tasks:
        program = tasks.create_task(main(port=0, limits=limits))
        url = await address
        await enter_raw(URL(url))
        ann = await enter("Ann", at=url)
        for _ in range(30):
            await ann.say("x" * 60_000)
            await ann.heard()
        start = asyncio.get_running_loop().time()
        program.cancel()
        assert await ann.goodbye() == (1001, "the server stops")
        assert await program == 0
        assert asyncio.get_running_loop().time() - start < 8


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_connection_without_a_request_is_closed(
    address: asyncio.Future[str],
) -> None:
    async with asyncio.TaskGroup() as tasks:
        program = tasks.create_task(main(port=0))
        port = int((await address).rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n")  # and never the rest
        assert await reader.read() == b""
        assert asyncio.get_running_loop().time() == pytest.approx(15)
        writer.close()
        await writer.wait_closed()
        program.cancel()


@pytest.mark.virtual_clock
@pytest.mark.parametrize("host", ["127.0.0.1", ""])  # never all interfaces
@pytest.mark.asyncio
async def test_it_ends_after_its_lifetime(
    capsys: pytest.CaptureFixture[str], host: str
) -> None:
    assert await main(host=host, port=0, lifetime=86_400) == 0
    assert asyncio.get_running_loop().time() == pytest.approx(86_400)
    assert re.fullmatch(
        r"listening on http://127\.0\.0\.1:\d+\n", capsys.readouterr().out
    )


@pytest.mark.asyncio
async def test_a_taken_port_is_reported_in_one_line(
    taken_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await main(port=taken_port) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert len(stderr.splitlines()) == 1
    assert str(taken_port) in stderr


# --- The options


def parse(*arguments: str) -> None:
    """Parse a command line, as __main__ does."""
    cli = cyclopts.App(default_command=main, print_error=False, exit_on_error=False)
    cli.parse_args(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--allowed-origin", "chat.example.com"], "https://chat.example.com, not"),
        (["--allowed-origin", "https://a.example/chat"], "https://chat.example.com"),
        (["--allowed-origin", "*"], "https://chat.example.com"),
        (["--context", "0"], "--context"),
    ],
)
def test_a_bad_option_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(cyclopts.CycloptsError, match=message):
        parse(*arguments)


def test_several_origins_can_be_allowed() -> None:
    parse("--allowed-origin", "https://a.example", "--allowed-origin", "http://B:81/")


# --- The model


@pytest.mark.asyncio
async def test_the_model_answers_in_the_room(
    enter: Enter,
    address: asyncio.Future[str],
    model_server: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MODEL_API_KEY", "sk-secret")
    options = ModelOptions(model_url=model_server.url, model="tiny")
    async with asyncio.TaskGroup() as tasks:
        program = tasks.create_task(main(port=0, model_options=options))
        ann = await enter("Ann", at=await address)
        await ann.say("@bot Hi")
        lines = await ann.heard(4)
        assert lines == ["Ann: @bot Hi", "answer: ", "word: Hello", "end: "]
        program.cancel()
    assert model_server.authorization == "Bearer sk-secret"


@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "stops_it"])
@pytest.mark.asyncio
async def test_the_request_is_closed_when_the_asker(
    enter: Enter, address: asyncio.Future[str], model_server: Any, leaves: bool
) -> None:
    model_server.chunks = [model_server.event("Once "), asyncio.Event()]
    options = ModelOptions(model_url=model_server.url, model="tiny")
    async with asyncio.TaskGroup() as tasks:
        program = tasks.create_task(main(port=0, model_options=options))
        ann = await enter("Ann", at=await address)
        await ann.say("@bot Tell me a long story.")
        await ann.heard(3)
        assert not model_server.request_ended.is_set()
        if leaves:
            await ann.close()
        else:
            await ann.send(type="stop", id=1)
        await model_server.request_ended.wait()
        program.cancel()


@pytest.mark.parametrize(
    ("url", "model", "message"),
    [
        ("http://x/v1", None, "--model-url and --model must be given together"),
        (None, "tiny", "--model-url and --model must be given together"),
        ("ftp://x", "tiny", "--model-url is not an http or https URL: ftp://x"),
        ("http://[x", "tiny", "--model-url is not a URL: http://[x"),
        (
            "http://ann:secret@x",
            "tiny",
            "--model-url has credentials: set MODEL_API_KEY instead",
        ),
    ],
)
@pytest.mark.asyncio
async def test_bad_options_for_the_model_are_reported_in_one_line(
    capsys: pytest.CaptureFixture[str], url: str | None, model: str | None, message: str
) -> None:
    options = ModelOptions(model_url=url, model=model)
    assert await main(port=0, model_options=options) == 1
    assert capsys.readouterr().err == f"{message}\n"


@pytest.mark.asyncio
async def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODEL_API_KEY", "sk-\nsecret")
    options = ModelOptions(model_url="http://127.0.0.1:9/v1", model="tiny")
    assert await main(port=0, model_options=options) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("MODEL_API_KEY contains")
    assert "secret" not in stderr


@pytest.mark.deadline(60)  # a process starts slowly on a busy machine
@pytest.mark.asyncio
async def test_the_program_as_a_process_asks_the_model_and_hides_the_key(
    enter: Enter, model_server: Any
) -> None:
    model_server.status = 401
    model_server.chunks = [json.dumps({"error": "bad key: sk-secret"}).encode()]
    package = main.__module__.rpartition(".")[0]
    program = f"""
import asyncio, sys
from {package}.app import main
from {package}.model import ModelOptions
options = ModelOptions(model_url=sys.argv[1], model="tiny")
asyncio.run(main(port=0, lifetime=50, model_options=options))
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        model_server.url,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            "MODEL_API_KEY": "sk-secret",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONUNBUFFERED": "1",
        },
    )
    assert process.stdout
    url = (await process.stdout.readline()).decode().split()[-1]
    ann = await enter("Ann", at=url)
    await ann.say("@bot Hi")
    lines = await ann.heard(3)
    assert lines[-1] == "end: The model server did not accept the key."
    await ann.close()
    process.terminate()
    _, stderr = await process.communicate()
    assert b"status 401" in stderr
    assert b"bad key: ***" in stderr
    assert b"sk-secret" not in stderr
