"""Tables of other schemas of a PostgreSQL database, declared as `schema.table`."""

import ast
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lethe.config.params import Params, parse_params
from lethe.core.errors import ErasureRefused, ParamsInvalid, SchemaMismatch
from lethe.core.outcomes import Traces
from lethe.core.schemas import quoted
from lethe.stores.source.connect import source_engine
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.expire import look_for_expired
from lethe.stores.source.find_people import key_meant, keys_spelled, subjects_by
from lethe.stores.source.graph import read_graph
from lethe.stores.source.identifiers import traces
from lethe.stores.source.queries import table_of
from lethe.stores.source.read import Source
from lethe.stores.source.verify import verify_source
from tests.postgres import PASSWORD, postgres_server, postgres_urls
from tests.traps import DECLARED, NOW, Parish, declare, sqlite_url

__all__ = ["postgres_server", "postgres_urls"]

# Where each table goes: people, records and consent too; some names need quotes.
ELSEWHERE = {
    "people": "civil",
    "visits": "Clinic",
    "findings": "Clinic",
    "answers": "ethics-board",
    "bills": "civil",
    "letters": "post",
    "notices": "post",
    "memberships": "post",
}
DECOYS = ("people", "visits", "letters", "bills", "answers")  # of the same bare names, of nobody


def moved(value: Any, where: dict[str, str]) -> Any:
    """Declarations whose tables are called `schema.table` wherever they are named."""

    def name(word: str) -> str:
        parts = [part.strip() for part in word.split(",")]
        heads = [part.partition(".")[0] for part in parts]
        if not all(head in where for head in heads):
            return word
        return ", ".join(f"{where[h]}.{part}" for h, part in zip(heads, parts, strict=True))

    raw = copy.deepcopy(value)
    raw["tables"] = {name(table): declared for table, declared in raw["tables"].items()}
    for section in ("subject", "records", "consent"):
        raw[section]["table"] = name(raw[section]["table"])
    for declared in raw["tables"].values():
        declared["links"] = {own: name(to) for own, to in declared.get("links", {}).items()}
    return raw


def spread(url: str, where: dict[str, str] = ELSEWHERE) -> tuple[Parish, Params]:
    """The parish with its tables in several schemas, and how that is declared."""
    parish = Parish.build(url)
    parish.run(
        *(f'CREATE SCHEMA "{schema}"' for schema in sorted(set(where.values()))),
        *(f'ALTER TABLE {table} SET SCHEMA "{schema}"' for table, schema in where.items()),
    )
    return parish, parse_params(moved({**DECLARED, "source": {"url": url}}, where))


