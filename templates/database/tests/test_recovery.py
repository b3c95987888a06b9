"""Recovery: what is retried, for how long, and what is logged."""

import asyncio

import pytest

from database.errors import (
    RefusedError,
    UnavailableError,
)
from database.recovery import Recovery, backoff

pytestmark = pytest.mark.virtual_clock


class Operation:
    """Fails as long as the database is down, and then returns a result."""

    def __init__(self, down: float) -> None:
        self.up_at = asyncio.get_running_loop().time() + down
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if asyncio.get_running_loop().time() < self.up_at:
            raise UnavailableError("the connection was lost")
        return "result"


@pytest.mark.asyncio
async def test_an_operation_that_succeeds_is_not_retried() -> None:
    operation = Operation(down=0)
    assert await Recovery(60).call(operation) == "result"
    assert operation.calls == 1


@pytest.mark.asyncio
async def test_it_is_retried_until_the_database_is_back() -> None:
    operation = Operation(down=30)
    assert await Recovery(60).call(operation) == "result"
    # The pauses grow, and then stay at 1 to 2 seconds.
    assert 15 < operation.calls < 40


@pytest.mark.asyncio
async def test_retries_end_at_the_time_limit() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(UnavailableError, match="the connection was lost"):
        await Recovery(60).call(Operation(down=1000))
    assert 57 < loop.time() - began <= 60


@pytest.mark.asyncio
async def test_with_a_time_limit_of_0_there_is_one_attempt() -> None:
    operation = Operation(down=1000)
    with pytest.raises(UnavailableError):
        await Recovery(0).call(operation)
    assert operation.calls == 1


@pytest.mark.asyncio
async def test_a_refusal_is_not_retried() -> None:
    calls = 0

    async def refuse() -> None:
        nonlocal calls
        calls += 1
        raise RefusedError("no money")

    with pytest.raises(RefusedError):
        await Recovery(60).call(refuse)
    assert calls == 1


@pytest.mark.asyncio
async def test_there_is_a_warning_every_ten_seconds_for_all_workers_together(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recovery = Recovery(60)
    operation = Operation(down=35)
    await asyncio.gather(*(recovery.call(operation) for _ in range(20)))
    warning = "trying again for up to 60 s: the connection was lost"
    assert caplog.messages == 4 * [warning]


def test_the_pause_doubles_up_to_a_limit_and_has_a_random_part() -> None:
    for failures in range(1, 5):
        longest = 0.1 * 2**failures
        assert longest / 2 <= backoff(failures) <= longest
    assert backoff(3) != backoff(3)
    assert 1 <= backoff(10_000) <= 2
