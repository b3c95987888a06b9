"""The client against a real HTTP server that fails in any way a test wants."""

import asyncio
import gzip
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from api_client.client import (
    API_ERRORS,
    MAX_BODY,
    PATH,
    AnswerError,
    CatFact,
    Fact,
    StatusError,
)
from api_client.session import open_session

Script = deque[web.Response | int | str]

NAPS = Fact("Cats nap.", 9)
NAPS_AS_JSON = b'{"fact": "Cats nap.", "length": 9}'


def now() -> float:
    """The loop's time: a virtual clock starts at 0, and only waiting moves it."""
    return asyncio.get_running_loop().time()


# --- Facts


@pytest.mark.asyncio
async def test_a_fact_is_what_the_api_returns(client: CatFact) -> None:
    assert await client.get_cat_fact() == Fact("Cat number 1 sleeps.", 20)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Welcome!</html>",
        b"null",
        b'["fact", "length"]',
        b'{"fact": "Cats sleep."}',
        b'{"fact": "Cats sleep.", "length": "11"}',
        b'{"fact": "Cats sleep.", "length": true}',
        b'{"fact": null, "length": 11}',
        b'{"fact": "Cats sl',
        b"\xff\xfe\xff",
        b"[" * 100_000,
    ],
)
def test_anything_else_is_not_a_fact(body: bytes) -> None:
    with pytest.raises(AnswerError):
        Fact.parse(body)


@pytest.mark.asyncio
async def test_the_error_shows_the_beginning_of_what_is_not_a_fact(
    client: CatFact, script: Script
) -> None:
    script.append(web.Response(text="<html>\n\tWelcome!</html>"))
    with pytest.raises(AnswerError, match=r"^not JSON: <html> Welcome!</html>$"):
        await client.get_cat_fact()
    script.append(web.Response(text=" "))
    with pytest.raises(AnswerError, match=r"^not JSON: \(empty\)$"):
        await client.get_cat_fact()
    script.append(web.Response(text=f"[{'1, ' * 1000}1]"))
    with pytest.raises(AnswerError, match=r"^not a fact: \[1, 1, .*\.\.\.$") as caught:
        await client.get_cat_fact()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.asyncio
async def test_a_response_may_have_a_mebibyte_and_not_more(
    client: CatFact, script: Script, coding: str
) -> None:
    for size in (MAX_BODY, MAX_BODY + 1):
        body = NAPS_AS_JSON.ljust(size)  # JSON may end with spaces
        if coding == "gzip":
            body = gzip.compress(body)
        script.append(web.Response(body=body, headers={"Content-Encoding": coding}))
    assert await client.get_cat_fact() == NAPS
    with pytest.raises(AnswerError, match="longer than 1048576 bytes"):
        await client.get_cat_fact()


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_response_without_end_is_not_read_to_its_end(
    client: CatFact, script: Script
) -> None:
    script.append("flood")
    with pytest.raises(AnswerError, match="longer than"):
        await client.get_cat_fact()
    assert now() == 0


# --- Retries


# Two times "drop", since aiohttp itself repeats a GET once if the connection is closed.
@pytest.mark.parametrize(
    "failures",
    [[408], [425], [500], [502], [503], ["drop", "drop"], ["cut"], ["hang"], ["stall"]],
    ids=str,
)
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_temporary_failure_is_retried_after_a_pause(
    client: CatFact, script: Script, failures: list[int | str]
) -> None:
    script += failures
    await client.get_cat_fact()
    assert not script
    assert now() >= 0.1


