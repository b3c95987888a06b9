"""The page of the `chat` starter in a real browser.

Needs chromium and chromedriver (Debian's packages chromium and chromium-driver). The
first test also makes the picture in the README:

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
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tools import user_environment

from .conftest import TEMPLATE, tool

HEADLESS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--window-size=800,640",
]
ENTER = "\ue007"  # the key, as WebDriver writes it
CHROME = shutil.which("chromium") or shutil.which("google-chrome")
# A message that would run as a script if the page did not treat it as text.
SCRIPT = (
    "<img src=x onerror=\"document.title='hacked'\">"
    "<script>document.title='hacked'</script>"
)
LIMIT = 30  # seconds; the longest wait for a response or a condition

pytestmark = [
    pytest.mark.xdist_group("chat-auto"),
    pytest.mark.skipif(
        not (CHROME and shutil.which("chromedriver")),
        reason="no browser: neither chromium and chromium-driver nor Chrome",
    ),
]


class Browser:
    """A browser, controlled by the W3C WebDriver protocol: JSON over HTTP."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._session = ""
        wanted = {
            "goog:chromeOptions": {"args": HEADLESS, "binary": CHROME},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        made = self.call("POST", "", capabilities={"alwaysMatch": wanted})
        self._session = f"/{made['sessionId']}"

    def call(self, method: str, path: str, **body: Any) -> Any:
        """Send a command, and return its value."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=LIMIT)
        content = json.dumps(body) if method == "POST" else None
        try:
            connection.request(method, f"/session{self._session}{path}", content)
            value = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        assert not (isinstance(value, dict) and "error" in value), value
        return value

    def close(self) -> None:
        self.call("DELETE", "")

    def open(self, url: str) -> None:
        self.call("POST", "/url", url=url)

    def script(self, script: str, *arguments: Any) -> Any:
        """Return the value of an expression in the page."""
        body = f"return {script}"
        return self.call("POST", "/execute/sync", script=body, args=arguments)

    def element(self, css: str) -> str:
        found = self.call("POST", "/element", using="css selector", value=css)
        (reference,) = found.values()
        return f"/element/{reference}"

    def type(self, css: str, text: str) -> None:
        self.call("POST", f"{self.element(css)}/value", text=text)

    def click(self, css: str) -> None:
        self.call("POST", f"{self.element(css)}/click")

    def resize(self, width: int, height: int) -> None:
        self.call("POST", "/window/rect", width=width, height=height)

    def picture(self) -> bytes:
        return base64.b64decode(self.call("GET", "/screenshot"))

    def text(self, css: str) -> str:
        """Return the visible text of an element."""
        found: str = self.script("document.querySelector(arguments[0]).innerText", css)
        return found

    def messages(self) -> list[str]:
        """Return the messages of people and of the bot, each as "name: text"."""
        lines: list[str] = self.script(
            "[...document.querySelectorAll('#log li:not(.notice)')].map(li =>"
            " li.querySelector('bdi').textContent + ': '"
            " + [...li.querySelectorAll('p')].map(p => p.innerText.trim()).join(' | '))"
        )
        return lines

    def until(self, condition: Callable[["Browser"], object]) -> None:
        """Wait until the condition is true; raise AssertionError after 30 seconds."""
        ends = time.monotonic() + LIMIT
        while not condition(self):
            if time.monotonic() > ends:
                raise AssertionError(self.script("document.body.innerText"))
            time.sleep(0.05)

    def join(self, url: str, name: str) -> None:
        """Open the page and enter the room."""
        self.open(url)
        self.type("#name", name + ENTER)
        self.until_inside()

    def until_inside(self) -> None:
        self.until(lambda it: it.text("#status").startswith("In the room as"))

    def until_last(self, line: str) -> None:
        """Wait until this is the last message."""
        self.until(lambda it: it.messages()[-1:] == [line])

    def problems(self) -> list[Any]:
        """Return what the browser has logged: errors, and policy violations."""
        found: list[Any] = self.call("POST", "/se/log", type="browser")
        return found


@contextmanager
def process(
    *command: str | Path, prints: str
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run a program for the block.

    Waits for a line of its output that matches `prints`; yields the process and the
    first group of the match.
    """
    with subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        text=True,
        env=user_environment(),
    ) as running:
        assert running.stdout
        try:
            yield running, first_match(prints, running.stdout)
        finally:
            running.terminate()
            running.stdout.read()


