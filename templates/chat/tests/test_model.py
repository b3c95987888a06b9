"""The client of model servers, against a local server with a script."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import pytest_asyncio

from chat.bot import AnswerError, Reply
from chat.history import Message
from chat.model import (
    EventParser,
    ModelOptions,
    chat_messages,
    open_model,
    retry_pause,
)


def message(name: str, text: str) -> Message:
    """Return what a person or the bot said."""
    return Message(name=name, text=text, time=0.0)


QUESTION = [message("Ann", "@bot Hi")]


@pytest.fixture
def options(model_server: Any) -> ModelOptions:
    """The options for the local model server."""
    return ModelOptions(model_url=model_server.url, model="tiny", token_timeout=30)


@pytest_asyncio.fixture
async def model(options: ModelOptions) -> AsyncIterator[Reply]:
    """The function that asks the model on the local server."""
    async with open_model(options, "sk-secret") as reply:
        yield reply


async def answer(model: Reply) -> list[str]:
    """Return the parts of an answer; its last one may be the reason of its end."""
    parts = []
    try:
        async with aclosing(model(QUESTION)) as stream:
            async for part in stream:
                parts.append(part)
    except AnswerError as error:
        parts.append(str(error))
    return parts


# --- The request


@pytest.mark.asyncio
async def test_the_request_has_the_model_the_conversation_and_the_key(
    model: Reply, model_server: Any, options: ModelOptions
) -> None:
    assert await answer(model) == ["Hello"]
    assert model_server.authorization == "Bearer sk-secret"
    assert model_server.bodies == [
        {
            "model": "tiny",
            "messages": [
                {"role": "system", "content": options.system_prompt},
                {"role": "user", "content": "Ann: Hi"},
            ],
            "stream": True,
        }
    ]


@pytest.mark.asyncio
async def test_without_a_key_no_key_is_sent(
    options: ModelOptions, model_server: Any
) -> None:
    async with open_model(options, "") as model:
        assert await answer(model) == ["Hello"]
    assert model_server.authorization is None


def test_people_and_the_bot_alternate_and_a_person_begins() -> None:
    conversation = [
        message("bot", "Welcome"),
        message("Ann", "Hello"),
        message("Bob", "@bot, Hi"),
        message("bot", "Yes?"),
        message("Ann", "@bot Hm"),
    ]
    assert chat_messages(conversation, system_prompt="") == [
        {"role": "user", "content": "Ann: Hello\nBob: Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Ann: Hm"},
    ]


# --- The answer


@pytest.mark.asyncio
async def test_a_part_arrives_before_the_next_one_is_there(
    model: Reply, model_server: Any
) -> None:
    ready = asyncio.Event()
    model_server.chunks[1:1] = [ready, model_server.event(" Ann")]
    async with aclosing(model(QUESTION)) as stream:
        assert await anext(stream) == "Hello"
        ready.set()
        assert await anext(stream) == " Ann"


@pytest.mark.asyncio
async def test_an_answer_may_end_without_the_last_event(
    model: Reply, model_server: Any
) -> None:
    del model_server.chunks[-1]
    assert await answer(model) == ["Hello"]


@pytest.mark.asyncio
async def test_events_without_text_are_skipped(model: Reply, model_server: Any) -> None:
    model_server.chunks = [
        b": a comment\n\n",
        b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n',
        b'data: {"choices": [{"delta": {"content": null}}]}\n\n',
        b'data: {"choices": [{"delta": null}]}\n\n',
        b'data: {"choices": [], "usage": {}}\n\n',
        *model_server.chunks,
    ]
    assert await answer(model) == ["Hello"]


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([b""], "The model server ended the answer early."),
        (
            [b'data: {"error": {"message": "out of memory"}}\n\n'],
            "The model server reported an error.",
        ),
        (
            [b"data: <html>\n\n"],
            "The model server sent something that is not an answer.",
        ),
        ([b"data: []\n\n"], "The model server sent something that is not an answer."),
        (
            [b"data: " + b"x" * 2**21],
            "The model server sent something that is not an answer.",
        ),
        (
            [b'data: {"choices": [{"finish_reason": "length"}]}\n\n'],
            "The answer reached the length limit of the model server.",
        ),
        (
            [b'data: {"choices": [{"finish_reason": "content_filter"}]}\n\n'],
            "The content filter of the model server ended the answer.",
        ),
    ],
    ids=["early_end", "error", "html", "list", "too_long", "length", "filter"],
)
@pytest.mark.asyncio
async def test_people_read_why_an_answer_ended(
    model: Reply, model_server: Any, chunks: list[bytes], reason: str
) -> None:
    model_server.chunks = [model_server.event("Well"), *chunks]
    assert await answer(model) == ["Well", reason]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (400, "The model server refused with status 400."),
        (401, "The model server did not accept the key."),
        (404, "The model server does not have this model."),
        (307, "The model server refused with status 307."),
        (500, "The model server refused with status 500."),
    ],
)
@pytest.mark.asyncio
async def test_people_read_why_the_server_refused_and_the_log_has_the_details(
    model: Reply,
    model_server: Any,
    caplog: pytest.LogCaptureFixture,
    status: int,
    reason: str,
) -> None:
    model_server.status = status
    model_server.headers = {"Location": "/v1/chat/completions"}
    model_server.chunks = [b"the key sk-secret\nis bad"]
    assert await answer(model) == [reason]
    assert f"status {status}: the key *** is bad" in caplog.text
    assert "sk-secret" not in caplog.text
    assert len(model_server.bodies) == 1


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_no_request_is_sent_until_the_server_allows_it(
    model: Reply, model_server: Any
) -> None:
    model_server.status = 429
    model_server.headers = {"Retry-After": "20"}
    assert await answer(model) == ["The model server is busy: ask again in 20 seconds."]
    await asyncio.sleep(5)
    model_server.status = 200
    assert await answer(model) == ["The model server is busy: ask again in 15 seconds."]
    assert len(model_server.bodies) == 1
    await asyncio.sleep(15)
    assert await answer(model) == ["Hello"]


@pytest.mark.asyncio
async def test_a_busy_server_may_send_no_retry_after(
    model: Reply, model_server: Any
) -> None:
    model_server.status = 429
    assert await answer(model) == ["The model server is busy: ask again later."]
    model_server.status = 200
    assert await answer(model) == ["Hello"]


def test_a_pause_is_a_number_of_seconds_or_a_date() -> None:
    assert retry_pause("20") == 20
    assert retry_pause("9" * 99) == 3600
    assert retry_pause("soon") == retry_pause("-1") == retry_pause("") == 0
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 50 < retry_pause(date) <= 60
    assert retry_pause("Fri, 01 Jan 2010 00:00:00 GMT") == 0


# --- Servers that are slow or down


@pytest.mark.parametrize("first", [b"", b"data: "], ids=["nothing", "half_an_event"])
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_server_that_stalls_ends_the_answer(
    model: Reply, model_server: Any, first: bytes
) -> None:
    model_server.chunks = [model_server.event("Well"), first, asyncio.Event()]
    assert await answer(model) == [
        "Well",
        "The model server sent nothing for 30 seconds.",
    ]
    assert asyncio.get_running_loop().time() == pytest.approx(30, abs=0.1)
    await model_server.request_ended.wait()


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_slow_reader_of_the_answer_is_no_stall(
    model: Reply, model_server: Any
) -> None:
    model_server.chunks.insert(1, model_server.event(" Ann"))
    parts = []
    async with aclosing(model(QUESTION)) as stream:
        async for part in stream:
            parts.append(part)
            await asyncio.sleep(1000)
    assert parts == ["Hello", " Ann"]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that belongs to this test, but on which no program listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.mark.asyncio
async def test_a_server_that_is_down_is_reported(
    closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"http://127.0.0.1:{closed_port}/v1"
    async with open_model(ModelOptions(model_url=url, model="tiny"), "") as model:
        assert await answer(model) == ["The model server cannot be reached."]
    assert "Cannot connect to host" in caplog.text


@pytest.mark.asyncio
async def test_a_connection_that_breaks_ends_the_answer(
    model: Reply, model_server: Any
) -> None:
    read = asyncio.Event()
    model_server.chunks = [model_server.event("Well"), read, None]
    async with aclosing(model(QUESTION)) as stream:
        assert await anext(stream) == "Well"
        read.set()
        with pytest.raises(AnswerError, match="ended the answer early"):
            await anext(stream)
    model_server.chunks = [None]
    assert await answer(model) == ["The model server ended the answer early."]


@pytest.mark.asyncio
async def test_closing_the_answer_closes_the_request(
    model: Reply, model_server: Any
) -> None:
    model_server.chunks = [model_server.event("Well"), asyncio.Event()]
    async with aclosing(model(QUESTION)) as stream:
        assert await anext(stream) == "Well"
        assert not model_server.request_ended.is_set()
    await model_server.request_ended.wait()


# --- Server-Sent Events


STREAM = (
    "\ufeffdata: one\n\n"
    ": comment\n"
    "event: x\nid: 1\ndata:two\ndata: lines\r\n\r\n"
    "data\rdata: \U0001f600 \u4e2d\r\r"
    "\n\n"
    "data: no end"
).encode()


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 1000])
def test_events_are_found_however_the_stream_is_cut(step: int) -> None:
    parser = EventParser()
    events = []
    for start in range(0, len(STREAM), step):
        events += parser.feed(STREAM[start : start + step])
    assert events == ["one", "two\nlines", "\n\U0001f600 \u4e2d"]
