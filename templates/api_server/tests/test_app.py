"""The program: its server, its options, how it stops, and what it logs."""

import asyncio
import logging
import re
import shlex
import shutil
from asyncio.subprocess import PIPE
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import cyclopts
import httpx2
import pytest
import sqlalchemy as sa
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.main import main as uvicorn_command

from api_server.app import (
    URL_VARIABLE,
    create_app,
    listen,
    main,
    serve,
    url_of,
)
from api_server.database import open_database
from api_server.limits import Limits
from api_server.problems import ProblemMiddleware

README = Path(__file__).parents[1] / "README.md"

OpenClient = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


class HangingApp:
    """An ASGI application that answers when it is released."""

    def __init__(self) -> None:
        self.busy = asyncio.Event()
        self.released = asyncio.Event()
        self.cancelled = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.busy.set()
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})


async def until_refused(url: str) -> None:
    """Return when the server at a URL accepts no more connections."""
    address = httpx2.URL(url)
    while True:
        try:
            _, writer = await asyncio.open_connection(address.host, address.port)
        except ConnectionError:
            return
        writer.transport.abort()


# --- How it stops


@pytest.mark.asyncio
async def test_requests_in_flight_are_answered_and_new_connections_refused() -> None:
    app = HangingApp()
    listener = listen("127.0.0.1", 0)
    url = url_of(listener)
    async with asyncio.TaskGroup() as tasks, httpx2.AsyncClient() as client:
        server = tasks.create_task(serve(app, listener))
        request = tasks.create_task(client.get(url))
        await app.busy.wait()
        server.cancel()
        await until_refused(url)
        app.released.set()
        assert (await request).status_code == 204
        await server
    assert not app.cancelled


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_after_the_grace_period_it_stops_in_any_case() -> None:
    app = HangingApp()
    listener = listen("127.0.0.1", 0)
    url = url_of(listener)
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        server = tasks.create_task(serve(app, listener, grace=5))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
        await app.busy.wait()
        server.cancel()
        await server
        assert await reader.read() != b"" or reader.at_eof()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    assert app.cancelled
    assert 5 <= loop.time() < 7
    assert url.startswith("http://127.0.0.1:")


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_client_that_reads_nothing_does_not_keep_it_from_stopping() -> None:
    written = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        # More than the operating system takes.
        await send({"type": "http.response.body", "body": bytes(20_000_000)})
        written.set()

    listener = listen("127.0.0.1", 0)
    async with asyncio.TaskGroup() as tasks:
        server = tasks.create_task(serve(app, listener, grace=5))
        reader, writer = await asyncio.open_connection(*listener.getsockname(), limit=1)
        writer.write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
        await written.wait()
        server.cancel()
        await server
        # The rest of the response is lost: the server has aborted the connection.
        received = 0
        with suppress(ConnectionError):
            while not reader.at_eof():
                received += len(await reader.read(2**16))
        assert received < 20_000_000
        writer.transport.abort()


@pytest.mark.asyncio
async def test_it_serves_until_it_is_cancelled_and_returns_0(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program = asyncio.create_task(main(port=0, database_url=database_url))
    output = ""
    while "\n" not in output:
        await asyncio.sleep(0)
        output += capsys.readouterr().out
    url = output.strip().removeprefix("listening on ")
    async with httpx2.AsyncClient(base_url=url) as client:
        assert (await client.get("/readyz")).status_code == 200
        assert "Bookings" in (await client.get("/docs")).text
    program.cancel()
    assert await program == 0


@pytest.mark.asyncio
async def test_its_lifetime_can_be_limited(sqlite_url: str) -> None:
    assert await main(port=0, database_url=sqlite_url, lifetime=0.01) == 0


# --- Bad options


@pytest.mark.asyncio
async def test_a_port_in_use_is_one_line(
    sqlite_url: str, used_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await main(port=used_port, database_url=sqlite_url) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith(f"cannot listen on 127.0.0.1:{used_port}: ")
    assert stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("oracle://ann:secret@db/x", "only sqlite and postgresql"),
        ("bookings.db", "not a database URL"),
        ("sqlite:////no/such/folder/x.db", "unable to open database file"),
        ("postgresql://ann:secret@127.0.0.1:1/x", "127.0.0.1"),
    ],
)
@pytest.mark.asyncio
async def test_an_unknown_database_is_one_line(
    capsys: pytest.CaptureFixture[str], url: str, message: str
) -> None:
    assert await main(port=0, database_url=url) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert message in stderr
    assert "secret" not in stderr
    assert stderr.count("\n") == 1


