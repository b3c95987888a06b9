"""The README: its commands and its steps work as it says."""

import ast
import asyncio
import doctest
import os
import re
import shutil
import sqlite3
import sys
import textwrap
from contextlib import closing
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest
from aiohttp import web

from etl.app import main

README = Path(__file__).parents[1] / "README.md"
PACKAGE = main.__module__.rpartition(".")[0]

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the commands are for a shell"),
    pytest.mark.deadline(60),
]

# Runs the program from any package, as its own `__main__` would.
PROGRAM = """
import asyncio, importlib, inspect, logging, sys
import cyclopts

logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s")
app = cyclopts.App(result_action="return_value")
app.default(importlib.import_module(sys.argv[1] + ".app").main)
command, bound, _ = app.parse_args(sys.argv[2:])
sys.exit(asyncio.run(command(*bound.args, **bound.kwargs)))
"""


def read_section() -> str:
    """Return the section of the README about this program."""
    text = README.read_text(encoding="utf-8")
    _, heading, section = text.partition("\n## The program\n")
    if not heading:
        # In the template, the README contains only this section.
        return text
    return section.partition("\n## ")[0]


def read_blocks(section: str, language: str) -> list[str]:
    """Return the blocks of code in this language, without their indent."""
    pattern = rf"^ *```{language}\n(.*?)^ *```"
    blocks: list[str] = re.findall(pattern, section, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for block in blocks]


def read_commands(section: str) -> list[tuple[str, str]]:
    """Return each command in a section of the README, with its output."""
    commands: list[tuple[str, str]] = []
    for block in read_blocks(section, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            commands.append((command, output))
    return commands


async def run(command: str, folder: Path) -> str:
    """Run a command of the README in a shell; return its output.

    The program is the package `loads` in the folder.
    """
    program = f'"{sys.executable}" -c "$PROGRAM" loads '
    command = re.sub(r"\buv run [\w.-]+ ", lambda _match: program, command)
    process = await asyncio.create_subprocess_shell(
        command,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
            "PROGRAM": PROGRAM,
        },
        stdout=PIPE,
        stderr=STDOUT,
    )
    output, _ = await process.communicate()
    return output.decode()


async def check_command(folder: Path, command: str, expected: str) -> None:
    """Run a command, and compare its output with that in the README."""
    output = await run(command, folder)
    checker = doctest.OutputChecker()
    assert checker.check_output(expected, output, doctest.ELLIPSIS), (
        f"$ {command}\n{output}"
    )


def copy_package(folder: Path) -> None:
    """Copy the package to a folder."""
    source = Path(sys.modules[PACKAGE].__path__[0])
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("tests"))
    # In the template, the shared modules are in another folder.
    for path in sys.modules[PACKAGE].__path__[1:]:
        for module in Path(path).glob("*.py"):
            if not (folder / module.name).exists():
                shutil.copy(module, folder)
    (folder / "__init__.py").write_text("")


def change_app(folder: Path, lines: str) -> None:
    """Replace the lines of app.py that say what is loaded, in a copy of the package."""
    app = folder / "app.py"
    text = app.read_text(encoding="utf-8")
    [old] = re.findall(r"^MODEL = (\w+)$", text, re.MULTILINE)
    new_import, model, table = [line for line in lines.splitlines() if line]
    for pattern, line in [
        (rf"^from \.\w+ import .*\b{old}\b.*$", new_import),
        (r"^MODEL = .*$", model),
        (r"^TABLE = .*$", table),
    ]:
        text, count = re.subn(pattern, line, text, flags=re.MULTILINE)
        assert count == 1
    app.write_text(text, encoding="utf-8")


# What app.py says before the steps of the README.
LOAD_SALES = """
from .sales import SALES, Sale
MODEL = Sale
TABLE = SALES
"""


def prepare(folder: Path) -> None:
    """Make the package `loads`, which loads sales."""
    copy_package(folder / "loads")
    change_app(folder / "loads", LOAD_SALES)


@pytest.mark.asyncio
async def test_the_commands_print_what_the_readme_says(
    tmp_path: Path, api_url: str, postgres_url: str, requests: list[web.Request]
) -> None:
    await asyncio.to_thread(prepare, tmp_path)
    section, _, _ = read_section().partition("### Make it yours")
    commands = read_commands(section)
    assert len(commands) > 8
    database = postgres_url + ("&" if "?" in postgres_url else "?")
    for command, expected in commands:
        command = command.replace("https://example.com/sales", api_url)
        command = command.replace("postgresql://me@db.example.com/sales?", database)
        await check_command(tmp_path, command, expected)
    assert requests[0].headers["Authorization"] == "Bearer x"


@pytest.mark.asyncio
async def test_after_the_steps_the_program_loads_another_file(tmp_path: Path) -> None:
    await asyncio.to_thread(prepare, tmp_path)
    _, _, section = read_section().partition("### Make it yours")
    module, lines, working_rows = read_blocks(section, "python")
    await asyncio.to_thread(follow_steps, tmp_path, module, lines, working_rows)
    for command, expected in read_commands(section):
        await check_command(tmp_path, command, expected)
    database = tmp_path / "shipments.db"
    rows = await asyncio.to_thread(query, database, "SELECT * FROM shipments")
    assert rows == [
        (2, "OHIO", "LAMP", 12.5, "2026-05-31"),
        (3, "UTAH", "TENT", 1499.99, None),
    ]
    tables = await asyncio.to_thread(query, database, "SELECT name FROM sqlite_schema")
    assert ("sales",) not in tables
    output = await run("uv run app working.csv", tmp_path)
    assert output.startswith("rows: 2 read, 2 loaded, 0 rejected; ")


def follow_steps(folder: Path, module: str, lines: str, working_rows: str) -> None:
    """Change the package as the README says, and write the rows for its test."""
    (folder / "loads" / "shipments.py").write_text(module, encoding="utf-8")
    change_app(folder / "loads", lines)
    text = ast.literal_eval(working_rows.removeprefix("WORKING_ROWS = "))
    (folder / "working.csv").write_text(text, encoding="utf-8")


def query(path: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()
