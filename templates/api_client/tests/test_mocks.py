"""AsyncMock and pytest-mock by example: what works, and what only seems to work."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from unittest.mock import ANY, AsyncMock, MagicMock, call, create_autospec

import aiohttp
import pytest
from pytest_mock import MockerFixture

from api_client.app import fetch_data
from api_client.client import (
    PATH,
    AnswerError,
    CatFact,
    Fact,
)

NAPS = Fact("Cats nap.", 9)
NAPS_AS_JSON = b'{"fact": "Cats nap.", "length": 9}'


def response_with(body: bytes) -> MagicMock:
    """Return what `session.get()` returns: `async with` makes a response of it."""
    response = create_autospec(aiohttp.ClientResponse, instance=True)
    response.status = 200
    response.content = create_autospec(aiohttp.StreamReader, instance=True)
    response.content.readany.side_effect = [body, b""]
    context_manager = MagicMock(AbstractAsyncContextManager)
    context_manager.__aenter__.return_value = response
    return context_manager


# 1. The usual mock has the names and signatures of the real object, and its async
# methods are async.


@pytest.mark.asyncio
async def test_an_autospecced_client_is_awaited_like_the_real_one() -> None:
    api = create_autospec(CatFact, instance=True)
    api.get_cat_fact.return_value = NAPS
    assert await fetch_data(api, 1) == ([NAPS], {})
    api.get_cat_fact.assert_awaited_once_with(deadline=ANY)


# 2. Patch an object, not a string like "package.module.name".


@pytest.mark.asyncio
async def test_a_patched_method_records_its_self(
    client: CatFact, mocker: MockerFixture
) -> None:
    patched = mocker.patch.object(
        CatFact, "get_cat_fact", autospec=True, return_value=NAPS
    )
    await fetch_data(client, 2)
    expected = call(client, deadline=ANY)
    assert patched.await_args_list == [expected, expected]


# 3. The body of an `async with` gets the return value of __aenter__, so set it.


@pytest.mark.asyncio
async def test_a_context_manager_gives_its_body_what_aenter_returns() -> None:
    session = create_autospec(aiohttp.ClientSession, instance=True)
    session.get.return_value = response_with(NAPS_AS_JSON)
    assert await CatFact(session, "https://cats").get_cat_fact() == NAPS
    session.get.assert_called_once_with(f"https://cats{PATH}", headers={})
    session.get.return_value.__aexit__.assert_awaited_once()


@pytest.mark.asyncio
async def test_without_a_return_value_aenter_returns_another_mock() -> None:
    session = create_autospec(aiohttp.ClientSession, instance=True)
    async with session as entered:
        assert entered is not session
    session.__aenter__.return_value = session
    async with session as entered:
        assert entered is session


# 4. An async generator is called, not awaited; set the return value of __aiter__.


class Feed:
    """A source of facts that is an async generator."""

    async def facts(self, topic: str) -> AsyncIterator[Fact]:
        """Yield facts about `topic`."""
        yield NAPS


@pytest.mark.asyncio
async def test_a_mocked_async_generator_yields_the_items_it_was_given() -> None:
    feed = create_autospec(Feed, instance=True)
    feed.facts.return_value.__aiter__.return_value = [NAPS, NAPS]
    assert [fact async for fact in feed.facts("cats")] == [NAPS, NAPS]
    feed.facts.assert_called_once_with("cats")


# 5. With a list as side_effect, each call takes the next item: an exception is raised,
# any other value is returned.


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_two_errors_and_a_response_are_one_fact() -> None:
    session = create_autospec(aiohttp.ClientSession, instance=True)
    session.get.side_effect = [
        aiohttp.ClientConnectionError(),
        TimeoutError(),
        response_with(NAPS_AS_JSON),
    ]
    assert await CatFact(session, "https://cats").get_cat_fact() == NAPS
    assert session.get.call_count == 3


@pytest.mark.asyncio
async def test_an_unexpected_error_is_raised_and_not_counted() -> None:
    api = create_autospec(CatFact, instance=True)
    api.get_cat_fact.side_effect = [NAPS, KeyError("a bug")]
    with pytest.raises(ExceptionGroup) as caught:
        await fetch_data(api, 5, concurrency=1)
    assert caught.group_contains(KeyError, match="a bug")


# 6. A call alone does nothing. Only assert_awaited proves that the work was done.


@pytest.mark.asyncio
async def test_a_call_is_not_an_await() -> None:
    api = create_autospec(CatFact, instance=True)
    coroutine = api.get_cat_fact()
    api.get_cat_fact.assert_called_once()
    api.get_cat_fact.assert_not_awaited()
    await coroutine
    api.get_cat_fact.assert_awaited_once()


# 7. A spy calls the real method and records what it does.


@pytest.mark.asyncio
async def test_a_spy_records_the_real_results(
    client: CatFact, mocker: MockerFixture
) -> None:
    spy = mocker.spy(client, "get_cat_fact")
    facts, _ = await fetch_data(client, 2)
    assert spy.await_count == 2
    assert spy.spy_return_list == facts


# 8. A stub is a callback that does nothing.


@pytest.mark.asyncio
async def test_a_callback_is_awaited_with_each_fact(mocker: MockerFixture) -> None:
    api = create_autospec(CatFact, instance=True)
    api.get_cat_fact.side_effect = [NAPS, AnswerError("not a fact"), NAPS]
    on_fact = mocker.async_stub("on_fact")
    await fetch_data(api, 3, on_fact=on_fact)
    assert on_fact.await_args_list == [call(NAPS), call(NAPS)]


# 9. An async function as side_effect is awaited, so a mock can hang.


@pytest.mark.asyncio
async def test_a_hanging_client_can_be_cancelled() -> None:
    hanging = asyncio.Event()

    async def hang(deadline: float) -> Fact:
        hanging.set()
        await asyncio.Event().wait()
        raise AssertionError("this event is never set")

    api = create_autospec(CatFact, instance=True)
    api.get_cat_fact.side_effect = hang
    task = asyncio.create_task(fetch_data(api, 1))
    await hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# 10. Such a function can also measure, here the number of concurrent calls. The test
# runs three times, with the tasks in different orders.


@pytest.mark.parametrize("limit", [1, 3, 20])
@pytest.mark.shuffled(3)
@pytest.mark.asyncio
async def test_the_peak_of_concurrent_calls_is_the_limit(limit: int) -> None:
    running = 0
    peak = 0

    async def take_a_second(deadline: float) -> Fact:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(1)
        running -= 1
        return NAPS

    api = create_autospec(CatFact, instance=True)
    api.get_cat_fact.side_effect = take_a_second
    await fetch_data(api, 60, concurrency=limit)
    assert peak == limit


@pytest.mark.parametrize(("count", "limit", "needed"), [(1_000, 10, 10), (3, 500, 3)])
@pytest.mark.asyncio
async def test_the_number_of_tasks_does_not_grow_with_the_number_of_facts(
    count: int, limit: int, needed: int
) -> None:
    tasks_before = len(asyncio.all_tasks())
    tasks: list[int] = []

    async def count_tasks(_fact: Fact) -> None:
        tasks.append(len(asyncio.all_tasks()))
        await asyncio.sleep(0)

    api = create_autospec(CatFact, instance=True)
    await fetch_data(api, count, concurrency=limit, on_fact=count_tasks)
    assert max(tasks) == tasks_before + needed


# 11. Pitfalls. A mock without a spec accepts everything, so this test suite refuses it
# unless the test has the marker.


@pytest.mark.bare_mocks
@pytest.mark.asyncio
async def test_without_a_spec_a_typo_passes_and_all_methods_are_async() -> None:
    response = AsyncMock()
    await response.raed()  # there is no such method
    coroutine = response.raise_for_status()  # the real method is not async
    assert asyncio.iscoroutine(coroutine)
    coroutine.close()


def test_with_a_spec_a_typo_fails_and_plain_methods_stay_plain() -> None:
    response = create_autospec(aiohttp.ClientResponse, instance=True)
    with pytest.raises(AttributeError, match="raed"):
        response.raed()
    assert not asyncio.iscoroutine(response.raise_for_status())


def test_a_wrong_argument_fails_only_under_autospec(mocker: MockerFixture) -> None:
    mocker.patch.object(Fact, "parse", return_value=NAPS)
    assert Fact.parse("too", many="arguments") == NAPS  # type: ignore[call-arg, arg-type]
    mocker.stopall()
    mocker.patch.object(Fact, "parse", autospec=True, return_value=NAPS)
    with pytest.raises(TypeError, match="too many positional"):
        Fact.parse(b"too", "many")  # type: ignore[call-arg]


@pytest.mark.asyncio
async def test_a_side_effect_without_items_raises_stop_async_iteration() -> None:
    api = create_autospec(CatFact, instance=True)
    api.get_cat_fact.side_effect = [NAPS]
    await api.get_cat_fact()
    with pytest.raises(StopAsyncIteration):
        await api.get_cat_fact()
