"""Messages: what travels, what cannot travel, and the reason in one line."""

from pathlib import Path
from typing import Any

import pytest

from jobs.messages import Job, MessageError, Result


def test_a_job_arrives_as_it_was_sent() -> None:
    job = Job("describe", {"path": "/ä"}, "inbox", attempt=2, max_attempts=3)
    assert Job.decode(job.encode()) == job


def test_a_result_arrives_as_it_was_sent() -> None:
    result = Result("id", 1, value=[1, None, "x"])
    assert Result.decode(result.encode()) == result


def test_a_failure_arrives_as_it_was_sent() -> None:
    result = Result("id", 3, error="OSError: gone", is_final=True)
    assert Result.decode(result.encode()) == result


def test_a_file_name_that_is_not_utf_8_arrives_as_it_was_sent() -> None:
    job = Job("describe", b"caf\xe9".decode(errors="surrogateescape"), "inbox")
    assert Job.decode(job.encode()).argument == job.argument


@pytest.mark.parametrize(
    "value",
    [{1, 2}, Path("x"), b"bytes", float("nan"), object()],
    ids=["set", "path", "bytes", "nan", "object"],
)
def test_a_value_that_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises(MessageError, match="the result is not JSON: "):
        Result("id", 1, value).encode()
    with pytest.raises(MessageError, match="the argument of task is not JSON: "):
        Job("task", value, "inbox").encode()


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(MessageError, match="not JSON"):
        Result("id", 1, value).encode()


def test_a_large_value_is_refused_with_its_size_and_the_limit() -> None:
    with pytest.raises(MessageError) as caught:
        Result("id", 1, "x" * 1_048_576).encode()
    assert "1,048," in str(caught.value)
    assert "the limit is 1,000,000" in str(caught.value)


def test_a_job_is_shown_on_one_short_line() -> None:
    assert str(Job("double", "a\n\x1b[0m", "inbox")) == r"double('a\n\x1b[0m')"
    assert len(str(Job("double", "x" * 1_000_000, "inbox"))) < 250


def test_a_long_error_is_cut() -> None:
    message = Result("id", 1, error="x" * 2_000_000).encode()
    assert len(message) < 3_000


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b'{"id": 1}',
        b'{"id": "x", "task": "t", "argument": 1, "inbox": "i", "attempt": "1"}',
        b"[" * 100_000,
    ],
    ids=["empty", "binary", "null", "list", "dict", "id", "attempt", "deep"],
)
def test_what_is_not_a_message_is_refused_in_one_line(message: bytes) -> None:
    for kind in (Job, Result):
        with pytest.raises(MessageError) as caught:
            kind.decode(message)
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 200
