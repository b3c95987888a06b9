"""Responses: which version of a file they contain, and what is in their bodies."""

import gzip
import os
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any
from unittest.mock import create_autospec

import aiohttp
import pytest
from multidict import CIMultiDict

from downloads import responses
from downloads.responses import (
    DecompressedBody,
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


def test_a_version_can_be_stored_as_json() -> None:
    assert Version.from_json(VERSION.to_json()) == VERSION


@pytest.mark.parametrize(
    "changes",
    [
        {"Content_Length": "11"},
        {"ETag": '"2"'},
        {"Last_Modified": "Tue"},
        {"ETag": 'W/"1"'},
        {"Content_Encoding": "gzip"},
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


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_a_body_may_have_no_encoding(encoding: str) -> None:
    assert Version.of(response(Content_Encoding=encoding), URL).encoding is None


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


def test_a_decompressed_file_is_not_resumed() -> None:
    """The server counts compressed bytes."""
    version = replace(VERSION, encoding="gzip", decompressed=True)
    assert not Part(version, 4).can_resume(URL)


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
        (206, {"Content_Range": "bytes 4-9/10", "Content_Encoding": "gzip"}),
    ],
)
def test_another_range_is_refused(status: int, headers: dict[str, str]) -> None:
    with pytest.raises(IncompleteError):
        check_range(response(status, **headers), Part(VERSION, 4))


@pytest.mark.parametrize("etag", [{}, {"ETag": '"1"'}])
def test_the_rest_of_the_file_is_accepted(etag: dict[str, str]) -> None:
    answer = response(206, Content_Range="bytes 4-9/10", **etag)
    check_range(answer, Part(VERSION, 4))


# --- Decompressing


class Sent:
    """A body that arrives in chunks of `size` bytes."""

    def __init__(self, data: bytes, size: int = 2**16) -> None:
        self.chunks = [data[at : at + size] for at in range(0, len(data), size)]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self.chunks:
            raise StopAsyncIteration
        return self.chunks.pop(0)

    def close(self) -> None:
        pass


def raw_deflate(data: bytes) -> bytes:
    """Return compressed data without a header, as some servers send it."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


Compress = Callable[[bytes], bytes]

COMPRESSORS: list[tuple[str, Compress]] = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
]


@pytest.mark.parametrize("sent", [1, 1000])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize(
    "data", [b"", b"abcdefghijabcd", b"x" * 500, os.urandom(501)], ids=len
)
@pytest.mark.parametrize(("encoding", "compress"), COMPRESSORS)
@pytest.mark.asyncio
async def test_a_body_is_decompressed_in_limited_chunks(
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
    compress: Compress,
    data: bytes,
    chunk: int,
    sent: int,
) -> None:
    monkeypatch.setattr(responses, "CHUNK", chunk)
    body = DecompressedBody(Sent(compress(data), sent), encoding)
    chunks = [part async for part in body]
    assert b"".join(chunks) == data
    assert all(len(part) <= chunk for part in chunks)


@pytest.mark.parametrize(("encoding", "compress"), COMPRESSORS)
@pytest.mark.asyncio
async def test_compressed_data_without_its_end_is_incomplete(
    encoding: str, compress: Compress
) -> None:
    data = compress(b"text")
    for length in range(1, len(data)):
        body = DecompressedBody(Sent(data[:length]), encoding)
        with pytest.raises(IncompleteError, match="cut off"):
            [part async for part in body]


@pytest.mark.parametrize("sent", [1, 1000])
@pytest.mark.asyncio
async def test_compressed_data_may_be_concatenated(sent: int) -> None:
    data = gzip.compress(b"te") + gzip.compress(b"") + gzip.compress(b"xt")
    body = DecompressedBody(Sent(data, sent), "gzip")
    assert b"".join([part async for part in body]) == b"text"


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", b"text"),
        ("gzip", zlib.compress(b"text")),
        ("gzip", gzip.compress(b"text") + b"more"),
        ("gzip", gzip.compress(b"text")[:-8] + bytes(8)),  # another checksum
        ("deflate", b"\xff\xff"),
    ],
    ids=["text", "another format", "more data", "checksum", "deflate"],
)
@pytest.mark.asyncio
async def test_data_that_is_not_valid_is_an_error(encoding: str, data: bytes) -> None:
    body = DecompressedBody(Sent(data), encoding)
    with pytest.raises(ValueError, match=f"not valid {encoding}"):
        [part async for part in body]


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "none"])
def test_another_encoding_is_an_error(encoding: str) -> None:
    with pytest.raises(ValueError, match=f"cannot decompress the encoding {encoding}"):
        DecompressedBody(Sent(b""), encoding)
