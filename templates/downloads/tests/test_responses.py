"""Responses: which version of a file they contain, and whether it can be resumed."""

from typing import Any
from unittest.mock import create_autospec

import aiohttp
import pytest
from multidict import CIMultiDict

from downloads.responses import (
    IncompleteError,
    check_range,
    is_unchanged,
)
from downloads.versions import Part, Version, hash_of_url

URL = "http://h/a"
VERSION = Version(url_sha256=hash_of_url(URL), size=10, etag='"1"', last_modified="Mon")


def response(status: int = 200, **headers: Any) -> Any:
    """Return a response with these headers."""
    response = create_autospec(aiohttp.ClientResponse, instance=True)
    response.status = status
    response.headers = CIMultiDict(
        {name.replace("_", "-"): value for name, value in headers.items()}
    )
    length = response.headers.get("Content-Length")
    response.content_length = None if length is None else int(length)
    return response


# --- Versions


def test_a_version_contains_what_the_server_says() -> None:
    answer = response(Content_Length="10", ETag='"1"', Last_Modified="Mon")
    assert Version.of(answer, URL) == VERSION
    assert Version.of(response(), URL) == Version(url_sha256=hash_of_url(URL))


def test_a_version_can_be_written_down() -> None:
    assert Version.from_json(VERSION.to_json()) == VERSION


@pytest.mark.parametrize(
    "changes",
    [
        {"Content_Length": "11"},
        {"ETag": '"2"'},
        {"Last_Modified": "Tue"},
        {"ETag": 'W/"1"'},
    ],
)
def test_a_version_differs_if_a_header_does(changes: dict[str, Any]) -> None:
    headers: dict[str, Any] = {
        "Content_Length": "10",
        "ETag": '"1"',
        "Last_Modified": "Mon",
    }
    assert is_unchanged(response(**headers), VERSION, URL)
    assert not is_unchanged(response(**{**headers, **changes}), VERSION, URL)
    assert not is_unchanged(response(**headers), VERSION, "http://h/b")


def test_without_any_header_no_version_is_known() -> None:
    assert not is_unchanged(response(), Version(url_sha256=hash_of_url(URL)), URL)


def test_a_response_may_say_that_nothing_has_changed() -> None:
    assert is_unchanged(response(304), VERSION, URL)
    # Without an ETag the request was not conditional.
    no_etag = Version(url_sha256=hash_of_url(URL), size=10)
    assert not is_unchanged(response(304), no_etag, URL)


@pytest.mark.parametrize("status", [206, 404, 503])
def test_only_a_whole_file_can_be_unchanged(status: int) -> None:
    answer = response(status, Content_Length="10", ETag='"1"', Last_Modified="Mon")
    assert not is_unchanged(answer, VERSION, URL)


# --- Parts


@pytest.mark.parametrize(
    ("etag", "last_modified", "validator"),
    [
        ('"1"', None, '"1"'),
        ('"1"', "Mon", '"1"'),
        (None, "Mon", "Mon"),
        ('W/"1"', None, None),
        ('W/"1"', "Mon", None),
        (None, None, None),
    ],
)
def test_resuming_needs_a_strong_validator(
    etag: str | None, last_modified: str | None, validator: str | None
) -> None:
    version = Version(
        url_sha256=hash_of_url(URL), etag=etag, last_modified=last_modified
    )
    assert version.validator == validator
    assert Part(version, 4).can_resume(URL) is (validator is not None)


@pytest.mark.parametrize(
    ("size", "url", "expected"),
    [
        (4, URL, True),
        (9, URL, True),
        (0, URL, False),
        (10, URL, False),
        (11, URL, False),
        (4, "http://h/b", False),
    ],
)
def test_only_an_incomplete_part_of_the_same_url_is_resumed(
    size: int, url: str, expected: bool
) -> None:
    assert Part(VERSION, size).can_resume(url) is expected


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (416, {}),
        (206, {}),
        (206, {"Content_Range": "bytes 3-9/10"}),
        (206, {"Content_Range": "bytes 4-10/11"}),
        (206, {"Content_Range": "bytes */10"}),
        (206, {"Content_Range": "bytes 4-9/10", "ETag": '"2"'}),
        (206, {"Content_Range": "bytes 4-9/10", "Last_Modified": "Tue"}),
    ],
)
def test_another_range_is_refused(status: int, headers: dict[str, str]) -> None:
    with pytest.raises(IncompleteError):
        check_range(response(status, **headers), Part(VERSION, 4))


@pytest.mark.parametrize("etag", [{}, {"ETag": '"1"'}])
def test_the_rest_of_the_file_is_accepted(etag: dict[str, str]) -> None:
    answer = response(206, Content_Range="bytes 4-9/10", **etag)
    check_range(answer, Part(VERSION, 4))
