"""The ledger: accounts, transfers between them, and statements."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
)

from .engine import create_tables, open_engine
from .errors import (
    DuplicateError,
    LedgerError,
    RefusedError,
    UnknownAccountError,
    translated_errors,
)
from .models import MAX_CENTS, Account, Base, Transfer

# Statements with parameters. SQLAlchemy compiles them once, and they run directly on
# the connection: a transfer takes half as long as with objects in a session.
INSERT_ACCOUNT = sa.insert(Account)
INSERT_TRANSFER = sa.insert(Transfer)
# The database itself adds. A program that reads a balance and writes the sum could
# overwrite a change that another one makes in between.
CHANGE_BALANCE = (
    sa.update(Account)
    .where(Account.name == sa.bindparam("account"))
    .values(balance=Account.balance + sa.bindparam("change"))
)

# SQLite and PostgreSQL share this syntax. SQLAlchemy has an `insert` for each of them.
INSERT_MISSING_ACCOUNT = sa.text(
    "INSERT INTO accounts (name, balance) VALUES (:name, :balance) "
    "ON CONFLICT DO NOTHING"
)


@dataclass(frozen=True, slots=True)
class Order:
    """An order to move `amount` cents from account `payer` to account `payee`.

    The `reference` makes it unique. The ledger makes one transfer per reference, so
    an order whose result is not known can be repeated.
    """

    reference: str
    payer: str
    payee: str
    amount: int


class Ledger:
    """A ledger in a database.

    Each method is one transaction; a statement is one per page. A transaction may take
    up to `timeout` seconds. All methods raise UnavailableError if the database cannot
    be used at the moment.
    """

    def __init__(self, engine: AsyncEngine, timeout: float = 30.0) -> None:
        self.engine = engine
        self.timeout = timeout
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Begin a transaction, and commit it at the end of the block.

        An error or a cancellation rolls it back.
        """
        async with translated_errors(self.timeout):
            async with self._sessions.begin() as session:
                yield session

    async def open_accounts(self, balances: Mapping[str, int]) -> None:
        """Open accounts with these balances, in cents.

        Opens all of them, or none and raises RefusedError: if one exists already, or if
        a balance is below 0 or above MAX_CENTS.
        """
        await self._insert_accounts(INSERT_ACCOUNT, balances)

    async def open_missing_accounts(self, balances: Mapping[str, int]) -> None:
        """Open the accounts that do not exist yet. Does not change the others."""
        await self._insert_accounts(INSERT_MISSING_ACCOUNT, balances)

    async def _insert_accounts(
        self, statement: sa.Executable, balances: Mapping[str, int]
    ) -> None:
        if not balances:
            return
        # In the order of the names, so that programs that open the same accounts do not
        # wait for each other's locks.
        rows = [
            {"name": name, "balance": balance}
            for name, balance in sorted(balances.items())
        ]
        async with self.transaction() as session:
            # Many rows in one call, directly on the connection: 40 times faster than
            # `session.add_all`.
            connection = await session.connection()
            await connection.execute(statement, rows)

    async def transfer(self, order: Order) -> None:
        """Make a transfer, or change nothing and raise an error.

        Raises ValueError if the amount is not between 1 and MAX_CENTS, or if payer and
        payee are the same; DuplicateError if a transfer with this reference was made
        before; RefusedError if there is no such account, the payer does not have the
        money, or the payee's balance would be above MAX_CENTS.
        """
        check_order(order)
        changes = {order.payer: -order.amount, order.payee: order.amount}
        async with self.transaction() as session:
            connection = await session.connection()
            await insert_transfer(connection, order)
            # In the order of the names. Otherwise a transfer from A to B and one from B
            # to A could wait for each other's locks: a deadlock.
            for name in sorted(changes):
                await change_balance(connection, name, changes[name])

    async def balance(self, account: str) -> int:
        """Return the balance of an account. Raises UnknownAccountError."""
        query = sa.select(Account.balance).where(Account.name == account)
        async with self.transaction() as session:
            balance = await session.scalar(query)
        if balance is None:
            raise UnknownAccountError(f"there is no account {account}")
        return balance

    async def balances(self) -> dict[str, int]:
        """Return all balances at one moment, in the order of the names."""
        query = sa.select(Account.name, Account.balance).order_by(Account.name)
        async with self.transaction() as session:
            rows = await session.execute(query)
            return {row.name: row.balance for row in rows}

    async def statement(
        self, account: str, *, page_size: int = 500
    ) -> AsyncGenerator[Transfer]:
        """Yield the transfers of an account, newest first, reading page by page.

        It holds no connection between the pages, so the caller may take its time.
        Transfers that are made in the meantime are not included.
        """
        query = (
            sa.select(Transfer)
            .where(sa.or_(Transfer.payer == account, Transfer.payee == account))
            .order_by(Transfer.id.desc())
            .limit(page_size)
        )
        page = await self._read_page(query)
        while page:
            for transfer in page:
                yield transfer
            if len(page) < page_size:
                return
            page = await self._read_page(query.where(Transfer.id < page[-1].id))

    async def _read_page(self, query: sa.Select[Transfer]) -> list[Transfer]:
        async with self.transaction() as session:
            transfers = await session.scalars(query)
            return list(transfers)


@asynccontextmanager
async def open_ledger(
    database_url: str,
    *,
    pool_size: int = 5,
    timeout: float = 30.0,  # noqa: ASYNC109 - of each transaction
) -> AsyncIterator[Ledger]:
    """Open the ledger, and close its connections at the end.

    Creates the tables if they do not exist. Up to `pool_size` transactions run at the
    same time; on SQLite it is one. Raises LedgerError if the database cannot be used.
    """
    async with AsyncExitStack() as stack:
        try:
            engine = await stack.enter_async_context(
                open_engine(database_url, pool_size=pool_size, timeout=timeout)
            )
        except (ValueError, OSError) as error:
            raise LedgerError(str(error)) from error
        async with translated_errors(timeout):
            await create_tables(engine, Base.metadata)
        yield Ledger(engine, timeout)


def check_order(order: Order) -> None:
    """Raise ValueError if this cannot be a transfer in any ledger."""
    if not 1 <= order.amount <= MAX_CENTS:
        raise ValueError(f"the amount must be between 1 and {MAX_CENTS}: {order}")
    if order.payer == order.payee:
        raise ValueError(f"payer and payee must be different: {order}")


async def insert_transfer(connection: AsyncConnection, order: Order) -> None:
    """Add the transfer to the table. Raises DuplicateError."""
    try:
        await connection.execute(INSERT_TRANSFER, asdict(order))
    except sa.exc.IntegrityError as error:
        raise DuplicateError(f"made before: {order.reference}") from error


async def change_balance(connection: AsyncConnection, name: str, change: int) -> None:
    """Add `change` to a balance; a negative change is a payment."""
    parameters = {"account": name, "change": change}
    try:
        result = await connection.execute(CHANGE_BALANCE, parameters)
    except sa.exc.IntegrityError as error:
        if change < 0:
            raise RefusedError(f"{name} cannot pay {-change}") from error
        raise RefusedError(f"{name} cannot take {change}") from error
    if result.rowcount == 0:
        raise UnknownAccountError(f"there is no account {name}")
