"""Rows of files: records, line ends, headers, values, encodings and compression."""

import asyncio
import gzip
import json
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from subprocess import PIPE

import pytest

from etl import files
from etl.app import main
from etl.files import FileSource, Lines
from etl.pipeline import Batch
from etl.sales import Sale

Capture = pytest.CaptureFixture[str]
Make = Callable[[str, str | bytes], str]
Load = Callable[..., Awaitable[int]]
Sold = Callable[[], Awaitable[list[tuple[object, ...]]]]
Refused = Callable[[], list[tuple[int, str, object]]]

HEADER = "id,item,day,cents\n"
TEA = "1,tea,2026-05-31,5\n"
MILK = '{"id": 666, "item": "milk", "day": "2026-01-01", "cents": 90}'


@pytest.fixture
def load(sqlite_url: str, rejects: Path) -> Load:
    """The program with small batches, on SQLite."""
    return partial(main, database_url=sqlite_url, rejects=rejects, batch=3)


@pytest.fixture
def sold(sqlite_url: str, execute: Callable[..., Awaitable[list[object]]]) -> Sold:
    """Returns the table of sales."""
    return partial(
        execute, sqlite_url, "SELECT id, item, day, cents FROM sales ORDER BY id"
    )  # type: ignore[return-value]


@pytest.fixture
def refused(rejects: Path) -> Refused:
    """Returns line, reason and row of each reject."""

    def refused() -> list[tuple[int, str, object]]:
        lines = [json.loads(line) for line in rejects.read_text().splitlines()]
        return [(line["line"], line["reason"], line["row"]) for line in lines]

    return refused


# --- Records


@pytest.mark.asyncio
async def test_a_long_line_of_ndjson_is_one_record(
    make: Make, load: Load, sold: Sold, refused: Refused
) -> None:
    # The second object begins after the first mebibyte of the line.
    start = '{"id": 1, "item": "tea", "day": "2026-05-31", "cents": 5, "note": "'
    padding = "x" * (2**20 - len(start) - 2)
    two_objects = f'{start}{padding}"}}{MILK}'
    one_object = f'{start}{padding * 3}"}}'
    assert await load(make("sales.ndjson", f"{two_objects}\n{one_object}\n")) == 0
    assert await sold() == [(1, "TEA", "2026-05-31", 5)]
    [(line, reason, row)] = refused()
    assert (line, row) == (1, two_objects + "\n")
    assert "not JSON: trailing characters" in reason


