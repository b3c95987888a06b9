"""The types of values: which forms they accept, as text from CSV and as JSON values."""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated

import pytest
from pydantic import BaseModel, ValidationError

from etl.models import (
    EMPTY_IS_NONE,
    IsoDate,
    IsoDateTime,
    StrictBool,
    StrictDecimal,
    StrictFloat,
    StrictInt,
)
from etl.pipeline import Batch, Record
from etl.transform import describe, validate

DAY = date(2026, 5, 31)
NOON = datetime(2026, 5, 31, 12)


class Values(BaseModel):
    """One field of each type."""

    integer: StrictInt = 0
    decimal: StrictDecimal = Decimal(0)
    real: StrictFloat = 0.0
    day: IsoDate = DAY
    time: IsoDateTime = NOON
    boolean: StrictBool = False
    optional: Annotated[IsoDate | None, EMPTY_IS_NONE] = DAY


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("integer", "42", 42),
        ("integer", " -42 ", -42),
        ("integer", "+007", 7),
        ("integer", 42, 42),
        ("integer", 2**70, 2**70),
        ("decimal", "12.50", Decimal("12.50")),
        ("decimal", " -.5 ", Decimal("-0.5")),
        ("decimal", "5.", Decimal(5)),
        ("decimal", "1e3", Decimal(1000)),
        ("decimal", 12.5, Decimal("12.5")),
        ("decimal", 12, Decimal(12)),
        ("real", "1.5E-3", 0.0015),
        ("real", 1, 1.0),
        ("day", " 2026-05-31 ", DAY),
        ("day", "2026-05-31T00:00", DAY),
        ("day", DAY, DAY),
        ("time", "2026-05-31T12:00", NOON),
        ("time", "2026-05-31 12:00:00", NOON),
        ("boolean", "true", True),
        ("boolean", " FALSE ", False),
        ("boolean", True, True),
        ("optional", "", None),
        ("optional", None, None),
        ("optional", "2026-05-31", DAY),
    ],
)
def test_the_usual_form_of_a_value_is_accepted(
    name: str, value: object, expected: object
) -> None:
    found = getattr(Values.model_validate({name: value}), name)
    assert found == expected
    assert type(found) is type(expected)


WHOLE_NUMBER = "expected a whole number such as 42"
NUMBER = "expected a number such as 12.50"
ISO_DATE = "expected a date such as 2026-05-31"
TRUE_OR_FALSE = "expected true or false"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("integer", "", WHOLE_NUMBER),
        ("integer", "1_000", WHOLE_NUMBER),
        ("integer", "1,000", WHOLE_NUMBER),
        ("integer", "5.00", WHOLE_NUMBER),
        ("integer", "5e0", WHOLE_NUMBER),
        ("integer", "0x10", WHOLE_NUMBER),
        ("integer", "1 0", WHOLE_NUMBER),
        ("integer", 5.0, WHOLE_NUMBER),
        ("integer", True, WHOLE_NUMBER),
        ("integer", "+-5", "Input should be a valid integer, unable to parse"),
        ("integer", "٣", "Input should be a valid integer, unable to parse"),
        ("integer", "9" * 5000, "Unable to parse input string as an integer"),
        ("integer", None, "Input should be a valid integer"),
        ("decimal", "", NUMBER),
        ("decimal", ".", NUMBER),
        ("decimal", "1_000.00", NUMBER),
        ("decimal", "1,5", NUMBER),
        ("decimal", "NaN", NUMBER),
        ("decimal", "Infinity", NUMBER),
        ("decimal", "٣", NUMBER),
        ("decimal", True, NUMBER),
        ("decimal", float("nan"), "Input should be a finite number"),
        ("real", "inf", NUMBER),
        ("real", float("inf"), "Input should be a finite number"),
        ("real", "1e999", "Input should be a finite number"),
        ("day", "", ISO_DATE),
        ("day", "0", ISO_DATE),
        ("day", "1767225600", ISO_DATE),
        ("day", "31.05.2026", ISO_DATE),
        ("day", "20260531", ISO_DATE),
        ("day", 0, ISO_DATE),
        ("day", True, ISO_DATE),
        ("day", None, ISO_DATE),
        ("day", "2026-02-30", "Input should be a valid date"),
        ("day", "2026-05-31T12:00", "Datetimes provided to dates should have zero"),
        ("time", "12:00", ISO_DATE),
        ("time", 1767225600, ISO_DATE),
        ("time", "2026-05-31T25:00", "Input should be a valid datetime"),
        ("boolean", "", TRUE_OR_FALSE),
        ("boolean", "1", TRUE_OR_FALSE),
        ("boolean", "yes", TRUE_OR_FALSE),
        ("boolean", 1, TRUE_OR_FALSE),
        ("boolean", None, TRUE_OR_FALSE),
        ("optional", "0", ISO_DATE),
        ("optional", "never", ISO_DATE),
    ],
)
def test_another_form_is_rejected_with_the_reason(
    name: str, value: object, reason: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Values.model_validate({name: value})
    assert describe(caught.value).startswith(f"{name}: {reason}")


class Numbered(BaseModel):
    """A row that is identified by its line number."""

    line: int
    item: str


def test_the_line_number_is_added_if_the_row_has_no_such_value() -> None:
    batch = Batch(
        records=[
            Record(2, "tea", {"item": "tea"}),
            Record(3, "9,milk", {"line": "9", "item": "milk"}),
            Record(4, "[]", []),
        ]
    )
    validate(Numbered, batch)
    assert batch.rows == [Numbered(line=2, item="tea"), Numbered(line=9, item="milk")]
    assert [reject.line for reject in batch.rejects] == [4]
