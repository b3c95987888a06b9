"""A bot that uses a language model on any server with an OpenAI-compatible API.

Ollama, vLLM, llama.cpp and the hosted services have that API. The answer comes as
Server-Sent Events: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import codecs
import json
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

import aiohttp
from cyclopts import Parameter

from .bot import BOT, AnswerError, Reply, question_of
from .history import Message
from .limits import LIMIT
from .text import mask_credentials, printable

log = logging.getLogger(__name__)

KEY_VARIABLE = "MODEL_API_KEY"
CONNECT_TIMEOUT = 10.0  # seconds
MAX_EVENT_SIZE = 2**20  # characters
MAX_ERROR_SIZE = 2**16  # bytes
MAX_PAUSE = 3600.0  # seconds
SYSTEM_PROMPT = (
    "You are a friendly participant of a chat room. Several people talk to you; the "
    "name before each message says who wrote it. Answer briefly, in plain text."
)

# What people in the room read; the server's log has the details.
ENDED_EARLY = "The model server ended the answer early."
INVALID = "The model server sent something that is not an answer."
REPORTED_ERROR = "The model server reported an error."
CUT_OFF = {
    "length": "The answer reached the length limit of the model server.",
    "content_filter": "The content filter of the model server ended the answer.",
}


@Parameter(name="*")
@dataclass(kw_only=True)
class ModelOptions:
    """Which model answers, and what it gets."""

    model_url: Annotated[
        str | None,
        Parameter(
            help="URL of an OpenAI-compatible API, such as http://localhost:11434/v1. "
            f"Its key is taken from the environment variable {KEY_VARIABLE}.",
        ),
    ] = None
    model: Annotated[str | None, Parameter(help="Name of the model.")] = None
    system_prompt: Annotated[
        str, Parameter(help="Instructions for the model; may be empty.")
    ] = SYSTEM_PROMPT
    context: Annotated[
        int,
        LIMIT,
        Parameter(help="Maximum length of the conversation sent, in characters."),
    ] = 8000
    token_timeout: Annotated[
        float,
        LIMIT,
        Parameter(help="Time limit for each part of an answer, in seconds."),
    ] = 60.0


def check_url(text: str) -> None:
    """Raise ValueError unless `text` is an http or https URL without credentials."""
    try:
        url = urlsplit(text)
    except ValueError:
        raise ValueError(f"--model-url is not a URL: {shown(text)}") from None
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError(f"--model-url is not an http or https URL: {shown(text)}")
    if "@" in url.netloc:
        raise ValueError(f"--model-url has credentials: set {KEY_VARIABLE} instead")


def shown(url: object) -> str:
    """Return a URL as messages may show it."""
    return printable(mask_credentials(url))


@asynccontextmanager
async def open_model(options: ModelOptions, key: str) -> AsyncIterator[Reply]:
    """Yield the function that gets answers from the model; `key` may be empty.

    Raises ValueError if the options are incomplete, if the URL is not valid, or if the
    key cannot be sent as a header.
    """
    if options.model_url is None or options.model is None:
        raise ValueError("--model-url and --model must be given together")
    check_url(options.model_url)
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"{KEY_VARIABLE} contains a character that no key can have")
    headers = {"Accept": "text/event-stream"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        yield Model(session, options, key).reply


class Model:
    """A model on a server."""

    def __init__(
        self, session: aiohttp.ClientSession, options: ModelOptions, key: str
    ) -> None:
        self._session = session
        self._options = options
        self._key = key
        self._url = f"{str(options.model_url).rstrip('/')}/chat/completions"
        self._refused_until = -math.inf  # in the loop's time

    async def reply(self, conversation: Sequence[Message]) -> AsyncGenerator[str, None]:
        """Yield the model's answer to the last message, part by part.

        Closing the generator closes the request. Raises AnswerError.
        """
        self._check_rate_limit()
        try:
            response = await self._post(conversation)
            async with response, aclosing(parts_of(response)) as parts:
                while True:
                    async with asyncio.timeout(self._options.token_timeout):
                        part = await anext(parts, None)
                    if part is None:
                        return
                    if part:
                        yield part
        except AnswerError as error:
            self._log(error.details)
            raise
        except TimeoutError:
            limit = self._options.token_timeout
            reason = f"The model server sent nothing for {limit:g} seconds."
            raise AnswerError(reason) from None
        except aiohttp.ClientError as error:
            self._log(str(error))
            raise AnswerError(ENDED_EARLY) from None

    def _log(self, details: str) -> None:
        if self._key:
            details = details.replace(self._key, "***")
        if details:
            log.warning("%s: %s", shown(self._url), shown(details)[:500])

    async def _post(self, conversation: Sequence[Message]) -> aiohttp.ClientResponse:
        """Return the response, if its status is 200."""
        body = {
            "model": self._options.model,
            "messages": chat_messages(conversation, self._options.system_prompt),
            "stream": True,
        }
        async with asyncio.timeout(self._options.token_timeout):
            try:
                response = await self._session.post(
                    self._url,
                    json=body,
                    allow_redirects=False,  # the key is for this server only
                )
            except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError) as error:
                reason = "The model server cannot be reached."
                raise AnswerError(reason, str(error)) from None
            if response.status != 200:
                async with response:
                    raise await self._refusal(response)
            return response

    async def _refusal(self, response: aiohttp.ClientResponse) -> AnswerError:
        """Return the error that the server has sent, in words for people."""
        body = await response.content.read(MAX_ERROR_SIZE)
        details = f"status {response.status}: {body.decode(errors='replace')}"
        match response.status:
            case 401 | 403:
                reason = "The model server did not accept the key."
            case 404:
                reason = "The model server does not have this model."
            case 429:
                reason = self._rate_limited(response.headers.get("Retry-After", ""))
            case status:
                reason = f"The model server refused with status {status}."
        return AnswerError(reason, details)

    def _rate_limited(self, retry_after: str) -> str:
        pause = retry_pause(retry_after)
        self._refused_until = asyncio.get_running_loop().time() + pause
        return too_many_requests(pause)

    def _check_rate_limit(self) -> None:
        """Raise AnswerError while the server would refuse because of its rate limit."""
        pause = self._refused_until - asyncio.get_running_loop().time()
        if pause > 0:
            raise AnswerError(too_many_requests(pause))


def too_many_requests(pause: float) -> str:
    """Return the reason for a rate limit that ends in `pause` seconds."""
    if pause <= 0:
        return "The model server is busy: ask again later."
    return f"The model server is busy: ask again in {math.ceil(pause)} seconds."


def retry_pause(retry_after: str) -> float:
    """Return the pause in seconds that a Retry-After header requests.

    The header has a number of seconds or a date. Returns 0 for anything else.
    """
    if retry_after.isascii() and retry_after.isdigit():
        return min(float(retry_after), MAX_PAUSE)
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    pause = date.timestamp() - time.time()
    return min(max(pause, 0.0), MAX_PAUSE)


# --- The request


def chat_messages(
    conversation: Sequence[Message], system_prompt: str
) -> list[dict[str, str]]:
    """Return the conversation in the form of the API.

    Many models require that "user" and "assistant" alternate, and that "user" begins.
    So the messages of several people become one, with a name before each line.
    """
    merged: list[dict[str, str]] = []
    for message in conversation:
        if message.name == BOT:
            role = "assistant"
            content = message.text
        else:
            role = "user"
            content = f"{message.name}: {question_of(message.text)}"
        if merged and merged[-1]["role"] == role:
            merged[-1]["content"] += f"\n{content}"
        elif merged or role == "user":
            merged.append({"role": role, "content": content})
    if system_prompt:
        merged.insert(0, {"role": "system", "content": system_prompt})
    return merged


# --- The stream


async def parts_of(response: aiohttp.ClientResponse) -> AsyncGenerator[str, None]:
    """Yield the text of each event, which may be empty.

    Raises AnswerError if the server reports an error, or ends before the answer does.
    """
    parser = EventParser()
    is_complete = False
    async for data in response.content.iter_any():
        for event in parser.feed(data):
            if event == "[DONE]":
                return
            choice = choice_of(event)
            yield text_of(choice)
            reason = choice.get("finish_reason")
            if isinstance(reason, str):
                is_complete = True
                if reason in CUT_OFF:
                    raise AnswerError(CUT_OFF[reason])
    if not is_complete:
        raise AnswerError(ENDED_EARLY)


def choice_of(event: str) -> dict[str, Any]:
    """Return the choice in an event; it is empty if the event has none."""
    try:
        value = json.loads(event)
    except (ValueError, RecursionError):
        raise AnswerError(INVALID, f"not JSON: {event}") from None
    match value:
        case {"error": error} if error:
            raise AnswerError(REPORTED_ERROR, str(error))
        case {"choices": [dict(choice), *_]}:
            return choice
        case dict():
            return {}  # some servers send statistics, or nothing but their name
    raise AnswerError(INVALID)


def text_of(choice: dict[str, Any]) -> str:
    """Return the text that a choice adds to the answer."""
    match choice.get("delta"):
        case {"content": str(text)}:
            return text
    return ""


class EventParser:
    """Finds the data of Server-Sent Events in a stream of bytes, however it is cut."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._text = ""  # what has arrived of the current line
        self._data: list[str] = []  # the lines of data of the current event
        self._size = 0  # of the current event, in characters

    def feed(self, data: bytes) -> list[str]:
        """Return the data of the events that end in these bytes.

        Raises AnswerError if an event is longer than any answer could be.
        """
        self._text += self._decoder.decode(data)
        # A line ends with LF, CR or both. The LF may come after these bytes.
        held_back = ""
        if self._text.endswith("\r"):
            self._text = self._text[:-1]
            held_back = "\r"
        lines = self._text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._text = lines.pop() + held_back
        events = []
        for line in lines:
            self._size += len(line)
            if line == "":
                if self._data:
                    events.append("\n".join(self._data))
                self._data = []
                self._size = 0
            else:
                self._feed_line(line)
        if self._size + len(self._text) > MAX_EVENT_SIZE:
            raise AnswerError(INVALID)
        return events

    def _feed_line(self, line: str) -> None:
        # A line without a field name is a comment; other fields are not needed.
        field, _, value = line.partition(":")
        if field == "data":
            self._data.append(value.removeprefix(" "))
