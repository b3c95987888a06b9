"""Database URLs: what providers print, what is refused, and how."""

import logging
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from shared.database_urls import (
    no_name,
    parse_database_url,
)

POOLED = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": no_name,
}


def parse(text: str) -> tuple[str, dict[str, object]]:
    """Return the URL as text, with its password, and the `connect_args`."""
    url, connect_args = parse_database_url(text)
    return url.render_as_string(hide_password=False), connect_args


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sqlite:///data.db", "sqlite+aiosqlite:///data.db"),
        ("sqlite+aiosqlite:///data.db", "sqlite+aiosqlite:///data.db"),
        ("sqlite:////var/lib/data.db", "sqlite+aiosqlite:////var/lib/data.db"),
        ("postgres://ada:pw@db/x", "postgresql+asyncpg://ada:pw@db/x"),
        ("postgresql://ada:pw@db/x", "postgresql+asyncpg://ada:pw@db/x"),
        ("postgresql+asyncpg://ada:pw@db/x", "postgresql+asyncpg://ada:pw@db/x"),
        ("postgresql://[::1]:5433/x", "postgresql+asyncpg://[::1]:5433/x"),
        ("postgresql://ada:p%40w@db/x\n", "postgresql+asyncpg://ada:p%40w@db/x"),
        ("postgresql:///x?host=/tmp", "postgresql+asyncpg:///x?host=%2Ftmp"),
        (
            "postgresql://db?user=ada&password=pw&dbname=x",
            "postgresql+asyncpg://ada:pw@db/x",
        ),
    ],
)
def test_a_url_gets_an_asynchronous_driver(text: str, expected: str) -> None:
    assert parse(text) == (expected, {})


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("sslmode=disable", {"dsn": "postgresql://?sslmode=disable"}),
        ("sslmode=prefer", {"dsn": "postgresql://?sslmode=prefer"}),
        ("sslmode=require", {"dsn": "postgresql://?sslmode=require"}),
        ("ssl=require", {"dsn": "postgresql://?sslmode=require"}),
        (
            "sslmode=verify-full&sslrootcert=system",
            {"dsn": "postgresql://?sslmode=verify-full", "ssl": True},
        ),
        (
            "sslmode=disable&sslmode=require",
            {"dsn": "postgresql://?sslmode=require"},
        ),
        ("channel_binding=prefer", {}),
        ("keepalives_idle=30", {}),
        ("application_name=app", {"dsn": "postgresql://?application_name=app"}),
        ("application_name=", {}),
        (
            "options=-c%20search_path%3Dledger",
            {"dsn": "postgresql://?options=-c+search_path%3Dledger"},
        ),
        (
            "target_session_attrs=read-write",
            {"dsn": "postgresql://?target_session_attrs=read-write"},
        ),
        ("connect_timeout=10", {"timeout": 10.0}),
        ("connect_timeout=0", {}),
        ("command_timeout=2.5", {"command_timeout": 2.5}),
        ("statement_cache_size=50", {"statement_cache_size": 50}),
        ("statement_cache_size=0", POOLED),
        ("prepared_statement_cache_size=0", POOLED),
        ("pgbouncer=true", POOLED),
        ("pgbouncer=false", {}),
    ],
)
def test_options_of_postgresql_become_arguments_of_the_driver(
    option: str, expected: dict[str, object]
) -> None:
    url, connect_args = parse(f"postgresql://ada:pw@db/x?{option}")
    assert url == "postgresql+asyncpg://ada:pw@db/x"
    assert connect_args == expected


def test_all_options_of_a_url_are_used_together() -> None:
    _, connect_args = parse(
        "postgres://ada:pw@db/x?sslmode=require&connect_timeout=5&pgbouncer=1"
    )
    assert connect_args == {
        "timeout": 5.0,
        "dsn": "postgresql://?sslmode=require",
        **POOLED,
    }


def test_certificate_files_must_exist(tmp_path: Path) -> None:
    file = tmp_path / "my ca.pem"
    text = f"postgresql://db/x?{urlencode({'sslrootcert': file})}"
    with pytest.raises(ValueError, match=r"sslrootcert: there is no file .*my ca\.pem"):
        parse_database_url(text)
    file.touch()
    _, connect_args = parse_database_url(text)
    dsn = str(connect_args["dsn"])
    assert parse_qs(urlsplit(dsn).query) == {"sslrootcert": [str(file)]}


def test_several_hosts_may_be_named() -> None:
    url, _ = parse_database_url("postgresql://ada:pw@one:5433,two/x?sslmode=require")
    assert url.query == {"host": ("one:5433", "two:5432")}
    assert (url.username, url.password, url.database) == ("ada", "pw", "x")


def test_required_channel_binding_is_ignored_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, connect_args = parse("postgresql://db/x?channel_binding=require")
    assert connect_args == {}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "sslmode=verify-full" in caplog.text


def test_a_sqlite_url_may_set_the_time_limit_for_locks() -> None:
    url, connect_args = parse("sqlite:///data.db?timeout=1.5")
    assert url == "sqlite+aiosqlite:///data.db"
    assert connect_args == {"timeout": 1.5}


def test_a_sqlite_url_may_hold_options_for_sqlite_itself() -> None:
    url, connect_args = parse("sqlite:///file:data.db?mode=ro&uri=true")
    assert url == "sqlite+aiosqlite:///file%3Adata.db?mode=ro&uri=true"
    assert connect_args == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a database URL"),
        ("nonsense", "sqlite:///data.db"),
        ("mysql://ada:secret@db/x", "mysql databases are not supported"),
        ("postgresql+psycopg2://ada:secret@db/x", "use asyncpg"),
        ("sqlite+pysqlite:///data.db", "use aiosqlite"),
        ("sqlite://data.db", "three slashes"),
        ("sqlite:///data.db?mode=ro", "uri=true"),
        ("sqlite:///data.db?sslmode=require", "unknown in a database URL: sslmode"),
        ("postgresql://ada:secret@db:port/x", "port is not a number"),
        ("postgresql://ada:secret@db/x?port=port", "port is not a number"),
        ("postgresql://ada:top@secret@db/x", "%40"),
        ("postgresql://ada:secret@one,two:port/x", "port is not a number"),
        (
            "postgresql://ada:secret@db/x?b=secret&a=secret",
            "unknown in a database URL: a, b",
        ),
        ("postgresql://db/x?a%0Ab=1", "unknown in a database URL: a b"),
        ("postgresql://db/x?sslmode=yes", "sslmode must be one of: disable"),
        ("postgresql://db/x?target_session_attrs=x", "target_session_attrs must be"),
        ("postgresql://db/x?statement_cache_size=x", "a whole number, not 'x'"),
        ("postgresql://db/x?connect_timeout=soon", "seconds, not 'soon'"),
        ("postgresql://db/x?connect_timeout=inf", "seconds, not 'inf'"),
        ("postgresql://db/x?command_timeout=-1", "seconds, not '-1'"),
        ("postgresql://db/x?pgbouncer=maybe", "true or false, not 'maybe'"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        parse_database_url(text)
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite+aiosqlite://",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///file:data?mode=memory&uri=true",
    ],
)
def test_a_database_in_memory_is_refused_because_it_can_get_lost(text: str) -> None:
    with pytest.raises(ValueError, match="a database in memory is lost"):
        parse_database_url(text)
