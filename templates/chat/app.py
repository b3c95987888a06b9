"""A chat room on one page: WebSockets, a bot that streams its answers, and limits that
hold.

Who is slow or rude has to go and is told why; the others do not notice. The bot's mind
is `reply`.
"""

import asyncio
import json
import logging
import secrets
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Annotated

from aiohttp import WSCloseCode, WSMsgType, web
from cyclopts import Parameter, types, validators

log = logging.getLogger(__name__)
PAGE = Path(__file__).with_name("page.html").read_text("utf-8")
LIMIT = Parameter(
    validator=validators.Number(gt=0, lte=10**9)
)  # the system takes no much larger
POLICY = "default-src 'nonce-{}'; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"  # noqa: E501


async def reply(text: str) -> AsyncGenerator[str, None]:
    """Yield the bot's answer to `text` word by word: the one function to replace with a
    model.
    """
    for word in ("Backwards that is:", *reversed(text.split())):
        await asyncio.sleep(0.2)  # thinking
        yield f"{word} "


@dataclass
class Client:
    """Somebody in the room. When the `leash` is pulled they have to go, for the reason
    `why`.
    """

    name: str
    ws: web.WebSocketResponse
    transport: asyncio.Transport
    leash: asyncio.Timeout
    why: tuple[int, str] = (WSCloseCode.OK, "")


