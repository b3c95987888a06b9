"""Extract rows from CSV and NDJSON files, also compressed, or from standard input.

A position in a file is the number of characters before it, after decompression and
decoding. So it works for every encoding. It is always between two records.
"""

import asyncio
import codecs
import csv
import gzip
import io
import os
import select
import sys
import threading
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, TextIO

from pydantic import BaseModel

from .json_objects import add_row, parse_json
from .pipeline import LINE_FIELD, Batch, Record, Reject

STDIN = "-"
STDIN_DESCRIPTOR = 0

# These lengths are in characters.
# A longer record is rejected without being parsed.
MAX_RECORD_LENGTH = 16 * 2**20
TOO_LONG = f"longer than {MAX_RECORD_LENGTH:,} characters"
# The rejects contain the beginning of a record that is too long.
MAX_EXCERPT_LENGTH = 1000
# A batch ends after this many characters, even if it has few rows.
MAX_BATCH_LENGTH = 16 * 2**20
# The text before a position is skipped in pieces of this length.
SKIP_LENGTH = 2**20

# How often a thread that waits for input checks whether to stop, in seconds.
POLL_INTERVAL = 0.2

CSV_SUFFIXES = (".csv", ".tsv")
NDJSON_SUFFIXES = (".ndjson", ".jsonl", ".json")
DELIMITERS = ",;\t"
QUOTE = '"'

GZIP_MAGIC = b"\x1f\x8b"
# UTF-32 comes first, because its mark begins with the mark of UTF-16.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class FileSource:
    """The rows of a file, in batches.

    `path` is "-" for standard input. `encoding` is for a file without a byte order
    mark. Without a `delimiter`, it is found by the name of the file or by its header.
    Raises OSError if there is no such file.
    """

    def __init__(
        self,
        path: str,
        model: type[BaseModel],
        *,
        batch_size: int,
        delimiter: str | None = None,
        encoding: str = "utf-8",
    ) -> None:
        self._path = path
        self._model = model
        self._batch_size = batch_size
        self._delimiter = delimiter
        self._encoding = encoding
        # The position in a pipe is lost with the pipe.
        self.is_resumable = False
        self.name = STDIN
        if path != STDIN:
            os.stat(path)
            self.is_resumable = Path(path).is_file()
            # The name must not depend on the current folder, and a database must be
            # able to store it.
            absolute = str(Path(path).absolute())
            self.name = absolute.encode("utf-8", "backslashreplace").decode()
        # A thread cannot be cancelled: it holds this lock until it has read its batch.
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._files = ExitStack()
        self._records: Records | None = None

    async def read(self, previous: Batch) -> Batch:
        """Return the batch after `previous`.

        Raises OSError or ValueError if the next rows cannot be read.
        """
        return await asyncio.to_thread(self._read, previous)

    async def aclose(self) -> None:
        """Close the file, or let the thread close it that is reading it."""
        self._stopped.set()
        self._close_if_stopped()

    def _close_if_stopped(self) -> None:
        # A thread that is reading holds the lock. It calls this method at its end.
        if self._stopped.is_set() and self._lock.acquire(blocking=False):
            self._files.close()
            self._lock.release()

    def _read(self, previous: Batch) -> Batch:
        try:
            return self._read_locked(previous)
        finally:
            self._close_if_stopped()

    def _read_locked(self, previous: Batch) -> Batch:
        with self._lock:
            if self._stopped.is_set():
                return Batch()
            try:
                if self._records is None:
                    self._records = self._open(previous)
                return read_batch(self._records, self._batch_size)
            except (EOFError, zlib.error) as error:
                raise ValueError(f"damaged gzip file: {error}") from error
            except LookupError as error:
                # There is no such encoding.
                raise ValueError(str(error)) from error

    def _open(self, previous: Batch) -> "Records":
        """Open the file, and skip the text up to the end of the batch `previous`."""
        text, head = self._open_text()
        lines = Lines(text, newline=find_newline(head))
        records: Records = NdjsonRecords(lines)
        if self._is_csv(head):
            delimiter = find_delimiter(self._delimiter, self._path, head)
            records = CsvRecords(lines, delimiter, self._model)
        if previous.mark:
            lines.go_to(int(previous.mark), previous.line)
        return records

    def _open_text(self) -> tuple[TextIO, str]:
        """Return the file as text, and the text that it begins with."""
        binary = open_binary(self._path, self._stopped)
        self._files.callback(binary.close)
        if binary.peek(2)[:2] == GZIP_MAGIC:
            # GzipFile has the methods of a BufferedReader that are used here.
            binary = gzip.GzipFile(fileobj=binary)  # type: ignore[assignment]
            self._files.callback(binary.close)
        start = binary.peek(4)
        encoding = find_encoding(start, self._encoding)
        head = start.decode(encoding, errors="ignore")
        text = io.TextIOWrapper(
            binary,
            encoding,
            errors=find_error_handler(encoding),
            # With this argument, lines keep their line ends.
            newline=find_newline(head),
        )
        self._files.callback(text.close)
        return text, head

    def _is_csv(self, head: str) -> bool:
        """Return whether this is a CSV file, by its name or else by its content."""
        name = self._path.lower().removesuffix(".gz")
        if name.endswith(CSV_SUFFIXES):
            return True
        if name.endswith(NDJSON_SUFFIXES):
            return False
        return not head.lstrip().startswith(("{", "["))


