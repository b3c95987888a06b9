"""Pages of an API: links, lists, credentials, and errors."""

import base64
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from etl.api import ApiSource
from etl.app import main
from etl.pipeline import Batch, SourceError

Capture = pytest.CaptureFixture[str]
Script = deque[web.Response | str]
Load = Callable[..., Awaitable[int]]
Execute = Callable[..., Awaitable[list[tuple[object, ...]]]]


def read_rejects(path: Path) -> str:
    """Return the content of the file for rejects."""
    return path.read_text()


@pytest.fixture
def load(sqlite_url: str, rejects: Path) -> Load:
    """The program, on SQLite."""
    return partial(main, database_url=sqlite_url, rejects=rejects)


async def read_all(url: str, **options: object) -> list[object]:
    """Return the items of all pages."""
    items: list[object] = []
    batch = Batch()
    async with aclosing(ApiSource(url, **options)) as source:  # type: ignore[arg-type]
        while True:
            batch = await source.read(batch)
            items += [record.values for record in batch.records]
            if not batch.mark:
                return items


def numbers(requests: list[web.Request]) -> list[str]:
    """Return the numbers of the pages that were requested."""
    return [request.query.get("page", "1") for request in requests]


# --- Pages


@pytest.mark.asyncio
async def test_all_pages_are_loaded(
    api_url: str,
    requests: list[web.Request],
    load: Load,
    execute: Execute,
    sqlite_url: str,
) -> None:
    assert await load(api_url) == 0
    assert numbers(requests) == ["1", "2", "3"]
    query = "SELECT id, item, day, cents FROM sales ORDER BY id"
    assert await execute(sqlite_url, query) == [
        (n, f"TEA {n}", "2026-05-31", n * 10) for n in range(1, 8)
    ]


@pytest.mark.parametrize(
    "link",
    [
        '</sales?page=3>; rel="next"',
        "</sales?page=3>; rel=next",
        '</sales?page=3>; rel="Next"',
        '</sales?page=3>; REL="next"',
        '</sales?page=3>; rel="next last"',
        '</sales?page=3>; rel="last  next"',
        '</sales?page=3>;rel="next";title="a, <b>; rel=prev"',
        '</sales?page=3>; title="a, <b>"; rel="next"',
        '</sales?page=1>; rel="prev", </sales?page=3>; rel="next"',
        '</x?a=1,2>; rel="first last", <?page=3>; rel="next"',
    ],
)
@pytest.mark.asyncio
async def test_the_next_page_is_found_in_any_valid_link(
    api_url: str, script: Script, requests: list[web.Request], link: str
) -> None:
    script.append(web.json_response([1], headers={"Link": link}))
    items = await read_all(api_url)
    assert items[0] == 1
    assert len(items) == 2
    assert numbers(requests) == ["1", "3"]


@pytest.mark.parametrize(
    "link", ['</sales?page=3>; rel="prev"', "</sales?page=3>", "nonsense", '<>; rel=""']
)
@pytest.mark.asyncio
async def test_other_links_are_not_followed(
    api_url: str, script: Script, requests: list[web.Request], link: str
) -> None:
    script.append(web.json_response([1], headers={"Link": link}))
    assert await read_all(api_url) == [1]
    assert len(requests) == 1


@pytest.mark.asyncio
async def test_the_next_page_is_found_in_any_of_several_link_headers(
    api_url: str, script: Script, requests: list[web.Request]
) -> None:
    page = web.json_response([1], headers={"Link": '</sales?page=1>; rel="prev"'})
    page.headers.add("Link", '</sales?page=3>; rel="next"')
    script.append(page)
    await read_all(api_url)
    assert numbers(requests) == ["1", "3"]


@pytest.mark.parametrize("target", ["/sales", "/sales?page=2"])
@pytest.mark.asyncio
async def test_a_next_page_that_was_read_before_is_refused(
    api_url: str,
    script: Script,
    load: Load,
    capsys: Capture,
    requests: list[web.Request],
    target: str,
) -> None:
    for link in ("/sales?page=2", "/sales?page=3", target):
        page = web.json_response([], headers={"Link": f'<{link}>; rel="next"'})
        script.append(page)
    assert await load(api_url) == 1
    assert "which has been read before" in capsys.readouterr().err
    assert len(requests) == 3


