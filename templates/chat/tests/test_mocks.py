"""AsyncMock by example: clients and bots with faults that real ones rarely have."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any
from unittest.mock import ANY, AsyncMock, MagicMock, call, create_autospec

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from pytest_mock import MockerFixture
from yarl import URL

from chat.bot import reply
from chat.history import Message
from chat.limits import Limits
from chat.room import Client, Room

Enter = Callable[..., Awaitable[Any]]


# Reading a big class for its spec takes long: a fixture that is not async does it off
# the loop.


@pytest.fixture
def ws() -> Any:
    """A mock that takes only what a server's WebSocket takes."""
    return create_autospec(web.WebSocketResponse, instance=True)


@pytest.fixture
def other_ws() -> Any:
    """Another one."""
    return create_autospec(web.WebSocketResponse, instance=True)


@pytest.fixture
def transport() -> Any:
    """A transport that has nothing left to write."""
    transport = create_autospec(asyncio.Transport, instance=True)
    transport.get_write_buffer_size.return_value = 0
    return transport


def client(ws: Any, transport: Any) -> Client:
    """Return a client made of mocks."""
    return Client(name="Ann", ws=ws, transport=transport)


def notice(text: str) -> tuple[bytes, WSMsgType]:
    """Return what a WebSocket is given to send for a notice."""
    return json.dumps({"type": "notice", "text": text}).encode(), WSMsgType.TEXT


# The spec says what is async and what is not.


@pytest.mark.asyncio
async def test_a_mock_with_a_spec_records_what_was_awaited(
    ws: Any, transport: Any
) -> None:
    await Room().send(client(ws, transport), type="notice", text="Hello")
    ws.send_frame.assert_awaited_once_with(*notice("Hello"))


def test_a_mock_with_a_spec_refuses_typos_and_wrong_arguments(ws: Any) -> None:
    with pytest.raises(AttributeError, match="send_farme"):
        ws.send_farme(b"Hello", WSMsgType.TEXT)
    with pytest.raises(TypeError, match="missing a required argument: 'opcode'"):
        ws.send_frame(b"Hello")


@pytest.mark.asyncio
async def test_called_is_not_awaited(ws: Any) -> None:
    forgotten = ws.close(code=1001)
    ws.close.assert_called_once_with(code=1001)
    ws.close.assert_not_awaited()
    await forgotten
    ws.close.assert_awaited_once_with(code=1001)


@pytest.mark.bare_mocks
def test_without_a_spec_a_number_becomes_a_coroutine() -> None:
    size = AsyncMock().get_write_buffer_size()
    assert asyncio.iscoroutine(size)  # and `size > outbox` a TypeError
    size.close()


# Side effects: what happens, call by call.


@pytest.mark.asyncio
async def test_a_side_effect_is_raised_and_the_others_get_the_message(
    ws: Any, other_ws: Any, transport: Any
) -> None:
    ws.send_frame.side_effect = aiohttp.ClientConnectionResetError("gone")
    lost, well = client(ws, transport), client(other_ws, transport)
    await Room().send(lost, well, type="notice", text="Hello")
    ws.send_frame.assert_awaited_once()
    other_ws.send_frame.assert_awaited_once_with(*notice("Hello"))


@pytest.mark.asyncio
async def test_a_list_of_side_effects_is_one_result_a_call(
    ws: Any, transport: Any
) -> None:
    transport.get_write_buffer_size.side_effect = [0, 99, 100, 101, 0]
    room = Room(Limits(outbox=100))
    for size in ("empty", "nearly full", "full", "too full", "empty again"):
        await room.send(client(ws, transport), type="notice", text=size)
    assert ws.send_frame.await_args_list == [
        call(*notice(size)) for size in ("empty", "nearly full", "full", "empty again")
    ]


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_side_effect_that_hangs_is_cancelled_by_the_timeout(ws: Any) -> None:
    ws.close.side_effect = asyncio.Event().wait
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ws.close(), 3600)
    ws.close.assert_called_once()


