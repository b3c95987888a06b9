"""What the room promises, to real WebSocket clients on a local port."""

import asyncio
import math
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

import aiohttp
import cyclopts
import pytest
from aiohttp import WSMsgType, web
from yarl import URL

from chat.app import Room, main, reply

Ws = aiohttp.ClientWebSocketResponse
Enter = Callable[..., Awaitable[Ws]]
Stall = Callable[[URL], Awaitable[object]]
Words = asyncio.Queue[str | Exception | None]


async def say(ws: Ws, *texts: str) -> None:
    """Send each text as a message."""
    for text in texts:
        await ws.send_str(text)


async def heard(ws: Ws, count: int = 1) -> list[str]:
    """Return the next messages, each as "name: text", or what else it is, with its
    text.
    """
    messages = [await ws.receive_json() for _ in range(count)]
    return [f"{it.get('name', it['type'])}: {it.get('text', '')}" for it in messages]


async def goodbye(ws: Ws) -> tuple[int, str]:
    """Skip what comes before the server's close; return its code and its reason."""
    while (message := await ws.receive()).type is WSMsgType.TEXT:
        pass
    assert message.type is WSMsgType.CLOSE
    return message.data, message.extra or ""


async def until_left(url: URL, session: aiohttp.ClientSession, left: int) -> None:
    """Return when so many clients are left; for tests on a virtual clock."""
    for _ in range(100):
        async with session.get(url / "healthz") as response:
            if (await response.json())["clients"] == left:
                return
        await asyncio.sleep(1)
    raise AssertionError("somebody stays")


# A room is for everybody.


@pytest.mark.asyncio
async def test_a_message_reaches_everybody(enter: Enter) -> None:
    ann, bob = await enter("Ann"), await enter("Bob")
    await say(ann, "  Hello, <script>alert('Bob')</script>!\n")
    assert [await heard(ann), await heard(bob)] == [
        ["Ann: Hello, <script>alert('Bob')</script>!"]
    ] * 2


@pytest.mark.asyncio
async def test_all_hear_everything_in_one_order(enter: Enter) -> None:
    peers = [await enter(f"peer {n}") for n in range(20)]
    async with asyncio.TaskGroup() as everybody:
        for n, peer in enumerate(peers):
            everybody.create_task(say(peer, *(f"{n}.{turn}" for turn in range(5))))
    logs = [await heard(peer, 20 * 5) for peer in peers]
    assert all(log == logs[0] for log in logs)
    for n in range(20):
        mine = [line for line in logs[0] if line.startswith(f"peer {n}:")]
        assert mine == [f"peer {n}: {n}.{turn}" for turn in range(5)]


@pytest.mark.asyncio
async def test_names_are_unique(url: URL, session: aiohttp.ClientSession) -> None:
    peers = []
    for wish in ("Ann", "ann", "A\u200bnn", " Ann Lee\n", "Bot", "", "x" * 99):
        peers.append(await session.ws_connect((url / "ws").with_query(name=wish)))
    names = [(await peer.receive_json())["name"] for peer in peers]
    assert names == ["Ann", "ann-2", "Ann-3", "Ann Lee", "Bot-4", "guest", "x" * 20]


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_name_is_free_when_its_owner_has_left(
    enter: Enter, url: URL, session: aiohttp.ClientSession
) -> None:
    await (await enter("Ann")).close()
    await until_left(url, session, 0)
    await enter("Ann")


@pytest.mark.asyncio
async def test_nothing_is_said_by_a_blank_or_a_binary_message(enter: Enter) -> None:
    ann = await enter("Ann")
    await say(ann, "", " \n ")
    await ann.send_bytes(b"a picture")
    await say(ann, "Hello")
    assert await heard(ann) == ["Ann: Hello"]


@pytest.mark.asyncio
async def test_a_ping_is_answered(enter: Enter) -> None:
    ann = await enter("Ann", autoping=False)
    await ann.ping(b"are you there?")
    pong = await ann.receive()
    assert (pong.type, pong.data) == (WSMsgType.PONG, b"are you there?")


@pytest.mark.asyncio
async def test_the_health_tells_how_many_are_in(
    enter: Enter, url: URL, session: aiohttp.ClientSession
) -> None:
    await enter("Ann")
    async with session.get(url / "healthz") as response:
        assert (response.status, await response.json()) == (
            200,
            {"status": "ok", "clients": 1},
        )


# The page.


@pytest.mark.asyncio
async def test_the_page_may_run_nothing_but_its_own_script(
    url: URL, session: aiohttp.ClientSession
) -> None:
    nonces = set()
    for _ in range(2):
        async with session.get(url) as response:
            html, policy = (
                await response.text(),
                response.headers["Content-Security-Policy"],
            )
        assert policy.startswith("default-src 'nonce-"), policy
        (nonce,) = set(re.findall(r'nonce="(.*?)"', html))
        assert f"'nonce-{nonce}'" in policy
        assert len(re.findall(r"<(?:script|style) nonce=", html)) == len(
            re.findall(r"<(?:script|style)", html)
        )
        nonces.add(nonce)
    assert len(nonces) == 2