@pytest.mark.asyncio
async def test_a_signed_url_is_sent_unchanged(
    api_url: str, script: Script, requests: list[web.Request]
) -> None:
    query = "X-Sig=a%2Bb%2Fc%3D%3D&t=%7Ex&l=a%2Cb"
    headers = {"Link": f'</sales?{query}&page=3>; rel="next"'}
    script.append(web.json_response([], headers=headers))
    await read_all(f"{api_url}?{query}")
    assert requests[0].raw_path == f"/sales?{query}"
    assert requests[1].raw_path == f"/sales?{query}&page=3"


# --- Objects


@pytest.mark.parametrize(
    ("items", "page"),
    [
        ("data", {"data": [1, 2], "meta": {}}),
        ("result.data", {"result": {"data": [1, 2]}}),
        ("", {"": [1, 2]}),
    ],
)
@pytest.mark.asyncio
async def test_an_option_names_the_list_in_an_object(
    api_url: str, script: Script, items: str, page: dict[str, object]
) -> None:
    script.append(web.json_response(page))
    assert await read_all(api_url, items=items) == [1, 2]


@pytest.mark.parametrize(
    "place", [{"next": "?page=3"}, {"links": {"next": "?page=3"}}, {"next": None}]
)
@pytest.mark.asyncio
async def test_the_next_page_is_found_in_an_object(
    api_url: str, script: Script, requests: list[web.Request], place: dict[str, object]
) -> None:
    script.append(web.json_response({"data": [1], **place}))
    script.append(web.json_response({"data": [2], "next": None}))
    items = await read_all(api_url, items="data")
    if place == {"next": None}:
        assert items == [1]
    else:
        assert items == [1, 2]
        assert numbers(requests) == ["1", "3"]


@pytest.mark.parametrize(
    ("items", "body", "message"),
    [
        (None, '{"data": [], "meta": 1}', "names data, meta: name the list with --it"),
        (None, "{}", "an object with the names (none)"),
        (None, "null", "expected a list, but got a value of type NoneType"),
        (None, "", "not JSON: "),
        (None, "<html>", "not JSON: "),
        (None, '[{"id": 1}', "not JSON: "),
        ("rows", '{"data": []}', "no rows in an object with the names data"),
        ("data.rows", '{"data": []}', "no data.rows in an object"),
        ("data", "[1]", "no data in a value of type list"),
        ("data", '{"data": {}}', "expected a list, but got an object"),
    ],
)
@pytest.mark.asyncio
async def test_a_page_without_a_list_is_an_error_and_not_the_end(
    api_url: str,
    script: Script,
    load: Load,
    capsys: Capture,
    items: str | None,
    body: str,
    message: str,
) -> None:
    script.append(web.Response(text=body))
    assert await load(api_url, items=items) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert message in stderr
    assert stderr.count("\n") == 1


# --- Credentials and headers


@pytest_asyncio.fixture
async def other_url() -> AsyncIterator[str]:
    """A second server. Its items are the secrets that it has received."""

    async def respond(request: web.Request) -> web.Response:
        names = ("Authorization", "X-Key")
        return web.json_response([request.headers.get(name) for name in names])

    application = web.Application()
    application.router.add_get("/", respond)
    async with TestServer(application) as server:
        yield str(server.make_url("/"))


@pytest.mark.asyncio
async def test_credentials_in_the_url_are_sent_for_every_page_of_the_same_server(
    api_url: str,
    requests: list[web.Request],
    load: Load,
    execute: Execute,
    sqlite_url: str,
    rejects: Path,
    pages: list[list[object]],
    capsys: Capture,
) -> None:
    pages[0].append("bad")
    url = str(URL(api_url).with_user("ada").with_password("secret"))
    assert await load(url, header=["X-Key: a: b"]) == 0
    expected = "Basic " + base64.b64encode(b"ada:secret").decode()
    assert [request.headers["Authorization"] for request in requests] == [expected] * 3
    assert [request.headers["X-Key"] for request in requests] == ["a: b"] * 3
    stored = await execute(sqlite_url, "SELECT source, mark FROM cursors")
    shown = str(stored) + read_rejects(rejects) + str(capsys.readouterr())
    assert "ada:***@" in shown
    assert "secret" not in shown


@pytest.mark.asyncio
async def test_another_server_gets_no_credentials(
    api_url: str, script: Script, other_url: str
) -> None:
    script.append(web.json_response([], headers={"Link": f'<{other_url}>; rel="next"'}))
    url = str(URL(api_url).with_user("ada").with_password("secret"))
    assert await read_all(url, headers=["X-Key: secret"]) == [None, None]