@pytest.fixture
def url(postgres_urls: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return postgres_urls()


def renamed(places: tuple[str, ...]) -> set[str]:
    heads = {each: each.partition(":")[0] for each in places}
    return {f"{ELSEWHERE[h]}.{each}" if h in ELSEWHERE else each for each, h in heads.items()}


def test_what_is_done_in_other_schemas_is_what_is_done_in_one(
    url: str, postgres_urls: Callable[[], str]
) -> None:
    plain = postgres_urls()
    Parish.build(plain)
    known = traces(declare(plain), "1")
    before = erase_from_source(declare(plain), known, now=NOW)
    assert verify_source(declare(plain), known).result == "absent"
    parish, params = spread(url)
    with Source.open(params) as source:
        source.check(params)
        records = [key for chunk in source.records(params, NOW) for key in chunk.subject]
        answers = sum(len(frame) for frame in source.answers(params, NOW))
        assert source.outside() == ()
    assert "1" in records and answers > 0
    found = traces(params, "1")
    assert found == known
    seen = verify_source(params, found)
    assert {"civil.people.person_id", "post.letters.addressee"} <= set(seen.places)
    done = erase_from_source(params, found, now=NOW)
    assert set(done.places) == renamed(before.places)
    assert [each["table"] for each in done.retained] == ["civil.bills"]
    assert verify_source(params, found).result == "absent"
    assert parish.rows("civil.people") and all(r[0] != 1 for r in parish.rows("civil.people"))


def test_tables_of_the_same_name_in_two_schemas_are_two_tables(url: str) -> None:
    parish, params = spread(url)
    for name in DECOYS:
        there = quoted(f"{ELSEWHERE[name]}.{name}")
        parish.run(f"CREATE TABLE {name} AS SELECT * FROM {there}")
    raw = moved({**DECLARED, "source": {"url": url}}, ELSEWHERE)
    for name in DECOYS:  # of nobody, as far as it is declared
        columns = DECLARED["tables"][name]["columns"]
        unused = [*columns, *DECLARED["tables"][name].get("unused", ())]
        raw["tables"][name] = {"about": "nobody", "columns": {}, "unused": unused}
        raw["tables"][name]["not_links"] = unused
    with (
        pytest.raises(SchemaMismatch, match="table 'people' is not declared"),
        Source.open(params) as source,
    ):
        source.check(params)
    params = parse_params(raw)
    erase_from_source(params, Traces("1", None), now=NOW)
    assert all(row[0] != 1 for row in parish.rows("post.letters"))
    assert [row[0] for row in parish.rows("letters")].count(1) == 2
    assert any(row[0] == 1 for row in parish.rows("people"))


def test_what_is_not_declared_of_a_schema_is_named_as_not_looked_at(url: str) -> None:
    parish, params = spread(url)
    parish.run("CREATE TABLE post.parcels (addressee INTEGER)")
    with Source.open(params) as source:
        assert source.outside() == ("schema post (parcels)",)
    for outcome in (
        erase_from_source(params, Traces("1", None), now=NOW),
        verify_source(params, Traces("1", None)),
    ):
        assert "Not looked at: schema post (parcels)." in str(outcome.reason)


def test_a_foreign_key_from_a_schema_that_is_not_declared_stops_an_erasure(url: str) -> None:
    parish, params = spread(url)
    parish.run("CREATE TABLE post.parcels (addressee INTEGER REFERENCES civil.people)")
    with pytest.raises(ErasureRefused, match=r"post\.parcels points at"):
        erase_from_source(params, Traces("1", None), now=NOW)


def test_whatever_the_search_path_finds_has_a_bare_name(url: str) -> None:
    spread(url)
    path = f"{url}?options=-csearch_path%3Dpublic,civil"
    bare = {name: schema for name, schema in ELSEWHERE.items() if schema != "civil"}
    params = parse_params(moved({**DECLARED, "source": {"url": path}}, bare))
    with source_engine(params, writing=False).connect() as connection:
        edges = {(e.child, e.parent) for e in read_graph(connection, params).edges if e.enforced}
    assert {("cases", "people"), ("Clinic.visits", "people"), ("people", "addresses")} <= edges
    done = erase_from_source(params, Traces("1", None), now=NOW)
    assert "people: 1 deleted" in done.places
    assert verify_source(params, Traces("1", None)).result == "absent"
    twice = parse_params(moved({**DECLARED, "source": {"url": path}}, ELSEWHERE))
    with pytest.raises(SchemaMismatch, match="did you mean 'people'"), Source.open(twice) as source:
        source.check(twice)


def test_partitions_belong_to_their_table_in_whichever_schema_they_are(url: str) -> None:
    parish, params = spread(url)
    parish.run(
        "CREATE SCHEMA archive",
        "CREATE TABLE post.whole (addressee INTEGER, body TEXT) PARTITION BY RANGE (addressee)",
        "CREATE TABLE archive.letters PARTITION OF post.whole FOR VALUES FROM (0) TO (2)",
        "CREATE TABLE post.letters_b PARTITION OF post.whole DEFAULT",
        "INSERT INTO post.whole SELECT * FROM post.letters",
        "DROP TABLE post.letters",
        "ALTER TABLE post.whole RENAME TO letters",
        "INSERT INTO post.letters SELECT 1, 'Dear Ada' FROM generate_series(1, 50)",
        "ANALYZE",
    )
    with Source.open(params) as source:
        source.check(params)
        assert source.outside() == ()
    done = erase_from_source(params, Traces("1", None), now=NOW)
    assert "post.letters: 52 deleted" in done.places
    assert parish.rows("archive.letters") == []


def test_what_the_planner_knows_of_another_schema_is_looked_at(url: str) -> None:
    parish, params = spread(url)
    parish.run("INSERT INTO post.letters SELECT 1, 'Dear Ada' FROM generate_series(1, 50)")
    parish.run("ANALYZE post.letters", "DELETE FROM post.letters")
    erased = erase_from_source(params, Traces("1", None), now=NOW, compact=False)
    assert erased.result == "erased"
    seen = verify_source(params, Traces("1", None))
    assert "the statistics of post.letters.addressee" in seen.places


def test_people_are_found_by_what_another_schema_says_of_them(url: str) -> None:
    parish, params = spread(url)
    ((_, email),) = parish.engine.connect().exec_driver_sql(
        "SELECT person_id, email FROM civil.people WHERE person_id = 1"
    )
    assert subjects_by(params, "civil.people.email", [email]) == {email: ["1"]}


@pytest.mark.parametrize("name", ["civil.people", "public.peo.ple", "people"])
def test_people_are_found_by_a_number_wherever_their_table_is(url: str, name: str) -> None:
    where = {"people": "civil"} if name == "civil.people" else {}
    parish, params = spread(url, where)
    if name == "public.peo.ple":
        parish.run('ALTER TABLE people RENAME TO "peo.ple"')
        raw = repr(moved({**DECLARED, "source": {"url": url}}, {}))
        raw = raw.replace("'people'", f"'{name}'").replace("'people.", f"'{name}.")
        params = parse_params(ast.literal_eval(raw))
    parish.run("CREATE SCHEMA decoy", "CREATE TABLE decoy.people (person_id TEXT)")
    assert keys_spelled(params, ["1", "007", "1.0", "x"]) == {
        "1": ["1"],
        "007": ["7"],
        "1.0": ["1"],
        "x": ["x"],
    }
    assert key_meant(params, "01") == "1"
    erase_from_source(params, traces(params, "1"), now=NOW)
    assert all(row[0] != 1 for row in parish.rows(quoted(name)))


def test_views_and_partitioned_tables_of_other_schemas_spell_numbers_too(url: str) -> None:
    parish, params = spread(url)
    parish.run(
        "ALTER TABLE civil.people RENAME TO persons",
        "CREATE VIEW civil.people AS SELECT person_id::numeric(9, 2) FROM civil.persons",
    )
    assert keys_spelled(params, ["7.00", "7.5"]) == {"7.00": ["7"], "7.5": ["7.50"]}
    parish.run(
        "DROP VIEW civil.people",
        "CREATE TABLE civil.people (person_id BIGINT) PARTITION BY HASH (person_id)",
    )
    assert keys_spelled(params, ["07"]) == {"07": ["7"]}
    parish.run("DROP TABLE civil.people")
    with pytest.raises(SchemaMismatch, match=r"'civil\.people'"):
        keys_spelled(params, ["07"])


def test_retention_goes_by_the_dates_of_another_schema(url: str) -> None:
    parish, params = spread(url)
    parish.run("UPDATE civil.bills SET issued = '1990-01-01'")
    rows = len(parish.rows("civil.bills"))
    assert look_for_expired(params, as_of=NOW).rows == {"civil.bills": rows}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"people": "post"}, "table 'post.people' is declared but absent"),
        ({"people": "nowhere"}, "table 'nowhere.people' is declared but absent"),
        ({"addresses": "public"}, "did you mean 'addresses', of the source's own schema"),
    ],
)
def test_a_table_that_is_in_another_schema_than_declared_is_named(
    url: str, change: dict[str, str], said: str
) -> None:
    spread(url)
    raw = moved({**DECLARED, "source": {"url": url}}, ELSEWHERE | change)
    params = parse_params(raw)
    with pytest.raises(SchemaMismatch, match=said), Source.open(params) as source:
        source.check(params)


