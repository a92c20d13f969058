"""Which rows of a database may say a person's words, whatever it knows of letters."""

from collections.abc import Iterable

import sqlalchemy as sa


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