@pytest.mark.parametrize("status", [200, 204, 400, 401, 403, 404, 410, 422, 501])
@pytest.mark.asyncio
async def test_a_permanent_failure_is_not_retried(
    client: CatFact, script: Script, request_times: list[float], status: int
) -> None:
    script.append(web.Response(status=status, headers={"Retry-After": "0"}))
    with pytest.raises((StatusError, AnswerError)):
        await client.get_cat_fact()
    assert len(request_times) == 1


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_after_the_last_attempt_its_error_is_raised(
    session: aiohttp.ClientSession, base_url: str, script: Script
) -> None:
    script += [500, 504, 502, 503]
    with pytest.raises(StatusError, match="502 Bad Gateway"):
        await CatFact(session, base_url, attempts=3).get_cat_fact()
    assert script == deque([503])


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_server_that_starts_late_is_waited_for(
    session: aiohttp.ClientSession,
    application: web.Application,
    closed_port: socket.socket,
) -> None:
    server = TestServer(application, socket_factory=lambda *_: closed_port)
    url = f"http://127.0.0.1:{closed_port.getsockname()[1]}"
    async with asyncio.TaskGroup() as group:
        fetching = group.create_task(CatFact(session, url).get_cat_fact())
        await asyncio.sleep(0.09)  # the first pause is longer
        await server.start_server()
    await server.close()
    assert isinstance(fetching.result(), Fact)


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_an_https_url_of_an_http_server_is_not_retried(
    session: aiohttp.ClientSession, base_url: str
) -> None:
    api = CatFact(session, base_url.replace("http:", "https:"))
    with pytest.raises(aiohttp.ClientConnectorSSLError):
        await api.get_cat_fact()
    assert now() == 0


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_rate_limit_does_not_use_up_the_attempts(
    session: aiohttp.ClientSession, base_url: str, script: Script
) -> None:
    script += [429] * 5
    await CatFact(session, base_url, attempts=1).get_cat_fact()
    assert not script


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_pause_beyond_the_deadline_is_an_error_at_once(
    client: CatFact, script: Script
) -> None:
    script.append(web.Response(status=503, headers={"Retry-After": "90"}))
    with pytest.raises(API_ERRORS, match=r"^503 .*; next request in 90 s, after"):
        await client.get_cat_fact(deadline=60)
    assert now() == 0


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_cancelled_at_any_await_it_leaves_nothing_behind(
    base_url: str, script: Script, cancel_everywhere: Callable[..., Awaitable[int]]
) -> None:
    async def fetch() -> None:
        script.clear()
        script.extend([500, 429])
        async with open_session() as session:
            await CatFact(session, base_url).get_cat_fact()

    # Connect, response, pause, response, pause for the rate limit, response.
    assert await cancel_everywhere(fetch) >= 6


# --- Explanations of the server


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (
            web.json_response({"error": "missing parameter: api_key"}, status=400),
            '400 Bad Request: {"error": "missing parameter: api_key"} (http://',
        ),
        (
            web.Response(
                text='{"title": "No key"}',
                content_type="application/problem+json",
                status=403,
            ),
            '403 Forbidden: {"title": "No key"} (http://',
        ),
        (
            web.Response(text="quota\r\n  exceeded\n", status=403, reason="No"),
            "403 No: quota exceeded (http://",
        ),
        (
            web.Response(text="<html>", content_type="text/html", status=404),
            "404 Not Found (http://",
        ),
        (web.Response(status=404), "404 Not Found (http://"),
    ],
    ids=["json", "problem_json", "text", "html", "empty"],
)
@pytest.mark.asyncio
async def test_an_error_contains_the_explanation_of_the_server(
    client: CatFact, script: Script, response: web.Response, message: str
) -> None:
    script.append(response)
    with pytest.raises(StatusError) as caught:
        await client.get_cat_fact()
    assert str(caught.value).startswith(message)


@pytest.mark.asyncio
async def test_only_the_first_part_of_a_long_explanation_is_shown(
    client: CatFact, script: Script
) -> None:
    script.append(web.Response(text="x" * 10_000_000, status=400))
    with pytest.raises(StatusError, match=f"400 Bad Request: {'x' * 200}\\.\\.\\. "):
        await client.get_cat_fact()


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_the_status_counts_if_the_explanation_does_not_arrive(
    session: aiohttp.ClientSession,
) -> None:
    async def stall(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=400, headers={"Content-Length": "50"})
        response.content_type = "text/plain"
        await response.prepare(request)
        await asyncio.Event().wait()
        return response

    application = web.Application()
    application.router.add_get(PATH, stall)
    async with TestServer(application) as server:
        with pytest.raises(StatusError, match="400 Bad Request"):
            await CatFact(session, str(server.make_url("/"))).get_cat_fact()