def read_batch(records: "Records", size: int) -> Batch:
    """Return the next batch of a file, with the position after it."""
    batch = Batch()
    records.read(size, batch)
    if batch.records or batch.rejects or not records.lines.is_at_end:
        batch.mark = str(records.lines.position)
        batch.line = records.lines.number
    return batch


# --- Bytes and text


class Pipe(io.RawIOBase):
    """A pipe or a terminal. A thread that waits for data from it can be stopped."""

    def __init__(self, descriptor: int, stopped: threading.Event) -> None:
        self._descriptor = descriptor
        self._stopped = stopped

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._stopped.is_set():
            ready, _, _ = select.select([self._descriptor], [], [], POLL_INTERVAL)
            if ready:
                data = os.read(self._descriptor, len(buffer))
                buffer[: len(data)] = data
                return len(data)
        return 0


def open_binary(path: str, stopped: threading.Event) -> io.BufferedReader:
    """Open a file, or standard input, for reading."""
    if path != STDIN:
        return open(path, "rb")
    if sys.platform == "win32":
        # On Windows, `select` does not support pipes. Ctrl-C must be pressed twice.
        return open(STDIN_DESCRIPTOR, "rb", closefd=False)
    return io.BufferedReader(Pipe(STDIN_DESCRIPTOR, stopped))


