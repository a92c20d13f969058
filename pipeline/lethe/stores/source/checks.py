"""Whether the rows of a source can be read as declared: counts alone, no value is taken."""

import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.errors import ParamsInvalid, SchemaMismatch, SubjectKeyInvalid, TooFewSubjects
from lethe.stores.source.purposes import purposes
from lethe.stores.source.queries import Joins, table_of
from lethe.stores.source.reader import Reader
from lethe.stores.source.schema import nearest, unproved_links


def check_links(reader: Reader, params: Params) -> None:
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
        if count and (link.table, link.references) != (
            params.subject.table,
            (params.subject.key,),
        ):
            raise SchemaMismatch(
                f"The link of {name} to {link.table}.{', '.join(link.references)} is not many "
                f"to one: {count} of its values are on several rows. Link to a unique key."
            )


def check_subjects(reader: Reader, params: Params) -> None:
    table = table_of(params, params.subject.table)
    key = table.c[params.subject.key]
    row = reader.row(
        sa.select(
            sa.func.count(),
            sa.func.count(key),
            # as text too: 7 and "7" are two values in SQLite, and one person
            sa.func.count(sa.distinct(sa.cast(key, sa.Text()))),
        ).select_from(table)
    )
    rows, present, distinct = map(int, row)
    if rows != present or present != distinct:
        raise SubjectKeyInvalid(
            f"{params.subject.table}.{params.subject.key}: {rows - present} keys are null and "
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
    base = params.records.table
    links = params.path(base, params.subject.table) or ()
    joins = Joins(params, base, dialect=reader.dialect, as_of=None)
    subject = joins.reach(links, outer=True).c[params.subject.key]
    statement = sa.select(sa.func.count()).select_from(joins.source)
    strays = reader.count(statement.where(subject.is_(None)))
    if strays:
        raise SubjectKeyInvalid(
            f"{strays} rows of {base} link to no row of {params.subject.table}. Correct or remove "
            "them: it cannot be known whose they are."
        )
