"""A ledger on SQLite or PostgreSQL: many transfers at the same time, and statements.

This module has the program from start to end. The ledger itself is in ledger.py.
"""

import json as jsonlib
import logging
import sys
from contextlib import aclosing
from typing import Annotated

from cyclopts import Parameter, validators
from cyclopts.types import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from .errors import LedgerError
from .ledger import Ledger, open_ledger
from .models import Transfer
from .recovery import Recovery
from .text import printable
from .transfers import RandomTransfers

log = logging.getLogger(__name__)

OPENING_BALANCE = 100_00  # cents


async def main(
    *,
    database_url: str = "sqlite+aiosqlite:///ledger.db",
    statement: str | None = None,
    json: bool = False,
    accounts: Annotated[int, Parameter(validator=validators.Number(gte=2))] = 10,
    transfers: NonNegativeInt = 1000,
    concurrency: PositiveInt = 10,
    timeout: PositiveFloat = 30.0,  # noqa: ASYNC109 - an option of the program
    reconnect_timeout: NonNegativeFloat = 60.0,
) -> int:
    """Make random transfers between accounts, and print the balances.

    With --statement, print the transfers of one account instead, newest first.

    Args:
        database_url: SQLAlchemy URL of the database.
        statement: Account whose transfers are printed.
        json: Print the results as JSON, one object per line.
        accounts: Number of accounts. Missing ones are opened with 100.00 each.
        transfers: Number of transfers.
        concurrency: Maximum number of operations at the same time.
        timeout: Time limit for one attempt, in seconds.
        reconnect_timeout: Time limit for the server to come back, in seconds.
    """
    try:
        async with open_ledger(
            database_url, pool_size=concurrency, timeout=timeout
        ) as ledger:
            if statement is not None:
                await print_statement(ledger, statement, json=json)
            else:
                recovery = Recovery(reconnect_timeout)
                names = [f"account {number:04}" for number in range(1, accounts + 1)]
                await make_transfers(ledger, names, transfers, concurrency, recovery)
                print_balances(await recovery.call(ledger.balances), json=json)
        return 0
    except* LedgerError as errors:
        # From here, or from a worker, in an ExceptionGroup.
        print(printable(errors.exceptions[0]), file=sys.stderr)
    return 1


async def make_transfers(
    ledger: Ledger, names: list[str], total: int, concurrency: int, recovery: Recovery
) -> None:
    """Open the accounts that are missing, and make random transfers between them."""
    await ledger.open_missing_accounts(dict.fromkeys(names, OPENING_BALANCE))
    log.info("%d transfers between %d accounts", total, len(names))
    work = RandomTransfers(ledger, names, recovery)
    await work.run(total, concurrency=concurrency)
    log.info("%d transfers made, %d refused", work.made, work.refused)


def print_balances(balances: dict[str, int], *, json: bool) -> None:
    """Print all balances, and then their total in another line."""
    for name, balance in balances.items():
        if json:
            print(jsonlib.dumps({"account": name, "balance": balance}))
        else:
            print(f"{printable(name):12} {cents(balance):>14}")
    if not json:
        print(f"{'total':12} {cents(sum(balances.values())):>14}")


async def print_statement(ledger: Ledger, account: str, *, json: bool) -> None:
    """Print the transfers of an account as they are read from the database."""
    # An account without transfers is fine, a wrong name is not.
    await ledger.balance(account)
    async with aclosing(ledger.statement(account)) as transfers:
        async for transfer in transfers:
            if json:
                print(json_line(transfer))
            else:
                print(statement_line(transfer, account))


def statement_line(transfer: Transfer, account: str) -> str:
    """Return a transfer as its payer or its payee sees it."""
    if transfer.payer == account:
        other = transfer.payee
        change = -transfer.amount
    else:
        other = transfer.payer
        change = transfer.amount
    return f"{cents(change):>14} {printable(other):12} {printable(transfer.reference)}"


def json_line(transfer: Transfer) -> str:
    """Return a transfer as a JSON object."""
    return jsonlib.dumps(
        {
            "reference": transfer.reference,
            "payer": transfer.payer,
            "payee": transfer.payee,
            "amount": transfer.amount,
        }
    )


def cents(amount: int) -> str:
    """Return an amount with two decimals."""
    return f"{amount / 100:,.2f}"
