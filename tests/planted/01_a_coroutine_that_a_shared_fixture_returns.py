"""A coroutine that is never awaited, returned by a sync fixture of scope module."""

import pytest

CULPRIT = r"py:14: coroutine 'load' was never awaited(.|\n)*FAILED .*test_it_uses_users"


async def load() -> list[str]:
    return ["you"]


@pytest.fixture(scope="module")
def users() -> object:
    return load()


def test_before(users: object) -> None: ...


def test_it_uses_users(users: object) -> None:
    assert users
