"""What the sections of `params.yaml` must agree on; each check raises a ValueError."""

import difflib
from collections.abc import Mapping, Sequence

from lethe.config.aggregates import Aggregate
from lethe.config.links import paths_between
from lethe.config.sections import Budget, Consent, Records, Subject
from lethe.config.tables import Column, Table
from lethe.config.training import Mechanism

Tables = Mapping[str, Table]


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a complaint about a name: the one that was perhaps meant, or all there are."""
    close = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def check_names(tables: Tables, subject: Subject, records: Records, consent: Consent) -> None:
    """The tables and columns that other sections name are declared."""
    named = {
        "subject.table": subject.table,
        "records.table": records.table,
        "consent.table": consent.table,
    }
    for where, name in named.items():
        if name not in tables:
            raise ValueError(f"{where}={name!r} is not among tables{nearest(name, list(tables))}")
    for name in subject.keys:
        key = tables[subject.table].columns.get(name)
        if key is None or key.role != "subject_key":
            raise ValueError(
                f"subject.key={name!r} must be a column of {subject.table!r} with role subject_key"
            )
    latest = latest_by(tables, records)
    if latest is not None and (
        latest[0] not in tables or latest[1] not in tables[latest[0]].columns
    ):
        raise ValueError(
            f"records.latest_by={records.latest_by!r} is not declared in {latest[0]!r}"
        )
    _check_consent(tables, subject, consent)


def _check_consent(tables: Tables, subject: Subject, consent: Consent) -> None:
    answers = tables[consent.table]
    named = [(where, getattr(consent, where)) for where in ("purpose", "answer", "time")]
    for where, column in [*(("subject", each) for each in consent.subjects), *named]:
        if column not in answers.columns:
            raise ValueError(
                f"consent.{where}={column!r} is not declared in {consent.table!r}"
                f"{nearest(column, list(answers.columns))}"
            )
    _check_whose(answers, subject, consent)


def _check_whose(answers: Table, subject: Subject, consent: Consent) -> None:
    """An answer is the person's that its columns name: as many as the key has, in its order."""
    own, keys = consent.subjects, subject.keys
    if len(keys) == 1 and len(own) == 1:
        return
    pointing = {
        column: reference
        for link in answers.parsed_links
        if link.table == subject.table
        for column, reference in zip(link.columns, link.references, strict=True)
    }
    places = {_plain(key): place for place, key in enumerate(keys)}
    theirs = (places.get(_plain(pointing.get(column, column))) for column in own)
    elsewhere = any(said not in (None, place) for place, said in enumerate(theirs))
    if len(own) != len(keys) or elsewhere:
        raise ValueError(
            f"consent.subject must name the person by {len(keys)} columns in the order of "
            f"subject.key ({subject.called}), as a list; declared: {', '.join(own)}"
        )


def _plain(name: str) -> str:
    """`Shop_Nr` and `shopNr` are one name."""
    return "".join(each for each in name.casefold() if each.isalnum())


def latest_by(tables: Tables, records: Records) -> tuple[str, str] | None:
    """(table, column) of what orders a person's records, if anything is declared."""
    if records.latest_by is None:
        return None
    own = tables.get(records.table)
    words = records.latest_by.split(".")
    if len(words) == 1 or (own is not None and records.latest_by in own.columns):
        return records.table, records.latest_by
    # Names of tables and columns may have dots in them; what is declared decides.
    ways = [(".".join(words[:n]), ".".join(words[n:])) for n in range(len(words) - 1, 0, -1)]
    known = (way for way in ways if way[0] in tables and way[1] in tables[way[0]].columns)
    return next(known, ways[0])


def check_links(tables: Tables) -> None:
    """Every link leads to a declared column."""
    links = [(name, link) for name, table in tables.items() for link in table.parsed_links]
    for name, link in links:
        if link.table not in tables:
            raise ValueError(
                f"tables.{name}: link to unknown table {link.table!r}"
                f"{nearest(link.table, list(tables))}"
            )
        known = list(tables[link.table].columns)
        for column in link.references:
            if column not in known:
                raise ValueError(
                    f"tables.{name}: link to undeclared column {link.table}.{column}"
                    f"{nearest(column, known)}"
                )


def check_columns(tables: Tables, subject: Subject, records: Records) -> None:
    """People are reached, erasures declared, and what is taken is one label and its features."""
    for name, table in tables.items():
        if not paths_between(tables, name, subject.table) and table.about == "person":
            raise ValueError(
                f"tables.{name}: no chain of links leads to {subject.table!r}; declare its "
                "link, or about: nobody"
            )
        if table.about != "nobody" and table.erase is None:
            raise ValueError(f"tables.{name}: say what an erasure does to it (erase: …)")
        for column, declared in table.columns.items():
            _check_column(tables, name, column, declared, records)
    latest = latest_by(tables, records)
    if latest is not None and not paths_between(tables, records.table, latest[0]):
        raise ValueError(
            f"records.latest_by={records.latest_by!r}: no chain of links leads from "
            f"{records.table!r} to {latest[0]!r}"
        )
    columns = [
        (f"{name}.{column}", declared)
        for name, table in tables.items()
        for column, declared in {**table.columns, **table.computed}.items()
    ]
    labels = [name for name, declared in columns if declared.role == "label"]
    if len(labels) != 1:
        raise ValueError(f"exactly one column must have role label; declared: {labels or 'none'}")
    if not any(declared.taken and declared.role != "label" for _, declared in columns):
        raise ValueError("no feature is declared: nothing to learn from")


