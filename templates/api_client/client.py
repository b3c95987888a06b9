"""A client for the Cat Facts API. For another API, change `PATH` and `Fact`."""

import asyncio
import json
import math
import re
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import urlsplit

import aiohttp

from .retries import RateLimit, RateLimitError, retry

PATH = "/fact"  # below the base URL
MAX_BODY = 2**20  # bytes; the rest of a longer response is not read
MAX_ERROR_BODY = 4096  # bytes
ERROR_BODY_TIMEOUT = 2.0  # seconds
MAX_EXCERPT = 200  # characters of a response that an error message shows

# A bearer token may contain no other characters (RFC 6750).
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class AnswerError(Exception):
    """The API returned something that is not a fact."""


class StatusError(aiohttp.ClientResponseError):
    """The API returned an error status."""

    def __str__(self) -> str:
        return f"{self.status} {self.message} ({self.request_info.real_url})"

    def __repr__(self) -> str:
        # The one of aiohttp shows the headers of the request, which contain the token.
        return f"StatusError({str(self)!r})"


# What `CatFact.get_cat_fact` raises. Any other error is a bug.
API_ERRORS = (AnswerError, RateLimitError, aiohttp.ClientError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact, as the API returns it."""

    fact: str
    length: int

    @classmethod
    def parse(cls, body: bytes) -> "Fact":
        """Return the fact in a JSON response. Raises AnswerError if it is not valid."""
        try:
            data = json.loads(body)
        except (ValueError, RecursionError):
            raise AnswerError("not JSON") from None
        match data:
            case {"fact": str(fact), "length": int(length)}:
                # In Python, True is an int.
                if not isinstance(length, bool):
                    return cls(fact, length)
        raise AnswerError("not a fact")


@dataclass
class CatFact:
    """The Cat Facts API at `base_url`.

    Each attempt may take `timeout` seconds, and a request may take up to `attempts`
    attempts. `token` is sent as a bearer token; no error message contains it.

    Raises ValueError if an argument is invalid.
    """

    session: aiohttp.ClientSession
    base_url: str
    timeout: float = 10.0
    attempts: int = 5
    token: str = field(default="", repr=False)
    rate_limit: RateLimit = field(default_factory=RateLimit, init=False, repr=False)

    def __post_init__(self) -> None:
        check_base_url(self.base_url)
        check_positive(timeout=self.timeout, attempts=self.attempts)
        if self.token:
            if not TOKEN.fullmatch(self.token):
                raise ValueError("the token contains an invalid character")
            if urlsplit(self.base_url).username is not None:
                raise ValueError("use either a token or a base URL with credentials")

    async def get_cat_fact(self, deadline: float = math.inf) -> Fact:
        """Return a fact, retrying temporary errors.

        While the API limits the rate of requests, all callers wait. No attempt starts
        after `deadline`, a time of the event loop.

        Raises one of `API_ERRORS`.
        """
        return await retry(
            self._attempt,
            attempts=self.attempts,
            rate_limit=self.rate_limit,
            deadline=deadline,
        )

    async def _attempt(self) -> Fact:
        """Make one attempt."""
        body = await self._get(self.base_url.rstrip("/") + PATH)
        if len(body) > MAX_BODY:
            raise AnswerError(f"longer than {MAX_BODY} bytes: {self._excerpt(body)}")
        try:
            return Fact.parse(body)
        except AnswerError as error:
            raise AnswerError(f"{error}: {self._excerpt(body)}") from None

    async def _get(self, url: str) -> bytes:
        """Return the response body, cut off soon after `MAX_BODY` bytes."""
        headers = {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            async with (
                asyncio.timeout(self.timeout),
                self.session.get(url, headers=headers) as response,
            ):
                if response.status >= 400:
                    await self._raise_status_error(response)
                return await read_body(response, MAX_BODY)
        except TimeoutError:
            raise TimeoutError(f"no response within {self.timeout:g} s") from None
        except aiohttp.ClientError:
            raise
        except ValueError as error:
            # The environment can make a request impossible, for example with a proxy
            # whose port is out of range.
            raise aiohttp.ClientError(f"cannot send a request: {error}") from error

    async def _raise_status_error(self, response: aiohttp.ClientResponse) -> NoReturn:
        """Raise the error of a response, with the explanation in its body."""
        message = response.reason or "error"
        if is_text(response.content_type):
            try:
                async with asyncio.timeout(ERROR_BODY_TIMEOUT):
                    body = await read_body(response, MAX_ERROR_BODY)
            except (aiohttp.ClientError, TimeoutError):
                body = b""  # the status says enough
            if body:
                message = f"{message}: {self._excerpt(body)}"
        raise StatusError(
            response.request_info,
            response.history,
            status=response.status,
            message=message,
            headers=response.headers,
        )

    def _excerpt(self, body: bytes) -> str:
        """Return the beginning of a response body, for an error message."""
        text = body[:MAX_ERROR_BODY].decode(errors="replace")
        if self.token:
            # Some APIs repeat the request in their responses.
            text = text.replace(self.token, "***")
        text = " ".join(text.split())
        if not text:
            return "(empty)"
        if len(text) > MAX_EXCERPT:
            return f"{text[:MAX_EXCERPT]}..."
        return text


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the body of a response, cut off soon after `limit` bytes."""
    body = bytearray()
    while len(body) <= limit:
        chunk = await response.content.readany()
        if not chunk:
            break
        body += chunk
    return bytes(body)


def is_text(content_type: str) -> bool:
    """Return whether a response of this type can be shown in an error message.

    HTML cannot: its beginning says nothing about the error.
    """
    return content_type == "text/plain" or "json" in content_type


def check_positive(**limits: float) -> None:
    """Raise ValueError if one of the limits is not a positive number."""
    for name, value in limits.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, not {value:g}")


def check_base_url(url: str) -> None:
    """Raise ValueError if `url` is not an http(s) URL to which a path can be added."""
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        has_host = False
    if not has_host or parts.scheme not in {"http", "https"}:
        raise ValueError(f"{without_credentials(url)!r} is not an http(s) URL")
    if "?" in url or "#" in url:
        raise ValueError(f"{without_credentials(url)!r} has a query or a fragment")


def without_credentials(url: str) -> str:
    """Return a URL, which need not be valid, without everything before its last @."""
    _, at, rest = url.rpartition("@")
    if at:
        return f"***@{rest}"
    return url
