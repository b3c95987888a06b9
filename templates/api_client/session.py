"""The HTTP session of the program: proxies, host names and limits."""

import socket
from urllib.request import getproxies

import aiohttp
from aiohttp.abc import ResolveResult


def open_session() -> aiohttp.ClientSession:
    """Return a session without limits of its own.

    The number of workers limits the connections, and `CatFact` limits the time.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, resolver=Resolver()),
        timeout=aiohttp.ClientTimeout(),
        # Uses HTTP_PROXY, HTTPS_PROXY, NO_PROXY and .netrc. That costs two changes of
        # thread per request, so it is only on if there is a proxy.
        trust_env=bool(getproxies()),
    )


class Resolver(aiohttp.ThreadedResolver):
    """Looks up host names. A name that is not valid is an OSError like all others."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        try:
            return await super().resolve(host, port, family)
        except UnicodeError:
            # A part of the name is empty or too long for Python's codec.
            error = socket.gaierror(socket.EAI_NONAME, "not a valid host name")
            raise error from None
