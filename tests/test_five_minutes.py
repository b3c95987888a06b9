"""What the projects' README says about testing async code is true: its examples pass,
and the mistakes that it describes fail as quoted.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import MODES, TEMPLATE, Run, tool

FIVE_MINUTES = " ".join(
    (TEMPLATE / "templates" / "FIVE_MINUTES.md").read_text(encoding="utf-8").split()
)
IMPORTS = "import asyncio\nimport pytest\nimport pytest_asyncio\n"
IMPORTS_OF_THE_EXAMPLES = """\
import asyncio
from collections.abc import AsyncIterator
from unittest.mock import create_autospec

import pytest
import pytest_asyncio


"""
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
    text = IMPORTS_OF_THE_EXAMPLES + "\n\n".join(blocks)
    examples.write_text(text, encoding="utf-8")
    try:
        told = run(folder, tool(folder, "pytest"), "-q", examples)
        run(folder, tool(folder, "ruff"), "check", "--no-cache", examples)
        run(folder, tool(folder, "ruff"), "format", "--check", "--no-cache", examples)
        run(folder, tool(folder, "mypy"), examples)
    finally:
        examples.unlink()
    assert f"{len(blocks)} passed" in told
    assert len(blocks) == 5


@pytest.fixture
def folder(project: Callable[[str, str], Path]) -> Iterator[Path]:
    folder = project("api_client", "strict")
    yield folder
    (folder / "tests" / "test_scopes.py").unlink()


def outcome(folder: Path, run: Run, text: str, status: int) -> str:
    planted = folder / "tests" / "test_scopes.py"
    planted.write_text(IMPORTS + text, encoding="utf-8")
    return " ".join(
        run(folder, tool(folder, "pytest"), "-q", planted, status=status).split()
    )


@in_group_strict
def test_the_right_form_is_green(folder: Path, run: Run) -> None:
    assert "1 passed" in outcome(folder, run, RIGHT, status=0)


@in_group_strict
@pytest.mark.parametrize(
    ("wrong", "quoted"),
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
def test_the_wrong_form_fails_as_quoted(
    folder: Path, run: Run, wrong: str, quoted: str
) -> None:
    assert quoted in FIVE_MINUTES
    assert quoted in outcome(folder, run, wrong, status=1)