# --- Errors

GOOD = {"id": 2, "item": "tea", "day": "2026-05-31", "cents": 5}


@pytest.mark.parametrize("error", [429, 500, 503, "cut", "drop", "hang"])
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_temporary_errors_are_retried(
    api_url: str, script: Script, error: int | str
) -> None:
    count = 2
    if error == "drop":
        # aiohttp itself repeats a request once if the connection is dropped.
        count = 4
    for _ in range(count):
        if isinstance(error, int):
            script.append(web.Response(status=error))
        else:
            script.append(error)
    assert len(await read_all(api_url, timeout=5.0)) == 7


@pytest.mark.parametrize("status", [401, 404, 410])
@pytest.mark.asyncio
async def test_a_permanent_error_is_not_retried(
    api_url: str, script: Script, requests: list[web.Request], status: int
) -> None:
    script.append(web.Response(status=status))
    with pytest.raises(SourceError, match=str(status)):
        await read_all(api_url)
    assert len(requests) == 1


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_the_number_of_attempts_is_limited(
    api_url: str, script: Script, requests: list[web.Request]
) -> None:
    script += ["hang"] * 3
    with pytest.raises(SourceError, match="timed out"):
        await read_all(api_url, attempts=2, timeout=3.0)
    assert len(requests) == 2


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_rate_limit_that_never_ends_is_an_error(
    api_url: str, script: Script
) -> None:
    busy = {"Retry-After": "600"}
    script += [web.Response(status=429, headers=busy) for _ in range(3)]
    with pytest.raises(SourceError, match="429"):
        await read_all(api_url)


@pytest.mark.asyncio
async def test_rejects_are_valid_json_even_if_an_item_is_not(
    api_url: str, script: Script, load: Load, rejects: Path
) -> None:
    script.append(web.Response(text='[{"id": NaN, "cents": -Infinity}]'))
    assert await load(api_url, max_rejects=1) == 0
    assert json.loads(read_rejects(rejects))["row"] == {
        "id": "NaN",
        "cents": "-Infinity",
    }


@pytest.mark.asyncio
async def test_an_item_with_a_repeated_key_is_rejected(
    api_url: str, script: Script, load: Load, rejects: Path
) -> None:
    text = json.dumps({"data": [GOOD, GOOD | {"key": 3}]})
    script.append(web.Response(text=text.replace("key", "id")))
    assert await load(api_url, items="data") == 0
    reject = json.loads(read_rejects(rejects))
    assert reject["line"] == 2
    assert reject["reason"] == "the key id occurs more than once"
    assert reject["row"]["id"] == 3


@pytest.mark.asyncio
async def test_an_error_names_its_page_once(
    api_url: str, script: Script, load: Load, capsys: Capture
) -> None:
    url = f"{api_url}?token=secret"
    script.append(web.Response(status=404))
    assert await load(url) == 1
    assert capsys.readouterr().err == f"{api_url}?token=***: 404 Not Found\n"
    link = {"Link": '</sales?page=2>; rel="next"'}
    script += [web.json_response([], headers=link), web.Response(text="<html>")]
    assert await load(url) == 1
    page = f"{api_url}?page=2"
    assert capsys.readouterr().err == (
        f"{page}: not JSON: expected value at line 1 column 1\n"
    )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://localhost/sales", "it must begin with http:// or https://"),
        ("http://", "not a URL"),
        ("http://ada:secret@host:port/sales", "not a URL"),
        ("http://127.0.0.1:1/", "Cannot connect to host 127.0.0.1:1"),
    ],
)
@pytest.mark.asyncio
async def test_a_url_that_cannot_be_used_is_explained_in_one_line(
    load: Load, capsys: Capture, url: str, message: str
) -> None:
    assert await load(url, attempts=1) == 1
    stderr = capsys.readouterr().err
    assert message in stderr
    assert "secret" not in stderr
    assert stderr.count("\n") == 1


@pytest.mark.parametrize("header", ["X-Key", ": value", "X: a\nY: b"])
@pytest.mark.asyncio
async def test_a_header_that_is_not_valid_is_explained_in_one_line(
    api_url: str, load: Load, capsys: Capture, header: str
) -> None:
    assert await load(api_url, header=[header]) == 1
    assert capsys.readouterr().err.count("\n") == 1
