"""Mocks with a spec, their children, stubs and spies."""

from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec, patch

import pytest
from pytest_mock import MockerFixture


class Mailer:
    def __init__(self, host: str = "") -> None:
        self.host = host

    async def send(self, to: str) -> str:
        return to

    def name(self) -> str:
        return "mailer"

    async def __aenter__(self) -> "Mailer":
        return self

    async def __aexit__(self, *_: object) -> None: ...


@pytest.mark.asyncio
async def test_autospec() -> None:
    mailer = create_autospec(Mailer, instance=True)
    mailer.send.return_value = "sent"
    mailer.name.side_effect = ["one", "two"]
    mailer.__aenter__.return_value = mailer
    async with mailer as same:
        assert await same.send("you") == "sent"
    assert mailer.name() == "one"
    mailer.send.assert_awaited_once_with("you")


@pytest.mark.asyncio
async def test_specs() -> None:
    mailer = AsyncMock(spec=Mailer, **{"send.return_value": "sent"})
    assert await mailer.send("you") == "sent"
    assert await AsyncMock(wraps=Mailer()).send("you") == "you"
    assert MagicMock(Mailer).name() is not MagicMock(spec_set=Mailer("x")).name()
    assert Mock(spec=["name"]).name()


@pytest.mark.asyncio
async def test_patches_stubs_and_spies(mocker: MockerFixture) -> None:
    callback = mocker.async_stub()
    stub = mocker.stub()
    await callback(1)
    stub(2)
    spy = mocker.spy(Mailer, "send")
    assert await Mailer().send("you") == "you"
    spy.assert_awaited_once()
    with (
        patch.object(Mailer, "name", autospec=True),
        patch.object(Mailer, "send") as send,
    ):
        await Mailer().send("me")
    send.assert_awaited_once_with("me")
    mocker.patch.object(Mailer, "name", autospec=True, return_value="patched")
    assert Mailer().name() == "patched"


@pytest.mark.bare_mocks
@pytest.mark.asyncio
async def test_bare_mocks() -> None:
    assert await AsyncMock(return_value=3)() == 3
