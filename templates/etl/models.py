"""What all models and tables share: types for the fields of a model, and the metadata.

sales.py has an example of a model and its table.

By default, Pydantic converts more than a load should: it reads 1_000 and "5.00" as
integers, true as 1, and "0" as a day in 1970. In a file, such values are usually
mistakes. The types below accept only the usual form of a value, in CSV and in JSON.
"""

import re
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, Field
from sqlalchemy import BigInteger, Integer, MetaData

MAX_INTEGER = 2**63 - 1  # the largest value that a column Int64 can hold
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def check_integer(value: object) -> object:
    """Raise ValueError unless `value` is an integer or the digits of one."""
    if isinstance(value, str):
        if not value.strip().lstrip("+-").isdecimal():
            raise ValueError("expected a whole number such as 42")
    elif isinstance(value, bool | float):
        raise ValueError("expected a whole number such as 42")
    return value


def check_number(value: object) -> object:
    """Raise ValueError unless `value` is a number or a number as text."""
    if isinstance(value, str):
        value = value.strip()
        if NUMBER.fullmatch(value) is None:
            raise ValueError("expected a number such as 12.50")
    elif isinstance(value, bool):
        raise ValueError("expected a number such as 12.50")
    return value


def check_date(value: object) -> object:
    """Raise ValueError unless `value` is a date, or begins like one in ISO format."""
    if isinstance(value, str):
        value = value.strip()
        if value[4:5] != "-":
            raise ValueError("expected a date such as 2026-05-31")
    elif not isinstance(value, date):
        raise ValueError("expected a date such as 2026-05-31")
    return value


def check_boolean(value: object) -> object:
    """Raise ValueError unless `value` is a boolean, or the text true or false."""
    if isinstance(value, str):
        value = value.strip().lower()
        if value not in ("true", "false"):
            raise ValueError("expected true or false")
    elif not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def none_if_empty(value: object) -> object:
    """Return None for an empty text. CSV has no other way to leave out a value."""
    if value == "":
        return None
    return value


# The types for the fields of a model, in place of int, Decimal, float, date, datetime
# and bool. `Annotated[IsoDate | None, EMPTY_IS_NONE]` is a field that may be empty.
StrictInt = Annotated[int, BeforeValidator(check_integer)]
StrictDecimal = Annotated[Decimal, BeforeValidator(check_number)]
StrictFloat = Annotated[
    float, BeforeValidator(check_number), Field(allow_inf_nan=False)
]
IsoDate = Annotated[date, BeforeValidator(check_date)]
IsoDateTime = Annotated[datetime, BeforeValidator(check_date)]
StrictBool = Annotated[bool, BeforeValidator(check_boolean)]
EMPTY_IS_NONE = BeforeValidator(none_if_empty)

# In SQLite, only a column of type INTEGER can be the row ID. It holds 64 bits, too.
Int64 = BigInteger().with_variant(Integer, "sqlite")

# The program creates the tables of all modules that it imports.
metadata = MetaData()
