"""A key of one column is of a type by which people are found again, or nobody is called gone."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from lethe.core.errors import SchemaMismatch
from lethe.core.outcomes import Traces
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.read import Source
from lethe.stores.source.verify import verify_source
from tests.library import NOW
from tests.postgres import postgres_server, postgres_urls
from tests.stores.source.test_blank_filled import made
from tests.stores.source.test_person_keys import people_in

__all__ = ["postgres_server", "postgres_urls"]

VALUES = {
    "bytea": ("'\\x4142'", "'\\x41'"),
    "time": ("'10:00:00.5'", "'11:00'"),
    "timetz": ("'10:00+01'", "'11:00+01'"),
    "interval": ("'1 day'", "'2 days'"),
    "inet": ("'10.0.0.1'", "'10.0.0.2'"),
    "macaddr": ("'08:00:2b:01:02:03'", "'08:00:2b:01:02:04'"),
    "integer[]": ("'{1}'", "'{2}'"),
    "oddity": ("'10:00:00.5'", "'11:00'"),
}


@pytest.mark.parametrize("kind", VALUES)
def test_a_type_whose_values_are_not_found_is_refused_by_name(
    kind: str, postgres_urls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = postgres_urls()
    run, params = made(url, "text", "text", linked=False)
    one, other = VALUES[kind]
    run(
        "CREATE DOMAIN oddity AS time",
        *(f"DELETE FROM {each}" for each in ("answers", "members")),
        *(
            f"ALTER TABLE {each} ALTER person TYPE {kind} USING person::{kind}"
            for each in ("answers", "bills", "visits", "members")
        ),
        f"INSERT INTO members VALUES ({one}, 'a@example.org'), ({other}, 'b@example.org')",
        "SELECT 1",
    )
    with Source.open(params) as source, pytest.raises(SchemaMismatch, match=r"members\.person is"):
        source.check(params)
    (key, *_) = people_in(params)
    outcome = erase_from_source(params, Traces(key, None), now=NOW)
    found = verify_source(params, Traces(key, None))
    gone = run(f"SELECT count(*) FROM members WHERE person IN ({one}, {other})") == [(1,)]
    if gone:  # some of its values are spelled as the database does
        assert (outcome.result, found.result) == ("erased", "absent")
    else:
        assert (outcome.result, found.result) == ("unreachable", "present")


@pytest.mark.parametrize("value", [b"AB", 1e-07])
def test_nor_is_anybody_in_sqlite_who_is_not_found(
    value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path / 'studio.db'}"
    _, params = made(url, "", "", linked=False)
    with sqlite3.connect(tmp_path / "studio.db") as source:
        source.execute("UPDATE members SET person = ? WHERE person = 'AB'", (value,))
    (key,) = set(people_in(params)) - {"ABC"}
    if isinstance(value, bytes):
        with Source.open(params) as opened, pytest.raises(SchemaMismatch, match="values that are"):
            opened.check(params)
    traces = Traces(key, None)
    assert erase_from_source(params, traces, now=NOW).result == "unreachable"
    assert verify_source(params, traces).result == "present"
    assert erase_from_source(params, Traces("ABC", None), now=NOW).result == "erased"


def test_a_key_of_text_is_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass over all people is for where the database may compare otherwise."""
    monkeypatch.chdir(tmp_path)
    _, params = made(f"sqlite:///{tmp_path / 'studio.db'}", "text", "text", linked=False)
    said: list[str] = []
    monkeypatch.setattr(
        "lethe.stores.source.verify.standing_people", lambda *_: said.append("read") or set()
    )
    assert verify_source(params, Traces("nobody", None)).result == "absent"
    assert said == []