def first_match(pattern: str, lines: Iterable[str]) -> str:
    """Return the first group of the first match of a pattern in some lines."""
    for line in lines:
        found = re.search(pattern, line)
        if found:
            return found[1]
    raise AssertionError(f"no line of the output matches {pattern}")


Serve = Callable[..., Any]


@pytest.fixture
def serve(project: Callable[[str, str], Path]) -> Serve:
    """Runs the program with these options; yields its process and its URL."""
    python = tool(project("chat", "auto"), "python")

    def serve(*options: str, port: int = 0) -> Any:
        command = ["-m", "chat_auto", "--port", str(port), *options]
        return process(python, *command, prints=r"listening on (\S+)")

    return serve


@pytest.fixture(scope="module")
def driver() -> Iterator[int]:
    """The port of a chromedriver."""
    command = ["chromedriver", "--port=0"]
    with process(*command, prints=r"successfully on port (\d+)") as (_, port):
        yield int(port)


@pytest.fixture
def browsers(driver: int) -> Iterator[tuple[Browser, Browser]]:
    with closing(Browser(driver)) as one, closing(Browser(driver)) as other:
        yield one, other


@pytest.fixture
def browser(driver: int) -> Iterator[Browser]:
    with closing(Browser(driver)) as browser:
        yield browser


