"""The README: its commands and its steps work as it says."""

import asyncio
import doctest
import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable
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


def read_commands() -> list[tuple[str, str]]:
    """Return each command in the README, with its output."""
    commands: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```", read_section(), re.M | re.S):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            commands.append((command, output))
    return commands


async def run(command: str, folder: Path, package: str = PACKAGE) -> str:
    """Run a command of the README in a shell; return its output."""
    program = f'"{sys.executable}" -c "$PROGRAM" {package} '
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


@pytest.mark.asyncio
async def test_the_commands_print_what_the_readme_says(
    tmp_path: Path, api_url: str, postgres_url: str, requests: list[web.Request]
) -> None:
    commands = read_commands()
    assert len(commands) > 8
    checker = doctest.OutputChecker()
    database = postgres_url + ("&" if "?" in postgres_url else "?")
    for command, expected in commands:
        command = command.replace("https://example.com/sales", api_url)
        command = command.replace("postgresql://me@db.example.com/sales?", database)
        output = await run(command, tmp_path)
        assert checker.check_output(expected, output, doctest.ELLIPSIS), (
            f"$ {command}\n{output}"
        )
    assert requests[0].headers["Authorization"] == "Bearer x"


ROWS = '''\
State,County,Item,Quantity,Unit,Unit Cost,Total Cost,Ship Date,Code,Note
OHIO,ALLEN,"LAMP, 5.6 WATT",3,Each,12.50,37.50,2026-05-31,1005-00-1,
OHIO,ALLEN,"LAMP, 5.6 WATT",3,Each,12.50,37.50,2026-05-31,1005-00-1,
UTAH,BOX ELDER,"TENT ""LARGE""",1,Each,1499.99,1499.99,,1005-00-2,none
UTAH,BOX ELDER,ROPE,0,Each,1.00,0.00,2026-05-31,1005-00-3,
IOWA,CLAY,ROPE,2,Each,1.005,2.01,2026-05-31,1005-00-3,
'''


@pytest.mark.asyncio
async def test_after_the_steps_the_program_loads_another_file(
    tmp_path: Path, make: Callable[[str, str | bytes], str]
) -> None:
    make("shipments.csv", ROWS)
    [code] = re.findall(r"^ *```python\n(.*?)^ *```", read_section(), re.M | re.S)
    await asyncio.to_thread(adapt, tmp_path / "shipments", code)
    [command] = re.findall(r"Load it: `(.*)`", read_section())
    output = await run(command, tmp_path, package="shipments")
    assert output.startswith("rows: 5 read, 3 loaded, 2 rejected; ")
    rows = await asyncio.to_thread(query, tmp_path / "shipments.db")
    assert rows == [
        (2, "OHIO", "LAMP, 5.6 WATT", 3, 12.5, "2026-05-31"),
        (3, "OHIO", "LAMP, 5.6 WATT", 3, 12.5, "2026-05-31"),
        (4, "UTAH", 'TENT "LARGE"', 1, 1499.99, None),
    ]


def adapt(folder: Path, code: str) -> None:
    """Copy the package to a folder, and change it as the README says."""
    source = Path(sys.modules[PACKAGE].__path__[0])
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("tests"))
    # In the template, the shared modules are in another folder.
    for path in sys.modules[PACKAGE].__path__[1:]:
        for module in Path(path).glob("*.py"):
            if not (folder / module.name).exists():
                shutil.copy(module, folder)
    (folder / "__init__.py").write_text("")
    models = folder / "models.py"
    text = models.read_text(encoding="utf-8")
    text = text[: text.index("class Sale(")] + re.sub("^   ", "", code, flags=re.M)
    text = text.replace("MetaData, Table", "MetaData, Numeric, Table")
    models.write_text(text, encoding="utf-8")
    app = folder / "app.py"
    text = app.read_text(encoding="utf-8")
    text = re.sub(r"\bSale\b", "Shipment", text)
    app.write_text(re.sub(r"\bSALES\b", "SHIPMENTS", text), encoding="utf-8")


def query(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM shipments ORDER BY line").fetchall()
