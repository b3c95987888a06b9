"""The tables of the ledger. All amounts are in cents."""

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Integer
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

MAX_CENTS = 10**15


class Base(DeclarativeBase):
    """The base of all models. `Base.metadata` has their tables."""


class Account(Base):
    """An account. The database itself keeps its balance within the limits."""

    __tablename__ = "accounts"
    __table_args__ = (
        CheckConstraint("balance >= 0"),
        CheckConstraint(f"balance <= {MAX_CENTS}"),
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    balance: Mapped[int] = mapped_column(BigInteger)


class Transfer(Base):
    """A transfer that was made: `payer` paid `amount` to `payee`."""

    __tablename__ = "transfers"

    # Later transfers have larger ids. SQLite numbers rows only if the type is INTEGER,
    # which has 64 bits there.
    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True
    )
    reference: Mapped[str] = mapped_column(unique=True)
    # The database checks foreign keys when a transaction commits. The ledger finds out
    # earlier that an account does not exist, and can say which one.
    payer: Mapped[str] = mapped_column(
        ForeignKey("accounts.name", deferrable=True, initially="DEFERRED"), index=True
    )
    payee: Mapped[str] = mapped_column(
        ForeignKey("accounts.name", deferrable=True, initially="DEFERRED"), index=True
    )
    amount: Mapped[int] = mapped_column(BigInteger)
