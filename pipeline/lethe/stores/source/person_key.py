"""The key of a person: a column, or several that name a person together.

Everywhere but in the source a person's key is one text. That of one column is the value's canonical
text as it is. That of several has each value's as a string of JSON, between parentheses, as in
`("north","12")`, which no writer of JSON makes of a list; see `together`.
"""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from lethe.config.sections import Subject
from lethe.core.errors import ParamsInvalid
from lethe.core.text import is_text, plain
from lethe.core.values import by_distinct, canonical_text
from lethe.data.partition import canonical_keys

Parts = tuple[str, ...]


def together(parts: Sequence[str]) -> str:
    """The one text of a person's key.

    Guarantees: of several parts, `apart` gives the same parts again, so two people never have one.
    """
    if len(parts) == 1:
        return parts[0]
    return f"({','.join(map(_quoted, parts))})"


def apart(key: str, count: int) -> Parts | None:
    """The parts of a key of `count` columns; None if it is no text that `together` makes."""
    if count == 1:
        return (key,)
    if not (key.startswith("(") and key.endswith(")")):
        return None
    parts = _strings(f"[{key[1:-1]}]")
    return parts if parts is not None and len(parts) == count and together(parts) == key else None


def understood(word: str, subject: Subject) -> str:
    """The key that somebody means: of several columns a list of JSON, or the text of `together`.

    Numbers may stand without quotes, and are taken as they are written. Each value is taken in
    its plain form once the list is taken apart: a wide quotation mark in a value is no end of it.

    Raises:
        ParamsInvalid: it has not as many parts as the key has columns, or what no text has; says
            nothing of it.
    """
    columns = subject.keys
    if len(columns) == 1:
        refuse_no_text(word)
        return plain(word).strip()
    parts = _listed(word) or _listed(plain(word))
    if parts is None or len(parts) != len(columns):
        example = ", ".join(f'"{column}"' for column in columns)
        raise ParamsInvalid(
            f"A person is named by {len(columns)} values ({subject.called}). Give them in this "
            f"order as a list of JSON, each in place of its column: [{example}]."
        )
    refuse_no_text("".join(parts))
    return together([plain(part) for part in parts])


def refuse_no_text(said: str) -> None:
    """
    Raises:
        ParamsInvalid: what somebody was named by has what no database's text can have.
    """
    if not is_text(said):
        raise ParamsInvalid(
            "The value has what is in no text (NUL, half a character, or bytes that are no UTF-8), "
            "so it can be nobody's. Nothing was recorded."
        )


def _listed(word: str) -> Parts | None:
    bare = word.strip()
    brackets = bare[:1] + bare[-1:] in ("[]", "()")
    return _strings(f"[{bare[1:-1]}]") if brackets and len(bare) > 1 else None


def people_of(parts: Sequence[pd.Series]) -> pd.Series:
    """The keys of people whose columns are read side by side; null where one of them is.

    Shapes: each (n,), one for each column of the key -> (n,) of dtype `str`, same index.

    Raises:
        SubjectKeyInvalid: see `canonical_keys`.
    """
    spelled = [canonical_keys(each) for each in parts]
    if len(spelled) == 1:
        return spelled[0]
    quoted = [by_distinct(each, _quoted) for each in spelled]
    made = [None if None in row else f"({','.join(row)})" for row in zip(*quoted, strict=True)]
    return pd.Series(made, index=spelled[0].index, dtype="str")


def _quoted(part: str) -> str:
    return json.dumps(part, ensure_ascii=False)


def _strings(text: str) -> Parts | None:
    """What a list of JSON has, numbers as they are written; None if it is none, or has lists."""
    try:
        found: Any = json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not all(isinstance(each, str | bool) for each in found):
        return None
    return tuple(map(canonical_text, found))


def _refuse(constant: str) -> Any:
    raise ValueError(constant)
