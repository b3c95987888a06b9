"""The data to learn from: the digits of scikit-learn, or a CSV file."""

import csv
import hashlib
import math
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np

HELD_OUT_SHARE = 0.2  # of the rows, for validation; as many are for the test
SPLIT_SEED = 0  # the same split for every --seed, so that runs can be compared


class Part(IntEnum):
    """What a row of the data is used for."""

    TRAINING = 0
    VALIDATION = 1
    TEST = 2


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Examples of which the class is known.

    `inputs` has one row per example and one column per feature. `targets` has the
    number of each example's class, which is an index of `classes`.
    """

    features: list[str]
    classes: list[str]
    inputs: np.ndarray
    targets: np.ndarray

    def digest(self) -> str:
        """Return a checksum of the data."""
        names = repr([self.features, self.classes])
        checksum = hashlib.sha256(names.encode())
        checksum.update(self.inputs.tobytes())
        checksum.update(self.targets.tobytes())
        return checksum.hexdigest()


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a CSV file."""

    number: int
    cells: list[str]


@dataclass(frozen=True, slots=True)
class Table:
    """The content of a CSV file: the names of its columns, and its rows.

    Raises ValueError if a row has more or fewer cells than there are columns.
    """

    path: Path
    columns: list[str]
    rows: list[Line]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(
                    f"{self.path}, line {row.number}: there are {len(row.cells)} "
                    f"values for {len(self.columns)} columns"
                )


def load_data(path: Path | None, label: str) -> Dataset:
    """Return the data in a CSV file, or the digits if `path` is None.

    The file has a header. The column named `label` has the classes, and all others are
    numbers. Raises OSError if the file cannot be read, and ValueError if its content is
    not of this form.
    """
    if path is None:
        return load_digits()
    table = read_table(path)
    labels = read_labels(table, label)
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise ValueError(f"{path}: a classifier needs at least two classes")
    features = [column for column in table.columns if column != label]
    numbers = {name: number for number, name in enumerate(classes)}
    targets = np.array([numbers[name] for name in labels], np.int64)
    return Dataset(features, classes, read_numbers(table, features), targets)


def read_labels(table: Table, label: str) -> list[str]:
    """Return the texts in the column named `label`, or raise ValueError."""
    if label not in table.columns:
        raise ValueError(f"{table.path} has no column {label!r}: see --label")
    index = table.columns.index(label)
    labels = []
    for row in table.rows:
        name = row.cells[index].strip()
        if name == "":
            raise ValueError(
                f"{table.path}, line {row.number}: the column {label!r} is empty"
            )
        labels.append(name)
    return labels


def load_digits() -> Dataset:
    """Return the 1,797 handwritten digits, of 8 x 8 pixels, of scikit-learn."""
    # Importing scikit-learn takes a second or more, so only the worker does it.
    from sklearn import datasets  # type: ignore[import-untyped]

    digits = datasets.load_digits()
    classes = [str(name) for name in digits.target_names]
    targets = digits.target.astype(np.int64)
    return Dataset(list(digits.feature_names), classes, digits.data, targets)


def read_lines(path: Path) -> list[Line]:
    """Return the lines of a CSV file in UTF-8, without empty ones.

    Raises OSError if the file cannot be read, and ValueError if it is not such a file.
    """
    lines = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                if cells:
                    lines.append(Line(reader.line_num, cells))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}") from error
    return lines


def read_table(path: Path) -> Table:
    """Return the table in a CSV file whose first line is a header.

    Raises OSError if the file cannot be read, and ValueError if it is not a table.
    """
    lines = read_lines(path)
    if len(lines) < 2:
        raise ValueError(f"{path} has no rows below a header")
    columns = lines[0].cells
    for name in columns:
        if columns.count(name) > 1:
            raise ValueError(f"{path} has more than one column {name!r}")
    return Table(path, columns, lines[1:])


def read_numbers(table: Table, columns: list[str]) -> np.ndarray:
    """Return these columns of a table as numbers, in this order.

    Raises ValueError if a column is missing, or if a cell is not a finite number.
    """
    if not columns:
        raise ValueError(f"{table.path} has no column of numbers")
    for column in columns:
        if column not in table.columns:
            raise ValueError(f"{table.path} has no column {column!r}")
    indices = [table.columns.index(column) for column in columns]
    numbers = np.empty((len(table.rows), len(columns)))
    for n, row in enumerate(table.rows):
        for m, index in enumerate(indices):
            number = parse_number(row.cells[index])
            if number is None:
                raise ValueError(
                    f"{table.path}, line {row.number}, column {columns[m]!r}: "
                    f"{row.cells[index]!r} is not a finite number"
                )
            numbers[n, m] = number
    return numbers


def parse_number(text: str) -> float | None:
    """Return the finite number in `text`, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    if math.isfinite(number):
        return number
    return None


def split(targets: np.ndarray) -> np.ndarray:
    """Return the `Part` of each row: about 60 % training, 20 % validation, 20 % test.

    Each class is split in these proportions. The result depends on `targets` only.
    Raises ValueError if there are so few rows that a part would be empty.
    """
    random = np.random.default_rng(SPLIT_SEED)
    parts = np.full(len(targets), Part.TRAINING, np.uint8)
    for target in np.unique(targets):
        rows = random.permutation(np.flatnonzero(targets == target))
        count = round(len(rows) * HELD_OUT_SHARE)
        parts[rows[:count]] = Part.TEST
        parts[rows[count : 2 * count]] = Part.VALIDATION
    if Part.TEST not in parts:
        raise ValueError("too few rows: at least one class needs three or more")
    return parts


def scaling(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation of each column.

    `(inputs - mean) / deviation` has columns of similar size, which is what the model
    learns from. The deviation of a constant column is given as 1. Raises ValueError if
    the numbers are too large to compute it.
    """
    with np.errstate(over="ignore"):
        mean = inputs.mean(axis=0)
        deviation = inputs.std(axis=0)
    if not np.isfinite(deviation).all():
        raise ValueError("the numbers in the data are too large")
    deviation[deviation == 0] = 1
    return mean, deviation
