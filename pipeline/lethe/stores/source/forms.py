"""How a canonical key is spelled in a column of a type."""

from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

import sqlalchemy as sa


def key_forms(key: str, declared: sa.types.TypeEngine[Any], dialect: str) -> list[Any] | None:
    """A canonical key as a column of a type can hold it; None to compare as text.

    An empty list: no value of the type is spelled so.
    """
    if dialect == "sqlite":
        number = int(key) if key.removeprefix("-").isdigit() and key.isascii() else None
        same = number is not None and str(number) == key and abs(number) < 2**63
        return [key, number] if same else [key]
    if isinstance(declared, sa.String):
        return [key]
    try:
        if isinstance(declared, sa.Integer):
            return [int(key)] if str(int(key)) == key and abs(int(key)) < 2**63 else []
        if isinstance(declared, sa.Numeric):
            return [Decimal(key)]
        if isinstance(declared, sa.Uuid):
            return [UUID(key)]
    except (ValueError, InvalidOperation):
        return []
    return None
