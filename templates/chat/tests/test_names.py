"""Names are printable and short, and no two look alike."""

import pytest

from chat.names import Names, clean_name

FAMILY = "\U0001f469\u200d\U0001f467"  # a woman and a girl, joined to one character


@pytest.mark.parametrize(
    ("requested", "name"),
    [
        (" Ann \n Lee\t", "Ann Lee"),
        ("", "guest"),
        (" \u200b\u200d", "guest"),
        ("\u3164", "guest"),
        ("x" * 99, "x" * 20),
        (FAMILY, FAMILY),
        ("\u202eAnn", "Ann"),
        ("A\x1b[31m", "A [31m"),
        ("\ud800Ann", "Ann"),
        ("\u05d3\u05d5\u05d3", "\u05d3\u05d5\u05d3"),
    ],
)
def test_a_name_is_printable_and_short(requested: str, name: str) -> None:
    assert clean_name(requested) == name


@pytest.mark.parametrize(
    "other",
    [
        "ann",
        "\uff41nn",  # a fullwidth a
        "A\u200bnn",  # a zero-width space
        "Ann\ufe0f",  # a variation selector
        "\U0001d400nn",  # a bold A
        " Ann ",
    ],
)
def test_names_that_look_alike_are_the_same_name(other: str) -> None:
    names = Names()
    assert names.take("Ann") == "Ann"
    assert names.take(other) == f"{clean_name(other)}-2"


def test_each_name_is_numbered_on_its_own() -> None:
    names = Names("bot")
    requested = ["Ann", "Ann", "Bob", "Bob", "Ann", "Ann-2", "bot"]
    taken = [names.take(name) for name in requested]
    assert taken == ["Ann", "Ann-2", "Bob", "Bob-2", "Ann-3", "Ann-4", "bot-2"]


def test_a_numbered_name_is_not_longer_than_others() -> None:
    names = Names()
    names.take("x" * 20)
    assert names.take("x" * 20) == "x" * 18 + "-2"


def test_a_released_name_is_free_but_a_reserved_one_never() -> None:
    names = Names("bot")
    names.take("Ann")
    names.release("Ann")
    names.release("bot")
    assert len(names) == 0
    assert [names.take("Ann"), names.take("Bot")] == ["Ann", "Bot-2"]
