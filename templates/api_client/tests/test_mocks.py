"""AsyncMock and pytest-mock by example: what works, what only seems to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from unittest.mock import AsyncMock, MagicMock, call, create_autospec

import aiohttp
import pytest
from pytest_mock import MockerFixture

from api_client.app import (
    AnswerError,
    CatFact,
    Fact,
    fetch_data,
)

NAPS = Fact("Cats nap.", 9)


def answering(body: bytes) -> MagicMock:
    """What `session.get()` returns: a context manager whose inside is a response."""
    response = create_autospec(aiohttp.ClientResponse, instance=True)
    response.content = create_autospec(aiohttp.StreamReader, instance=True)
    response.content.readany.side_effect = [body, b""]
    inside = MagicMock(AbstractAsyncContextManager)
    inside.__aenter__.return_value = response
    return inside


# 1. The usual mock: same names, same signatures, and what is async stays async.
@pytest.mark.asyncio
async def test_an_autospecced_client_is_awaited_like_the_real_one() -> None:
    api = create_autospec(CatFact, instance=True)
    api.get_cat_fact.return_value = NAPS
    assert await fetch_data(api, 1) == ([NAPS], {})
    api.get_cat_fact.assert_awaited_once_with()


# 2. Patch the class, by object and never by "package.name": a typo fails at once.
@pytest.mark.asyncio
async def test_a_patched_method_records_its_self(
    client: CatFact, mocker: MockerFixture
) -> None:
    patched = mocker.patch.object(
        CatFact, "get_cat_fact", autospec=True, return_value=NAPS
    )
    await fetch_data(client, 2)
    assert patched.await_args_list == [call(client), call(client)]


# 3. `async with`: the body sees what __aenter__ returns, so that must be set.
@pytest.mark.asyncio
async def test_a_context_manager_hands_its_inside_to_the_body() -> None:
    session = create_autospec(aiohttp.ClientSession, instance=True)
    session.get.return_value = answering(b'{"fact": "Cats nap.", "length": 9}')
    assert await CatFact(session, "https://cats").get_cat_fact() == NAPS
    session.get.assert_called_once_with("https://cats/fact")
    session.get.return_value.__aexit__.assert_awaited_once()


@pytest.mark.asyncio
async def test_a_forgotten_aenter_hands_out_another_mock_without_a_word() -> None:
    session = create_autospec(aiohttp.ClientSession, instance=True)
    async with session as inside:
        assert inside is not session
    session.__aenter__.return_value = session
    async with session as inside:
        assert inside is session


# 4. `async for`: an async generator is called, not awaited; what it yields stands in
# __aiter__.
class Feed:
    """A source that yields."""

    async def facts(self, topic: str) -> AsyncIterator[Fact]:
        """Yield facts about `topic`."""
        yield Fact(topic, len(topic))


@pytest.mark.asyncio
async def test_an_async_generator_yields_what_its_mock_is_given() -> None:
    feed = create_autospec(Feed, instance=True)
    feed.facts.return_value.__aiter__.return_value = [NAPS, NAPS]
    assert [fact async for fact in feed.facts("cats")] == [NAPS, NAPS]
    feed.facts.assert_called_once_with("cats")


# 5. A list as side_effect: errors are raised, values returned, in turn.
@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_two_errors_and_an_answer_are_one_fact() -> None:
    session = create_autospec(aiohttp.ClientSession, instance=True)
    answer = answering(b'{"fact": "Cats nap.", "length": 9}')
    session.get.side_effect = [aiohttp.ClientConnectionError(), TimeoutError(), answer]
    assert await CatFact(session, "https://cats").get_cat_fact() == NAPS
    assert session.get.call_count == 3


@pytest.mark.asyncio
async def test_an_error_that_nobody_expects_is_not_counted_but_raised() -> None:
    api = create_autospec(CatFact, instance=True)
    api.get_cat_fact.side_effect = [NAPS, KeyError("a bug")]
    with pytest.raises(ExceptionGroup) as caught:
        await fetch_data(api, 5, concurrency=1)
    assert caught.group_contains(KeyError, match="a bug")


# 6. Called is not awaited: only assert_awaited proves that the work was done.
@pytest.mark.asyncio
async def test_a_call_is_not_yet_an_await() -> None:
    api = create_autospec(CatFact, instance=True)
    coroutine = api.get_cat_fact()
    api.get_cat_fact.assert_called_once()
    api.get_cat_fact.assert_not_awaited()
    await coroutine
    api.get_cat_fact.assert_awaited_once()


# 7. A spy lets the real method work and remembers how.
@pytest.mark.asyncio
async def test_a_spy_sees_the_real_answers(
    client: CatFact, mocker: MockerFixture
) -> None:
    spy = mocker.spy(client, "get_cat_fact")
    facts, _ = await fetch_data(client, 2)
    assert spy.await_count == 2
    assert spy.spy_return_list == facts


# 8. A stub is a callback with nothing behind it.
@pytest.mark.asyncio
async def test_a_callback_is_awaited_with_each_fact(mocker: MockerFixture) -> None:
    api = create_autospec(CatFact, instance=True)
    api.get_cat_fact.side_effect = [NAPS, AnswerError("not a fact"), NAPS]
    on_fact = mocker.async_stub("on_fact")
    await fetch_data(api, 3, on_fact=on_fact)
    assert on_fact.await_args_list == [call(NAPS), call(NAPS)]


# 9. An async function as side_effect is awaited: so a mock can hang, and be cancelled.
@pytest.mark.asyncio
async def test_a_hanging_client_can_be_cancelled() -> None:
    async def hang() -> Fact:
        hanging.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets that event")

    hanging = asyncio.Event()
    api = create_autospec(CatFact, instance=True)
    api.get_cat_fact.side_effect = hang
    task = asyncio.create_task(fetch_data(api, 1))
    await hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# 10. The same, to measure: how many are inside at once, whatever the order of the
# tasks?
@pytest.mark.parametrize("limit", [1, 3, 20])
@pytest.mark.shuffled(3)
@pytest.mark.asyncio
async def test_the_peak_of_calls_at_once_is_the_limit(limit: int) -> None:
    inside = peak = 0

    async def take_a_second() -> Fact:
        nonlocal inside, peak
        inside += 1
        peak = max(peak, inside)
        await asyncio.sleep(1)
        inside -= 1
        return NAPS

    api = create_autospec(CatFact, instance=True)
    api.get_cat_fact.side_effect = take_a_second
    await fetch_data(api, 60, concurrency=limit)
    assert peak == limit


@pytest.mark.parametrize(("count", "limit", "needed"), [(1_000, 10, 10), (3, 500, 3)])
@pytest.mark.asyncio
async def test_there_are_as_many_tasks_as_requests_at_once_not_as_facts(
    count: int, limit: int, needed: int
) -> None:
    async def count_tasks(_fact: Fact) -> None:
        tasks.append(len(asyncio.all_tasks()))
        await asyncio.sleep(0)

    tasks = [len(asyncio.all_tasks())]
    api = create_autospec(CatFact, instance=True)
    await fetch_data(api, count, concurrency=limit, on_fact=count_tasks)
    assert max(tasks) == tasks[0] + needed


# 11. Pitfalls: a mock without a spec says yes to everything, so this suite refuses it
# ...
@pytest.mark.bare_mocks
@pytest.mark.asyncio
async def test_without_a_spec_a_typo_passes_and_all_methods_are_async() -> None:
    response = AsyncMock()
    await response.raed()  # there is no such method
    coroutine = response.raise_for_status()  # a plain method of the real one
    assert asyncio.iscoroutine(coroutine)
    coroutine.close()


# ... and with one it says no.
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
async def test_a_used_up_side_effect_raises_stop_async_iteration() -> None:
    api = create_autospec(CatFact, instance=True)
    api.get_cat_fact.side_effect = [NAPS]
    await api.get_cat_fact()
    with pytest.raises(StopAsyncIteration):
        await api.get_cat_fact()