@pytest.mark.asyncio
async def test_the_page_never_makes_html_of_a_message(
    url: URL, session: aiohttp.ClientSession
) -> None:
    async with session.get(url) as response:
        html = await response.text()
    assert "textContent" in html
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", html
    )


# Strangers.


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1"]
)
@pytest.mark.asyncio
async def test_the_page_of_another_site_is_refused(enter: Enter, origin: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
        await enter("Eve", headers={"Origin": origin})


@pytest.mark.asyncio
async def test_our_own_page_may_enter(enter: Enter, url: URL) -> None:
    ann = await enter("Ann", headers={"Origin": str(url.origin())})
    await say(ann, "Hello")
    assert await heard(ann) == ["Ann: Hello"]


@pytest.mark.asyncio
async def test_a_full_room_says_when_to_come_back(
    enter: Enter, room: Room, url: URL, session: aiohttp.ClientSession
) -> None:
    room.clients = 2
    ann, _ = await enter("Ann"), await enter("Bob")
    with pytest.raises(aiohttp.WSServerHandshakeError, match="503") as refusal:
        await enter("Cid")
    assert refusal.value.headers
    assert refusal.value.headers["Retry-After"] == "10"
    await ann.close()
    await until_left(url, session, 1)
    await enter("Cid")


@pytest.mark.asyncio
async def test_a_broken_handshake_takes_no_place(
    enter: Enter, room: Room, url: URL, session: aiohttp.ClientSession
) -> None:
    room.clients = 1
    async with session.get((url / "ws").with_query(name="Ann")) as response:
        assert response.status == 400
    await enter("Ann")


# The rude and the slow.


@pytest.mark.asyncio
async def test_too_big_a_message_ends_the_stay(enter: Enter, room: Room) -> None:
    room.message_size = 100
    ann, bob = await enter("Ann"), await enter("Bob")
    await say(ann, "x" * 100, "x" * 102)
    code, _ = await goodbye(ann)
    await say(bob, "Oh")
    assert (code, await heard(bob, 2)) == (1009, [f"Ann: {'x' * 100}", "Bob: Oh"])


@pytest.mark.parametrize("rude", ["text", "ping"])
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_too_many_messages_in_a_second_end_the_stay(
    enter: Enter, room: Room, rude: str
) -> None:
    room.rate = 5
    ann, bob = await enter("Ann"), await enter("Bob")
    for turn in range(3):  # at the limit, and not above it
        await say(ann, *(f"{turn}.{n}" for n in range(5)))
        assert await heard(bob, 5) == [f"Ann: {turn}.{n}" for n in range(5)]
        await asyncio.sleep(1)
    for n in range(6):
        await (ann.send_str(f"{n}") if rude == "text" else ann.ping())
    assert await goodbye(ann) == (1008, "too many messages")
    await say(bob, "Oh")
    assert (await heard(bob, 6 if rude == "text" else 1))[-1] == "Bob: Oh"


@pytest.mark.asyncio
async def test_a_client_that_does_not_read_is_dropped_and_delays_nobody(
    enter: Enter, room: Room
) -> None:
    room.rate, room.message_size = 1000, 2**16
    ann, slow = await enter("Ann"), await enter("Slow")
    told = [f"{n:03} {'x' * 60_000}" for n in range(50)]
    for text in told:
        await say(ann, text)
        assert await heard(ann) == [f"Ann: {text}"]
    got = []
    while (
        message := await slow.receive()
    ).type is WSMsgType.TEXT:  # it wakes up after all
        got.append(message.json()["text"])
    assert (message.data, message.extra) == (1013, "too slow: the outbox is full")
    assert got == told[: len(got)]
    assert 0 < len(got) < 50


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_client_that_never_reads_again_is_cut_off(
    enter: Enter, room: Room, runner: web.AppRunner, url: URL, stall: Stall
) -> None:
    room.rate, room.message_size, room.grace = 1000, 2**16, 5
    ann = await enter("Ann")
    await stall(url)
    for _ in range(30):
        await say(ann, "x" * 60_000)
        await heard(ann)
    await asyncio.sleep(3)
    assert runner.server
    assert len(runner.server.connections) == 1
    await enter("Slow")


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_client_that_does_not_answer_pings_is_cut_off(
    enter: Enter, url: URL, session: aiohttp.ClientSession
) -> None:
    dead = await enter("Ann", autoping=False)
    assert (await dead.receive()).type is WSMsgType.PING
    await until_left(url, session, 0)
    assert asyncio.get_running_loop().time() == pytest.approx(45, abs=1)


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_nothing_is_kept_for_the_dead(
    enter: Enter, room: Room, runner: web.AppRunner, url: URL, stall: Stall
) -> None:
    room.rate, room.message_size = 1000, 2**16
    ann = await enter("Ann")
    await stall(url)
    room.outbox = 10**7  # it is not dropped, but something waits for it
    for _ in range(30):
        await say(ann, "x" * 60_000)
        await heard(ann)
    await asyncio.sleep(60)  # neither of them answers a ping
    assert runner.server
    assert not runner.server.connections


@pytest.mark.asyncio
async def test_a_crowd_hears_everything(enter: Enter) -> None:
    crowd = [await enter(f"peer {n}") for n in range(50)]
    for n, peer in enumerate(crowd[:20]):
        await say(peer, f"{n}")
        for other in crowd:
            assert await heard(other) == [f"peer {n}: {n}"]


@pytest.mark.asyncio
async def test_sending_waits_for_nobody(
    enter: Enter, room: Room, url: URL, stall: Stall
) -> None:
    room.rate, room.message_size = 1000, 2**16
    ann = await enter("Ann")
    await stall(url)
    room.outbox = 10**7  # it is not dropped, but something waits for it
    for n in range(30):
        await say(ann, f"{n} {'x' * 60_000}")
        assert await heard(ann) == [f"Ann: {n} {'x' * 60_000}"]


def test_limits_are_above_0_and_have_a_limit() -> None:
    with pytest.raises(
        ValueError, match=r"must be .* 10\*\*9: clients, rate, answer_time, grace"
    ):
        Room(clients=0, rate=-1, answer_time=math.nan, grace=math.inf)


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
async def test_the_highest_limits_let_everybody_in(enter: Enter, room: Room) -> None:
    room.clients = room.message_size = room.rate = room.outbox = room.answers = 10**9
    ann = await enter("Ann")
    await say(ann, "Hello")
    assert await heard(ann) == ["Ann: Hello"]


# The bot.


@pytest.mark.parametrize(
    "call", ["@bot Who is there?", "@Bot, Who is there?", "@bot\nWho is there?"]
)
@pytest.mark.asyncio
async def test_the_bot_streams_its_answer_to_everybody(
    enter: Enter, words: Words, asked: list[str], call: str
) -> None:
    ann, bob = await enter("Ann"), await enter("Bob")
    await say(ann, call)
    await heard(ann), await heard(bob)
    for word in ("Yes, ", "I ", "am."):
        words.put_nowait(word)  # the next one is not there yet
        assert await heard(ann) == await heard(bob) == [f"bot: {word}"]
    words.put_nowait(None)
    assert (
        (await ann.receive_json())["type"]
        == (await bob.receive_json())["type"]
        == "end"
    )
    assert asked == ["Who is there?"]


@pytest.mark.asyncio
async def test_the_bot_leaves_others_alone(enter: Enter, asked: list[str]) -> None:
    ann = await enter("Ann")
    await say(ann, "@bottle, hello", "hello @bot", "bot!")
    await heard(ann, 3)
    assert not asked


@pytest.mark.asyncio
async def test_a_question_while_the_bot_answers_you_is_put_off(
    enter: Enter, words: Words, asked: list[str]
) -> None:
    ann, bob = await enter("Ann"), await enter("Bob")
    await say(ann, "@bot 1", "@bot 2")
    assert await heard(ann, 3) == [
        "Ann: @bot 1",
        "Ann: @bot 2",
        "notice: The bot is busy: ask again later.",
    ]
    words.put_nowait(None)
    assert await heard(ann) == ["end: "]
    await say(ann, "@bot 3")
    assert await heard(bob, 4) == ["Ann: @bot 1", "Ann: @bot 2", "end: ", "Ann: @bot 3"]
    words.put_nowait(None)
    assert (await heard(bob), asked) == (["end: "], ["1", "3"])


@pytest.mark.asyncio
async def test_the_bot_gives_only_so_many_answers_at_a_time(
    enter: Enter, room: Room, asked: list[str]
) -> None:
    room.answers = 2
    for name in ("Ann", "Bob", "Cid"):
        peer = await enter(name)
        await say(peer, f"@bot {name}")
        await heard(peer)
    assert await heard(peer) == ["notice: The bot is busy: ask again later."]
    assert asked == ["Ann", "Bob"]


@pytest.mark.asyncio
async def test_a_bot_that_fails_harms_nobody(
    enter: Enter, words: Words, caplog: pytest.LogCaptureFixture
) -> None:
    ann = await enter("Ann")
    words.put_nowait("Well, ")
    words.put_nowait(RuntimeError("out of memory"))
    await say(ann, "@bot Hello?")
    assert await heard(ann, 4) == [
        "Ann: @bot Hello?",
        "bot: Well, ",
        "notice: The bot is unwell.",
        "end: ",
    ]
    assert "RuntimeError: out of memory" in caplog.text
    await say(ann, "Never mind.")
    assert await heard(ann) == ["Ann: Never mind."]


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_an_answer_may_last_only_so_long(
    enter: Enter, room: Room, silent: asyncio.Event
) -> None:
    room.answer_time = 20
    ann = await enter("Ann")
    await say(ann, "@bot Are you there?")
    assert await heard(ann, 3) == [
        "Ann: @bot Are you there?",
        "notice: The bot is unwell.",
        "end: ",
    ]
    assert asyncio.get_running_loop().time() == pytest.approx(20)
    assert silent.is_set()


@pytest.mark.asyncio
async def test_an_answer_ends_when_its_asker_leaves(
    enter: Enter, words: Words, silent: asyncio.Event
) -> None:
    ann, bob = await enter("Ann"), await enter("Bob")
    words.put_nowait("Well, ")
    await say(ann, "@bot Are you there?")
    assert await heard(bob, 2) == ["Ann: @bot Are you there?", "bot: Well, "]
    await ann.close()
    assert await heard(bob) == ["end: "]
    assert silent.is_set()


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_the_bot_that_comes_with_the_room_says_things_backwards() -> None:
    words = [word async for word in reply("one two three")]
    assert "".join(words) == "Backwards that is: three two one "


# The whole program.


@pytest.mark.asyncio
async def test_a_signal_sends_everybody_away_politely(
    room: Room,
    address: asyncio.Future[str],
    session: aiohttp.ClientSession,
    silent: asyncio.Event,
) -> None:
    async with asyncio.TaskGroup() as tasks:
        program = tasks.create_task(main(port=0, room=room))
        url = await address
        peers = [await session.ws_connect(f"{url}/ws") for _ in range(5)]
        await say(peers[0], "@bot Tell me a long story.")
        await heard(peers[0], 2)
        program.cancel()  # as __main__ does
        for peer in peers:
            assert await goodbye(peer) == (1001, "the server stops")
    assert program.result() == 0
    with pytest.raises(aiohttp.ClientConnectorError):
        await session.get(url)
    assert silent.is_set()


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_client_that_does_not_read_delays_the_end_no_longer_than_the_grace_period(  # noqa: E501
    room: Room,
    address: asyncio.Future[str],
    session: aiohttp.ClientSession,
    stall: Stall,
) -> None:
    room.rate, room.message_size, room.grace = 1000, 2**16, 8
    async with asyncio.TaskGroup() as tasks:
        program = tasks.create_task(main(port=0, room=room))
        await stall(URL(await address))
        room.outbox = 10**7  # it is not dropped, but something waits for it
        ann = await session.ws_connect(f"{await address}/ws")
        await heard(ann)
        for _ in range(30):
            await say(ann, "x" * 60_000)
            await heard(ann)
        start = asyncio.get_running_loop().time()
        program.cancel()
        assert await goodbye(ann) == (1001, "the server stops")
        assert await program == 0
        assert asyncio.get_running_loop().time() - start < 8


@pytest.mark.leaves_tasks  # the bot: what ends the loop ends it, too
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_bot_that_does_not_stop_delays_the_end_no_longer_than_that(
    room: Room, address: asyncio.Future[str], session: aiohttp.ClientSession
) -> None:
    async def stubborn(_text: str) -> AsyncGenerator[str, None]:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(3600)
        yield "What?"

    room.reply, room.grace = stubborn, 8
    async with asyncio.TaskGroup() as tasks:
        program = tasks.create_task(main(port=0, room=room))
        ann = await session.ws_connect(f"{await address}/ws?name=Ann")
        await say(ann, "@bot Hello?")
        await heard(ann, 2)
        program.cancel()
        assert await program == 0
    assert asyncio.get_running_loop().time() == pytest.approx(8, abs=0.5)


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_connection_that_asks_for_nothing_is_closed(
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
@pytest.mark.parametrize(
    "host", ["127.0.0.1", ""]
)  # set, but empty: not to be heard everywhere
@pytest.mark.asyncio
async def test_it_ends_by_itself_after_its_lifetime(
    capsys: pytest.CaptureFixture[str], host: str
) -> None:
    assert await main(host=host, port=0, lifetime=86_400) == 0
    assert asyncio.get_running_loop().time() == pytest.approx(86_400)
    assert re.fullmatch(
        r"listening on http://127\.0\.0\.1:\d+\n", capsys.readouterr().out
    )


@pytest.mark.asyncio
async def test_a_taken_port_is_told_in_one_line(
    taken_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await main(port=taken_port) == 1
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert f"{taken_port}" in err
