"""The chat room: its clients, their messages, and the reasons to evict a client.

No client waits for a slow one. A message is written to the transport of every client at
once. What the network does not take stays in the transport's write buffer, the client's
outbox; a client whose outbox is full is evicted.
"""

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from .bot import BOT, AnswerError, Reply, is_question, reply
from .history import Answer, History, Message
from .limits import Limits
from .names import Names

log = logging.getLogger(__name__)

NOT_UNDERSTOOD = "The server did not understand that message."


@dataclass(kw_only=True)
class Client:
    """A person in the room.

    The handler of each client runs inside `eviction`, an `asyncio.timeout` without a
    deadline. To evict a client, its deadline is set to now, which cancels whatever the
    handler waits for.
    """

    name: str
    ws: web.WebSocketResponse
    transport: asyncio.Transport
    eviction: asyncio.Timeout = field(default_factory=lambda: asyncio.timeout(None))
    close_code: int = WSCloseCode.OK
    close_reason: str = ""

    def evict(self, code: int, reason: str) -> None:
        """End the client's handler, which then closes the WebSocket with these."""
        self.close_code = code
        self.close_reason = reason
        self.eviction.reschedule(0)


@dataclass
class RunningAnswer:
    """An answer that the bot is giving, and the task that gives it."""

    answer: Answer
    task: asyncio.Task[None]