def _check_column(
    tables: Tables, table: str, name: str, declared: Column, records: Records
) -> None:
    at = declared.generalize.age_at if declared.generalize else None
    moment = None if at is None else tables[records.table].columns.get(at)
    if at is not None and (moment is None or moment.role != "timestamp"):
        raise ValueError(
            f"tables.{table}.{name}: age_at={at!r} must be a timestamp column of {records.table!r}"
        )
    if declared.taken and not paths_between(tables, records.table, table):
        raise ValueError(
            f"tables.{table}.{name}: role {declared.role}, but no chain of links "
            f"leads from {records.table!r} to {table!r}; a record takes columns of "
            "rows it points at, no others"
        )


def check_aggregates(tables: Tables, subject: Subject, records: Records) -> None:
    """What records take of child rows is one person's, of days before theirs, and numbers."""
    used = set()
    for table, declared in tables.items():
        for name, made in declared.aggregates.items():
            where = f"tables.{table}.aggregates.{name}"
            if table != records.table:
                raise ValueError(
                    f"{where}: aggregates belong to the records' table {records.table!r}"
                )
            _check_children(tables, subject, records, made, where)
            _check_days(tables, subject, records, made, where)
            used.add((made.table, made.column))
    for table, declared in tables.items():
        for name, column in declared.columns.items():
            if column.role == "aggregated" and (table, name) not in used:
                raise ValueError(
                    f"tables.{table}.{name}: role aggregated, but no aggregate of "
                    f"{records.table!r} is made of it; what nothing needs is unused"
                )


def _check_children(
    tables: Tables, subject: Subject, records: Records, made: Aggregate, where: str
) -> None:
    """Whose the child rows are, and what is read of them."""
    if made.table not in tables:
        raise ValueError(f"{where}: no table {made.table!r}{nearest(made.table, list(tables))}")
    children = tables[made.table]
    if made.table == subject.table:
        raise ValueError(
            f"{where}: {made.table!r} has one row a person; take its columns as they are"
        )
    if children.about != "person" or not paths_between(tables, made.table, subject.table):
        raise ValueError(
            f"{where}: {made.table!r} does not say whose its rows are, so no erasure would find "
            f"them. Declare its link to {subject.table!r}, and what an erasure does to it"
        )
    if made.of == "record" and (
        made.table == records.table or not paths_between(tables, made.table, records.table)
    ):
        raise ValueError(
            f"{where}: of: record, but no chain of links leads from {made.table!r} to a row of "
            f"{records.table!r}; count those of the person, or declare the link"
        )
    named = [*dict(made.condition), *([made.column] if made.column else [])]
    for name in named:
        column = children.columns.get(name)
        if column is None or column.role in ("unused", "identifier", "text"):
            raise ValueError(
                f"{where}: {made.table}.{name} is not declared as a column that is read"
                f"{nearest(name, list(children.columns))}"
            )
    if made.function == "count":
        return
    column = children.columns[str(made.column)]
    number = column.type in ("integer", "real") and column.categories is None
    if not number or column.role not in ("aggregated", "feature", "quasi_identifier"):
        raise ValueError(
            f"{where}: {made.function} needs numbers; declare {made.table}.{made.column} with role "
            "aggregated and type integer or real"
        )


def _check_days(
    tables: Tables, subject: Subject, records: Records, made: Aggregate, where: str
) -> None:
    """A child row is looked at if it was there before the record's day; never one of later."""
    children, own = tables[made.table].columns, tables[records.table].columns
    dated = [name for name, column in children.items() if column.role == "timestamp"]
    if made.by is None and (made.of == "person" or dated):
        raise ValueError(
            f"{where}: say with `by` which timestamp column of {made.table!r} has a row's day, so "
            "that no row of after the record is looked at"
        )
    if made.by is not None and made.by not in dated:
        raise ValueError(f"{where}: by={made.by!r} must be a timestamp column of {made.table!r}")
    if made.at is not None and (made.at not in own or own[made.at].role != "timestamp"):
        raise ValueError(f"{where}: at={made.at!r} must be a timestamp column of {records.table!r}")
    if made.by is not None and made.at is None and records.table != subject.table:
        raise ValueError(
            f"{where}: say with `at` which timestamp column of {records.table!r} has a record's day"
        )
    if made.same_day and made.table == records.table:
        raise ValueError(f"{where}: with same_day a record would be counted for itself")


def check_privacy(budget: Budget, mechanism: Mechanism, subject: Subject) -> None:
    """The numbers of the guarantee make sense together."""
    expected = mechanism.expected_subjects
    if budget.delta >= 1 / expected:
        raise ValueError(
            f"budget.delta={budget.delta:g} must be below 1/expected_subjects="
            f"{1 / expected:g}: a larger one allows to publish a person outright"
        )
    if subject.minimum > expected:
        raise ValueError(
            f"subject.minimum={subject.minimum} is above "
            f"training.mechanism.expected_subjects={expected}"
        )
    target = mechanism.epsilon
    if target is not None and target > budget.epsilon:
        raise ValueError(
            f"training.mechanism.epsilon={target:g} is above the whole budget.epsilon="
            f"{budget.epsilon:g}"
        )
