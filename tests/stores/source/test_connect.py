"""What is read is what is erased from, and what is looked at before a receipt is signed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lethe.core.errors import ErasureRefused, ParamsInvalid, SchemaMismatch, SourceUnavailable
from lethe.core.outcomes import Traces
from lethe.stores.source import connect
from lethe.stores.source.compact import compact_source
from lethe.stores.source.connect import check_one_place, reading_place
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.read import Source
from lethe.stores.source.verify import verify_source
from lethe.stores.source.writer import open_writer
from tests.postgres import PASSWORD, postgres_server, postgres_url, postgres_urls
from tests.traps import NOW, Parish, declare, sqlite_url

__all__ = ["postgres_server", "postgres_url", "postgres_urls"]

ADA = Traces("1", None, ("Ada Quill", "ada.quill@example.org"))


def subjects(url: str) -> set[str]:
    with Source.open(declare(url)) as source:
        return {key for keys in source.subjects() for key in keys}


@pytest.fixture
def two(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parish:
    """The same parish twice: in `public`, and in `held`."""
    monkeypatch.chdir(tmp_path)
    parish = Parish.build(postgres_url)
    parish.run("CREATE SCHEMA held")
    Parish.build(held(postgres_url))
    return parish


def held(url: str) -> str:
    return f"{url}?options=-csearch_path%3Dheld"


@pytest.fixture
def role(two: Parish) -> Iterator[str]:
    """A role that may do all that the owner may."""
    name = "clerk" + two.url.rsplit("/", 1)[1]
    two.run(f"CREATE ROLE {name} LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
    yield name
    two.run(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def as_role(url: str, role: str) -> str:
    return url.replace("//lethe:", f"//{role}:")


def test_a_search_path_in_the_url_holds_for_the_erasure(two: Parish) -> None:
    url = held(two.url)
    done = erase_from_source(declare(url), ADA, now=NOW)
    assert done.result == "erased"
    assert subjects(url) == {"2", "3", "4"}
    assert subjects(two.url) == {"1", "2", "3", "4"}
    assert verify_source(declare(url), ADA).result == "absent"
    assert verify_source(declare(two.url), Traces("2", None)).count > 0


def test_a_declared_schema_is_read_and_erased_from_alike_beside_the_urls_options(
    two: Parish,
) -> None:
    url = f"{two.url}?options=-cstatement_timeout%3D60000"
    params = declare(url, source__schema="held")
    place = check_one_place(params)
    assert place is not None and place.schemas == ("held",)
    assert erase_from_source(params, ADA, now=NOW).result == "erased"
    assert verify_source(params, ADA).result == "absent"
    with Source.open(params) as source:
        assert {key for keys in source.subjects() for key in keys} == {"2", "3", "4"}
        names = source.engine.connect().exec_driver_sql("SHOW statement_timeout").scalar_one()
    assert (subjects(two.url), names) == ({"1", "2", "3", "4"}, "1min")
    with pytest.raises(SourceUnavailable, match="both name a schema"):
        Source.open(declare(held(two.url), source__schema="held"))
    nowhere = declare(two.url, source__schema="nowhere")
    with (
        pytest.raises(SchemaMismatch, match="is declared but absent"),
        Source.open(nowhere) as source,
    ):
        source.check(nowhere)


@pytest.mark.parametrize(
    ("url", "schema"), [("sqlite:///x.db", "held"), ("csv:x", "held"), ("postgresql://x", 'a"b')]
)
def test_a_schema_that_cannot_be_is_refused(url: str, schema: str) -> None:
    with pytest.raises(ParamsInvalid, match="schema"):
        declare(url, source__schema=schema)


def test_a_search_path_of_the_environment_holds_for_the_erasure(
    two: Parish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c search_path=held")
    assert erase_from_source(declare(two.url), ADA, now=NOW).result == "erased"
    assert verify_source(declare(two.url), ADA).result == "absent"
    monkeypatch.delenv("PGOPTIONS")
    assert subjects(held(two.url)) == {"2", "3", "4"}
    assert subjects(two.url) == {"1", "2", "3", "4"}


def test_a_search_path_of_the_role_and_a_role_in_the_url_hold_for_all(
    two: Parish, role: str
) -> None:
    two.run(f"ALTER ROLE {role} SET search_path = held")
    url = as_role(two.url, role)
    assert reading_place(declare(url)) == check_one_place(declare(url))
    assert erase_from_source(declare(url), ADA, now=NOW).result == "erased"
    assert subjects(two.url) == {"1", "2", "3", "4"}
    assumed = declare(f"{two.url}?options=-crole%3D{role}")
    for writing in (False, True):
        with open_writer(assumed, writing=writing) as writer:
            place = writer.place()
        assert place is not None and place.user == role


@pytest.mark.parametrize("moved", ["schema", "database"])
def test_a_fresh_look_elsewhere_is_no_look(
    two: Parish, role: str, moved: str, request: pytest.FixtureRequest
) -> None:
    erased = erase_from_source(declare(held(two.url)), ADA, now=NOW, compact=False)
    assert erased.result == "erased"
    elsewhere = {
        "schema": lambda: two.url,
        "database": lambda: Parish.build(request.getfixturevalue("postgres_urls")()).url,
    }[moved]()
    seen = verify_source(declare(elsewhere), ADA)
    assert seen.result == "unreachable"
    assert seen.reason is not None and "erased from database" in seen.reason
    assert PASSWORD not in seen.reason
    with pytest.raises(SourceUnavailable, match="two places"):
        compact_source(declare(elsewhere))
    again = erase_from_source(declare(elsewhere), ADA, now=NOW)
    assert again.result == "unreachable" and "two places" in str(again.reason)
    compact_source(declare(as_role(held(two.url), role)))  # another user may end it
    assert verify_source(declare(held(two.url)), ADA).result == "absent"


def test_two_places_are_said_before_anything_is_changed(
    two: Parish, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = connect._postgresql

    def replaced(url: sa.URL, *, writing: bool, **options: Any) -> sa.Engine:
        return declared(url.set(query={}) if writing else url, writing=writing, **options)

    monkeypatch.setattr(connect, "_postgresql", replaced)
    with pytest.raises(SourceUnavailable, match=r"schema held.*schema public"):
        check_one_place(declare(held(two.url)))
    assert "two places" in str(verify_source(declare(held(two.url)), ADA).reason)
    outcome = erase_from_source(declare(held(two.url)), ADA, now=NOW)
    assert outcome.result == "unreachable"
    assert subjects(two.url) == {"1", "2", "3", "4"}


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_the_fresh_look_can_change_nothing(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    postgres = kind == "postgres"
    url = request.getfixturevalue("postgres_urls")() if postgres else sqlite_url(tmp_path)
    parish = Parish.build(url)
    with pytest.raises(SourceUnavailable), open_writer(declare(url), writing=False) as writer:
        writer.connection.execute(sa.text("DELETE FROM letters"))
    assert len(parish.rows("letters")) == 4


def test_rows_that_a_policy_hides_are_not_called_gone(two: Parish) -> None:
    name = "ward" + two.url.rsplit("/", 1)[1]
    two.run(
        f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'",
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}",
        "ALTER TABLE people ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY few ON people USING (person_id > 1)",
    )
    try:
        params = declare(as_role(two.url, name))
        with pytest.raises(ErasureRefused, match="people"):
            erase_from_source(params, ADA, now=NOW)
        assert verify_source(params, ADA).result == "unreachable"
    finally:
        two.run(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


@pytest.mark.parametrize(
    ("statements", "named"),
    [
        (["CREATE TABLE old.people (email text)"], "schema old (people)"),
        (
            [
                "CREATE TABLE old.parted (n int) PARTITION BY RANGE (n)",
                "CREATE TABLE old.part PARTITION OF old.parted FOR VALUES FROM (0) TO (9)",
            ],
            "schema old (parted)",
        ),
        (["CREATE MATERIALIZED VIEW old.copy AS SELECT * FROM people"], "schema old (copy)"),
        (
            [
                "CREATE FOREIGN DATA WRAPPER afar",
                "CREATE SERVER away FOREIGN DATA WRAPPER afar",
                "CREATE FOREIGN TABLE there (email text) SERVER away",
            ],
            "schema public (there (foreign table))",
        ),
        (["CREATE PUBLICATION copies FOR TABLE people"], "publication copies"),
    ],
)
@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection")
def test_what_lies_outside_is_named_and_not_called_empty(
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    statements: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    parish = Parish.build(postgres_url)
    with Source.open(declare(parish.url)) as source:
        assert source.outside() == ()
    parish.run("CREATE SCHEMA old", *statements)
    params = declare(parish.url)
    with Source.open(params) as source:
        assert source.outside() == (
            (named,) if "publication" not in named else (f"subscribers of {named}",)
        )
    for outcome in (erase_from_source(params, ADA, now=NOW), verify_source(params, ADA)):
        assert outcome.result in ("erased", "absent")
        assert outcome.reason is not None and f"Not looked at: {source_words(named)}" in (
            outcome.reason
        )


def source_words(named: str) -> str:
    return f"subscribers of {named}" if "publication" in named else named


def test_a_file_has_nothing_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parish = Parish.build(sqlite_url(tmp_path))
    with Source.open(declare(parish.url)) as source:
        assert source.outside() == ()
    assert verify_source(declare(parish.url), Traces("9", None)).reason is None