@pytest.mark.parametrize("name", ["sales.csv", "sales.ndjson"])
@pytest.mark.asyncio
async def test_a_record_beyond_the_limit_is_one_reject(
    make: Make,
    load: Load,
    sold: Sold,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setattr(files, "MAX_RECORD_LENGTH", 200)
    if name == "sales.csv":
        # The quoted field contains lines that look like rows.
        long = '3,"' + "x" * 500 + "\n" + TEA * 100 + '""\n",2026-05-31,5\n'
        content = f"{HEADER}{long}{TEA}"
    else:
        content = "x" * 1000 + f"{MILK}\n" + MILK
    assert await load(make(name, content)) == 0
    assert len(await sold()) == 1
    [(line, reason, row)] = refused()
    assert line == content[: content.index("x")].count("\n") + 1
    assert reason.startswith("longer than ")
    assert len(str(row)) <= files.MAX_EXCERPT_LENGTH


@pytest.mark.parametrize("batch", [1, 2, 3, 5000])
@pytest.mark.asyncio
async def test_a_quoted_line_end_belongs_to_its_field(
    make: Make, load: Load, sold: Sold, refused: Refused, batch: int
) -> None:
    injected = '1,"tea\n2,milk,2026-01-01,90\n",2026-01-01,5\n'
    last = '4,"oat\r\nmilk",2026-05-31,7'
    content = f"{HEADER}{injected}3,rice,2026-05-31,6\n{last}"
    assert await load(make("sales.csv", content), batch=batch) == 0
    assert await sold() == [
        (1, "TEA\n2,MILK,2026-01-01,90", "2026-01-01", 5),
        (3, "RICE", "2026-05-31", 6),
        (4, "OAT\r\nMILK", "2026-05-31", 7),
    ]
    assert refused() == []


@pytest.mark.asyncio
async def test_lines_are_counted_as_an_editor_counts_them(
    make: Make, load: Load, refused: Refused
) -> None:
    content = f'\n{HEADER}1,"a\nb",2026-05-31,5\n\nbad\n{TEA}worse\n'
    assert await load(make("sales.csv", content), max_rejects=1) == 0
    assert [(line, row) for line, _, row in refused()] == [(6, "bad\n"), (8, "worse\n")]


@pytest.mark.parametrize(
    "content",
    [
        HEADER + TEA,
        HEADER + TEA.rstrip(),
        (HEADER + TEA).replace("\n", "\r\n"),
        (HEADER + TEA).replace("\n", "\r"),
        f"\n  \n{HEADER}\n{TEA}\n\n",
        f"\r\n\r\n{HEADER}{TEA}",
        f"\r\r{HEADER}{TEA}".replace("\n", "\r"),
        f"\ufeff{HEADER}{TEA}",
        'day,cents,"id",item,note\n2026-05-31,5,1,"tea",',
    ],
)
@pytest.mark.asyncio
async def test_line_ends_of_any_system_and_blank_lines_are_read(
    make: Make, load: Load, sold: Sold, refused: Refused, content: str
) -> None:
    assert await load(make("sales.csv", content)) == 0
    assert await sold() == [(1, "TEA", "2026-05-31", 5)]
    assert refused() == []


@pytest.mark.asyncio
async def test_a_stray_carriage_return_does_not_end_a_row(
    make: Make, load: Load, sold: Sold, refused: Refused
) -> None:
    content = f"{HEADER}1,tea\r2,milk,2026-01-01,90\n3,rice,2026-05-31,5\n"
    assert await load(make("sales.csv", content)) == 0
    assert [row[0] for row in await sold()] == [3]
    assert [line for line, _, _ in refused()] == [2]


@pytest.mark.asyncio
async def test_a_quote_that_is_never_closed_stops_the_load(
    make: Make, load: Load, sold: Sold, capsys: Capture
) -> None:
    content = f'{HEADER}{TEA}\n2,"milk,2026-05-31,5\n{TEA}{TEA}{TEA}{TEA}{TEA}'
    source = make("sales.csv", content)
    assert await load(source) == 1
    assert capsys.readouterr().err == (
        f"{source}: line 4: a quote is opened and never closed\n"
    )
    make("sales.csv", content.replace('"', ""))
    assert await load(source) == 0
    assert len(await sold()) == 2


@pytest.mark.asyncio
async def test_a_quote_that_is_never_closed_stops_the_load_of_a_file_of_any_length(
    make: Make, load: Load, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_RECORD_LENGTH", 200)
    content = f'{HEADER}{TEA}2,"milk,2026-05-31,5\n' + TEA * 100
    assert await load(make("sales.csv", content)) == 1
    assert "line 3: a quote is opened and never closed" in capsys.readouterr().err


@pytest.mark.asyncio
async def test_a_quote_that_is_never_closed_is_found_quickly_in_a_large_file(
    make: Make, load: Load, capsys: Capture
) -> None:
    content = f'{HEADER}1,"tea,2026-05-31,5\n' + TEA * 100_000
    assert await load(make("sales.csv", content)) == 1
    assert "line 2: a quote is opened" in capsys.readouterr().err


@pytest.mark.asyncio
async def test_a_long_quoted_field_and_many_short_lines_are_read(
    make: Make, load: Load, sold: Sold
) -> None:
    long = "x" * 200_000  # csv's own limit is 131,072
    content = f'id,item,day,cents,note\n1,tea,2026-05-31,5,"{long}"\n' + "\n" * 50
    assert await load(make("sales.csv", content + "2,milk,2026-05-31,6,")) == 0
    assert [row[0] for row in await sold()] == [1, 2]


# --- Headers


@pytest.mark.asyncio
async def test_case_and_spaces_in_names_of_columns_do_not_matter(
    make: Make, load: Load, sold: Sold
) -> None:
    content = ' ID , Item,DAY ,"cents ",,\n1, tea , 2026-05-31, 5 ,,\n'
    assert await load(make("sales.csv", content)) == 0
    assert await sold() == [(1, "TEA", "2026-05-31", 5)]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("id,item,day,cents,cents", "the header has more than one column cents"),
        ("id,item,day,cents, Cents", "the header has more than one column cents"),
        ("id,item,cents,note,note", "the header has more than one column note"),
        ("id,item,note", "the header has no column day, cents: its columns are id,"),
        ('id,"item', "line 1: a quote is opened and never closed"),
        ('id,"item"x', "the header is not valid CSV: ',' expected after '\"'"),
    ],
)
@pytest.mark.asyncio
async def test_a_header_that_does_not_fit_is_refused_for_the_whole_file(
    make: Make, load: Load, capsys: Capture, header: str, message: str
) -> None:
    source = make("sales.csv", f"{header}\n1,2,3,4,5\n")
    assert await load(source) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith(f"{source}: {message}")
    assert stderr.count("\n") == 1


