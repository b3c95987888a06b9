"""The page, the pages of other sites, full rooms and strange requests."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType
from yarl import URL

from chat.room import Room

Enter = Callable[..., Awaitable[Any]]
UntilLeft = Callable[[URL, int], Awaitable[None]]


@pytest.mark.asyncio
async def test_the_health_check_has_the_number_of_clients(
    enter: Enter, url: URL, session: aiohttp.ClientSession
) -> None:
    await enter("Ann")
    async with session.get(url / "healthz") as response:
        assert response.status == 200
        assert await response.json() == {"status": "ok", "clients": 1}


# --- The page


@pytest.mark.asyncio
async def test_the_page_runs_only_its_own_script(
    url: URL, session: aiohttp.ClientSession
) -> None:
    nonces = set()
    for _ in range(2):
        async with session.get(url) as response:
            html = await response.text()
            policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'nonce-"), policy
        (nonce,) = set(re.findall(r'nonce="(.*?)"', html))
        assert f"'nonce-{nonce}'" in policy
        with_nonce = re.findall(r"<(?:script|style) nonce=", html)
        assert len(with_nonce) == len(re.findall(r"<(?:script|style)", html)) == 2
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


# --- Who may enter


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:1", "http://chat.example.com"],
)
@pytest.mark.asyncio
async def test_the_page_of_another_site_is_refused(
    enter: Enter, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
        await enter("Eve", headers={"Origin": origin})
    (record,) = caplog.records
    assert f"refused a page of {origin}" in record.getMessage()
    assert "--allowed-origin" in record.getMessage()


@pytest.mark.asyncio
async def test_our_own_page_may_enter(enter: Enter, url: URL) -> None:
    ann = await enter("Ann", headers={"Origin": str(url.origin())})
    assert ann.welcome["name"] == "Ann"


@pytest.mark.parametrize(
    "origin", ["https://chat.example.com", "https://CHAT.example.com"]
)
@pytest.mark.asyncio
async def test_the_page_of_an_allowed_origin_may_enter(
    enter: Enter, origin: str
) -> None:
    ann = await enter("Ann", headers={"Origin": origin})
    assert ann.welcome["name"] == "Ann"


@pytest.mark.asyncio
async def test_a_page_can_ask_why_it_was_refused(
    enter: Enter, room: Room, url: URL, session: aiohttp.ClientSession
) -> None:
    room.limits.clients = 1

    async def ask(**headers: str) -> tuple[int, str]:
        async with session.post(url / "ws", headers=headers) as response:
            return response.status, await response.text()

    assert await ask() == (204, "")
    await enter("Ann")
    assert await ask() == (503, "The room is full.")
    text = "This server does not allow pages of http://evil.example."
    assert await ask(Origin="http://evil.example") == (403, text)


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_full_room_sends_retry_after(
    enter: Enter, room: Room, url: URL, until_left: UntilLeft
) -> None:
    room.limits.clients = 2
    ann, _ = await enter("Ann"), await enter("Bob")
    with pytest.raises(aiohttp.WSServerHandshakeError, match="503") as refusal:
        await enter("Cid")
    assert refusal.value.headers
    assert refusal.value.headers["Retry-After"] == "10"
    await ann.close()
    await until_left(url, 1)
    await enter("Cid")


@pytest.mark.asyncio
async def test_a_broken_handshake_takes_no_place(
    enter: Enter, room: Room, url: URL, session: aiohttp.ClientSession
) -> None:
    room.limits.clients = 1
    async with session.get((url / "ws").with_query(name="Ann")) as response:
        assert response.status == 400
    await enter("Ann")


# --- Connections that are dead or broken


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_client_that_does_not_answer_pings_is_cut_off(
    enter: Enter, url: URL, until_left: UntilLeft
) -> None:
    dead = await enter("Ann", autoping=False)
    assert (await dead.ws.receive()).type is WSMsgType.PING
    await until_left(url, 0)
    assert asyncio.get_running_loop().time() == pytest.approx(45, abs=1)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n" * 2,
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
    ],
    ids=["length", "version", "header", "tls", "long_line"],
)
@pytest.mark.asyncio
async def test_a_bad_request_is_one_line_in_the_log(
    url: URL, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(request_bytes)
    assert (await reader.read()).startswith(b"HTTP/1.0 400")
    writer.close()
    await writer.wait_closed()
    for record in caplog.records:
        assert record.exc_info is None
        assert record.levelname == "INFO"
        assert "\n" not in record.getMessage()
