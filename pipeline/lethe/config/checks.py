"""What the sections of `params.yaml` must agree on; each check raises a ValueError."""

import difflib
from collections.abc import Mapping, Sequence

from lethe.config.sections import Budget, Consent, Records, Subject
from lethe.config.tables import Column, Table, path_between
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
    key = tables[subject.table].columns.get(subject.key)
    if key is None or key.role != "subject_key":
        raise ValueError(
            f"subject.key={subject.key!r} must be a column of {subject.table!r} "
            "with role subject_key"
        )
    latest = records.latest_by
    if latest is not None and latest not in tables[records.table].columns:
        raise ValueError(f"records.latest_by={latest!r} is not declared in {records.table!r}")
    answers = tables[consent.table]
    for where in ("subject", "purpose", "answer", "time"):
        column = getattr(consent, where)
        if column not in answers.columns:
            raise ValueError(
                f"consent.{where}={column!r} is not declared in {consent.table!r}"
                f"{nearest(column, list(answers.columns))}"
            )


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
        if table.about == "person" and path_between(tables, name, subject.table) is None:
            raise ValueError(
                f"tables.{name}: no chain of links leads to {subject.table!r}; declare its "
                "link, or about: nobody"
            )
        if table.about != "nobody" and table.erase is None:
            raise ValueError(f"tables.{name}: say what an erasure does to it (erase: …)")
        for column, declared in table.columns.items():
            _check_column(tables, name, column, declared, records)
    columns = [
        (f"{name}.{column}", declared)
        for name, table in tables.items()
        for column, declared in table.columns.items()
    ]
    labels = [name for name, declared in columns if declared.role == "label"]
    if len(labels) != 1:
        raise ValueError(f"exactly one column must have role label; declared: {labels or 'none'}")
    features = ("feature", "quasi_identifier", "text")
    if not any(declared.role in features and declared.taken for _, declared in columns):
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
    if declared.taken and path_between(tables, records.table, table) is None:
        raise ValueError(
            f"tables.{table}.{name}: role {declared.role}, but no chain of links "
            f"leads from {records.table!r} to {table!r}; a record takes columns of "
            "rows it points at, no others"
        )


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
