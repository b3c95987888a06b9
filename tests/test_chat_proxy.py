"""The `chat` starter behind a proxy, and the commands of its README.

The proxies run with the configurations of the README. Tests that need nginx or Caddy
(Debian's packages nginx-light and caddy) are skipped where these are not installed.
"""

import base64
import http.client
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tools import user_environment

from .conftest import TEMPLATE, tool

README = (TEMPLATE / "templates" / "chat" / "README.md").read_text(encoding="utf-8")
LIMIT = 30  # seconds; the longest wait for a response or a server

pytestmark = pytest.mark.xdist_group("chat-auto")

needs_nginx = pytest.mark.skipif(not shutil.which("nginx"), reason="no nginx")
needs_caddy = pytest.mark.skipif(not shutil.which("caddy"), reason="no caddy")

NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port}{tls};
        server_name chat.example.com;
        {location}
    }}
}}
"""
# A WebSocket behind nginx without `proxy_set_header Host`: nginx then sends the address
# of the program as the host.
DEFAULT_HOST = """
location /chat/ {
    proxy_pass http://127.0.0.1:8080/;
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection upgrade;
}
"""


def block(language: str) -> str:
    """Return the README's example in this language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return str(found)


def free_port() -> int:
    """Return a port on which no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    """Wait until a server listens on the port."""
    ends = time.monotonic() + LIMIT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < ends, "the server does not listen"
            time.sleep(0.05)


@contextmanager
def running(*command: str | Path, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """Run a program for the block."""
    words = [str(part) for part in command]
    environment = user_environment()
    with subprocess.Popen(words, text=True, env=environment, **options) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.fixture
def chat(project: Callable[[str, str], Path]) -> Any:
    """Runs the program with these options; yields its port."""
    python = tool(project("chat", "auto"), "python")

    @contextmanager
    def chat(*options: str) -> Iterator[int]:
        port = free_port()
        with running(python, "-m", "chat_auto", "--port", str(port), *options):
            wait_for(port)
            yield port

    return chat


@contextmanager
def nginx(folder: Path, location: str, upstream: int, tls: str = "") -> Iterator[int]:
    """Run nginx in front of the program; yield its port."""
    port = free_port()
    location = location.replace("127.0.0.1:8080", f"127.0.0.1:{upstream}")
    config = folder / "nginx.conf"
    text = NGINX.format(folder=folder, port=port, tls=tls, location=location)
    config.write_text(text, encoding="utf-8")
    with running("nginx", "-e", folder / "error.log", "-c", config):
        wait_for(port)
        yield port


@contextmanager
def caddy(folder: Path, upstream: int) -> Iterator[int]:
    """Run Caddy in front of the program; yield its port."""
    port = free_port()
    text = block("caddy")
    text = text.replace("chat.example.com {", f"http://chat.example.com:{port} {{")
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{upstream}")
    config = folder / "Caddyfile"
    config.write_text(f"{{\n    admin off\n}}\n{text}", encoding="utf-8")
    with running(
        *("caddy", "run", "--adapter", "caddyfile", "--config", config),
        stderr=subprocess.DEVNULL,
    ):
        wait_for(port)
        yield port


def connection(port: int, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    """Return a connection to the proxy: TLS with a context, plain HTTP without one."""
    if context is None:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    return http.client.HTTPSConnection(
        "127.0.0.1", port, timeout=LIMIT, context=context
    )


def status(
    port: int,
    method: str,
    path: str,
    context: ssl.SSLContext | None = None,
    **headers: str,
) -> tuple[int, str]:
    """Send a request as the page does; return the status and the text."""
    scheme = "http" if context is None else "https"
    public = f"chat.example.com:{port}"
    headers = {"Host": public, "Origin": f"{scheme}://{public}", **headers}
    opened = connection(port, context)
    try:
        opened.request(method, path, headers=headers)
        response = opened.getresponse()
        text = "" if response.status == 101 else response.read().decode()
        return response.status, text
    finally:
        opened.close()


def handshake(port: int, context: ssl.SSLContext | None = None) -> int:
    """Open a WebSocket as the page does; return the status."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    }
    found, _ = status(port, "GET", "/chat/ws?name=Ann", context, **upgrade)
    return found


