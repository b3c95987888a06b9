"""What can go wrong with the ledger, and how errors of the database are translated."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa

from .text import mask_credentials, printable


class LedgerError(Exception):
    """The ledger cannot do this. The message says why, in one line."""


class UnavailableError(LedgerError):
    """The database cannot be used at the moment. The same call may succeed later.

    There is no connection, it was lost, a lock is held for too long, or the disk is
    full. If a connection is lost during a commit, the change may have been made.
    """


class RefusedError(LedgerError):
    """The ledger refuses a change. Nothing was changed."""


class DuplicateError(RefusedError):
    """A transfer with this reference was made before."""


class UnknownAccountError(RefusedError):
    """There is no account with this name."""


@asynccontextmanager
async def translated_errors(
    timeout: float,  # noqa: ASYNC109 - of the block, not of this function
) -> AsyncIterator[None]:
    """Translate database errors in the block into LedgerErrors.

    The block may take up to `timeout` seconds.
    """
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError as error:
        raise UnavailableError(
            f"the database did not answer within {timeout:g} s"
        ) from error
    except sa.exc.IntegrityError as error:
        raise RefusedError(reason(error)) from error
    except (sa.exc.ProgrammingError, sa.exc.DataError) as error:
        # A missing table or permission, or a value that the database cannot store.
        raise LedgerError(reason(error)) from error
    except (sa.exc.SQLAlchemyError, OSError) as error:
        raise UnavailableError(
            f"the database is not available: {reason(error)}"
        ) from error


def reason(error: Exception) -> str:
    """Return the database's message about an error, in one line."""
    if isinstance(error, sa.exc.DBAPIError):
        text = str(error.orig)
    else:
        text = str(error)
    first_line = text.partition("\n")[0] or type(error).__name__
    if first_line.startswith("prepared statement"):
        first_line += "; behind pgbouncer, add pgbouncer=true to the URL"
    return printable(mask_credentials(first_line))
