"""What a training record is, whose it is, and which of a person's is the latest, as declared."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lethe.config.params import Params
from lethe.core.errors import ParamsInvalid, SubjectKeyInvalid, ValueOutsideDomain
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.identifiers import traces
from lethe.stores.source.read import Source
from lethe.stores.source.verify import verify_source
from tests.library import DECLARED, NOW, build, declare, rows

LINK = {"role": "link"}
LABEL = DECLARED["tables"]["loans"]["columns"]["returned"]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Params]:
    """The library in SQLite after some statements."""
    monkeypatch.chdir(tmp_path)

    def made(*statements: str, **changes: Any) -> Params:
        url = build("sqlite", tmp_path, rows(), None)
        with sqlite3.connect(tmp_path / "library.db") as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()
        return declare(url, **changes)

    return made


def records(params: Params) -> list[tuple[str, Any]]:
    with Source.open(params) as source:
        source.check(params)
        chunks = list(source.records(params, NOW))
    found = (zip(chunk.subject, chunk.order, strict=True) for chunk in chunks)
    return sorted((each for pairs in found for each in pairs), key=str)


NOBODYS = (
    "UPDATE loans SET reader_id = NULL WHERE loan_id = 101",
    "UPDATE loans SET reader_id = 77 WHERE loan_id = 102",
)


def test_records_without_a_person_are_refused_unless_declared_to_be_left_out(
    make: Callable[..., Params],
) -> None:
    params = make(*NOBODYS)
    with pytest.raises(SubjectKeyInvalid, match=r"2 rows of loans .* leave_out"):
        records(params)


def test_records_without_a_person_are_left_out_and_counted(make: Callable[..., Params]) -> None:
    params = make(*NOBODYS, records__without_person="leave_out")
    assert [who for who, _ in records(params)] == ["8"]
    with Source.open(params) as source:
        assert source.without_person(params) == 2


def test_the_latest_record_can_be_the_one_whose_parent_is_latest(
    make: Callable[..., Params],
) -> None:
    params = make(records={"table": "loans", "latest_by": "branches.opened_at"})
    found = [(who, None if pd.isna(when) else when) for who, when in records(params)]
    opened = pd.Timestamp("2020-01-01", tz="UTC")
    assert found == [("7", None), ("7", opened), ("8", None)]


@pytest.mark.parametrize(
    ("latest", "said"),
    [
        ("branches.opened", "not declared in 'branches'"),
        ("rooms.opened", "not declared in 'rooms'"),
        ("answers.answered_at", "no chain of links leads from 'loans' to 'answers'"),
    ],
)
def test_what_orders_records_must_be_reached_from_them(latest: str, said: str) -> None:
    with pytest.raises(ParamsInvalid, match=said):
        declare("sqlite:///x.db", records={"table": "loans", "latest_by": latest})


def test_a_date_of_a_parent_that_cannot_be_read_is_named(make: Callable[..., Params]) -> None:
    params = make(
        "UPDATE branches SET opened_at = 'long ago'",
        records={"table": "loans", "latest_by": "branches.opened_at"},
        tables__branches__retention=None,
    )
    with pytest.raises(ValueOutsideDomain, match=r"branches\.opened_at \(records\.latest_by\)"):
        records(params)


def test_a_person_can_be_one_record(make: Callable[..., Params]) -> None:
    readers: dict[str, Any] = {
        **DECLARED["tables"]["readers"],
        "columns": {
            "reader_id": {"role": "subject_key", "why": "joins"},
            "name": {"role": "identifier", "names_people": True, "why": "letters"},
            "email": {"role": "identifier", "why": "letters"},
            "born": {
                "role": "quasi_identifier",
                "type": "date",
                "why": "w",
                "bounds": [1900, 2030],
                "generalize": {"year": True},
            },
            "shoe_size": LABEL
            | {"type": "integer", "domain": ["38", "40", "44"], "positive": ["44"]},
        },
        "unused": [],
    }
    loans = DECLARED["tables"]["loans"]["columns"]
    branches = DECLARED["tables"]["branches"]["columns"]
    params = make(
        records={"table": "readers"},
        tables__readers=readers,
        tables__loans__columns=loans | {"days": LINK, "returned": LINK},
        tables__branches__columns=branches | {"kind": LINK},
    )
    assert [who for who, _ in records(params)] == ["7", "8", "9"]


def test_a_person_of_several_columns_is_refused_with_what_to_do() -> None:
    with pytest.raises(ParamsInvalid, match=r"as a list: \[country, number\]"):
        declare("sqlite:///x.db", subject__key="country, number")


VIEW = """CREATE VIEW visits AS SELECT l.loan_id, l.reader_id, l.lent_at, l.returned,
    (SELECT min(count(*), 5) FROM loans e WHERE e.reader_id = l.reader_id
     AND e.lent_at < l.lent_at AND e.lent_at >= datetime(l.lent_at, '-90 days')) AS earlier,
    b.kind FROM loans l LEFT JOIN branches b ON b.town = l.town AND b.number = l.branch"""


def test_tables_joined_by_a_view_are_read_and_erased_where_their_rows_are(
    make: Callable[..., Params],
) -> None:
    """A view also makes features of child rows; people's rows are the tables' own."""
    loans = DECLARED["tables"]["loans"]["columns"]
    branches = DECLARED["tables"]["branches"]["columns"]
    params = make(
        VIEW,
        records={"table": "visits", "latest_by": "lent_at"},
        tables__readers__columns__born={"role": "identifier", "type": "date", "why": "w"},
        tables__loans__columns=loans | {"days": LINK, "returned": LINK},
        tables__branches__columns=branches | {"kind": LINK},
        tables__visits={
            "links": {"reader_id": "readers.reader_id"},
            "erase": {"action": "delete"},
            "columns": {
                "loan_id": LINK,
                "reader_id": LINK,
                "lent_at": loans["lent_at"],
                "returned": LABEL,
                "kind": branches["kind"],
                "earlier": loans["days"] | {"bounds": [0, 5], "outside": "clip"},
            },
        },
    )
    assert [who for who, _ in records(params)] == ["7", "7", "7", "8"]
    with Source.open(params) as source:
        chunks = list(source.records(params, NOW))
    earlier = [int(value) for chunk in chunks for value in chunk.values["earlier"]]
    assert sorted(earlier) == [0, 0, 0, 1]
    ada = traces(params, "7")
    outcome = erase_from_source(params, ada, now=NOW)
    assert outcome.places == ("answers: 1 deleted", "loans: 3 deleted", "readers: 1 deleted")
    assert verify_source(params, ada).result == "absent"
    assert [who for who, _ in records(params)] == ["8"]
