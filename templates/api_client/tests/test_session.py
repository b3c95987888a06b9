"""The HTTP session: proxies of the environment, and host names that cannot exist."""

import asyncio
import socket
from collections import deque
from collections.abc import Mapping

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from api_client.client import CatFact
from api_client.session import open_session


@pytest.mark.asyncio
async def test_a_proxy_of_the_environment_is_used(
    api: TestServer,
    monkeypatch: pytest.MonkeyPatch,
    request_headers: list[Mapping[str, str]],
) -> None:
    # The fake API is the proxy of a host that does not exist.
    monkeypatch.setenv("http_proxy", str(api.make_url("/")))
    async with open_session() as session:
        await CatFact(session, "http://cats.invalid").get_cat_fact()
    assert request_headers[0]["Host"] == "cats.invalid"


@pytest.mark.asyncio
async def test_a_host_in_no_proxy_is_connected_directly(
    base_url: str, monkeypatch: pytest.MonkeyPatch, closed_port: socket.socket
) -> None:
    port = closed_port.getsockname()[1]
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with open_session() as session:
        await CatFact(session, base_url).get_cat_fact()


@pytest.mark.asyncio
async def test_an_impossible_proxy_is_an_error_of_the_request(
    base_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:99999")
    async with open_session() as session:
        with pytest.raises(aiohttp.ClientError, match="Port out of range"):
            await CatFact(session, base_url).get_cat_fact()


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
@pytest.mark.parametrize("redirected", [False, True])
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_an_invalid_host_name_is_named_and_not_retried(
    session: aiohttp.ClientSession,
    base_url: str,
    script: deque[web.Response | int | str],
    host: str,
    redirected: bool,
) -> None:
    url = f"http://{host}/"
    if redirected:
        script.append(web.Response(status=302, headers={"Location": url}))
        url = base_url
    with pytest.raises(
        aiohttp.ClientConnectorDNSError,
        match=rf"host {host}:80 .*\[not a valid host name\]",
    ):
        await CatFact(session, url).get_cat_fact()
    # No pause, so no second attempt.
    assert asyncio.get_running_loop().time() == 0
