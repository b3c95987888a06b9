"""URL lists, and URLs as they are sent."""

import pytest

from downloads.url_list import (
    Source,
    encode_url,
    parse_url_list,
    without_duplicates,
)

SHA256 = "0123456789abcdef" * 4


def test_a_list_has_one_url_per_line() -> None:
    text = "http://h/a\n  http://h/with space.txt\t\n\nhttp://h/b\r\n"
    urls = [source.url for source in parse_url_list(text)]
    assert urls == ["http://h/a", "http://h/with space.txt", "http://h/b"]


def test_comments_are_ignored() -> None:
    text = "# http://h/a\n   # more\nhttp://h/b#part\n"
    assert parse_url_list(text) == [Source("http://h/b#part")]


@pytest.mark.parametrize("text", ["", "\n \n", "# nothing\n"])
def test_a_list_may_be_empty(text: str) -> None:
    assert parse_url_list(text) == []


def test_a_url_may_contain_an_unusual_line_separator() -> None:
    assert parse_url_list("http://h/a\u2028b") == [Source("http://h/a\u2028b")]


def test_a_url_may_be_followed_by_a_checksum() -> None:
    text = f"http://h/with space  sha256={SHA256.upper()}\nhttp://h/b"
    assert parse_url_list(text) == [
        Source("http://h/with space", SHA256),
        Source("http://h/b"),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("http://h/a sha256=123", "64 hexadecimal digits"),
        (f"http://h/a sha256={SHA256}0", "64 hexadecimal digits"),
        (f"sha256={SHA256}", "without a URL"),
    ],
)
def test_a_wrong_checksum_is_an_error_with_its_line(line: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"line 2: .*{problem}"):
        parse_url_list(f"http://h/b\n{line}\n")


def test_each_url_is_kept_once() -> None:
    a, b = Source("http://h/a"), Source("http://h/b")
    assert without_duplicates([b, a, b]) == [b, a]


def test_of_two_equal_urls_the_checksum_is_kept() -> None:
    plain, checked = Source("http://h/a"), Source("http://h/a", SHA256)
    assert without_duplicates([plain, checked]) == [checked]
    assert without_duplicates([checked, plain, checked]) == [checked]


def test_two_checksums_for_a_url_are_an_error() -> None:
    sources = [Source("http://h/a", SHA256), Source("http://h/a", SHA256[::-1])]
    with pytest.raises(ValueError, match="two checksums for http://h/a"):
        without_duplicates(sources)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://h", "http://h"),
        # A signed URL is compared byte by byte.
        ("http://h/a?X-Sig=a%2Bb%2Fc%3D%3D&t=%7Ex&l=a%2Cb", None),
        ("http://h/a?x=1+2&y=3%204&z=%c3%A9", None),
        ("http://h/%41/b%2Fc?q", None),
        ("http://h/a?b=[1]&c='d'&e=f:g@h/i?j;k", None),
        ("http://h/with space.txt?x=a b", "http://h/with%20space.txt?x=a%20b"),
        ("http://h/é?ü#part", "http://h/%C3%A9?%C3%BC"),
        ("http://müller.de:81/", "http://xn--mller-kva.de:81/"),
        ("http://ada:p%40ss@h/a", None),
    ],
)
def test_a_url_is_sent_as_it_is_given(url: str, sent: str | None) -> None:
    assert str(encode_url(url)) == (sent or url)