# The order of calls: one parent records the calls of all its children.


@pytest.mark.shuffled(3)
@pytest.mark.asyncio
async def test_a_parent_mock_shows_that_messages_are_sent_in_one_order(
    ws: Any, other_ws: Any, transport: Any
) -> None:
    sends, room = MagicMock(spec=["ann", "bob"]), Room()
    sends.attach_mock(ws.send_frame, "ann")
    sends.attach_mock(other_ws.send_frame, "bob")
    everyone = client(ws, transport), client(other_ws, transport)
    async with asyncio.TaskGroup() as tasks:
        for n in range(10):
            tasks.create_task(room.send(*everyone, type="notice", text=f"{n}"))
    pairs = list(zip(sends.mock_calls[::2], sends.mock_calls[1::2], strict=True))
    assert len(pairs) == 10
    assert all(
        (call.ann(*one.args), call.bob(*one.args)) == (one, two) for one, two in pairs
    )


@pytest.mark.asyncio
async def test_sending_awaits_once_and_no_client(
    ws: Any, transport: Any, cancel_everywhere: Callable[..., Awaitable[int]]
) -> None:
    room, ann = Room(), client(ws, transport)
    awaits = await cancel_everywhere(
        lambda: room.send(ann, type="notice", text="Hello")
    )
    assert awaits == 1  # when all is sent, to give the others their turn
    assert ws.send_frame.await_args_list == [call(*notice("Hello"))] * 2


# A bot is an async generator: it is called, and then iterated, but never awaited.


@pytest.mark.asyncio
async def test_a_generator_as_side_effect_replaces_the_model(
    room: Room, enter: Enter
) -> None:
    async def script(conversation: Sequence[Message]) -> AsyncGenerator[str, None]:
        yield f"Why {conversation[-1].text}"

    bot = create_autospec(reply, side_effect=script)
    room.reply = bot
    ann = await enter("Ann")
    await ann.say("@bot not?")
    assert (await ann.heard(4))[2:] == ["word: Why @bot not?", "end: "]
    bot.assert_called_once()


@pytest.mark.asyncio
async def test_aiter_of_the_return_value_takes_a_list(
    room: Room, enter: Enter, mocker: MockerFixture
) -> None:
    bot = create_autospec(reply)
    bot.return_value.__aiter__.return_value = ["Yes."]
    bot.return_value.aclose = closed = mocker.async_stub("aclose")
    room.reply = bot
    ann = await enter("Ann")
    await ann.say("@bot Hm?")
    assert (await ann.heard(4))[2:] == ["word: Yes.", "end: "]
    # Without this line, awaiting it would be a TypeError: no mock guesses it.
    closed.assert_awaited_once_with()


# A patch with autospec records `self`, too.


@pytest.mark.asyncio
async def test_a_patched_method_fails_and_the_room_forgets_that_client(
    room: Room, url: URL, session: aiohttp.ClientSession, mocker: MockerFixture
) -> None:
    bug = RuntimeError("a bug")
    mocker.patch.object(Room, "send_to_all", autospec=True)
    send = mocker.patch.object(Room, "send", autospec=True, side_effect=bug)
    ann = await session.ws_connect(url / "ws")
    await ann.receive()  # it is closed
    names = ["guest"]
    send.assert_awaited_once_with(
        room,
        ANY,
        type="welcome",
        name="guest",
        names=names,
        message_size=2000,
        history=[],
    )
    assert room.size == 0


# A spy watches while the real method works.


@pytest.mark.asyncio
async def test_a_spy_sees_what_is_sent(
    room: Room, enter: Enter, mocker: MockerFixture
) -> None:
    send = mocker.spy(Room, "send_to_all")
    ann = await enter("Ann")
    await ann.say(" Hello ")
    assert (await ann.receive())["text"] == "Hello"
    send.assert_awaited_once_with(
        room, type="message", name="Ann", text="Hello", time=ANY
    )
