"""Property tests of Hypothesis, which run a loop for each example."""

import asyncio

import pytest

hypothesis = pytest.importorskip("hypothesis")


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(hypothesis.strategies.integers(0, 3))
@pytest.mark.asyncio
async def test_a_property(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


@pytest.mark.parametrize("base", [1, 2])
@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(number=hypothesis.strategies.integers())
@pytest.mark.asyncio
async def test_a_property_with_parameters(base: int, number: int) -> None:
    await asyncio.sleep(0)
    assert number * base == base * number
