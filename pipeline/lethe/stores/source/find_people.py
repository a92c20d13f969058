"""Finding people in the source by what identifies them: the key, or a declared identifier.

The database chooses the rows that may say it; `lethe.core.text.folded` decides."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from decimal import Decimal
from typing import Any

import pandas as pd
import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.errors import LetheError, SourceUnavailable
from lethe.core.notices import notice
from lethe.core.text import folded
from lethe.core.values import canonical_text
from lethe.stores.source import queries
from lethe.stores.source.alike import may_be_one_of
from lethe.stores.source.find_together import keys_together
from lethe.stores.source.number_keys import plain_number
from lethe.stores.source.person_key import understood
from lethe.stores.source.reader import Reader
from lethe.stores.source.writer import AT_ONCE, chunks


def subjects_by(params: Params, column: str, values: Iterable[str]) -> dict[str, list[str]]:
    """The keys of everybody to whom an identifier leads, by value, however it is spelled.

    Guarantees: one pass over the table for up to 500 values, the same whether they are
        anybody's or not.

    Args:
        column: `table.column` of a declared identifier, or of the subject's key.

    Raises:
        SourceUnavailable: the source does not answer, or no chain of links leads from the
            table to the subject's.
    """
    table, _, name = column.rpartition(".")
    paths = params.paths(table, params.subject.table)
    if not paths:
        raise SourceUnavailable(
            f"No chain of links leads from {table!r} to {params.subject.table!r}: nobody can be "
            f"found by {column}. Declare its links."
        )
    found: dict[str, set[str]] = {value: set() for value in values}
    with closing(Reader(params)) as reader:
        joins = queries.Joins(params, table, dialect=reader.dialect, as_of=None)
        key = joins.person(paths, outer=False)
        for some in chunks(list(found), AT_ONCE):
            for subject, value in _led_to(reader, joins, key, name, some):
                found[value].add(subject)
    return {value: sorted(keys) for value, keys in found.items()}


def _led_to(
    reader: Reader,
    joins: queries.Joins,
    key: Sequence[sa.ColumnElement[Any]],
    name: str,
    values: Sequence[str],
) -> Iterator[tuple[str, str]]:
    """Each subject whose identifier is spelled like one of the values, with that value."""
    identifier = sa.cast(joins.base.c[name], sa.Text)
    alike: dict[str, list[str]] = {}
    for value in values:
        alike.setdefault(folded(value), []).append(value)
    statement = (
        sa.select(*queries.labelled(key), identifier.label("said"))
        .select_from(joins.source)
        .where(*joins.where, may_be_one_of(identifier, alike, reader.dialect))
        .distinct()
    )
    for frame in reader.stream(statement):
        for subject, said in zip(queries.subjects_in(frame), frame["said"], strict=True):
            if pd.isna(subject) or said is None:
                continue
            for value in alike.get(folded(str(said)), ()):
                yield subject, value


def keys_spelled(params: Params, keys: Iterable[str]) -> dict[str, list[str]]:
    """The subject keys that each of these may mean: where the key's column is of numbers, the one
    of that value; else itself if somebody or nobody has it, or all those that are spelled alike.
    Of a key of several columns the same of each part.

    Raises:
        SourceUnavailable: the source does not answer.
    """
    asked = list(dict.fromkeys(keys))
    if len(params.subject.keys) > 1:
        return keys_together(params, asked)
    found = _keys_of_numbers(params, asked)
    # In a column of texts digits have one spelling; who has it need not be looked up.
    found |= {
        key: [key]
        for key in asked
        if key not in found and key.isascii() and key.removeprefix("-").isdigit()
    }
    words = [key for key in asked if key not in found]
    if words:
        column = f"{params.subject.table}.{params.subject.called}"
        for key, alike in subjects_by(params, column, words).items():
            found[key] = [key] if key in alike else alike or [key]
    return found


def key_meant(params: Params, word: str) -> str:
    """The key that a person's word is, for what looks without the source; as it was written, and
    a notice, where the source does not answer.

    Raises:
        ParamsInvalid: see `understood`.
    """
    said = understood(word, params.subject)
    try:
        keys = keys_spelled(params, [said])[said]
    except LetheError:
        notice("The source was not read, so the key is looked for exactly as it was written.")
        return said
    return keys[0] if len(keys) == 1 else said


def _keys_of_numbers(params: Params, asked: Sequence[str]) -> dict[str, list[str]]:
    """The keys that some of these are by value; none of them where the key is no number."""
    numbers = {key: number for key in asked if (number := plain_number(key)) is not None}
    if not numbers:
        return {}
    reader = Reader(params)
    try:
        (spelling,) = reader.number_keys()
        if spelling is None:
            return {}
        made = {key: spelling.spelled(number) for key, number in numbers.items()}
        if spelling.by_row:
            made |= _as_their_rows_have_them(
                reader, params, {key: numbers[key] for key, said in made.items() if said is None}
            )
        return {key: [key if said is None else said] for key, said in made.items()}
    finally:
        reader.close()


def _as_their_rows_have_them(
    reader: Reader, params: Params, numbers: Mapping[str, Decimal]
) -> dict[str, str]:
    """The keys of decimals in a column where 7.5 can be 7.50 too, if they are there."""
    key = queries.table_of(params, params.subject.table).c[params.subject.called]
    found: dict[str, str] = {}
    for some in chunks(list(numbers), AT_ONCE):
        statement = sa.select(key.label("subject")).where(key.in_([numbers[n] for n in some]))
        for frame in reader.stream(statement):
            there = {each: canonical_text(each) for each in frame["subject"]}
            found |= {n: there[numbers[n]] for n in some if numbers[n] in there}
    return found
