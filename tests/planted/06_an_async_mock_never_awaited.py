"""An AsyncMock that is called but never awaited."""

from unittest.mock import create_autospec

import pytest

CULPRIT = r"py:15: coroutine .* was never awaited, created here\n"


class Mailer:
    async def send(self, to: str) -> None: ...


async def notify_all(mailer: Mailer) -> None:
    mailer.send("you")


@pytest.mark.asyncio
async def test_it_sends() -> None:
    mailer = create_autospec(Mailer, instance=True)
    await notify_all(mailer)
    mailer.send.assert_called_once_with("you")
