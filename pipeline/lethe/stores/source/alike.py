"""Which rows of a database may say a person's words, whatever it knows of letters."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from lethe.stores.source.forms import Type, bare, key_forms


def may_be_one_of(
    text: sa.ColumnElement[str], words: Iterable[str], dialect: str
) -> sa.ColumnElement[bool]:
    """The condition for texts that may be one of the words as `lethe.core.text.folded` has them.

    Guarantees: misses none. Where the text is printable ASCII without two blanks in a row, the
        database compares; any other text is for a closer look.
    """
    plain = [word for word in words if word.isascii()]
    if dialect == "sqlite":
        lowered = sa.func.lower(sa.func.trim(text))
        odd: sa.ColumnElement[bool] = text.op("GLOB", is_comparison=True)("*[^ -~]*")
    elif dialect == "postgresql":
        lowered = sa.func.lower(sa.func.trim(sa.collate(text, "C")))
        odd = sa.collate(text, "C").regexp_match("[^ -~]")
    else:
        return text.is_not(None)
    return sa.or_(lowered.in_(plain), odd, text.like("%  %"))


def may_have_one_of(
    value: sa.ColumnElement[Any], words: Iterable[str], declared: Type, dialect: str
) -> sa.ColumnElement[bool]:
    """The same for values of any type, whose canonical texts folded may be one of the words: only
    of texts is the database's spelling the canonical one (7.00 is 7, and a moment has a T)."""
    said = list(words)
    as_text = may_be_one_of(sa.cast(value, sa.Text()), said, dialect)
    if dialect != "sqlite" and isinstance(bare(declared), sa.String):
        return as_text
    forms = [key_forms(each, declared, dialect) for each in said]
    if any(each is None for each in forms):
        return sa.true()
    values = [form for each in forms for form in each or ()]
    same = value.in_(values) if values else sa.false()
    return sa.or_(as_text, same) if dialect == "sqlite" else same
