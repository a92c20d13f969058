"""How a canonical key is spelled in a column of a type, and when two of them are one."""

import datetime as dt
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

import sqlalchemy as sa

Type = sa.types.TypeEngine[Any]

_DECIMAL = re.compile(r"-?[0-9]{1,131072}(\.[0-9]{1,16383})?|NaN")  # all that PostgreSQL can hold
_BITS = ((sa.SmallInteger, 15), (sa.BigInteger, 63))  # a number beyond is no value of the type
_DIGITS = 20  # of the longest number of 64 bits, with its sign


def bare(declared: Type) -> Type:
    """A column's type; of a domain, what it is made of."""
    within = getattr(declared, "data_type", None)
    return bare(within) if isinstance(within, sa.types.TypeEngine) else declared


def is_padded(declared: Type) -> bool:
    """Whether blanks at the end say nothing: `char(n)` is filled with them."""
    return isinstance(bare(declared), sa.CHAR)


def compared(key: str, declared: Type) -> str:
    """A canonical key of a column so that equal texts are what the database holds for equal."""
    within = bare(declared)
    if isinstance(within, sa.CHAR):
        return key.rstrip(" ")
    if isinstance(within, sa.Numeric) and "." in key and _DECIMAL.fullmatch(key):
        return f"{Decimal(key):f}".rstrip("0").rstrip(".")
    return key


def key_forms(key: str, declared: Type, dialect: str) -> list[Any] | None:
    """A canonical key as a column of a type can hold it; None to compare as text.

    An empty list: no value of the type is spelled so.
    """
    if dialect == "sqlite":
        return [key, *_numbers(key)]
    within = bare(declared)
    if isinstance(within, sa.Enum):
        return [key] if key in within.enums else []
    if isinstance(within, sa.String):
        return [key]
    try:
        if isinstance(within, sa.Integer):
            number = _integer(key)
            bits = next((n for each, n in _BITS if isinstance(within, each)), 31)
            return [] if number is None or not -(2**bits) <= number < 2**bits else [number]
        if isinstance(within, sa.Numeric):
            return [Decimal(key)] if _DECIMAL.fullmatch(key) else []
        if isinstance(within, sa.Uuid):
            return [UUID(key)]
        if isinstance(within, sa.Boolean):
            return [key == "true"] if key in ("true", "false") else []
        if isinstance(within, sa.DateTime):
            return [dt.datetime.fromisoformat(key)]
        if isinstance(within, sa.Date):
            return [dt.date.fromisoformat(key)]
    except (ValueError, InvalidOperation):
        return []
    return None


def _numbers(key: str) -> Iterator[int | float]:
    """SQLite keeps a number as one, or as its text, whatever the column's type."""
    number = _integer(key)
    if number is not None:
        yield number
    elif len(key) <= _DIGITS + 5 and "." in key and key.isascii():
        try:
            if repr(float(key)) == key:
                yield float(key)
        except ValueError:
            return


def _integer(key: str) -> int | None:
    """The number of 64 bits that is spelled so; None if there is none."""
    if len(key) > _DIGITS or not key.isascii() or not key.removeprefix("-").isdigit():
        return None
    number = int(key)
    return number if str(number) == key and -(2**63) <= number < 2**63 else None
