"""The page of the `chat` starter in a real browser: Debian's packages chromium and
chromium-driver.

The picture in the README is made by the same walk:

    CHAT_PICTURE=docs/chat.png uv run pytest tests/test_chat_page.py
"""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tools import outside

from .conftest import TEMPLATE, tool

HEADLESS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--window-size=800,640",
]
ENTER = "\ue007"  # the key, as WebDriver writes it
CHROME = shutil.which("chromium") or shutil.which("google-chrome")
EVIL = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"  # noqa: E501

pytestmark = [
    pytest.mark.xdist_group("chat-auto"),
    pytest.mark.skipif(
        not (CHROME and shutil.which("chromedriver")),
        reason="no browser: neither Chromium (Debian's packages chromium and chromium-driver) nor Chrome",  # noqa: E501
    ),
]


class Browser:
    """A browser of its own, driven by the W3C WebDriver protocol: JSON over HTTP, no
    library needed.
    """

    def __init__(self, port: int) -> None:
        self._port, self._session = port, ""
        options = {"args": HEADLESS, "binary": CHROME}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        self._session = (
            f"/{self('POST', '', capabilities={'alwaysMatch': wanted})['sessionId']}"
        )

    def __call__(self, method: str, path: str, **body: Any) -> Any:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request(
                method,
                f"/session{self._session}{path}",
                json.dumps(body) if method == "POST" else None,
            )
            value = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        assert not (isinstance(value, dict) and "error" in value), value
        return value

    def script(self, script: str) -> Any:
        return self("POST", "/execute/sync", script=f"return {script}", args=[])

    def element(self, css: str) -> str:
        (reference,) = self(
            "POST", "/element", using="css selector", value=css
        ).values()
        return f"/element/{reference}"

    def type(self, css: str, text: str) -> None:
        self("POST", f"{self.element(css)}/value", text=text + ENTER)

    def said(self) -> list[str]:
        """What stands in the log, line by line as a person reads it."""
        lines: list[str] = self.script(
            "[...document.querySelectorAll('#log li')].map(li => li.innerText)"
        )
        return lines

    def until(self, truth: Callable[["Browser"], object]) -> None:
        ends = time.monotonic() + 20
        while not truth(self):
            assert time.monotonic() < ends, (
                self.said(),
                self.script("document.body.innerText"),
            )
            time.sleep(0.05)


@contextmanager
def process(
    *command: str | Path, says: str
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run a program; yield it and what it says about its port."""
    with subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        text=True,
        env=outside(),
    ) as running:
        assert running.stdout
        try:
            found = next(
                filter(None, (re.search(says, line) for line in running.stdout))
            )
            yield running, found[1]
        finally:
            running.terminate()
            running.stdout.read()


@pytest.fixture(scope="module")
def driver() -> Iterator[int]:
    with process("chromedriver", "--port=0", says=r"successfully on port (\d+)") as (
        _,
        port,
    ):
        yield int(port)


@pytest.fixture
def browsers(driver: int) -> Iterator[tuple[Browser, Browser]]:
    with ExitStack() as open_ones:
        both = Browser(driver), Browser(driver)
        for browser in both:
            open_ones.callback(browser, "DELETE", "")
        yield both


def test_two_browsers_chat(
    project: Callable[[str, str], Path], browsers: tuple[Browser, Browser]
) -> None:
    folder, (ann, bob) = project("chat", "auto"), browsers
    with process(
        tool(folder, "python"),
        "-m",
        "chat_auto",
        "--port",
        "0",
        says=r"listening on (\S+)",
    ) as (
        program,
        url,
    ):
        for browser, name in (ann, "Ann"), (bob, "Bob"):
            browser("POST", "/url", url=url)
            browser.type("#name", name)
            browser.until(lambda it: it.script("document.activeElement.id") == "text")

        ann.type("#text", "Hello Bob, have you met the bot?")
        bob.until(lambda it: it.said() == ["Ann\nHello Bob, have you met the bot?"])
        bob.type("#text", "@bot backwards talk can I")
        answer = "bot\nBackwards that is: I can talk backwards"
        ann.until(lambda it: [line.strip() for line in it.said()][-1:] == [answer])
        if picture := os.environ.get("CHAT_PICTURE"):
            (TEMPLATE / picture).write_bytes(
                base64.b64decode(ann("GET", "/screenshot"))
            )

        # What somebody writes is text, and nothing of it becomes a part of the page.
        ann.type("#text", EVIL)
        bob.until(lambda it: it.said()[-1] == f"Ann\n{EVIL}")
        for browser in browsers:
            assert (
                browser.script(
                    "document.querySelectorAll('#log img, #log script').length"
                )
                == 0
            )
            assert browser.script("document.title") == "Chat"

        # What a screen reader is told.
        roles = {
            css: ann("GET", f"{ann.element(css)}/computedrole")
            for css in ("#log", "#status", "#text")
        }
        assert roles == {"#log": "log", "#status": "status", "#text": "textbox"}
        assert ann("GET", f"{ann.element('#text')}/computedlabel") == "Message"
        assert ann.script("document.documentElement.lang") == "en"

        for browser in browsers:
            assert (
                browser("POST", "/se/log", type="browser") == []
            )  # neither errors nor violations of the policy

        program.send_signal(signal.SIGTERM)
        bob.until(
            lambda it: (
                "the server stops"
                in it.script("document.querySelector('#status').textContent")
            )
        )
        assert program.wait(10) == 0
