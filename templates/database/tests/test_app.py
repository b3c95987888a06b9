"""The program: transfers, balances, statements, and the commands of the README."""

import asyncio
import json
import logging
import re
import shlex
from functools import partial
from pathlib import Path

import cyclopts
import pytest
from pytest_mock import MockerFixture

from database.app import main
from database.errors import UnavailableError
from database.ledger import Ledger, Order, open_ledger

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes an empty folder the current one."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def readme_commands() -> list[str]:
    """The program's commands in the README."""
    text = README.read_text(encoding="utf-8")
    # In a project, the README has other sections before and after this one.
    program = text.partition("\n## The program\n")[2] or text
    section = program.partition("\n## ")[0]
    blocks = re.findall(r"^```console\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).splitlines()
    return [line for line in lines if line.startswith("uv run ")]


# --- Transfers


@pytest.mark.asyncio
async def test_the_total_stays_the_same_in_every_run(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = partial(main, database_url=database_url, transfers=25, concurrency=3)
    for accounts, total in ((3, "300.00"), (5, "500.00"), (2, "500.00")):
        assert await run(accounts=accounts) == 0
        *balances, last = capsys.readouterr().out.splitlines()
        assert last.split() == ["total", total]
        amounts = [float(line.split()[-1]) for line in balances]
        assert f"{sum(amounts):.2f}" == total
        assert min(amounts) >= 0


@pytest.mark.asyncio
async def test_balances_as_json(
    sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await main(database_url=sqlite_url, accounts=2, transfers=0, json=True) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        {"account": "account 0001", "balance": 100_00},
        {"account": "account 0002", "balance": 100_00},
    ]


@pytest.mark.asyncio
async def test_programs_that_start_at_the_same_moment_open_each_account_once(
    database_url: str,
) -> None:
    start = partial(main, database_url=database_url, transfers=0)
    programs = [start(accounts=number) for number in (20, 30, 20)]
    assert await asyncio.gather(*programs) == [0, 0, 0]
    async with open_ledger(database_url) as ledger:
        assert sum((await ledger.balances()).values()) == 30 * 100_00


@pytest.mark.asyncio
async def test_there_are_no_more_workers_than_transfers(
    sqlite_url: str, mocker: MockerFixture
) -> None:
    started = mocker.spy(asyncio.TaskGroup, "create_task")
    assert await main(database_url=sqlite_url, transfers=3, concurrency=1000) == 0
    assert started.call_count == 3


@pytest.mark.asyncio
async def test_a_transfer_whose_answer_was_lost_is_made_once(
    sqlite_url: str, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    real = Ledger.transfer
    lost = 0

    async def transfer(self: Ledger, order: Order) -> None:
        nonlocal lost
        await real(self, order)
        if lost < 3:
            lost += 1
            raise UnavailableError("the connection was lost during the commit")

    mocker.patch.object(Ledger, "transfer", autospec=True, side_effect=transfer)
    mocker.patch("random.randint", return_value=1)
    assert await main(database_url=sqlite_url, accounts=2, transfers=10) == 0
    assert lost == 3
    assert "10 transfers made, 0 refused" in caplog.messages
    async with open_ledger(sqlite_url) as ledger:
        statement = ledger.statement("account 0001")
        assert len([transfer async for transfer in statement]) == 10


# --- Statements


@pytest.mark.asyncio
async def test_a_statement_shows_the_transfers_newest_first(
    sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_ledger(sqlite_url) as ledger:
        await ledger.open_accounts({"ann": 200_000, "bob": 0, "e\x1bve": 0})
        await ledger.transfer(Order("rent", "ann", "bob", 123_456))
        await ledger.transfer(Order("tea", "bob", "ann", 5))
        await ledger.transfer(Order("a\ngift", "ann", "e\x1bve", 200))
    assert await main(database_url=sqlite_url, statement="ann") == 0
    assert capsys.readouterr().out.splitlines() == [
        "         -2.00 e ve         a gift",
        "          0.05 bob          tea",
        "     -1,234.56 bob          rent",
    ]
    assert await main(database_url=sqlite_url, statement="bob", json=True) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        {"reference": "tea", "payer": "bob", "payee": "ann", "amount": 5},
        {"reference": "rent", "payer": "ann", "payee": "bob", "amount": 123_456},
    ]


@pytest.mark.asyncio
async def test_a_statement_of_an_unknown_account_fails_in_one_line(
    sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await main(database_url=sqlite_url, statement="eve") == 1
    assert capsys.readouterr() == ("", "there is no account eve\n")


@pytest.mark.asyncio
async def test_a_statement_opens_no_accounts_and_makes_no_transfers(
    sqlite_url: str,
) -> None:
    async with open_ledger(sqlite_url) as ledger:
        await ledger.open_accounts({"ann": 1})
        assert await main(database_url=sqlite_url, statement="ann") == 0
        assert await ledger.balances() == {"ann": 1}


# --- Failures


@pytest.mark.asyncio
async def test_a_failure_is_explained_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await main(database_url="postgresql://ann:secret@host/x?nonsense=1") == 1
    assert capsys.readouterr() == ("", "unknown in a database URL: nonsense\n")


@pytest.mark.asyncio
async def test_a_server_that_does_not_exist_is_explained_in_one_line(
    capsys: pytest.CaptureFixture[str], unused_tcp_port: int
) -> None:
    url = f"postgres://ann:secret@127.0.0.1:{unused_tcp_port}/ledger"
    assert await main(database_url=url) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("the database is not available: ")
    assert err.count("\n") == 1
    assert "secret" not in err


# --- The README


@pytest.mark.deadline(60)
@pytest.mark.usefixtures("empty_folder")
@pytest.mark.asyncio
async def test_every_command_in_the_readme_works(
    readme_commands: list[str], postgres_url: str
) -> None:
    assert len(readme_commands) == 6
    app = cyclopts.App()
    app.default(main)
    for line in readme_commands:
        arguments = shlex.split(line, comments=True)[3:]
        for index, argument in enumerate(arguments):
            if argument.startswith("postgres"):
                arguments[index] = postgres_url
        command, bound, _ = app.parse_args(arguments)
        assert await command(*bound.args, **bound.kwargs) == 0, line
