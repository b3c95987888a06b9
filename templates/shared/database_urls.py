"""Parse database URLs in the form in which hosting providers and tools print them.

SQLAlchemy passes each option of a URL to the driver as it is: as text, and under the
same name. The option names in a provider's URL are those of libpq, PostgreSQL's own
client library. The driver asyncpg has other names for some of them, and it wants
numbers as numbers. This module translates.
"""

import logging
import re
from pathlib import Path
from urllib.parse import urlencode

import sqlalchemy as sa

from .text import printable

log = logging.getLogger(__name__)

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SESSION_ATTRIBUTES = (
    "any",
    "primary",
    "standby",
    "prefer-standby",
    "read-write",
    "read-only",
)

# asyncpg reads these only from its own URL, the argument `dsn`.
DSN_OPTIONS = {
    "application_name",
    "gsslib",
    "krbsrvname",
    "options",
    "passfile",
    "service",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "target_session_attrs",
}

FILE_OPTIONS = ("sslcert", "sslcrl", "sslkey", "sslrootcert")

# These are arguments of asyncpg, and of SQLAlchemy's adapter for it.
INTEGER_OPTIONS = {
    "max_cacheable_statement_size",
    "max_cached_statement_lifetime",
    "prepared_statement_cache_size",
    "statement_cache_size",
}

# asyncpg has nothing like these, and a connection works without them.
IGNORED_OPTIONS = {
    "channel_binding",
    "client_encoding",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "sslcompression",
    "sslsni",
    "tcp_user_timeout",
}

# SQLite's own options. It reads them if the URL says uri=true.
SQLITE_URI_OPTIONS = {"cache", "immutable", "mode", "nolock", "vfs"}

# `first:5432,second:5432`, the hosts of a PostgreSQL that has standby servers.
SEVERAL_HOSTS = re.compile(
    r"(?P<start>[^:/?]+://(?:[^@/?]*@)?)(?P<hosts>[^@/?]*,[^@/?]*)(?P<rest>.*)",
    re.DOTALL,
)

BAD_PORT = "not a database URL: its port is not a number"

Options = dict[str, str]


def parse_database_url(text: str) -> tuple[sa.URL, dict[str, object]]:
    """Return the URL for `create_async_engine`, and its `connect_args`.

    The database is a SQLite file or a PostgreSQL database; the drivers are aiosqlite
    and asyncpg, whether the URL names them or not. Raises ValueError if the URL is not
    usable or has an unknown option. Its message is one line and contains no password.

    It looks whether certificate files exist, so async code calls it in a thread.

    A time limit in the URL (`connect_timeout` for PostgreSQL, `timeout` for SQLite) is
    returned as `connect_args["timeout"]`, in seconds. A caller with a default limit
    writes `{"timeout": limit} | connect_args`.

    A database behind pgbouncer in transaction mode needs one of these options:
    `pgbouncer=true`, `statement_cache_size=0`, `prepared_statement_cache_size=0`. They
    have the same effect: no statement is prepared for later use.
    """
    url = parse_hosts(text.strip())
    backend, _, driver = url.drivername.partition("+")
    if backend == "sqlite":
        return parse_sqlite(url, driver)
    if backend in ("postgresql", "postgres"):
        return parse_postgresql(url, driver)
    raise ValueError(
        f"{printable(backend)} databases are not supported, only sqlite and postgresql"
    )


def parse_hosts(text: str) -> sa.URL:
    """Return the URL. Several hosts move to its query, where SQLAlchemy wants them."""
    match = SEVERAL_HOSTS.fullmatch(text)
    if match is None:
        return parse_syntax(text)
    url = parse_syntax(match["start"] + match["rest"])
    hosts = []
    for host in match["hosts"].split(","):
        name, _, port = host.partition(":")
        check_port(port or "5432")
        hosts.append(f"{name}:{port or 5432}")
    return url.update_query_dict({"host": hosts})


def parse_syntax(text: str) -> sa.URL:
    """Return the parts of a URL. Raises ValueError if it has another syntax."""
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError:
        raise ValueError(
            "not a database URL; examples: sqlite:///data.db, "
            "postgresql://user:password@host/database"
        ) from None
    except ValueError:
        raise ValueError(BAD_PORT) from None
    if url.host and "@" in url.host:
        raise ValueError("not a database URL: write an @ in the password as %40")
    return url


def last_values(url: sa.URL) -> Options:
    """Return the options of a URL; of an option that occurs twice, the last one."""
    options = {}
    for name, value in url.query.items():
        if isinstance(value, tuple):
            value = value[-1]
        options[name] = value
    return options


# --- SQLite


def parse_sqlite(url: sa.URL, driver: str) -> tuple[sa.URL, dict[str, object]]:
    """Return the URL of a SQLite file and its `connect_args`."""
    if driver not in ("", "aiosqlite"):
        raise ValueError(f"{printable(driver)} is not asynchronous: use aiosqlite")
    if url.host or url.username:
        raise ValueError("a SQLite URL has three slashes before the path of its file")
    options = last_values(url)
    refuse_unknown(options, {"timeout", "uri", *SQLITE_URI_OPTIONS})
    if is_in_memory(url.database or "", options):
        raise ValueError(
            "a database in memory is lost when a connection closes: "
            "name a file, as in sqlite:///data.db"
        )

    connect_args: dict[str, object] = {}
    if "timeout" in options:
        connect_args["timeout"] = parse_seconds("timeout", options.pop("timeout"))
    has_uri_options = not SQLITE_URI_OPTIONS.isdisjoint(options)
    if has_uri_options and not is_true("uri", options.get("uri", "false")):
        raise ValueError("options for SQLite itself need uri=true and a file: path")
    return url.set(drivername="sqlite+aiosqlite", query=options), connect_args