# --- Values

GOOD = {"id": 3, "item": "tea", "day": "2026-05-31", "cents": 5}
LENIENT_VALUES = [
    ("id", "1_000"),
    ("id", "1.0"),
    ("id", "٣"),
    ("id", ""),
    ("cents", "5.00"),
    ("cents", "5."),
    ("cents", "1_000"),
    ("cents", "5e0"),
    ("day", "0"),
    ("day", "1767225600"),
    ("day", "-1"),
    ("day", "2026-05-31T12:00"),
]


@pytest.mark.parametrize(("name", "value"), LENIENT_VALUES)
@pytest.mark.asyncio
async def test_a_value_in_an_unusual_form_is_rejected(
    make: Make, load: Load, sold: Sold, refused: Refused, name: str, value: str
) -> None:
    row = ",".join(str(cell) for cell in (GOOD | {name: value}).values())
    assert await load(make("sales.csv", f"{HEADER}{TEA}{row}\n")) == 0
    assert await sold() == [(1, "TEA", "2026-05-31", 5)]
    [(line, reason, _)] = refused()
    assert line == 3
    assert reason.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *LENIENT_VALUES,
        ("id", True),
        ("id", 3.0),
        ("id", None),
        ("cents", False),
        ("cents", 5.0),
        ("item", 5),
        ("day", 0),
        ("day", 1767225600),
        ("day", True),
        ("day", None),
    ],
)
@pytest.mark.asyncio
async def test_a_json_value_of_another_type_is_rejected(
    make: Make, load: Load, sold: Sold, refused: Refused, name: str, value: object
) -> None:
    lines = [json.dumps(GOOD | {"id": 1}), json.dumps(GOOD | {name: value})]
    assert await load(make("sales.ndjson", "\n".join(lines))) == 0
    assert await sold() == [(1, "TEA", "2026-05-31", 5)]
    [(line, reason, _)] = refused()
    assert line == 2
    assert reason.startswith(f"{name}: ")


BAD_LINES = {
    b"3,tea,tomorrow,30": "day: expected a date",
    b"0,,2026-05-31,-1": "id: Input should be greater than 0; item: String ",
    b"9223372036854775808,tea,2026-05-31,1": "id: Input should be less than",
    b"3,tea,2026-05-31": "3 values for 4 columns",
    b"3,tea,2026-05-31,1,50": "5 values for 4 columns",
    b'3,"t"ea,2026-05-31,1': "',' expected after '\"'",
    b"3,\xff,2026-05-31,1": "item: Input should be a valid string",
    b"3,te\0a,2026-05-31,1": "item: String should match",
    b"3," + b"x" * 200_000 + b",2026-05-31,1": "item: String should match",
    b"3,tea,2026-05-31," + b"9" * 5000: "cents: Unable to parse",
}


@pytest.mark.asyncio
async def test_bad_lines_of_csv_are_rejected_with_number_reason_and_text(
    make: Make, load: Load, sold: Sold, refused: Refused
) -> None:
    lines = [HEADER.strip().encode(), *BAD_LINES, TEA.encode()]
    assert await load(make("sales.csv", b"\n".join(lines)), max_rejects=1) == 0
    assert await sold() == [(1, "TEA", "2026-05-31", 5)]
    rejects = refused()
    assert [number for number, _, _ in rejects] == [*range(2, 2 + len(BAD_LINES))]
    for (_, reason, row), (line, expected) in zip(
        rejects, BAD_LINES.items(), strict=True
    ):
        assert reason.startswith(expected)
        assert (
            row
            == line.decode(errors="surrogateescape")
            .encode(errors="backslashreplace")
            .decode()
            + "\n"
        )