@Parameter(name="*")
@dataclass(kw_only=True)
class Room:
    """Everybody hears what somebody says. Raises ValueError unless 0 < each limit <=
    10**9.
    """

    clients: Annotated[
        int, LIMIT, Parameter(help="Most clients; the next gets 503.")
    ] = 500
    message_size: Annotated[int, LIMIT, Parameter(help="Most bytes in a message.")] = (
        2000
    )
    rate: Annotated[
        int, LIMIT, Parameter(help="Most messages of a client in a second.")
    ] = 10
    outbox: Annotated[
        int, LIMIT, Parameter(help="Most bytes that wait for a client.")
    ] = 65536
    answers: Annotated[
        int, LIMIT, Parameter(help="Most answers of the bot at a time.")
    ] = 4
    answer_time: Annotated[
        float, LIMIT, Parameter(help="Seconds that one may last.")
    ] = 60.0
    grace: Annotated[
        float, LIMIT, Parameter(help="Seconds for the goodbyes at the end.")
    ] = 5.0
    reply: Annotated[
        Callable[[str], AsyncGenerator[str, None]], Parameter(parse=False)
    ] = reply

    def __post_init__(self) -> None:
        if wrong := [
            it for it, n in vars(self).items() if it != "reply" and not 0 < n <= 10**9
        ]:
            raise ValueError(f"must be above 0, and at most 10**9: {', '.join(wrong)}")
        self._names, self._numbers = (
            {"bot"},
            count(2),
        )  # the names of all, and the bot's
        self._inside, self._asking = dict[str, Client](), set[str]()

    def application(self) -> web.Application:
        """Return the web application around this room: `/`, `/ws` and `/healthz`."""
        app, get = web.Application(), web.get
        app.add_routes(
            [get("/", _page), get("/ws", self._join), get("/healthz", self._health)]
        )
        app.on_shutdown.append(self._drain)
        return app

    async def _join(self, request: web.Request) -> web.WebSocketResponse:
        origin, wish = request.headers.get("Origin"), request.query.get("name", "")
        if (
            origin and origin.partition("://")[2] != request.host
        ):  # only browsers send an Origin
            raise web.HTTPForbidden(text=f"not from {origin}")
        if len(self._names) > self.clients or not (transport := request.transport):
            raise web.HTTPServiceUnavailable(
                headers={"Retry-After": "10"}, text="the room is full"
            )
        ws = web.WebSocketResponse(
            timeout=self.grace / 2,
            heartbeat=30.0,
            autoping=False,
            compress=False,
            max_msg_size=self.message_size + 1,  # aiohttp takes only less than that
            # Sending never waits: `_send` looks after the bound.
            writer_limit=sys.maxsize,
        )
        wish = "".join(filter(str.isprintable, wish)).strip()[:20] or "guest"
        while (name := wish).casefold() in self._names:
            wish += f"-{next(self._numbers)}"
        self._names.add(name.casefold())
        try:
            await ws.prepare(request)
            kept = min(
                self.outbox, 2**20
            )  # by the kernel, for whoever does not read: not more
            transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_SNDBUF, kept)
            client = self._inside[name] = Client(
                name, ws, transport, asyncio.timeout(None)
            )
            with suppress(TimeoutError):
                async with client.leash, asyncio.TaskGroup() as answers:
                    await self._listen(client, answers)
            await ws.close(
                code=client.why[0], message=client.why[1].encode(), drain=False
            )
        finally:
            self._names.discard(name.casefold())
            self._inside.pop(name, None)
            if transport.get_write_buffer_size():
                # A polite close would wait until the client reads: for ever.
                transport.abort()
        return ws

    async def _listen(self, client: Client, answers: asyncio.TaskGroup) -> None:
        await self.tell(client, type="welcome", name=client.name)
        times = deque[float](maxlen=self.rate + 1)
        async for message in client.ws:
            times.append(asyncio.get_running_loop().time())
            if len(times) > self.rate and times[-1] - times[0] < 1:
                return self._drop(
                    client, WSCloseCode.POLICY_VIOLATION, "too many messages"
                )
            if message.type is WSMsgType.PING:
                await self._send(client, message.data, WSMsgType.PONG)
            elif message.type is WSMsgType.TEXT and (text := message.data.strip()):
                await self.tell(type="message", name=client.name, text=text)
                if text.split()[0].rstrip(",:").lower() == "@bot":
                    await self._ask(
                        client, "".join(text.split(maxsplit=1)[1:]), answers
                    )
        self._drop(client, WSCloseCode.OK, "goodbye")  # the leash holds its answer, too

    async def _ask(
        self, client: Client, question: str, answers: asyncio.TaskGroup
    ) -> None:
        if client.name in self._asking or len(self._asking) >= self.answers:
            return await self.tell(
                client, type="notice", text="The bot is busy: ask again later."
            )
        self._asking.add(client.name)
        answer = answers.create_task(self._answer(next(self._numbers), question))
        answer.add_done_callback(lambda _: self._asking.discard(client.name))

    async def _answer(self, number: int, question: str) -> None:
        try:
            async with (
                asyncio.timeout(self.answer_time),
                aclosing(self.reply(question)) as words,
            ):
                async for word in words:
                    await self.tell(type="word", id=number, name="bot", text=word)
        except Exception:  # whatever the model does, the room goes on
            log.exception("no answer to %r", question)
            await self.tell(type="notice", text="The bot is unwell.")
        finally:
            await self.tell(type="end", id=number)

    async def tell(self, *only: Client, **message: str | int) -> None:
        """Send a message to everybody, or to these clients `only`, and wait for none of
        them.
        """
        data = json.dumps(message).encode()
        for client in only or tuple(self._inside.values()):
            await self._send(client, data)
        await asyncio.sleep(0)  # nothing above waits: now it is the others' turn

    async def _send(
        self, client: Client, data: bytes, kind: WSMsgType = WSMsgType.TEXT
    ) -> None:
        try:  # the outbox is what the transport could not write yet
            if client.transport.get_write_buffer_size() <= self.outbox:
                return await client.ws.send_frame(data, kind)
        except ConnectionError:
            return  # it has gone, and its own task will see that
        self._drop(client, WSCloseCode.TRY_AGAIN_LATER, "too slow: the outbox is full")

    def _drop(self, client: Client, code: int, why: str) -> None:
        if self._inside.pop(client.name, None):
            log.info("%r goes: %s", client.name, why)
            client.why = code, why
            client.leash.reschedule(0)

    async def _drain(self, _app: web.Application) -> None:
        for client in tuple(self._inside.values()):
            self._drop(client, WSCloseCode.GOING_AWAY, "the server stops")

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "clients": len(self._inside)})


async def _page(_request: web.Request) -> web.Response:
    text = PAGE.replace("NONCE", nonce := secrets.token_urlsafe())
    headers = {"Content-Security-Policy": POLICY.format(nonce)}
    return web.Response(text=text, content_type="text/html", headers=headers)


async def main(
    *,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[types.Port, Parameter(help="Port to listen on, 0 for any.")] = 8080,
    lifetime: Annotated[float | None, LIMIT, Parameter(help="Seconds to run.")] = None,
    room: Room | None = None,
) -> int:
    """Run a chat room with a bot: open its address in some browsers."""
    room = room or Room()
    app, half = (
        room.application(),
        room.grace / 2,
    )  # aiohttp waits twice for its handlers
    # A connection that asks for nothing is closed after 15 s: it takes a place, too.
    runner = web.AppRunner(
        app, access_log=None, keepalive_timeout=15, shutdown_timeout=half
    )
    try:
        await runner.setup()
        await (
            site := web.TCPSite(runner, host or "127.0.0.1", port)
        ).start()  # "" is everywhere
        print(f"listening on {site.name}")
        # A signal cancels the wait: that is the order to drain, and a success.
        with suppress(asyncio.CancelledError, TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), lifetime)
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        await runner.cleanup()
    return 0