def is_in_memory(file: str, options: Options) -> bool:
    """Return whether this is a database without a file."""
    if file in ("", ":memory:") or file.startswith("file::memory:"):
        return True
    return options.get("mode") == "memory"


# --- PostgreSQL


def parse_postgresql(url: sa.URL, driver: str) -> tuple[sa.URL, dict[str, object]]:
    """Return the URL of a PostgreSQL database and its `connect_args`.

    The hosts stay in the URL. All other options become `connect_args`.
    """
    if driver not in ("", "asyncpg"):
        raise ValueError(f"{printable(driver)} is not supported here: use asyncpg")
    options = last_values(url)
    url = url.set(drivername="postgresql+asyncpg", query=hosts_only(url))
    url = move_credentials(url, options)
    if "ssl" in options:
        # SQLAlchemy's documentation calls it so.
        options.setdefault("sslmode", options.pop("ssl"))
    check_choice(options, "sslmode", SSL_MODES)
    check_choice(options, "target_session_attrs", SESSION_ATTRIBUTES)
    check_files(options)
    if options.get("channel_binding") == "require":
        log.warning(
            "asyncpg ignores channel_binding=require; sslmode=verify-full protects "
            "the connection too"
        )

    connect_args = parse_arguments(options)
    for name in IGNORED_OPTIONS:
        options.pop(name, None)
    refuse_unknown(options, DSN_OPTIONS)
    if options.get("sslrootcert") == "system":
        # The certificates of the operating system, with their host names checked.
        del options["sslrootcert"]
        connect_args["ssl"] = True
    dsn_options = {name: value for name, value in options.items() if value}
    if dsn_options:
        connect_args["dsn"] = f"postgresql://?{urlencode(dsn_options)}"
    return url, connect_args


def hosts_only(url: sa.URL) -> dict[str, str | tuple[str, ...]]:
    """Return the options that SQLAlchemy itself reads: `host` and `port`."""
    hosts = {}
    for name, value in url.query.items():
        if name in ("host", "port"):
            hosts[name] = value
    ports = hosts.get("port", ())
    if isinstance(ports, str):
        ports = tuple(ports.split(","))
    for port in ports:
        check_port(port)
    return hosts


def move_credentials(url: sa.URL, options: Options) -> sa.URL:
    """Take user, password and database out of the options, if they are there."""
    options.pop("host", None)
    options.pop("port", None)
    if "user" in options:
        url = url.set(username=options.pop("user"))
    if "password" in options:
        url = url.set(password=options.pop("password"))
    if "dbname" in options:
        url = url.set(database=options.pop("dbname"))
    return url


def parse_arguments(options: Options) -> dict[str, object]:
    """Take the options out that are arguments of asyncpg, and return these."""
    arguments: dict[str, object] = {}
    if "command_timeout" in options:
        text = options.pop("command_timeout")
        arguments["command_timeout"] = parse_seconds("command_timeout", text)
    if "connect_timeout" in options:
        seconds = parse_seconds("connect_timeout", options.pop("connect_timeout"))
        # For libpq, 0 means no limit. Then the limit of the caller applies.
        if seconds > 0:
            arguments["timeout"] = seconds
    for name in INTEGER_OPTIONS:
        if name in options:
            arguments[name] = parse_integer(name, options.pop(name))

    uses_pgbouncer = is_true("pgbouncer", options.pop("pgbouncer", "false"))
    cache_sizes = (
        arguments.get("statement_cache_size"),
        arguments.get("prepared_statement_cache_size"),
    )
    if uses_pgbouncer or 0 in cache_sizes:
        # In pgbouncer's transaction mode the next transaction may have another server
        # connection, which does not know the statements that were prepared on this one.
        arguments["statement_cache_size"] = 0
        arguments["prepared_statement_cache_size"] = 0
        arguments["prepared_statement_name_func"] = no_name
    return arguments


def no_name() -> str:
    """Return the name of a prepared statement that PostgreSQL forgets after use."""
    return ""


# --- Values


def refuse_unknown(options: Options, known: set[str]) -> None:
    """Raise ValueError if there are options that are not known. It names them all."""
    unknown = [printable(name) for name in sorted(options) if name not in known]
    if unknown:
        raise ValueError(f"unknown in a database URL: {', '.join(unknown)}")


def check_port(text: str) -> None:
    """Raise ValueError if this is not the number of a port."""
    if not text.isdecimal():
        raise ValueError(BAD_PORT)


def check_choice(options: Options, name: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError if an option has a value that is none of the choices."""
    if name in options and options[name] not in choices:
        raise ValueError(f"{name} must be one of: {', '.join(choices)}")


def check_files(options: Options) -> None:
    """Raise ValueError if a file for TLS does not exist. asyncpg would not name it."""
    for name in FILE_OPTIONS:
        path = options.get(name, "")
        if path and path != "system" and not Path(path).is_file():
            raise ValueError(f"{name}: there is no file {printable(path)}")


def parse_integer(name: str, text: str) -> int:
    """Return the value of an option that is a whole number, 0 or more."""
    if not text.isdecimal():
        raise ValueError(f"{name} must be a whole number, not {printable(text)!r}")
    return int(text)


def parse_seconds(name: str, text: str) -> float:
    """Return the value of an option that is a number of seconds, 0 or more."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{name} must be a number of seconds, not {printable(text)!r}")
    return seconds


def is_true(name: str, text: str) -> bool:
    """Return the value of an option that is true or false."""
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise ValueError(f"{name} must be true or false, not {printable(text)!r}")
