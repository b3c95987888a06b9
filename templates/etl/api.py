"""Extract rows from an HTTP API that returns pages of JSON.

A page is a list of items, or an object that contains the list. The URL of the next page
is in the header `Link: <...>; rel="next"`, or in the object as `next` or `links.next`.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import ClientError, ClientResponseError, ClientSession, ClientTimeout
from yarl import URL

from .json_objects import add_row, parse_json
from .pipeline import Batch, SourceError
from .retries import RateLimit, RateLimitError, retry
from .text import mask_credentials

# Time limit for one page, with all attempts and with the pauses that the API requires.
MAX_PAGE_SECONDS = 900.0

# A link in a Link header: `<URL>; name=value; name="value"`.
LINK = re.compile(r'<(?P<url>[^>]*)>(?P<parameters>(?:"[^"]*"|[^,"])*)')
RELATION = re.compile(
    r';\s*rel\s*=\s*(?:"(?P<quoted>[^"]*)"|(?P<token>[^\s;,"]+))', re.IGNORECASE
)


@dataclass(slots=True)
class Page:
    """A response of the API."""

    url: URL
    body: bytes
    link_headers: Sequence[str]


class ApiSource:
    """The rows of an API, in batches of one page.

    `url` is the URL of the first page. `items` is the name of the list in each page, or
    several names with dots between them; without it, a page must be a list. `headers`
    and the credentials in the URL are sent only to the server of the first page.
    `timeout` is the time limit for one attempt, in seconds. Raises SourceError if the
    URL or a header is not valid.
    """

    is_resumable = True

    def __init__(
        self,
        url: str,
        *,
        items: str | None = None,
        headers: Sequence[str] = (),
        timeout: float = 60.0,
        attempts: int = 5,
    ) -> None:
        # This name is saved in the database and in the rejects, so it must not contain
        # a password.
        self.name = mask_credentials(url)
        self._first = parse_url(url)
        self._items = items
        self._headers = parse_headers(headers)
        self._attempts = attempts
        self._rate_limit = RateLimit()
        self._seen: set[URL] = set()
        self._session = ClientSession(
            timeout=ClientTimeout(total=timeout),
            # Use the proxies of the environment and the passwords in .netrc.
            trust_env=True,
        )

    async def read(self, previous: Batch) -> Batch:
        """Return the page after `previous`. Raises SourceError if it cannot be read."""
        url = without_credentials(self._first)
        if previous.mark:
            url = parse_url(previous.mark)
        self._seen.add(url)
        page = await self._request(url)
        try:
            content = parse_json(page.body)
        except ValueError as error:
            raise SourceError(f"not JSON: {error}", readable(url)) from error
        items = find_items(content, self._items, url)
        batch = Batch(line=previous.line + len(items))
        for number, item in enumerate(items, previous.line + 1):
            add_row(batch, number, item, item)
        next_url = find_next(page, content)
        if next_url is not None:
            self._refuse_circle(url, next_url)
            batch.mark = str(next_url)
        return batch

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.close()

    def _refuse_circle(self, url: URL, next_url: URL) -> None:
        if next_url in self._seen:
            raise SourceError(
                f"its next page is {readable(next_url)}, which has been read before",
                readable(url),
            )

    async def _request(self, url: URL) -> Page:
        """Return a page. Temporary errors are retried."""

        async def attempt() -> Page:
            return await self._attempt(url)

        loop = asyncio.get_running_loop()
        try:
            return await retry(
                attempt,
                attempts=self._attempts,
                rate_limit=self._rate_limit,
                deadline=loop.time() + MAX_PAGE_SECONDS,
            )
        except TimeoutError as error:
            raise SourceError("timed out", readable(url)) from error
        except ClientResponseError as error:
            reason = f"{error.status} {error.message}"
            raise SourceError(reason, readable(url)) from error
        except (ClientError, RateLimitError, ValueError) as error:
            reason = mask_credentials(str(error) or repr(error))
            raise SourceError(reason, readable(url)) from error

    async def _attempt(self, url: URL) -> Page:
        headers: Mapping[str, str] = {}
        if url.origin() == self._first.origin():
            headers = self._headers
            url = url.with_user(self._first.user).with_password(self._first.password)
        async with self._session.get(
            url, headers=headers, raise_for_status=True
        ) as response:
            return Page(
                url=response.url,
                body=await response.read(),
                link_headers=response.headers.getall("Link", []),
            )


def parse_url(text: str) -> URL:
    """Return a URL without changing it. Raises SourceError if it is not an HTTP URL."""
    try:
        # If a signed URL were quoted again, its signature would no longer match.
        is_quoted = text.isascii() and " " not in text
        url = URL(text, encoded=is_quoted)
        url.origin()
    except ValueError as error:
        raise SourceError(f"not a URL: {mask_credentials(error)}") from error
    if url.scheme not in ("http", "https"):
        raise SourceError(
            "not the URL of an API: it must begin with http:// or https://"
        )
    return url


def without_credentials(url: URL) -> URL:
    """Return a URL without user and password."""
    return url.with_user(None)


def readable(url: URL) -> str:
    """Return a URL for a message."""
    return mask_credentials(url)


def parse_headers(headers: Iterable[str]) -> dict[str, str]:
    """Return the headers by name. Raises SourceError if one is not "Name: value"."""
    parsed: dict[str, str] = {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise SourceError("a header must have the form 'Name: value'")
        parsed[name.strip()] = value.strip()
    return parsed


# --- The content of a page


def find_items(content: object, names: str | None, url: URL) -> list[object]:
    """Return the list of items in a page. Raises SourceError if there is no list."""
    found = content
    if names is not None:
        for name in names.split("."):
            if not isinstance(found, dict) or name not in found:
                raise SourceError(f"no {names} in {describe(content)}", readable(url))
            found = found[name]
    if isinstance(found, list):
        return found
    reason = f"expected a list, but got {describe(found)}"
    if names is None and isinstance(found, dict):
        reason += ": name the list with --items"
    raise SourceError(reason, readable(url))


def describe(content: object) -> str:
    """Return a description of a page for a message."""
    if isinstance(content, dict):
        names = [str(name) for name in content]
        return f"an object with the names {', '.join(names[:20]) or '(none)'}"
    return f"a value of type {type(content).__name__}"


def find_next(page: Page, content: object) -> URL | None:
    """Return the URL of the next page, or None if this page is the last one."""
    for header in page.link_headers:
        for link in LINK.finditer(header):
            relation = RELATION.search(link["parameters"])
            if relation is None:
                continue
            relations = relation["quoted"] or relation["token"] or ""
            if "next" in relations.lower().split():
                return resolve(page.url, link["url"])
    if isinstance(content, dict):
        links = content.get("links")
        for place in (content, links):
            if isinstance(place, dict) and isinstance(place.get("next"), str):
                return resolve(page.url, place["next"])
    return None


def resolve(base: URL, link: str) -> URL:
    """Return the absolute URL of a link in a page."""
    target = base.join(URL(link, encoded=link.isascii()))
    return without_credentials(parse_url(str(target)))
