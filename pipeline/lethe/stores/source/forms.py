"""How a canonical key is spelled in a column of a type."""

import re
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa

_DECIMAL = re.compile(r"-?[0-9]{1,131072}(\.[0-9]{1,16383})?|NaN")  # all that PostgreSQL can hold
_DIGITS = 20  # of the longest number of 64 bits, with its sign


def key_forms(key: str, declared: sa.types.TypeEngine[Any], dialect: str) -> list[Any] | None:
    """A canonical key as a column of a type can hold it; None to compare as text.

    An empty list: no value of the type is spelled so.
    """
    if dialect == "sqlite":
        number = _integer(key)
        return [key] if number is None else [key, number]
    if isinstance(declared, sa.String):
        return [key]
    try:
        if isinstance(declared, sa.Integer):
            number = _integer(key)
            return [] if number is None else [number]
        if isinstance(declared, sa.Numeric):
            return [Decimal(key)] if _DECIMAL.fullmatch(key) else []
        if isinstance(declared, sa.Uuid):
            return [UUID(key)]
    except ValueError:
        return []
    return None


def _integer(key: str) -> int | None:
    """The number of 64 bits that is spelled so; None if there is none."""
    if len(key) > _DIGITS or not key.isascii() or not key.removeprefix("-").isdigit():
        return None
    number = int(key)
    return number if str(number) == key and -(2**63) <= number < 2**63 else None