def find_encoding(start: bytes, default: str) -> str:
    """Return the encoding of a file by its byte order mark, or else the default."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return encoding
    return codecs.lookup(default).name


def find_error_handler(encoding: str) -> str:
    """Return the error handler for bytes that are not valid in the encoding.

    It decodes them to lone surrogates. No text field of a model accepts these, so only
    the rows that contain such bytes are rejected.
    """
    if encoding.startswith(("utf-16", "utf-32")):
        return "surrogatepass"
    return "surrogateescape"


def find_newline(head: str) -> str:
    """Return the character that ends the lines of a file: a line feed, or in some old
    files a carriage return.

    If both ended a line, a stray carriage return in a row would make two rows of it.
    """
    for position, character in enumerate(head):
        if character == "\n":
            return "\n"
        if character == "\r" and head[position + 1 : position + 2] not in ("\n", ""):
            return "\r"
    return "\n"


def find_delimiter(option: str | None, path: str, head: str) -> str:
    """Return the delimiter of a CSV file.

    Raises ValueError if the option is not one character.
    """
    if option in ("\\t", "tab"):
        return "\t"
    if option is not None:
        if len(option) != 1 or option in '"\r\n':
            raise ValueError("the delimiter must be one character, or tab")
        return option
    if path.lower().removesuffix(".gz").endswith(".tsv"):
        return "\t"
    header = head.lstrip("\r\n").splitlines()[:1]
    # The one that occurs most often in the header, or a comma if none occurs.
    return max(DELIMITERS, key="".join(header).count)


class Lines:
    """The lines of a text.

    `position` and `number` are the numbers of characters and lines that were read.
    """

    def __init__(self, text: TextIO, newline: str) -> None:
        self.newline = newline
        self.position = 0
        self.number = 0
        self.is_at_end = False
        self._text = text
        self._returned: deque[str] = deque()

    def read(self) -> str:
        """Return the next line with its end, or a part of a very long line.

        Returns an empty string at the end of the file.
        """
        line = self._next()
        if not line:
            self.is_at_end = True
        self._move([line], 1)
        return line

    def read_many(self, count: int) -> list[str]:
        """Return up to `count` lines, or fewer if they are long."""
        lines: list[str] = []
        length = 0
        while len(lines) < count and length < MAX_BATCH_LENGTH:
            line = self._next()
            if not line:
                self.is_at_end = True
                break
            lines.append(line)
            length += len(line)
            if len(line) > MAX_RECORD_LENGTH:
                break
        self._move(lines, 1)
        return lines

    def take_back(self, lines: list[str]) -> None:
        """Return the lines that were read last, so that they are read again."""
        self._returned.extendleft(reversed(lines))
        self._move(lines, -1)
        self.is_at_end = False

    def _next(self) -> str:
        if self._returned:
            return self._returned.popleft()
        return self._text.readline(MAX_RECORD_LENGTH + 1)

    def _move(self, lines: list[str], direction: int) -> None:
        """Move the position over these lines, in the direction 1 or -1."""
        text = "".join(lines)
        self.position += direction * len(text)
        self.number += direction * text.count(self.newline)

    def go_to(self, position: int, number: int) -> None:
        """Skip the text before a position. Raises ValueError if the file is shorter."""
        while self.position < position:
            skipped = self._text.read(min(SKIP_LENGTH, position - self.position))
            if not skipped:
                raise ValueError(
                    "the file is shorter than what was loaded from it before: delete "
                    "its row in the table cursors to load it from the beginning"
                )
            self.position += len(skipped)
        self.number = number


class Records(Protocol):
    """The records of a file."""

    lines: Lines

    def read(self, count: int, batch: Batch) -> None:
        """Add the next records to a batch: about `count`, or fewer if they are long."""


# --- CSV


class RecordTooLongError(Exception):
    """A record has more than MAX_RECORD_LENGTH characters."""

    def __str__(self) -> str:
        return TOO_LONG


class CsvRecords:
    """The records of a CSV file, as RFC 4180 defines them.

    Raises ValueError if the header does not fit the model.
    """

    def __init__(self, lines: Lines, delimiter: str, model: type[BaseModel]) -> None:
        # By default, csv refuses fields with more than 131,072 characters.
        csv.field_size_limit(MAX_RECORD_LENGTH)
        self.lines = lines
        self._delimiter = delimiter
        # The lines of the current record, and the number of the first one.
        self._taken: list[str] = []
        self._first_line = 1
        self._reader = self._parse(self._take_lines())
        self._names = self._read_header(model)

    def _parse(self, lines: Iterable[str]) -> Iterator[list[str]]:
        return csv.reader(
            lines, delimiter=self._delimiter, quotechar=QUOTE, strict=True
        )

    def _read_header(self, model: type[BaseModel]) -> list[str]:
        """Return the names of the columns. Blank lines before them are skipped."""
        try:
            for fields in self._reader:
                if "".join(fields).strip():
                    return match_columns(fields, model)
                self._taken.clear()
        except (csv.Error, RecordTooLongError) as error:
            raise ValueError(f"the header is not valid CSV: {error}") from error
        return []

    def read(self, count: int, batch: Batch) -> None:
        """Add the next records to a batch: about `count`, or fewer if they are long."""
        first_line = self.lines.number + 1
        lines = self.lines.read_many(count)
        rows = self._parse_lines(lines)
        if len(rows) == len(lines):
            for number, line, fields in zip(
                range(first_line, first_line + len(lines)), lines, rows, strict=True
            ):
                self._add(batch, number, line, fields)
        else:
            self.lines.take_back(lines)
            self._read_one_by_one(count, batch)

    def _parse_lines(self, lines: list[str]) -> list[list[str]]:
        """Return one row for each line, or fewer if not every line is one record.

        This is three times as fast as to parse them one by one.
        """
        if lines and len(lines[-1]) > MAX_RECORD_LENGTH:
            return []
        try:
            return list(self._parse(lines))
        except csv.Error:
            return []

    def _add(self, batch: Batch, number: int, raw: str, fields: list[str]) -> None:
        if len(fields) == len(self._names):
            values = dict(zip(self._names, fields, strict=False))
            batch.records.append(Record(number, raw, values))
        elif raw.strip():
            reason = f"{len(fields)} values for {len(self._names)} columns"
            batch.rejects.append(Reject(number, raw, reason))

    # A quoted field may contain line ends. Only csv.reader can say how many lines a
    # record has: it takes as many as it needs from `_take_lines`.

    def _read_one_by_one(self, count: int, batch: Batch) -> None:
        end = self.lines.position + MAX_BATCH_LENGTH
        for _ in range(count):
            self._first_line = self.lines.number + 1
            self._taken.clear()
            try:
                fields = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                raw = "".join(self._taken)
                batch.rejects.append(Reject(self._first_line, raw, str(error)))
            except RecordTooLongError as error:
                raw = self._taken[0][:MAX_EXCERPT_LENGTH]
                batch.rejects.append(Reject(self._first_line, raw, str(error)))
                self._skip_record()
            else:
                self._add(batch, self._first_line, "".join(self._taken), fields)
            if self.lines.position >= end:
                return

    def _take_lines(self) -> Iterator[str]:
        """Yield the lines of the file, and keep those of the current record."""
        length = 0
        while True:
            line = self.lines.read()
            if not line:
                self._refuse_open_quote()
                return
            if not self._taken:
                length = 0
            self._taken.append(line)
            length += len(line)
            if length > MAX_RECORD_LENGTH:
                raise RecordTooLongError
            yield line

    def _refuse_open_quote(self) -> None:
        """Raise ValueError if the file ends within a record.

        A closing quote is missing, and all rows after it are in one quoted field.
        """
        if self._taken:
            raise ValueError(
                f"line {self._first_line}: a quote is opened and never closed"
            )

    def _skip_record(self) -> None:
        """Skip the rest of a record: up to a line end that is not in quotes."""
        line = self._taken[-1]
        quotes = sum(taken.count(QUOTE) for taken in self._taken)
        while quotes % 2 == 1 or not line.endswith(self.lines.newline):
            line = self.lines.read()
            if not line:
                break
            quotes += line.count(QUOTE)
        if quotes % 2 == 1:
            self._refuse_open_quote()
        # A generator that has raised an exception cannot continue.
        self._reader = self._parse(self._take_lines())


def match_columns(header: list[str], model: type[BaseModel]) -> list[str]:
    """Return the name of each column as the model spells it.

    Case and surrounding spaces do not matter. Raises ValueError if two columns have
    the same name, or if there is no column for a required field.
    """
    fields: dict[str, str] = {}
    missing: list[str] = []
    names = [name.strip().casefold() for name in header]
    for field_name, field in model.model_fields.items():
        name = field.alias or field_name
        fields[name.casefold()] = name
        has_column = name.casefold() in names or field_name == LINE_FIELD
        if field.is_required() and not has_column:
            missing.append(name)
    for name, count in Counter(names).items():
        if name and count > 1:
            raise ValueError(f"the header has more than one column {name}")
    if missing:
        raise ValueError(
            f"the header has no column {', '.join(missing)}: its columns are "
            f"{', '.join(names)}"
        )
    return [fields.get(name, name) for name in names]


# --- NDJSON


class NdjsonRecords:
    """The rows of an NDJSON file: one JSON object in each line."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines

    def read(self, count: int, batch: Batch) -> None:
        """Add the next records to a batch: about `count`, or fewer if they are long."""
        first_line = self.lines.number + 1
        for number, line in enumerate(self.lines.read_many(count), first_line):
            if len(line) > MAX_RECORD_LENGTH:
                excerpt = line[:MAX_EXCERPT_LENGTH]
                batch.rejects.append(Reject(number, excerpt, TOO_LONG))
                self._skip_line(line)
            elif line.strip():
                self._add(batch, number, line)

    def _add(self, batch: Batch, number: int, line: str) -> None:
        try:
            values = parse_json(line.encode())
        except ValueError as error:
            batch.rejects.append(Reject(number, line, f"not JSON: {error}"))
            return
        add_row(batch, number, line, values)

    def _skip_line(self, line: str) -> None:
        """Skip the rest of the line that begins with `line`."""
        while line and not line.endswith(self.lines.newline):
            line = self.lines.read()
