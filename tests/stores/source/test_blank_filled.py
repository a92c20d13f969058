"""`char(n)` on PostgreSQL, which is filled with blanks, and texts at the other end of its links."""

import copy
from pathlib import Path
from typing import Any

import pytest

from lethe.config.params import Params, parse_params
from lethe.core.errors import ErasureRefused, SchemaMismatch
from lethe.core.outcomes import Traces
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.read import Source
from lethe.stores.source.verify import verify_source
from tests.library import DECLARED, NOW
from tests.postgres import postgres_server, postgres_urls
from tests.studio import TABLES, Run, opened

__all__ = ["postgres_server", "postgres_urls"]


def made(url: str, person: str, child: str, *, linked: bool) -> tuple[Run, Params]:
    """Members named by one column of a type, and what leads to them by one of another."""
    run = opened(url)
    to_member = " REFERENCES members (person)" if linked else ""
    run(
        f"CREATE TABLE members (person {person} PRIMARY KEY, email text)",
        f"CREATE TABLE visits (visit integer PRIMARY KEY, person {child}{to_member}, day date, "
        "minutes integer, came_back text)",
        f"CREATE TABLE bills (bill integer PRIMARY KEY, person {person}, cents integer)",
        f"CREATE TABLE answers (person {person}, purpose text, said text, said_at text)",
        "INSERT INTO members VALUES ('AB', 'a@example.org'), ('ABC', 'b@example.org')",
        "INSERT INTO answers VALUES ('AB', 'reading', 'yes', '2026-01-01')",
        "SELECT 1",
    )
    raw = copy.deepcopy(DECLARED)
    raw["source"]["url"] = url
    raw["subject"] = {"table": "members", "key": "person", "minimum": 2}
    raw["records"] = {"table": "visits", "latest_by": "day", "without_person": "leave_out"}
    tables = copy.deepcopy({n: TABLES[n] for n in ("members", "visits", "answers", "bills")})
    for table in tables.values():
        key = table["columns"].pop("studio")
        del table["columns"]["number"]
        table["columns"]["person"] = key
        table["links"] = {} if key["role"] == "subject_key" else {"person": "members.person"}
    tables["visits"]["unused"] = []
    raw["tables"] = tables
    raw["consent"] |= {"subject": "person", "answer": "said", "time": "said_at"}
    return run, parse_params(raw)


@pytest.mark.parametrize("linked", [True, False], ids=["foreign key", "declared"])
@pytest.mark.parametrize("said", ["AB   ", "AB ", "AB"])
@pytest.mark.parametrize(
    ("person", "child"),
    [("char(5)", "varchar(5)"), ("char(5)", "text"), ("char(5)", "char(9)")],
)
def test_no_row_with_blanks_is_left_behind_silently(
    postgres_urls: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    person: str,
    child: str,
    said: str,
    linked: bool,
) -> None:
    """Either it goes, or nothing is read and nothing erased, and nobody is called absent."""
    monkeypatch.chdir(tmp_path)
    run, params = made(postgres_urls(), person, child, linked=linked)
    run(f"INSERT INTO visits VALUES (1, '{said}', '2026-01-01', 1, 'yes')", "SELECT 1")
    gone = Traces("AB   ", None)
    if child == "char(9)" or said == "AB":
        with Source.open(params) as source:
            source.check(params)
        assert "visits: 1 deleted" in erase_from_source(params, gone, now=NOW).places
        assert verify_source(params, gone).result == "absent"
        assert run("SELECT count(*) FROM visits") == [(0,)]
        return
    with Source.open(params) as source, pytest.raises(SchemaMismatch, match=r"visits have blanks"):
        source.check(params)
    with pytest.raises(ErasureRefused, match="1 rows of visits have blanks at the end of person"):
        erase_from_source(params, gone, now=NOW)
    assert verify_source(params, gone).result == "unreachable"
    assert run("SELECT count(*) FROM members") == [(2,)]
    run("UPDATE visits SET person = rtrim(person)", "SELECT 1")
    assert "visits: 1 deleted" in erase_from_source(params, gone, now=NOW).places


def test_nor_where_the_texts_are_those_of_the_people(
    postgres_urls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, params = made(postgres_urls(), "varchar(9)", "char(5)", linked=False)
    run(
        "UPDATE members SET person = 'AB   ' WHERE person = 'AB'",
        "INSERT INTO visits VALUES (1, 'AB', '2026-01-01', 1, 'yes')",
        "SELECT 1",
    )
    with pytest.raises(ErasureRefused, match="1 rows of members have blanks at the end of person"):
        erase_from_source(params, Traces("AB   ", None), now=NOW)
    assert verify_source(params, Traces("AB   ", None)).result == "unreachable"
