"""The history is bounded, for newcomers and for the bot."""

import json

from chat.history import Answer, History, Message


def message(text: str, name: str = "Ann") -> Message:
    """Return what Ann says."""
    return Message(name=name, text=text, time=0.0)


def answer(text: str, *, finished: bool) -> Answer:
    """Return what the bot says to Ann."""
    return Answer(name="bot", text=text, time=0.0, id=1, asker="Ann", finished=finished)


def texts(messages: list[Message]) -> list[str]:
    """Return the text of each message."""
    return [message.text for message in messages]


def test_only_the_last_messages_are_kept() -> None:
    history = History(max_messages=2)
    for text in ("1", "2", "3"):
        history.add(message(text))
    assert [data["text"] for data in history.newest(10_000)] == ["2", "3"]


def test_newcomers_get_no_more_than_so_many_bytes() -> None:
    history = History(max_messages=100)
    for _ in range(10):
        history.add(message("\N{SNOWMAN}" * 10))
    newest = history.newest(500)
    assert 0 < len(newest) < 10
    assert len(json.dumps(newest)) <= 500


def test_an_answer_is_seen_as_far_as_it_has_come() -> None:
    history = History(max_messages=10)
    unfinished = answer("Well, ", finished=False)
    history.add(unfinished)
    unfinished.text += "yes"
    (data,) = history.newest(10_000)
    assert data["type"] == "answer"
    assert (data["text"], data["finished"]) == ("Well, yes", False)


def test_the_conversation_is_the_last_messages_within_the_budget() -> None:
    history = History(max_messages=10)
    for text in ("12345", "67890", "12345"):
        history.add(message(text))  # 10 characters with the name
    assert texts(list(history.conversation(20))) == ["67890", "12345"]
    assert texts(list(history.conversation(19))) == ["12345"]


def test_the_newest_message_is_always_in_the_conversation() -> None:
    history = History(max_messages=10)
    history.add(message("x" * 100))
    assert texts(list(history.conversation(1))) == ["x" * 100]


def test_the_conversation_has_no_unfinished_answers() -> None:
    history = History(max_messages=10)
    history.add(answer("Yes", finished=True))
    history.add(answer("Well, ", finished=False))
    history.add(message("Hm"))
    assert texts(list(history.conversation(100))) == ["Yes", "Hm"]