@needs_nginx
def test_the_page_works_behind_nginx_with_the_configuration_of_the_readme(
    chat: Any, tmp_path: Path
) -> None:
    with chat() as upstream, nginx(tmp_path, block("nginx"), upstream) as port:
        code, page = status(port, "GET", "/chat/")
        assert code == 200
        assert "<title>Chat</title>" in page
        assert status(port, "POST", "/chat/ws") == (204, "")
        assert handshake(port) == 101


@needs_nginx
@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl")
def test_the_page_works_behind_nginx_with_tls(chat: Any, tmp_path: Path) -> None:
    subprocess.run(
        shlex.split(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 1 "
            "-keyout key.pem -out cert.pem -subj /CN=chat.example.com"
        ),
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    certificate = (
        f"ssl_certificate {tmp_path}/cert.pem; "
        f"ssl_certificate_key {tmp_path}/key.pem;\n"
    )
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    context.check_hostname = False
    location = certificate + block("nginx")
    with chat() as upstream, nginx(tmp_path, location, upstream, " ssl") as port:
        assert handshake(port, context) == 101


@needs_nginx
def test_a_proxy_that_does_not_pass_the_host_is_refused(
    chat: Any, tmp_path: Path
) -> None:
    with chat() as upstream, nginx(tmp_path, DEFAULT_HOST, upstream) as port:
        assert handshake(port) == 403
        code, reason = status(port, "POST", "/chat/ws")
        assert code == 403
        public = f"http://chat.example.com:{port}"
        assert reason == f"This server does not allow pages of {public}."


@needs_nginx
def test_an_allowed_origin_can_connect_through_any_proxy(
    chat: Any, tmp_path: Path
) -> None:
    origin = "http://chat.example.com:1234"
    with chat("--allowed-origin", origin) as upstream:
        with nginx(tmp_path, DEFAULT_HOST, upstream) as port:
            assert status(port, "POST", "/chat/ws", Origin=origin) == (204, "")
            assert status(port, "POST", "/chat/ws")[0] == 403


@needs_caddy
def test_the_page_works_behind_caddy_with_the_configuration_of_the_readme(
    chat: Any, tmp_path: Path
) -> None:
    with chat() as upstream, caddy(tmp_path, upstream) as port:
        code, page = status(port, "GET", "/chat/")
        assert code == 200
        assert "<title>Chat</title>" in page
        assert handshake(port) == 101


def test_the_commands_of_the_readme_work(project: Callable[[str, str], Path]) -> None:
    program = tool(project("chat", "auto"), "chat-auto")
    (commands,) = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    lines = commands.splitlines()
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[:3] == ["uv", "run", "app"]
        arguments = words[3:]
        if "--lifetime" in arguments:
            arguments[arguments.index("--lifetime") + 1] = "0.5"
        done = subprocess.run(
            [program, *arguments],
            env=user_environment(CHAT_AUTO_PORT="0", CHAT_AUTO_LIFETIME="0.5"),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, ""), line
        assert done.stdout.startswith("listening on http://"), line


def test_the_layout_in_the_readme_names_every_file() -> None:
    folder = TEMPLATE / "templates" / "chat"
    files = {path.name for path in [*folder.iterdir(), *folder.glob("tests/*")]}
    files -= {"__init__.py", "__pycache__", "README.md", "requirements.txt", "tests"}
    layout = README[README.index("### Layout") :]
    named = {Path(name).name for name in re.findall(r"\| `(.*?)` \|", layout)}
    assert named == files | {"text.py", "test_text.py"}


def test_the_readme_names_every_message_that_the_page_handles() -> None:
    page = (TEMPLATE / "templates" / "chat" / "page.html").read_text(encoding="utf-8")
    receive = page[page.index("const receive = {") : page.index("// --- The forms")]
    handled = set(re.findall(r"^    (\w+)\(.*\) \{", receive, re.MULTILINE))
    protocol = README[README.index("| from the server") : README.index("### Layout")]
    rows = [line for line in protocol.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("(")[0])}
    assert named == handled, json.dumps(sorted(named ^ handled))
