"""The names of files: safe, and each only once."""

import os

import pytest

from downloads.file_names import FileNames, file_name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a.png", "a.png"),
        ("x/y/a.png?size=big#top", "a.png"),
        ("caf%C3%A9%20%231.png", "café #1.png"),
        ("with space.txt", "with space.txt"),
        ("100%25.png", "100%.png"),
        ("...", "..."),
    ],
)
def test_a_file_has_the_last_part_of_its_path_as_name(path: str, name: str) -> None:
    assert file_name(f"https://example.org/{path}") == name
    assert file_name(f"HTTP://example.org/{path}") == name


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "http://h/",
        "http://h/a/",
        "http://h/?a.png",
        "http://h/.",
        "http://h/x/..",
        "http://h/..%2fa",
        "http://h/%2e%2e",
        "http://h/..%5ca",
        "http://h/%2fetc%2fpasswd",
        "http://h/a%00b",
        "http://h/a%0Ab",
        "http://h/%1b[31m",
        "http://h/.downloads",
    ],
)
def test_a_name_that_is_not_safe_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not a safe file name"):
        file_name(url)


@pytest.mark.parametrize("url", ["ftp://h/a", "a.png", "http:///a", "file:///a", ""])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"not an http\(s\) URL"):
        file_name(url)


def test_windows_refuses_more_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert file_name("http://h/a:b") == "a:b"
    monkeypatch.setattr(os, "name", "nt")
    with pytest.raises(ValueError, match="not a safe file name"):
        file_name("http://h/a:b")


def test_of_two_urls_with_the_same_name_the_second_is_refused() -> None:
    names = FileNames()
    assert names.claim("http://h/x/a") == "a"
    assert names.claim("http://h/b") == "b"
    with pytest.raises(ValueError, match="http://h/x/a has the same file name"):
        names.claim("http://h/y/a")


def test_a_url_keeps_its_name() -> None:
    names = FileNames()
    assert names.claim("http://h/a") == names.claim("http://h/a")
