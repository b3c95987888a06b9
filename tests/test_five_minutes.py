"""The projects' README is right about testing async code.

Its examples pass, and the mistakes that it describes fail with the messages that it
quotes.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import MODES, TEMPLATE, Run, tool

FIVE_MINUTES = TEMPLATE / "templates" / "FIVE_MINUTES.md"
IMPORTS = "import asyncio\nimport pytest\nimport pytest_asyncio\n"
RIGHT = """
@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool():
    yield asyncio.get_running_loop()

@pytest.mark.asyncio(loop_scope="module")
async def test_pool(pool):
    assert pool is asyncio.get_running_loop()
"""
NO_LOOP_SCOPE = RIGHT.replace(
    ', loop_scope="module")\nasync def pool', ")\nasync def pool"
)
TWO_LOOPS = """
@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool():
    lock = asyncio.Lock()
    async with lock:
        waiter = asyncio.ensure_future(lock.acquire())
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter])
        yield lock

@pytest.mark.asyncio
async def test_pool(pool):
    async with pool:
        pass
"""
FUTURE = """
@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def answer():
    yield asyncio.get_running_loop().create_future()

@pytest.mark.asyncio
async def test_answer(answer):
    await answer
"""
in_group_strict = pytest.mark.xdist_group("api_client-strict")


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(mode, marks=pytest.mark.xdist_group(f"api_client-{mode}"))
        for mode in MODES
    ],
)
def test_the_examples_pass_and_are_clean(
    project: Callable[[str, str], Path], run: Run, mode: str
) -> None:
    folder = project("api_client", mode)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    section = readme.partition("\n## Testing async code in five minutes\n")[2]
    section = section.partition("\n## ")[0]
    blocks = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    examples = folder / "tests" / "test_examples.py"
    examples.write_text("\n\n".join(blocks), encoding="utf-8")
    try:
        output = run(folder, tool(folder, "pytest"), "-q", examples)
        run(folder, tool(folder, "ruff"), "check", "--no-cache", examples)
        run(folder, tool(folder, "ruff"), "format", "--check", "--no-cache", examples)
        run(folder, tool(folder, "mypy"), examples)
    finally:
        examples.unlink()
    # The first block has the imports, and each other block has a test.
    assert len(blocks) == 6
    assert "5 passed" in output


@pytest.fixture
def folder(project: Callable[[str, str], Path]) -> Iterator[Path]:
    """A project in mode strict; the test file that a test adds is removed."""
    folder = project("api_client", "strict")
    yield folder
    (folder / "tests" / "test_scopes.py").unlink()


def outcome(folder: Path, run: Run, text: str, status: int) -> str:
    """Run a test in the project; return pytest's output on one line."""
    planted = folder / "tests" / "test_scopes.py"
    planted.write_text(IMPORTS + text, encoding="utf-8")
    output = run(folder, tool(folder, "pytest"), "-q", planted, status=status)
    return on_one_line(output)


def on_one_line(text: str) -> str:
    """Return a text without its line breaks, which may be inside a quoted message."""
    return " ".join(text.split())


@in_group_strict
def test_the_right_form_passes(folder: Path, run: Run) -> None:
    assert "1 passed" in outcome(folder, run, RIGHT, status=0)


@in_group_strict
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            NO_LOOP_SCOPE,
            "ScopeMismatch: You tried to access the function scoped fixture "
            "_function_scoped_runner with",
        ),
        (TWO_LOOPS, "is bound to a different event loop"),
        (FUTURE, "attached to a different loop"),
    ],
    ids=["no loop_scope", "two loops", "future"],
)
def test_a_wrong_form_fails_with_the_message_of_the_readme(
    folder: Path, run: Run, wrong: str, message: str
) -> None:
    assert message in on_one_line(FIVE_MINUTES.read_text(encoding="utf-8"))
    assert message in outcome(folder, run, wrong, status=1)