class Room:
    """A chat room with a bot; every client receives what the others say."""

    def __init__(
        self, limits: Limits | None = None, *, reply: Reply = reply, context: int = 8000
    ) -> None:
        """`context` limits what the bot gets of the conversation, in characters."""
        self.limits = limits or Limits()
        self.reply = reply
        self.context = context
        self.names = Names(BOT)
        self.history = History(self.limits.history)
        self._clients: dict[str, Client] = {}
        self._answers: dict[str, RunningAnswer] = {}  # by the name of the asker
        self._answer_numbers = count(1)

    @property
    def size(self) -> int:
        """The number of clients in the room."""
        return len(self._clients)

    @property
    def is_full(self) -> bool:
        """Whether no other client may enter."""
        return len(self.names) >= self.limits.clients

    # --- Entering and leaving

    async def serve(self, client: Client) -> None:
        """Let a client take part until it leaves or is evicted; then close its
        WebSocket.
        """
        # From now on the client receives what the others do, after its welcome.
        self._clients[client.name] = client
        try:
            with suppress(TimeoutError):
                async with client.eviction, asyncio.TaskGroup() as answers:
                    await self._welcome(client)
                    await self._listen(client, answers)
                    # Cancels its answer, too.
                    self.evict(client, WSCloseCode.OK, "goodbye")
            await client.ws.close(
                code=client.close_code,
                message=client.close_reason.encode(),
                drain=False,
            )
        finally:
            self._clients.pop(client.name, None)
            await self.send_to_all(type="left", name=client.name)

    def evict(self, client: Client, code: int, reason: str) -> None:
        """Make a client leave, with this close code and reason."""
        if self._clients.pop(client.name, None) is None:
            return  # it has been evicted before
        log.info("%r leaves: %s", client.name, reason)
        client.evict(code, reason)

    async def close(self) -> None:
        """Evict all clients, because the server stops."""
        for client in list(self._clients.values()):
            self.evict(client, WSCloseCode.GOING_AWAY, "the server stops")

    async def _welcome(self, client: Client) -> None:
        await self.send(
            client,
            type="welcome",
            name=client.name,
            names=list(self._clients),
            message_size=self.limits.message_size,
            # The newcomer's outbox must have space for messages that arrive meanwhile.
            history=self.history.newest(max_bytes=self.limits.outbox // 2),
        )
        others = [other for other in self._clients.values() if other is not client]
        await self.send(*others, type="joined", name=client.name)

    # --- Receiving

    async def _listen(self, client: Client, answers: asyncio.TaskGroup) -> None:
        async for message in client.ws:
            if message.type is WSMsgType.PING:
                await self._write(client, message.data, WSMsgType.PONG)
            else:
                await self._receive(client, message, answers)

    async def _receive(
        self, client: Client, message: WSMessage, answers: asyncio.TaskGroup
    ) -> None:
        match parse(message):
            case {"type": "message", "text": str(text)}:
                await self._receive_text(client, text.strip(), answers)
            case {"type": "stop", "id": int(number)}:
                self._stop_answer(client, number)
            case _:
                await self.send(client, type="refused", reason=NOT_UNDERSTOOD)

    async def _receive_text(
        self, client: Client, text: str, answers: asyncio.TaskGroup
    ) -> None:
        # JSON may contain half of a character, which encode() would not accept.
        size = len(text.encode(errors="surrogatepass"))
        if size > self.limits.message_size:
            limit = self.limits.message_size
            reason = f"The message has {size} bytes, the limit is {limit}."
            await self.send(client, type="refused", reason=reason)
        elif text == "":
            await self.send(client, type="refused", reason="The message is empty.")
        else:
            message = Message(name=client.name, text=text, time=time.time())
            self.history.add(message)
            await self.send_to_all(**message.as_data())
            if is_question(text):
                await self._ask(client, answers)

    # --- The bot

    async def _ask(self, client: Client, answers: asyncio.TaskGroup) -> None:
        if client.name in self._answers:
            reason = "The bot is still answering you: stop it, or ask again later."
            await self.send(client, type="notice", text=reason)
            return
        if len(self._answers) >= self.limits.answers:
            reason = "The bot is busy: ask again later."
            await self.send(client, type="notice", text=reason)
            return
        conversation = self.history.conversation(self.context)
        answer = Answer(
            id=next(self._answer_numbers),
            asker=client.name,
            name=BOT,
            text="",
            time=time.time(),
        )
        self.history.add(answer)
        task = answers.create_task(self._answer(answer, conversation))
        self._answers[client.name] = RunningAnswer(answer, task)
        # A task that is cancelled before its first step would not tell the clients.
        await asyncio.sleep(0)

    async def _answer(self, answer: Answer, conversation: Sequence[Message]) -> None:
        try:
            await self.send_to_all(**answer.as_data())
            async with asyncio.timeout(self.limits.answer_time):
                await self._stream(answer, conversation)
        except AnswerError as error:
            answer.note = str(error)
        except TimeoutError:
            limit = self.limits.answer_time
            answer.note = f"The answer was cut off after {limit:g} seconds."
        except asyncio.CancelledError:
            if not answer.note:
                answer.note = f"{answer.asker} has left."
            raise
        except Exception:  # whatever the bot does, the room continues
            log.exception("the bot failed")
            answer.note = "The bot has failed."
        finally:
            answer.finished = True
            del self._answers[answer.asker]
            await self.send_to_all(type="end", id=answer.id, note=answer.note)

    async def _stream(self, answer: Answer, conversation: Sequence[Message]) -> None:
        async with aclosing(self.reply(conversation)) as parts:
            async for part in parts:
                space = self.limits.answer_size - len(answer.text)
                answer.text += part[:space]
                await self.send_to_all(type="word", id=answer.id, text=part[:space])
                if len(part) > space:
                    limit = self.limits.answer_size
                    raise AnswerError(f"The answer was cut off at {limit} characters.")

    def _stop_answer(self, client: Client, number: int) -> None:
        """Stop the answer with this number, if the client has asked for it."""
        running = self._answers.get(client.name)
        if running is not None and running.answer.id == number:
            running.answer.note = f"Stopped by {client.name}."
            running.task.cancel()

    # --- Sending

    async def send(self, *clients: Client, **message: Any) -> None:
        """Send a JSON message to these clients."""
        data = json.dumps(message).encode()
        for client in clients:
            await self._write(client, data)
        # Writing never waits, so let other tasks run now.
        await asyncio.sleep(0)

    async def send_to_all(self, **message: Any) -> None:
        """Send a JSON message to every client in the room."""
        await self.send(*self._clients.values(), **message)

    async def _write(
        self, client: Client, data: bytes, kind: WSMsgType = WSMsgType.TEXT
    ) -> None:
        if client.transport.get_write_buffer_size() > self.limits.outbox:
            reason = "too slow: the outbox is full"
            self.evict(client, WSCloseCode.TRY_AGAIN_LATER, reason)
            return
        # After an error the client has left, and its own handler will notice.
        with suppress(ConnectionError):
            await client.ws.send_frame(data, kind)


def parse(message: WSMessage) -> Any:
    """Return the JSON value in a text message, or None if there is none."""
    if message.type is not WSMsgType.TEXT:
        return None
    try:
        return json.loads(message.data)
    except (ValueError, RecursionError):
        return None
