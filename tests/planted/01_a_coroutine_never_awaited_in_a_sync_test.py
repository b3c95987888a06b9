"""A coroutine that is never awaited, in a sync test."""

import pytest

CULPRIT = "coroutine 'save' was never awaited"


async def save() -> None: ...


def test_it_saves() -> None:
    save()
    assert pytest