@pytest.mark.asyncio
async def test_lines_that_are_not_a_json_object_are_rejected(
    make: Make, load: Load, sold: Sold, refused: Refused
) -> None:
    bad = [b"{", b"[1]", b"null", b"\xff", b'{"id": 1}', b"NaN", MILK.encode() * 2]
    lines = [*bad, b"", MILK.encode()]
    assert await load(make("sales.ndjson", b"\n".join(lines)), max_rejects=1) == 0
    assert [row[0] for row in await sold()] == [666]
    assert [line for line, _, _ in refused()] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.asyncio
async def test_a_row_with_a_repeated_key_is_rejected(
    make: Make, load: Load, sold: Sold, refused: Refused
) -> None:
    rows = [
        '{"id": 1, "item": "a: b", "day": "2026-05-31", "cents": 5, "note": {"a": 1}}',
        '{"id": 2, "item": "tea", "day": "2026-05-31", "cents": 5, "id": 20}',
        '{"id": 3, "item": "tea", "day": "2026-05-31", "cents": 5, "cents": 5}',
        '{"id": 4, "item": "tea", "day": "2026-05-31", "cents": 5, "i\\u0064": 40}',
        '{"id": 5, "item": "tea", "day": "2026-05-31", "cents": 5, "ID": 50}',
    ]
    assert await load(make("sales.ndjson", "\n".join(rows)), max_rejects=1) == 0
    assert [row[0] for row in await sold()] == [1, 5]
    assert refused() == [
        (2, "the key id occurs more than once", rows[1] + "\n"),
        (3, "the key cents occurs more than once", rows[2] + "\n"),
        (4, "the key id occurs more than once", rows[3] + "\n"),
    ]


# --- Delimiters, encodings, compression


@pytest.mark.parametrize(
    ("name", "delimiter", "option"),
    [
        ("sales.csv", ";", None),
        ("sales.csv", "\t", None),
        ("sales.tsv", "\t", None),
        ("SALES.TSV.GZ", "\t", None),
        ("sales.csv", "|", "|"),
        ("sales.csv", "\t", "\\t"),
        ("sales.csv", "\t", "tab"),
        ("sales.txt", ",", None),
    ],
)
@pytest.mark.asyncio
async def test_delimiters_are_found_or_set_by_option(
    make: Make,
    load: Load,
    sold: Sold,
    name: str,
    delimiter: str,
    option: str | None,
) -> None:
    content = (HEADER + TEA).replace(",", delimiter).encode()
    if name.endswith(".GZ"):
        content = gzip.compress(content)
    assert await load(make(name, content), delimiter=option) == 0
    assert await sold() == [(1, "TEA", "2026-05-31", 5)]