# --- Tokens and base URLs


@pytest.mark.asyncio
async def test_a_token_is_sent_to_the_api_but_not_to_another_host(
    session: aiohttp.ClientSession,
    api: TestServer,
    script: Script,
    request_headers: list[Mapping[str, str]],
) -> None:
    elsewhere = f"http://localhost:{api.port}{PATH}"
    script.append(web.Response(status=302, headers={"Location": elsewhere}))
    client = CatFact(session, str(api.make_url("/")), token="se-cret")  # noqa: S106
    await client.get_cat_fact()
    assert request_headers[0]["Authorization"] == "Bearer se-cret"
    assert request_headers[1]["Host"].startswith("localhost")
    assert "Authorization" not in request_headers[1]


@pytest.mark.parametrize("status", [200, 401])
@pytest.mark.asyncio
async def test_no_error_contains_the_token(
    session: aiohttp.ClientSession, base_url: str, script: Script, status: int
) -> None:
    script.append(web.Response(text="you sent Bearer se-cret", status=status))
    client = CatFact(session, base_url, token="se-cret")  # noqa: S106
    with pytest.raises((StatusError, AnswerError)) as caught:
        await client.get_cat_fact()
    assert "you sent Bearer ***" in str(caught.value)
    assert "se-cret" not in f"{caught.value!r} {client!r}"


@pytest.mark.parametrize("token", ["se cret", "se\ncret", "sécret", '"secret"', "=x"])
@pytest.mark.asyncio
async def test_an_invalid_token_is_refused_and_not_shown(
    session: aiohttp.ClientSession, token: str
) -> None:
    with pytest.raises(ValueError, match="token contains an invalid character"):
        CatFact(session, "http://cats", token=token)


@pytest.mark.asyncio
async def test_a_token_and_credentials_together_are_refused(
    session: aiohttp.ClientSession,
) -> None:
    with pytest.raises(ValueError, match="either a token or"):
        CatFact(session, "http://ada:secret@cats", token="x")  # noqa: S106
    CatFact(session, "http://cats/@ada", token="x")  # noqa: S106 - no credentials


@pytest.mark.asyncio
async def test_credentials_in_the_base_url_are_sent(
    session: aiohttp.ClientSession,
    api: TestServer,
    request_headers: list[Mapping[str, str]],
) -> None:
    url = str(api.make_url("/").with_user("ada").with_password("secret"))
    await CatFact(session, url).get_cat_fact()
    assert request_headers[0]["Authorization"] == "Basic YWRhOnNlY3JldA=="


@pytest.mark.parametrize(
    "url",
    [
        "",
        "htp:/x",
        "cats",
        "http://",
        "http://x:0",
        "http://x:99999",
        "http://[::",
        "http://x?y=1",
        "http://x/y#z",
        "http://x?",
        "http://x/#",
    ],
)
@pytest.mark.asyncio
async def test_an_invalid_base_url_is_refused(
    session: aiohttp.ClientSession, url: str
) -> None:
    with pytest.raises(ValueError, match=r"URL|query") as caught:
        CatFact(session, url)
    assert str(caught.value).startswith(repr(url))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://ada:secret@host",
        "http://ada:secret@host:99999",
        "http://ada:sec/secret@host",
        "http://ada:sec?secret@host",
        "ada:secret@host",
    ],
)
@pytest.mark.asyncio
async def test_the_password_in_an_invalid_base_url_is_not_shown(
    session: aiohttp.ClientSession, url: str
) -> None:
    with pytest.raises(ValueError, match="'\\*\\*\\*@host") as caught:
        CatFact(session, url)
    assert "sec" not in str(caught.value)


@pytest.mark.asyncio
async def test_limits_must_be_positive(session: aiohttp.ClientSession) -> None:
    for limits in ({"timeout": 0}, {"timeout": float("nan")}, {"attempts": 0}):
        with pytest.raises(ValueError, match="must be positive"):
            CatFact(session, "http://cats", **limits)
