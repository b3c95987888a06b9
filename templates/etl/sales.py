"""What is loaded: sales, as an example. The model of a row, and its table."""

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Column, Date, Table, Text

from .models import MAX_INTEGER, Int64, IsoDate, StrictInt, metadata


class Sale(BaseModel):
    """One sale. Texts are stored in capitals. Other fields of a row are ignored."""

    model_config = ConfigDict(str_strip_whitespace=True, str_to_upper=True)

    id: StrictInt = Field(gt=0, le=MAX_INTEGER)
    item: str = Field(pattern=r"^[^\x00]{1,100}$")
    day: IsoDate
    cents: StrictInt = Field(ge=0, le=MAX_INTEGER)


# Each field of the model is written to the column with the same name. A row replaces
# the row that has the same primary key.
SALES = Table(
    "sales",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("item", Text),
    Column("day", Date),
    Column("cents", Int64),
)
