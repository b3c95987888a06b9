"""A chat room on one web page, with a bot that streams its answers.

room.py has the room and its rules, bot.py and model.py have the bot, server.py has the
web application.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated
from urllib.parse import urlsplit

from aiohttp import web
from cyclopts import Parameter, types

from .bot import Reply, reply
from .limits import LIMIT, Limits
from .model import KEY_VARIABLE, ModelOptions, open_model
from .room import Room
from .server import application, make_runner
from .text import printable


def check_origins(_type: object, origins: list[str] | None) -> None:
    """Raise ValueError unless each of the origins has the form that browsers send."""
    for origin in origins or []:
        parts = urlsplit(origin.rstrip("/"))
        has_more = parts.path or parts.query or parts.fragment or "@" in parts.netloc
        if parts.scheme not in {"http", "https"} or not parts.netloc or has_more:
            form = "an origin has the form https://chat.example.com"
            raise ValueError(f"{form}, not {printable(origin)}")


async def main(
    *,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        types.Port, Parameter(help="Port to listen on; 0 picks a free one.")
    ] = 8080,
    allowed_origin: Annotated[
        list[str] | None,
        Parameter(
            validator=check_origins,
            negative="",  # no option --empty-allowed-origin
            help="Origin of a page that may connect, such as https://chat.example.com. "
            "Pages of this server may always. Can be given several times.",
        ),
    ] = None,
    lifetime: Annotated[
        float | None, LIMIT, Parameter(help="Stop after this many seconds.")
    ] = None,
    limits: Limits | None = None,
    model_options: ModelOptions | None = None,
) -> int:
    """Run a chat server. Open the printed address in a browser."""
    if model_options is None:
        model_options = ModelOptions()
    try:
        async with open_bot(model_options) as bot:
            room = Room(limits, reply=bot, context=model_options.context)
            app = application(room, allowed_origin or [])
            # An empty host would make aiohttp listen on all interfaces.
            await serve(app, host or "127.0.0.1", port, lifetime)
    except (OSError, ValueError) as error:
        print(printable(error), file=sys.stderr)
        return 1
    return 0


@asynccontextmanager
async def open_bot(options: ModelOptions) -> AsyncIterator[Reply]:
    """Yield the bot that the options ask for.

    Raises ValueError if the options or the key are not valid.
    """
    if options.model_url is None and options.model is None:
        yield reply
        return
    key = os.environ.get(KEY_VARIABLE, "")
    async with open_model(options, key) as model_reply:
        yield model_reply


async def serve(
    app: web.Application, host: str, port: int, lifetime: float | None
) -> None:
    """Serve until the lifetime in seconds ends, or until this is cancelled.

    Raises OSError if it cannot listen there.
    """
    runner = make_runner(app)
    try:
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        await site.start()
        print(f"listening on {site.name}")
        # A signal cancels this wait. For a server that is success.
        with suppress(asyncio.CancelledError, TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), lifetime)
    finally:
        await runner.cleanup()