def clients(url: str) -> int:
    """Return the number of clients in the room."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=LIMIT)
    try:
        connection.request("GET", "/healthz")
        number: int = json.loads(connection.getresponse().read())["clients"]
        return number
    finally:
        connection.close()


def test_two_browsers_chat(serve: Serve, browsers: tuple[Browser, Browser]) -> None:
    ann, bob = browsers
    with serve() as (program, url):
        ann.join(url, "Ann")
        bob.join(url, "Bob")
        ann.until(lambda it: it.text("#people").split() == ["Ann", "Bob"])
        ann.type(
            "#text", "Hello Bob, have you met the bot? See https://example.org." + ENTER
        )
        bob.until_last("Ann: Hello Bob, have you met the bot? See https://example.org.")
        bob.type("#text", "@bot backwards talk can I" + ENTER)
        ann.until_last("bot: Backwards that is: I can talk backwards")
        ann.until(lambda it: it.script("!document.querySelector('.busy')"))
        picture = os.environ.get("CHAT_PICTURE")
        if picture:
            (TEMPLATE / picture).write_bytes(ann.picture())

        # A link ends before the full stop, and the linked page gets no access to this
        # one.
        link = bob.script(
            "(a => [a.href, a.rel, a.target])(document.querySelector('#log a'))"
        )
        rel = "noopener noreferrer nofollow"
        assert link == ["https://example.org/", rel, "_blank"]

        # Messages are shown as text; HTML in them has no effect.
        ann.type("#text", SCRIPT + ENTER)
        bob.until_last(f"Ann: {SCRIPT}")
        for browser in browsers:
            elements = "document.querySelectorAll('#log img, #log script').length"
            assert browser.script(elements) == 0
            assert browser.script("document.title") == "Chat"
            assert browser.problems() == []

        program.send_signal(signal.SIGTERM)
        bob.until(lambda it: "the server stops" in it.text("#status"))
        assert program.wait(10) == 0


def test_pressing_join_again_opens_no_second_connection(
    serve: Serve, browser: Browser
) -> None:
    with serve() as (program, url):
        browser.open(url)
        port = int(urlsplit(url).port or 0)
        program.terminate()
        program.wait(10)
    browser.type("#name", "Ann")
    for _ in range(3):
        browser.click("#join button")
    browser.until(lambda it: "cannot be reached" in it.text("#status"))
    browser.click("#join button")
    with serve(port=port) as (_, url):
        browser.until_inside()
        # A second series of attempts would be connected after this time.
        time.sleep(5)
        assert clients(url) == 1
        browser.type("#text", "Hello" + ENTER)
        browser.until_last("Ann: Hello")
        assert browser.messages() == ["Ann: Hello"]


def test_pressing_join_while_connecting_opens_no_second_connection(
    serve: Serve, browser: Browser
) -> None:
    with serve() as (_, url):
        browser.open(url)
        browser.type("#name", "Ann")
        press = "document.querySelector('#join').requestSubmit()"
        browser.script(f"({press}, {press}, {press})")
        browser.until_inside()
        browser.type("#text", "Hello" + ENTER)
        browser.until_last("Ann: Hello")
        assert browser.messages() == ["Ann: Hello"]
        assert clients(url) == 1


def test_a_message_that_is_too_long_stays_in_the_input_box(
    serve: Serve, browser: Browser
) -> None:
    text = "\u4e2d" * 200
    with serve("--message-size", "500") as (_, url):
        browser.join(url, "Ann")
        browser.type("#text", text + ENTER)
        reason = "The message has 600 bytes, the limit is 500."
        browser.until(lambda it: it.text("#problem") == reason)
        assert browser.script("document.querySelector('#text').value") == text
        # Without the check in the page, the server refuses with the same text.
        browser.script("(maxBytes = Infinity, say())")
        browser.until(lambda it: it.script("!sent"))
        assert browser.text("#problem") == reason
        assert browser.script("document.querySelector('#text').value") == text
        assert browser.text("#status") == "In the room as Ann"
        browser.script("document.querySelector('#text').value = ''")
        browser.type("#text", "\u4e2d" * 166 + ENTER)
        browser.until_last("Ann: " + "\u4e2d" * 166)
        assert browser.script("document.querySelector('#text').value") == ""
        assert browser.text("#problem") == ""


def test_a_message_without_a_connection_stays_in_the_input_box(
    serve: Serve, browser: Browser
) -> None:
    with serve() as (program, url):
        browser.join(url, "Ann")
        browser.type("#text", "Before" + ENTER)
        browser.until_last("Ann: Before")
        port = int(urlsplit(url).port or 0)
        program.terminate()
        program.wait(10)
    browser.until(lambda it: "Trying again" in it.text("#status"))
    browser.type("#text", "Hello" + ENTER)
    assert "no connection" in browser.text("#problem")
    with serve(port=port):
        browser.until_inside()
        browser.type("#text", ENTER)
        browser.until_last("Ann: Hello")


def test_a_reload_keeps_the_name_and_the_last_messages(
    serve: Serve, browsers: tuple[Browser, Browser]
) -> None:
    ann, bob = browsers
    with serve() as (_, url):
        ann.join(url, "Ann")
        ann.type("#text", "@bot a b c d e f g h i j k l m n o p q r" + ENTER)
        ann.until(lambda it: "that" in "".join(it.messages()[-1:]))
        bob.join(url, "Bob")
        assert bob.messages()[1].startswith("bot: Backwards that")
        bob.type("#text", "Hello" + ENTER)
        bob.until_last("Bob: Hello")
        bob.call("POST", "/refresh")
        bob.until_inside()
        bob.until_last("Bob: Hello")
        assert bob.text("#status") == "In the room as Bob"
        assert clients(url) == 2


def test_a_person_can_stop_the_answer_to_their_question(
    serve: Serve, browsers: tuple[Browser, Browser]
) -> None:
    ann, bob = browsers
    with serve() as (_, url):
        ann.join(url, "Ann")
        bob.join(url, "Bob")
        ann.type("#text", "@bot " + "word " * 100 + ENTER)
        bob.until(lambda it: it.script("document.querySelector('.busy')"))
        assert "is answering" in bob.text("#log li.bot")
        assert bob.script("document.querySelector('#log button')") is None
        ann.until(lambda it: it.script("document.querySelector('#log button')"))
        ann.click("#log button")
        for browser in browsers:
            browser.until(lambda it: it.messages()[-1].endswith("| Stopped by Ann."))
            assert browser.script("document.querySelector('#log button')") is None


def test_the_page_shows_why_a_person_cannot_enter(
    serve: Serve, browser: Browser
) -> None:
    with serve("--clients", "1") as (_, url):
        browser.join(url, "Ann")
        browser.call("POST", "/window/new", type="tab")
        handles = browser.call("GET", "/window/handles")
        browser.call("POST", "/window", handle=handles[1])
        browser.open(url)
        # The browser has stored the name.
        browser.type("#name", ENTER)
        browser.until(lambda it: "The room is full." in it.text("#status"))


def test_hebrew_and_arabic_run_from_right_to_left(
    serve: Serve, browser: Browser
) -> None:
    with serve() as (_, url):
        browser.join(url, "Ann")
        browser.type("#text", "\u05e9\u05dc\u05d5\u05dd Bob!" + ENTER)
        browser.until(lambda it: len(it.messages()) == 1)
        browser.type("#text", "Hello \u05e9\u05dc\u05d5\u05dd!" + ENTER)
        browser.until(lambda it: len(it.messages()) == 2)
        directions = browser.script(
            "[...document.querySelectorAll('#log p')].map("
            "p => getComputedStyle(p).direction)"
        )
        assert directions == ["rtl", "ltr"]


def test_a_screen_reader_and_the_keyboard_can_use_the_page(
    serve: Serve, browser: Browser
) -> None:
    with serve() as (_, url):
        browser.open(url)
        assert browser.script("document.activeElement.id") == "name"
        browser.join(url, "Ann")
        assert browser.script("document.activeElement.id") == "text"
        roles = {}
        for css in ("#log", "#status", "#text", "#problem", "aside"):
            path = f"{browser.element(css)}/computedrole"
            roles[css] = browser.call("GET", path)
        assert roles == {
            "#log": "log",
            "#status": "status",
            "#text": "textbox",
            "#problem": "alert",
            "aside": "complementary",
        }
        label = f"{browser.element('#text')}/computedlabel"
        assert browser.call("GET", label) == "Message"
        assert browser.script("document.documentElement.lang") == "en"


@pytest.mark.parametrize("width", [360, 1600])
def test_the_page_fits_into_narrow_and_wide_windows(
    serve: Serve, browser: Browser, width: int
) -> None:
    with serve("--message-size", "5000", "--rate", "100") as (_, url):
        browser.resize(width, 800)
        browser.join(url, "A" * 20)
        for text in ("Hello", "x" * 1000, "See https://example.org/" + "y" * 300):
            browser.type("#text", text + ENTER)
            browser.until_last(f"{'A' * 20}: {text}")
        for _ in range(10):
            browser.type("#text", "Good morning!" + ENTER)
            browser.until(lambda it: it.script("!sent"))
        fits = "document.documentElement.scrollWidth <= innerWidth"
        assert browser.script(fits)
        assert browser.script("document.documentElement.scrollHeight <= innerHeight")
        browser.until(lambda it: it.script("atEnd()"))
        # The input box grows and the log shrinks.
        browser.type("#text", "Good morning! " * 20)
        browser.until(lambda it: it.script("atEnd()"))
        folder = os.environ.get("CHAT_PICTURES")
        if folder:
            Path(folder, f"chat-{width}.png").write_bytes(browser.picture())
