"""Transform: turn records into rows for the table, and reject those that are wrong."""

from collections.abc import Sequence
from functools import cache

from pydantic import BaseModel, TypeAdapter, ValidationError

from .pipeline import LINE_FIELD, Batch, Record, Reject

# It is faster to validate many records at once. But if one of them is wrong, all of
# them are validated again, one by one. With this number of records, both costs are
# small, even if 1 row in 1,000 is wrong.
SLICE = 50


def validate(model: type[BaseModel], batch: Batch) -> Batch:
    """Validate the records of a batch, and fill its `rows` and `rejects`.

    If the model has a field with the name `line`, and a record has no value for it, it
    is set to the line number of the record.
    """
    if LINE_FIELD in model.model_fields:
        add_line_numbers(batch)
    for start in range(0, len(batch.records), SLICE):
        validate_slice(model, batch, batch.records[start : start + SLICE])
    return batch


def validate_slice(
    model: type[BaseModel], batch: Batch, records: Sequence[Record]
) -> None:
    """Validate all records at once, or one by one if one of them is wrong."""
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
    """Return the validator of a list of rows. It is cached, as building it is slow."""
    return TypeAdapter(list[model])  # type: ignore[valid-type]


def add_line_numbers(batch: Batch) -> None:
    """Add the line number to the values of each record that has no such value."""
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