@pytest.mark.parametrize(
    ("encoding", "option"),
    [
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-8"),
        ("utf-32", "utf-8"),
        ("utf-16-le", "utf-16-le"),
        ("latin-1", "latin-1"),
        ("cp1252", "CP1252"),
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.asyncio
async def test_encodings_are_found_by_their_mark_or_by_option(
    make: Make,
    load: Load,
    sold: Sold,
    refused: Refused,
    encoding: str,
    option: str,
    packed: bool,
) -> None:
    text = HEADER + "".join(f"{n},café {n},2026-05-31,5\r\n" for n in range(1, 9))
    content = text.encode(encoding)
    if packed:
        content = gzip.compress(content)
    assert await load(make("sales.csv", content), encoding=option) == 0
    rows = await sold()
    assert [row[:2] for row in rows] == [(n, f"CAFÉ {n}") for n in range(1, 9)]
    assert refused() == []


@pytest.mark.asyncio
async def test_only_the_row_with_invalid_utf_16_is_rejected(
    make: Make, load: Load, sold: Sold, refused: Refused
) -> None:
    bad = "2,te\ud800a,2026-05-31,5\n"
    content = (HEADER + bad + TEA).encode("utf-16", "surrogatepass")
    assert await load(make("sales.csv", content)) == 0
    assert await sold() == [(1, "TEA", "2026-05-31", 5)]
    [(line, _, row)] = refused()
    assert (line, row) == (2, bad.replace("\ud800", "\\ud800"))


@pytest.mark.parametrize(
    ("options", "content", "message"),
    [
        ({"encoding": "nonsense"}, b"id", "unknown encoding: nonsense"),
        ({"encoding": "hex"}, b"id", "'hex' is not a text encoding"),
        ({"delimiter": ";;"}, b"id", "the delimiter must be one character, or tab"),
        ({"delimiter": '"'}, b"id", "the delimiter must be one character, or tab"),
        ({}, gzip.compress(b"id" * 99, mtime=0)[:-9], "damaged gzip file: "),
        ({}, b"\x1f\x8b" + b"x" * 99, ""),
        ({}, b"x" * 200_000, "the header has no column id, item, day, cents"),
        ({}, b"PK\x03\x04\r\x00\n\xff\n" * 9, "the header "),
        ({}, "id".encode("utf-16") + b"x", ""),
    ],
)
@pytest.mark.asyncio
async def test_a_file_that_cannot_be_read_is_explained_in_one_line(
    make: Make,
    load: Load,
    capsys: Capture,
    options: dict[str, str],
    content: bytes,
    message: str,
) -> None:
    source = make("sales.csv", content)
    assert await load(source, **options) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith(f"{source}: {message}")
    assert stderr.count("\n") == 1


# --- Positions


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.asyncio
async def test_a_file_can_be_resumed_between_any_two_records(
    make: Make, encoding: str, packed: bool
) -> None:
    rows = [f'{n},"té\n{n}",2026-05-31,5\r\n' for n in range(1, 10)]
    path = make("sales.csv", pack(HEADER + "".join(rows), encoding, packed))
    position = Batch()
    found: list[object] = []
    while True:
        source = await asyncio.to_thread(FileSource, path, Sale, batch_size=2)
        batch = await source.read(position)
        await source.aclose()
        found += [(record.line, record.values) for record in batch.records]
        if not batch.mark:
            break
        position = Batch(mark=batch.mark, line=batch.line)
    assert found == [
        (2 * n, {"id": f"{n}", "item": f"té\n{n}", "day": "2026-05-31", "cents": "5"})
        for n in range(1, 10)
    ]


def pack(text: str, encoding: str, packed: bool) -> bytes:
    content = text.encode(encoding)
    if packed:
        return gzip.compress(content)
    return content


@pytest.mark.asyncio
async def test_a_file_that_has_become_shorter_is_an_error(
    make: Make,
    load: Load,
    execute: Callable[..., Awaitable[object]],
    sqlite_url: str,
    capsys: Capture,
) -> None:
    source = make("sales.csv", HEADER + TEA * 5)
    assert await load(source) == 0
    await execute(sqlite_url, "UPDATE cursors SET mark = '1000', line = 3")
    assert await load(source) == 1
    assert "the file is shorter than what was loaded" in capsys.readouterr().err


@pytest.mark.asyncio
async def test_a_batch_ends_early_if_its_rows_are_long(
    make: Make, load: Load, sold: Sold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_BATCH_LENGTH", 50)
    lines: list[int] = []
    read_many = Lines.read_many

    def noted(self: Lines, count: int) -> list[str]:
        found = read_many(self, count)
        lines.append(len(found))
        return found

    monkeypatch.setattr(Lines, "read_many", noted)
    rows = "".join(f"{n},tea,2026-05-31,5\n" for n in range(1, 10))
    assert await load(make("sales.csv", HEADER + rows), batch=5000) == 0
    assert len(await sold()) == 9
    assert max(lines) == 3


# --- Standard input

PROGRAM = """
import asyncio, logging, sys
from etl import app, sales

app.MODEL = sales.Sale
app.TABLE = sales.SALES
logging.basicConfig(level="INFO")
sys.exit(asyncio.run(app.main("-", database_url=sys.argv[1])))
"""


@pytest.mark.deadline(60)
@pytest.mark.asyncio
async def test_standard_input_is_loaded_but_cannot_be_resumed(
    sqlite_url: str,
    sold: Sold,
    tmp_path: Path,
    execute: Callable[..., Awaitable[object]],
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, sqlite_url),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    stdout, stderr = await process.communicate((HEADER + TEA + "bad").encode())
    assert process.returncode == 0
    assert stdout.startswith(b"rows: 2 read, 1 loaded, 1 rejected")
    assert b"if this load is stopped, it cannot be resumed" in stderr
    assert await sold() == [(1, "TEA", "2026-05-31", 5)]
    assert await execute(sqlite_url, "SELECT * FROM cursors") == []
    assert json.loads((tmp_path / "rejects.ndjson").read_text())["source"] == "-"
