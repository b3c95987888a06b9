"""A mock without a spec, on which a typo passes."""

from unittest.mock import AsyncMock

import pytest

CULPRIT = "a mock without a spec"


class Mailer:
    async def send(self, to: str) -> None: ...


async def notify_all(mailer: Mailer) -> None:
    await mailer.sned("you")


@pytest.mark.asyncio
async def test_it_sends() -> None:
    mailer = AsyncMock()
    await notify_all(mailer)
