"""Transform: turn records into rows for the table, and reject those that are wrong."""

from collections.abc import Sequence
from functools import cache

from pydantic import BaseModel, TypeAdapter, ValidationError

from .pipeline import LINE_FIELD, Batch, Record, Reject

# Validating many records at once is faster, but if one is wrong, they are validated
# again. With this number, both costs are small for a file with 1 bad row in 1,000.
SLICE = 50


def validate(model: type[BaseModel], batch: Batch) -> Batch:
    """Validate the records of a batch; fill its `rows` and `rejects`.

    A field of the model that is called `line` gets the line number of the record, if
    the record has no such value itself.
    """
    if LINE_FIELD in model.model_fields:
        add_line_numbers(batch)
    for start in range(0, len(batch.records), SLICE):
        validate_slice(model, batch, batch.records[start : start + SLICE])
    return batch


def validate_slice(
    model: type[BaseModel], batch: Batch, records: Sequence[Record]
) -> None:
    """Validate all records at once; if one of them is wrong, each by itself."""
    rows = list_of(model)
    try:
        batch.rows += rows.validate_python([record.values for record in records])
    except ValidationError:
        for record in records:
            validate_record(model, batch, record)


def validate_record(model: type[BaseModel], batch: Batch, record: Record) -> None:
    """Add a record to the rows of a batch, or to its rejects."""
    try:
        row = model.model_validate(record.values)
    except ValidationError as error:
        batch.rejects.append(Reject(record.line, record.raw, describe(error)))
    else:
        batch.rows.append(row)


@cache
def list_of(model: type[BaseModel]) -> TypeAdapter[list[BaseModel]]:
    """Return what validates a list of rows. Making it takes longer than a slice."""
    return TypeAdapter(list[model])  # type: ignore[valid-type]


def add_line_numbers(batch: Batch) -> None:
    """Give each record a value that says where it stands in the source."""
    for record in batch.records:
        if isinstance(record.values, dict):
            record.values.setdefault(LINE_FIELD, record.line)


def describe(error: ValidationError) -> str:
    """Return what is wrong with a row, such as "day: expected a date; id: ..."."""
    problems: list[str] = []
    for problem in error.errors():
        message = problem["msg"].removeprefix("Value error, ")
        location = [str(part) for part in problem["loc"]]
        problems.append(": ".join([*location, message]))
    return "; ".join(problems)
