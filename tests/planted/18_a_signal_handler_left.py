"""A signal handler left installed."""

import signal

import pytest

CULPRIT = "a signal handler left installed: SIGINT, .*stop"


def stop(*_: object) -> None: ...


@pytest.mark.asyncio
async def test_it_can_be_stopped() -> None:
    signal.signal(signal.SIGINT, stop)
