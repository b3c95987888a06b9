"""Random transfers between the accounts of a ledger, made by several workers."""

import asyncio
import random
from collections.abc import Sequence
from functools import partial
from uuid import uuid4

from .errors import DuplicateError, RefusedError
from .ledger import Ledger, Order
from .progress import Progress
from .recovery import Recovery

MAX_AMOUNT = 50_00  # cents


class RandomTransfers:
    """Makes transfers and counts them: `made` and `refused`."""

    def __init__(
        self, ledger: Ledger, accounts: Sequence[str], recovery: Recovery
    ) -> None:
        self.ledger = ledger
        self.accounts = accounts
        self.recovery = recovery
        self.made = 0
        self.refused = 0

    async def run(self, total: int, *, concurrency: int) -> None:
        """Make `total` transfers, up to `concurrency` of them at the same time.

        Raises UnavailableError, in an ExceptionGroup, if the database was not available
        for too long.
        """
        # All workers share one iterator. Each takes the next turn when it is ready.
        turns = iter(range(total))
        with Progress("transfers", total=total) as progress:

            async def work() -> None:
                for _ in turns:
                    await self._transfer(random_order(self.accounts))
                    progress.advance()

            async with asyncio.TaskGroup() as workers:
                for _ in range(min(concurrency, total)):
                    workers.create_task(work())

    async def _transfer(self, order: Order) -> None:
        try:
            await self.recovery.call(partial(self.ledger.transfer, order))
        except DuplicateError:
            # The first attempt was made, and only its answer was lost.
            self.made += 1
        except RefusedError:
            self.refused += 1
        else:
            self.made += 1


def random_order(accounts: Sequence[str]) -> Order:
    """Return an order between two of the accounts, with a new reference."""
    payer, payee = random.sample(accounts, 2)
    return Order(
        reference=uuid4().hex,
        payer=payer,
        payee=payee,
        amount=random.randint(1, MAX_AMOUNT),  # noqa: S311 - no secret
    )
