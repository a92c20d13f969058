"""Whether the rows of a source can be read as declared: counts alone, no value is taken."""

from functools import partial

import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.errors import ParamsInvalid, SchemaMismatch, SubjectKeyInvalid, TooFewSubjects
from lethe.stores.source.purposes import purposes
from lethe.stores.source.queries import (
    Joins,
    consent_links,
    labelled,
    lacking,
    respelled,
    respelled_rows,
    rows_with_blanks,
    table_of,
    unled,
    unled_rows,
    with_blanks,
)
from lethe.stores.source.reader import Reader
from lethe.stores.source.schema import nearest, unproved_links


def check_links(reader: Reader, params: Params) -> None:
    check_link_types(reader, params)
    for name, link in unproved_links(params, reader.tables()):
        target = table_of(params, link.table)
        columns = [target.c[reference] for reference in link.references]
        several = (
            sa.select(*columns)
            .where(*(column.is_not(None) for column in columns))
            .group_by(*columns)
            .having(sa.func.count() > 1)
        )
        count = reader.count(sa.select(sa.func.count()).select_from(several.subquery()))
        whole = sorted(link.references) == sorted(params.subject.keys)
        if count and not (link.table == params.subject.table and whole):  # for `check_subjects`
            raise SchemaMismatch(
                f"The link of {name} to {link.table}.{', '.join(link.references)} is not many "
                f"to one: {count} of its values are on several rows. Link to a unique key."
            )
    for name in params.tables:
        for own, statement in unled(params, name):
            if count := reader.count(statement):
                raise SchemaMismatch(unled_rows(params, name, own, count))
        for own, statement in respelled(params, name, partial(_kind, reader), reader.dialect):
            if count := reader.count(statement):
                raise SchemaMismatch(respelled_rows(name, own, count))
    if reader.dialect == "postgresql":
        tables = reader.tables()
        links = [(n, link) for n, each in params.tables.items() for link in each.parsed_links]
        links += [(params.consent.table, chain[0]) for chain in consent_links(params)]
        ends = ((name, link.columns, link.table, link.references) for name, link in links)
        for table, own, statement in with_blanks(params, ends, lambda t, c: c in tables[t].padded):
            if count := reader.count(statement):
                raise SchemaMismatch(rows_with_blanks(table, own, count))


def check_subjects(reader: Reader, params: Params) -> None:
    table = table_of(params, params.subject.table)
    parts = [table.c[key] for key in params.subject.keys]
    whole = [part.is_not(None) for part in parts]
    # 7 and "7" are two values in SQLite, 7.5 and 7.50 two texts, and one person each
    as_text = [sa.cast(part, sa.Text()) for part in parts]
    if len(parts) == 1:
        counted = [
            sa.func.count(parts[0]),
            sa.func.count(sa.distinct(as_text[0])),
            sa.func.count(sa.distinct(parts[0])),
        ]
        rows, present, texts, values = map(
            int, reader.row(sa.select(sa.func.count(), *counted).select_from(table))
        )
    else:
        rows = reader.count(sa.select(sa.func.count()).select_from(table))
        present, texts, values = (
            reader.count(sa.select(sa.func.count()).select_from(each.subquery()))
            for each in (
                sa.select(*labelled(parts)).where(*whole),
                sa.select(*labelled(as_text)).where(*whole).distinct(),
                sa.select(*labelled(parts)).where(*whole).distinct(),
            )
        )
    distinct = min(texts, values)
    if rows != present or present != distinct:
        raise SubjectKeyInvalid(
            f"{params.subject.table}.{params.subject.called}: {rows - present} keys are null and "
            f"{present - distinct} are repeated among {rows} rows. A subject table has one row "
            "a person."
        )
    if rows < params.subject.minimum:
        raise TooFewSubjects(
            f"The source has {rows} subjects; subject.minimum is {params.subject.minimum}."
        )


def check_purpose(reader: Reader, params: Params) -> None:
    found = purposes(reader, params)
    if not found.own:
        asked = sorted({*found.near, *found.others})
        known = nearest(params.purpose, asked) or f"; asked were: {', '.join(asked)}"
        raise ParamsInvalid(f"Nobody was asked about purpose {params.purpose!r}{known}.")


def check_linked(reader: Reader, params: Params) -> None:
    strays = without_person(reader, params, params.records.table)
    if strays and params.records.without_person == "refuse":
        raise SubjectKeyInvalid(
            f"{strays} rows of {params.records.table} link to no row of {params.subject.table}. It "
            "cannot be known whose they are: correct their links, or declare records: "
            "{without_person: leave_out}."
        )


def without_person(reader: Reader, params: Params, base: str) -> int:
    """How many rows of a table lead to nobody."""
    joins = Joins(params, base, dialect=reader.dialect, as_of=None)
    chains = params.paths(base, params.subject.table)
    subject = joins.person(chains, outer=True)
    statement = sa.select(sa.func.count()).select_from(joins.source)
    return reader.count(statement.where(lacking(subject)))


def check_link_types(reader: Reader, params: Params) -> None:
    """Both ends of every link are of one type: 7 and '7' join nowhere, and no row is at fault.

    Where a type of SQLite's says that one end is of numbers, texts that are numbers join it; see
    `respelled`.

    Raises:
        SchemaMismatch: names a link whose ends have no type in common, and the types.
    """
    for name, table in params.tables.items():
        for link in table.parsed_links:
            if link.when:  # of keys of several tables; compared as text, see `queries.along`
                continue
            for column, reference in zip(link.columns, link.references, strict=True):
                ends = {_kind(reader, name, column), _kind(reader, link.table, reference)}
                numbers = bool(ends & {"integer", "real"})
                here = _types(reader, params, name, column, numbers=numbers)
                there = _types(reader, params, link.table, reference, numbers=numbers)
                if here and there and not here & there:
                    raise SchemaMismatch(
                        f"{name}.{column} holds {' and '.join(sorted(here))}, and "
                        f"{link.table}.{reference}, which it links to, "
                        f"{' and '.join(sorted(there))}: no row joins, and no row is at fault. "
                        "Give both one type, in the files or by a view."
                    )


def _kind(reader: Reader, table: str, column: str) -> str:
    return reader.tables()[table].kinds.get(column, "")


_TYPES = {
    **dict.fromkeys(("integer", "real", "smallint", "bigint", "numeric"), "numbers"),
    **dict.fromkeys(("double precision",), "numbers"),
    **dict.fromkeys(("text", "character varying", "character"), "text"),
    **{"uuid": "UUIDs", "blob": "bytes", "bytea": "bytes"},
}


def _types(reader: Reader, params: Params, table: str, column: str, *, numbers: bool) -> set[str]:
    """What a column's values are; nothing where the database has other types, which may join.

    With `numbers` SQLite compares it as a number, which some texts are.
    """
    clause = table_of(params, table)
    value = clause.c[column]
    kind = sa.func.typeof if reader.dialect == "sqlite" else sa.func.pg_typeof
    named: sa.ColumnElement[str] = sa.cast(kind(value), sa.Text())
    if numbers and reader.dialect == "sqlite":
        named = sa.case((value == sa.cast(value, sa.Numeric()), "integer"), else_=named)
    statement = sa.select(named.label("kind")).where(value.is_not(None))
    # A column of PostgreSQL has one type.
    statement = statement.distinct() if reader.dialect == "sqlite" else statement.limit(1)
    kinds = {str(kind) for frame in reader.stream(statement) for kind in frame["kind"]}
    return {_TYPES[each] for each in kinds} if kinds <= set(_TYPES) else set()
