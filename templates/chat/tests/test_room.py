"""What the room promises to real WebSocket clients on a local port."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import cyclopts
import pytest
from aiohttp import WSMsgType, web
from yarl import URL

from chat.app import main
from chat.bot import AnswerError, reply
from chat.history import Message
from chat.limits import Limits
from chat.room import Room

Enter = Callable[..., Awaitable[Any]]
Words = asyncio.Queue[str | Exception | None]


# --- A room is for everyone


@pytest.mark.asyncio
async def test_a_message_reaches_everyone(enter: Enter) -> None:
    ann, bob = await enter("Ann"), await enter("Bob")
    await ann.say("  Hello, <script>alert('Bob')</script>!\n")
    expected = ["Ann: Hello, <script>alert('Bob')</script>!"]
    assert await ann.heard() == expected
    assert await bob.heard() == expected


@pytest.mark.asyncio
async def test_a_message_has_its_time(enter: Enter) -> None:
    ann = await enter("Ann")
    before = time.time()
    await ann.say("Hello")
    message = await ann.receive()
    assert before <= message["time"] <= time.time()


@pytest.mark.asyncio
async def test_all_clients_receive_all_messages_in_the_same_order(enter: Enter) -> None:
    peers = [await enter(f"peer {n}") for n in range(20)]
    async with asyncio.TaskGroup() as tasks:
        for n, peer in enumerate(peers):
            tasks.create_task(peer.say(*(f"{n}.{turn}" for turn in range(5))))
    logs = [await peer.heard(20 * 5) for peer in peers]
    assert all(log == logs[0] for log in logs)
    for n in range(20):
        mine = [line for line in logs[0] if line.startswith(f"peer {n}:")]
        assert mine == [f"peer {n}: {n}.{turn}" for turn in range(5)]


@pytest.mark.asyncio
async def test_many_clients_receive_all_messages(enter: Enter) -> None:
    crowd = [await enter(f"peer {n}") for n in range(50)]
    for n, peer in enumerate(crowd[:20]):
        await peer.say(f"{n}")
        for other in crowd:
            assert await other.heard() == [f"peer {n}: {n}"]


@pytest.mark.asyncio
async def test_people_see_who_is_in_the_room(enter: Enter) -> None:
    ann = await enter("Ann")
    bob = await enter("Bob")
    assert ann.welcome["names"] == ["Ann"]
    assert bob.welcome["names"] == ["Ann", "Bob"]
    await bob.close()
    events = [await ann.receive(all_types=True) for _ in range(2)]
    assert events == [
        {"type": "joined", "name": "Bob"},
        {"type": "left", "name": "Bob"},
    ]


@pytest.mark.asyncio
async def test_people_who_enter_at_the_same_moment_see_each_other(
    enter: Enter,
) -> None:
    names = {f"peer {n}" for n in range(20)}
    for peer in await asyncio.gather(*(enter(name) for name in names)):
        known = set(peer.welcome["names"])
        while known != names:
            known.add((await peer.receive(all_types=True))["name"])


@pytest.mark.asyncio
async def test_names_are_unique(enter: Enter) -> None:
    requested = ["Ann", "\uff41nn", "Ann", "Bot", "", ""]
    peers = [await enter(name) for name in requested]
    names = [peer.welcome["name"] for peer in peers]
    assert names == ["Ann", "\uff41nn-2", "Ann-3", "Bot-2", "guest", "guest-2"]


@pytest.mark.asyncio
async def test_a_name_is_free_when_its_owner_has_left(enter: Enter) -> None:
    bob = await enter("Bob")
    for _ in range(3):
        ann = await enter("Ann")
        assert ann.welcome["name"] == "Ann"
        await ann.close()
        while (await bob.receive(all_types=True))["type"] != "left":
            pass


@pytest.mark.asyncio
async def test_a_newcomer_gets_the_last_messages(enter: Enter, words: Words) -> None:
    ann = await enter("Ann")
    words.put_nowait("Well, ")
    words.put_nowait("yes.")
    words.put_nowait(None)
    await ann.say("Hello", "@bot Hm?")
    await ann.heard(6)
    bob = await enter("Bob")
    history = bob.welcome["history"]
    assert [message["text"] for message in history] == [
        "Hello",
        "@bot Hm?",
        "Well, yes.",
    ]
    assert history[2]["finished"]


@pytest.mark.asyncio
async def test_a_newcomer_sees_an_answer_from_its_beginning(
    enter: Enter, words: Words
) -> None:
    ann = await enter("Ann")
    await ann.say("@bot Hm?")
    words.put_nowait("Well, ")
    await ann.heard(3)
    bob = await enter("Bob")
    answer = bob.welcome["history"][-1]
    assert (answer["text"], answer["finished"]) == ("Well, ", False)
    words.put_nowait("yes.")
    word = await bob.receive()
    assert (word["id"], word["text"]) == (answer["id"], "yes.")


# --- Messages that are refused


@pytest.mark.asyncio
async def test_a_message_may_have_so_many_bytes(enter: Enter, room: Room) -> None:
    room.limits.message_size = 600
    ann = await enter("Ann")
    assert ann.welcome["message_size"] == 600
    text = "\u4e2d" * 200
    await ann.say(text)
    assert await ann.heard() == [f"Ann: {text}"]


@pytest.mark.asyncio
async def test_a_message_of_more_bytes_is_refused_with_the_reason(
    enter: Enter, room: Room
) -> None:
    room.limits.message_size = 500
    ann, bob = await enter("Ann"), await enter("Bob")
    await ann.say("\u4e2d" * 200, "Oh")
    assert await ann.heard(2) == [
        "refused: The message has 600 bytes, the limit is 500.",
        "Ann: Oh",
    ]
    assert await bob.heard() == ["Ann: Oh"]


@pytest.mark.asyncio
async def test_every_allowed_message_fits_into_a_frame(
    enter: Enter, room: Room
) -> None:
    room.limits.message_size = 500
    ann = await enter("Ann")
    text = "\x01" * 500  # six bytes each, as JSON writes it
    await ann.say(text)
    assert await ann.heard() == [f"Ann: {text}"]


@pytest.mark.asyncio
async def test_a_frame_that_is_too_large_closes_the_connection(
    enter: Enter, room: Room
) -> None:
    room.limits.message_size = 100
    ann, bob = await enter("Ann"), await enter("Bob")
    await ann.say("x" * 1000)
    code, _ = await ann.goodbye()
    assert code == 1009
    await bob.say("Oh")
    assert await bob.heard() == ["Bob: Oh"]


@pytest.mark.parametrize(
    "data",
    [
        "Hello",
        "[]",
        "{}",
        '{"type": "message"}',
        '{"type": "message", "text": 1}',
        '{"type": "stop", "id": "1"}',
        "[" * 1900,
        "9" * 5000,
    ],
    ids=range(8),
)
@pytest.mark.asyncio
async def test_what_is_not_a_message_is_refused(enter: Enter, data: str) -> None:
    ann = await enter("Ann")
    await ann.ws.send_str(data)
    await ann.say("Hello")
    refused = "refused: The server did not understand that message."
    assert await ann.heard(2) == [refused, "Ann: Hello"]


@pytest.mark.asyncio
async def test_blank_and_binary_messages_are_refused(enter: Enter) -> None:
    ann, bob = await enter("Ann"), await enter("Bob")
    await ann.say(" \n ")
    await ann.ws.send_bytes(b"a picture")
    await ann.say("Hello")
    assert (await ann.heard())[0] == "refused: The message is empty."
    assert await bob.heard() == ["Ann: Hello"]


@pytest.mark.asyncio
async def test_half_of_a_character_does_not_end_the_room(enter: Enter) -> None:
    ann = await enter("Ann")
    await ann.ws.send_str('{"type": "message", "text": "\\ud83d"}')
    assert (await ann.receive())["text"] == "\ud83d"


@pytest.mark.asyncio
async def test_a_ping_is_answered(enter: Enter) -> None:
    ann = await enter("Ann", autoping=False)
    await ann.ws.ping(b"are you there?")
    pong = await ann.ws.receive()
    assert (pong.type, pong.data) == (WSMsgType.PONG, b"are you there?")


# --- Clients that send too much or read too little


async def send_ping(peer: Any) -> None:
    await peer.ws.ping()


async def send_text(peer: Any) -> None:
    await peer.say("Hello")


async def send_continuation(peer: Any) -> None:
    """Send a frame that begins or continues a message, and does not end it."""
    transport = peer.ws._response.connection.transport
    opcode = 0 if hasattr(peer, "has_begun") else 1
    peer.has_begun = True
    transport.write(bytes([opcode, 0x80, 0, 0, 0, 0]))


@pytest.mark.parametrize("send", [send_text, send_ping, send_continuation])
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_too_many_frames_in_a_second_disconnect_the_client(
    enter: Enter, room: Room, send: Callable[[Any], Awaitable[None]]
) -> None:
    room.limits.rate = 5
    ann, bob = await enter("Ann"), await enter("Bob")
    for _ in range(6):
        await send(ann)
    assert await ann.goodbye() == (1008, "too many messages")
    await bob.say("Oh")
    while await bob.heard() != ["Bob: Oh"]:
        pass


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_so_many_messages_in_a_second_are_allowed(
    enter: Enter, room: Room
) -> None:
    room.limits.rate = 5
    ann, bob = await enter("Ann"), await enter("Bob")
    for turn in range(3):
        await ann.say(*(f"{turn}.{n}" for n in range(5)))
        assert await bob.heard(5) == [f"Ann: {turn}.{n}" for n in range(5)]
        await asyncio.sleep(1)


@pytest.mark.asyncio
async def test_a_client_that_does_not_read_is_evicted_and_delays_no_other(
    enter: Enter, room: Room
) -> None:
    room.limits.rate = 1000
    room.limits.message_size = 2**16
    ann, slow = await enter("Ann"), await enter("Slow")
    said = [f"{n:03} {'x' * 60_000}" for n in range(50)]
    for text in said:
        await ann.say(text)
        assert await ann.heard() == [f"Ann: {text}"]
    received = []
    message = await slow.ws.receive()  # it reads again, but too late
    while message.type is WSMsgType.TEXT:
        received.append(message.json()["text"])
        message = await slow.ws.receive()
    assert (message.data, message.extra) == (1013, "too slow: the outbox is full")
    assert received == said[: len(received)]
    assert 0 < len(received) < 50


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_client_that_never_reads_again_is_cut_off(
    enter: Enter, room: Room, runner: web.AppRunner, url: URL, enter_raw: Enter
) -> None:
    room.limits.rate = 1000
    room.limits.message_size = 2**16
    ann = await enter("Ann")
    await enter_raw(url)
    for _ in range(30):
        await ann.say("x" * 60_000)
        await ann.heard()
    await asyncio.sleep(3)
    assert runner.server
    assert len(runner.server.connections) == 1
    slow = await enter("Slow")
    assert slow.welcome["name"] == "Slow"


@pytest.mark.asyncio
async def test_sending_does_not_wait_for_a_client(
    enter: Enter, room: Room, url: URL, enter_raw: Enter
) -> None:
    room.limits.rate = 1000
    room.limits.message_size = 2**16
    ann = await enter("Ann")
    await enter_raw(url)
    room.limits.outbox = 10**7  # it is not evicted, but has much to read
    for n in range(30):
        await ann.say(f"{n} {'x' * 60_000}")
        assert await ann.heard() == [f"Ann: {n} {'x' * 60_000}"]


# --- The limits


def test_limits_are_above_0_and_have_a_limit() -> None:
    with pytest.raises(
        ValueError, match=r"must be .* 10\*\*9: clients, rate, answer_time, grace"
    ):
        Limits(clients=0, rate=-1, answer_time=math.nan, grace=math.inf)


@pytest.mark.parametrize("limit", ["inf", "nan", "0", "1000000001"])
@pytest.mark.parametrize(
    "option", ["--clients", "--message-size", "--rate", "--outbox", "--grace"]
)
def test_a_limit_that_the_system_cannot_keep_is_refused(
    option: str, limit: str
) -> None:
    cli = cyclopts.App(default_command=main, print_error=False, exit_on_error=False)
    with pytest.raises(cyclopts.CycloptsError, match=option):
        cli.parse_args([option, limit])


@pytest.mark.asyncio
async def test_with_the_highest_limits_clients_can_join(
    enter: Enter, room: Room
) -> None:
    for limit in ("clients", "message_size", "rate", "outbox", "answers"):
        setattr(room.limits, limit, 10**9)
    ann = await enter("Ann")
    await ann.say("Hello")
    assert await ann.heard() == ["Ann: Hello"]


# --- The bot


@pytest.mark.parametrize(
    "question", ["@bot Who is there?", "@Bot, Who is there?", "@bot\nWho is there?"]
)
@pytest.mark.asyncio
async def test_the_bot_streams_its_answer_to_everyone(
    enter: Enter, words: Words, asked: list[list[str]], question: str
) -> None:
    ann, bob = await enter("Ann"), await enter("Bob")
    await ann.say(question)
    assert await ann.heard(2) == await bob.heard(2) == [f"Ann: {question}", "answer: "]
    for word in ("Yes, ", "I ", "am."):
        words.put_nowait(word)  # the next one is not there yet
        assert await ann.heard() == await bob.heard() == [f"word: {word}"]
    words.put_nowait(None)
    assert await ann.heard() == await bob.heard() == ["end: "]
    assert asked == [[f"Ann: {question}"]]


@pytest.mark.asyncio
async def test_the_bot_answers_only_when_it_is_asked(
    enter: Enter, asked: list[list[str]]
) -> None:
    ann = await enter("Ann")
    await ann.say("@bottle, hello", "hello @bot", "bot!")
    await ann.heard(3)
    assert not asked


@pytest.mark.asyncio
async def test_the_bot_knows_the_conversation(
    enter: Enter, room: Room, words: Words, asked: list[list[str]]
) -> None:
    room.context = 40
    ann = await enter("Ann")
    await ann.say("x" * 40, "I like tea", "@bot Hm?")
    words.put_nowait("Hi")
    words.put_nowait(None)
    await ann.heard(6)
    await ann.say("@bot Yes?")
    await ann.heard(2)
    assert asked[1] == ["Ann: @bot Hm?", "bot: Hi", "Ann: @bot Yes?"]
    assert asked[0] == ["Ann: I like tea", "Ann: @bot Hm?"]


@pytest.mark.asyncio
async def test_a_second_question_while_the_bot_answers_you_is_refused(
    enter: Enter, words: Words, asked: list[list[str]]
) -> None:
    ann = await enter("Ann")
    await ann.say("@bot 1", "@bot 2")
    lines = await ann.heard(4)
    assert sorted(lines) == [
        "Ann: @bot 1",
        "Ann: @bot 2",
        "answer: ",
        "notice: The bot is still answering you: stop it, or ask again later.",
    ]
    words.put_nowait(None)
    assert await ann.heard() == ["end: "]
    words.put_nowait(None)
    await ann.say("@bot 3")
    assert await ann.heard(3) == ["Ann: @bot 3", "answer: ", "end: "]
    assert len(asked) == 2


@pytest.mark.asyncio
async def test_the_bot_gives_only_so_many_answers_at_the_same_time(
    enter: Enter, room: Room, asked: list[list[str]]
) -> None:
    room.limits.answers = 2
    for name in ("Ann", "Bob"):
        peer = await enter(name)
        await peer.say("@bot Hello")
        await peer.heard(2)
    cid = await enter("Cid")
    await cid.say("@bot Hello")
    assert await cid.heard(2) == [
        "Cid: @bot Hello",
        "notice: The bot is busy: ask again later.",
    ]
    assert len(asked) == 2


@pytest.mark.asyncio
async def test_the_asker_can_stop_the_answer(
    enter: Enter, words: Words, silent: asyncio.Event
) -> None:
    ann, bob = await enter("Ann"), await enter("Bob")
    await ann.say("@bot Tell me a long story.")
    words.put_nowait("Once ")
    await bob.heard(1)
    answer = await bob.receive()
    assert await bob.heard() == ["word: Once "]
    await bob.send(type="stop", id=answer["id"])  # only the asker can
    await bob.say("Stop it!")
    assert await bob.heard() == ["Bob: Stop it!"]
    assert not silent.is_set()
    await ann.send(type="stop", id=answer["id"])
    assert await bob.heard() == ["end: Stopped by Ann."]
    assert silent.is_set()


@pytest.mark.asyncio
async def test_an_answer_can_be_stopped_before_its_first_word(enter: Enter) -> None:
    ann = await enter("Ann")
    await ann.say("@bot Hello")
    await ann.send(type="stop", id=1)
    assert (await ann.heard(3))[-1] == "end: Stopped by Ann."


@pytest.mark.asyncio
async def test_a_bot_that_fails_does_not_end_the_room(
    enter: Enter, words: Words, caplog: pytest.LogCaptureFixture
) -> None:
    ann = await enter("Ann")
    words.put_nowait("Well, ")
    words.put_nowait(RuntimeError("out of memory"))
    await ann.say("@bot Hello?")
    lines = await ann.heard(4)
    assert lines[2:] == ["word: Well, ", "end: The bot has failed."]
    assert "RuntimeError: out of memory" in caplog.text
    await ann.say("Never mind.")
    assert await ann.heard() == ["Ann: Never mind."]


@pytest.mark.asyncio
async def test_the_room_reads_why_an_answer_ended(enter: Enter, words: Words) -> None:
    ann = await enter("Ann")
    words.put_nowait(AnswerError("The model is tired."))
    await ann.say("@bot Hello?")
    assert (await ann.heard(3))[-1] == "end: The model is tired."


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_an_answer_has_a_time_limit(
    enter: Enter, room: Room, silent: asyncio.Event
) -> None:
    room.limits.answer_time = 20
    ann = await enter("Ann")
    await ann.say("@bot Are you there?")
    lines = await ann.heard(3)
    assert lines[-1] == "end: The answer was cut off after 20 seconds."
    assert asyncio.get_running_loop().time() == pytest.approx(20, abs=0.1)
    assert silent.is_set()


@pytest.mark.asyncio
async def test_an_answer_has_a_maximum_length(
    enter: Enter, room: Room, words: Words, silent: asyncio.Event
) -> None:
    room.limits.answer_size = 10
    ann = await enter("Ann")
    for _ in range(3):
        words.put_nowait("1234 ")
    await ann.say("@bot Count!")
    assert (await ann.heard(6))[2:] == [
        "word: 1234 ",
        "word: 1234 ",
        "word: ",
        "end: The answer was cut off at 10 characters.",
    ]
    assert silent.is_set()


@pytest.mark.asyncio
async def test_an_answer_ends_when_its_asker_leaves(
    enter: Enter, words: Words, silent: asyncio.Event
) -> None:
    ann, bob = await enter("Ann"), await enter("Bob")
    words.put_nowait("Well, ")
    await ann.say("@bot Are you there?")
    await bob.heard(3)
    await ann.close()
    assert await bob.heard() == ["end: Ann has left."]
    assert silent.is_set()


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_the_offline_bot_says_things_backwards() -> None:
    question = Message(name="Ann", text="@bot, one two three", time=0)
    words = [word async for word in reply([question])]
    assert "".join(words) == "Backwards that is: three two one "


# --- The end


@pytest.mark.leaves_tasks  # the bot: what ends the loop ends it, too
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_bot_that_does_not_stop_delays_the_end_no_longer_than_the_grace_period(
    enter: Enter, room: Room, runner: web.AppRunner
) -> None:
    async def stubborn(_conversation: Sequence[Message]) -> AsyncGenerator[str, None]:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(3600)
        yield "What?"

    room.reply = stubborn
    ann = await enter("Ann")
    await ann.say("@bot Hello?")
    await ann.heard(2)
    await runner.cleanup()
    assert asyncio.get_running_loop().time() == pytest.approx(5, abs=0.5)
