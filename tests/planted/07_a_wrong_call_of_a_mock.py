"""A mock without a spec, on which wrong arguments pass."""

from unittest.mock import MagicMock

import pytest

CULPRIT = "a mock without a spec"


class Mailer:
    def queue(self, to: str) -> None: ...


async def notify_all(mailer: Mailer) -> None:
    mailer.queue("you", "me", priority=1)


@pytest.mark.asyncio
async def test_it_queues() -> None:
    mailer = MagicMock()
    await notify_all(mailer)
    mailer.queue.assert_called_once()