@pytest.mark.asyncio
async def test_a_wrong_password_is_one_line(
    postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = sa.make_url(postgres_url).set(database="no_such_database")
    text = url.render_as_string(hide_password=False)
    assert await main(port=0, database_url=text) == 1
    stderr = capsys.readouterr().err
    assert 'database "no_such_database" does not exist' in stderr
    assert str(url.password) not in stderr.replace(str(url.username), "", 1)
    assert stderr.count("\n") == 1


def test_an_ipv6_address_has_brackets_in_its_url() -> None:
    try:
        listener = listen("::1", 0)
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with listener:
        assert re.fullmatch(r"http://\[::1\]:\d+", url_of(listener))


# --- For other servers


@pytest.mark.asyncio
async def test_an_asgi_server_can_make_the_application_without_arguments(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL_VARIABLE, sqlite_url)
    app = create_app()
    transport = httpx2.ASGITransport(app=app)
    # This is what a server does when it starts and when it stops.
    async with app.router.lifespan_context(app):
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://a"
        ) as client:
            assert (await client.get("/readyz")).status_code == 200


# --- Unexpected errors


@pytest.mark.asyncio
async def test_an_unexpected_error_is_logged_with_the_request_id_that_the_client_gets(
    open_client: OpenClient, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_client(database_url) as client:
        await client.post("/events", json={"name": "Concert", "seats": 3})
        async with open_database(database_url, Limits()) as database:
            async with database.engine.begin() as connection:
                await connection.execute(sa.text("DROP TABLE bookings"))
        response = await client.post("/events/1/bookings", json={"name": "Ada"})
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    request_id = response.headers["x-request-id"]
    assert response.json() == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "An unexpected error. Its details are in the log, under the "
        "request id.",
        "request_id": request_id,
    }
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert request_id in record.getMessage()
    assert record.exc_info is not None
    assert "INSERT INTO bookings" in str(record.exc_info[1])


@pytest.mark.asyncio
async def test_a_response_that_fails_halfway_is_cut_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    async def send(message: object) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/x"}
    await ProblemMiddleware(app)(scope, None, send)  # type: ignore[arg-type]
    assert len(sent) == 1
    assert "ZeroDivisionError" in caplog.text
    assert caplog.messages[-1] == "'/x' was not answered completely"


# --- The README


def readme_commands(pattern: str) -> list[str]:
    """Return the commands of the README that match a pattern."""
    text = README.read_text(encoding="utf-8")
    # In a project, the README has other sections before and after this one.
    program = text.partition("\n## The program\n")[2] or text
    section = program.partition("\n## ")[0]
    return re.findall(f"^{pattern}$", section, re.MULTILINE)


@pytest.mark.asyncio
async def test_the_commands_of_the_readme_start_a_server(
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = readme_commands(r"uv run (?!uvicorn|pytest)\S+.*")
    assert len(commands) == 4
    program = cyclopts.App(result_action="return_value")
    program.default(main)
    for command in commands:
        words = shlex.split(command)[3:]
        if "--help" in words:
            continue
        function, bound, _ = program.parse_args(words)
        options = bound.arguments
        if options.get("database_url", "").startswith("postgresql:"):
            options["database_url"] = postgres_url
        # The ports of the README may be in use.
        options |= {"port": 0, "lifetime": 0.01}
        assert await function(*bound.args, **bound.kwargs) == 0
        assert "listening on http://" in capsys.readouterr().out


def test_the_uvicorn_command_of_the_readme_finds_the_application(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [command] = readme_commands("PACKAGE_DATABASE_URL=.*")
    assignment, *words = shlex.split(command)
    package = main.__module__.partition(".")[0]
    variable = assignment.partition("=")[0].replace("PACKAGE", package.upper())
    assert words[:3] == ["uv", "run", "uvicorn"]
    arguments = [word.replace("PACKAGE", package) for word in words[3:]]
    options = uvicorn_command.make_context("uvicorn", arguments).params
    config = uvicorn.Config(
        options["app"],
        factory=options["factory"],
        log_config=None,
        proxy_headers=False,
    )
    monkeypatch.setenv(variable, sqlite_url)
    config.load()
    assert config.loaded_app.state.database_url == sqlite_url


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.asyncio
async def test_the_curl_commands_of_the_readme_work(
    serve_live: OpenClient, sqlite_url: str
) -> None:
    text = await asyncio.to_thread(README.read_text, encoding="utf-8")
    text = text.replace("\\\n", " ")
    commands = re.findall(r"^curl .*", text, re.MULTILINE)
    assert len(commands) >= 4
    async with serve_live(sqlite_url) as client:
        url = str(client.base_url).rstrip("/")
        for command in commands:
            arguments = shlex.split(command.replace("http://127.0.0.1:8000", url))
            process = await asyncio.create_subprocess_exec(
                *arguments, "--silent", "--fail-with-body", stdout=PIPE
            )
            output, _ = await process.communicate()
            assert process.returncode == 0, (command, output)