def test_a_table_whose_name_has_a_dot_is_declared_with_its_schema(url: str) -> None:
    parish = Parish.build(url)
    parish.run('ALTER TABLE letters RENAME TO "let.ters"')
    raw = moved({**DECLARED, "source": {"url": url}}, {})
    raw["tables"]["let.ters"] = raw["tables"].pop("letters")
    with (
        pytest.raises(SchemaMismatch, match=r"'public\.let\.ters'"),
        Source.open(parse_params(raw)) as source,
    ):
        source.check(parse_params(raw))
    raw["tables"]["public.let.ters"] = raw["tables"].pop("let.ters")
    params = parse_params(raw)
    done = erase_from_source(params, Traces("1", None), now=NOW)
    assert "public.let.ters: 2 deleted" in done.places


def test_a_dot_in_the_name_of_a_sqlite_table_is_no_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parish = Parish.build(sqlite_url(tmp_path))
    parish.run('ALTER TABLE people RENAME TO "a.people"', 'ALTER TABLE letters RENAME TO "a.b"')
    raw = moved({**DECLARED, "source": {"url": parish.url}}, {"people": "a"})
    raw["tables"]["a.b"] = raw["tables"].pop("letters")
    params = parse_params(raw)
    with Source.open(params) as source:
        source.check(params)
        assert [key for keys in source.subjects() for key in keys]
    assert table_of(params, "a.b").schema is None
    done = erase_from_source(params, Traces("1", None), now=NOW)
    assert {"a.b: 2 deleted", "a.people: 1 deleted"} <= set(done.places)
    raw["tables"]["main.circles"] = raw["tables"].pop("circles")
    raw["tables"]["memberships"]["links"]["circle"] = "main.circles.circle"
    wrong = parse_params(raw)
    with (
        pytest.raises(SchemaMismatch, match=r"schema\.table is of PostgreSQL"),
        Source.open(wrong) as source,
    ):
        source.check(wrong)


def test_a_column_is_named_by_the_table_that_is_declared(url: str) -> None:
    raw = moved({**DECLARED, "source": {"url": url}}, ELSEWHERE)
    raw["records"]["latest_by"] = "Clinic.visits.day"
    assert parse_params(raw).latest_by == ("Clinic.visits", "day")
    raw["tables"]["cases"]["links"]["member"] = "people.person_id"
    with pytest.raises(ParamsInvalid, match=r"unknown table 'people'; did you mean"):
        parse_params(raw)


def test_a_schema_that_the_role_may_not_use_says_so(url: str) -> None:
    parish, _ = spread(url)
    role = "guest" + url.rsplit("/", 1)[1]
    parish.run(
        f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
    )
    try:
        raw = moved(
            {**DECLARED, "source": {"url": url.replace("//lethe:", f"//{role}:")}}, ELSEWHERE
        )
        guest = parse_params(raw)
        with pytest.raises(Exception, match="USAGE of each schema"), Source.open(guest) as source:
            source.check(guest)
        assert verify_source(guest, Traces("1", None)).result == "unreachable"
    finally:
        parish.run(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_names_are_quoted_whatever_they_are() -> None:
    assert quoted('odd".na me.x') == '"odd"""."na me.x"'
    assert quoted("a.b", "sqlite") == '"a.b"'
