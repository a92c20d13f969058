"""What is left of a key, and what is looked for of it, is never one person's by itself."""

import copy
from typing import Any

import pytest

from lethe.config.params import Params, parse_params
from lethe.core.errors import ErasureRefused
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.identifiers import traces
from tests.library import DECLARED, NOW
from tests.postgres import postgres_server, postgres_urls
from tests.stores.source.test_person_keys import people_in, url
from tests.studio import TABLES, Run, build, declare, opened

__all__ = ["postgres_server", "postgres_urls", "url"]

KEY = ("town", "street", "house")
PEOPLE = [(1, 2, 3), (1, 9, 4), (8, 2, 4), (5, 6, 7), (5, 6, 8)]  # (1, 2) is one person's alone


def homes(url: str, *, free: str = "house", streets: bool = False) -> tuple[Run, Params]:
    """People of a town, a street and a house; of their bills only some columns can be null."""
    run = opened(url)
    kinds = ", ".join(f"{each} integer{'' if each in free else ' NOT NULL'}" for each in KEY)
    plain = ", ".join(f"{each} integer" for each in KEY)
    run(
        "CREATE TABLE streets (town integer, name integer, PRIMARY KEY (town, name))",
        f"CREATE TABLE members ({plain}, email text, PRIMARY KEY ({', '.join(KEY)}))",
        f"CREATE TABLE visits (visit integer PRIMARY KEY, {plain}, day date, minutes integer, "
        "came_back text)",
        f"CREATE TABLE bills (bill integer PRIMARY KEY, {kinds}, cents integer)",
        f"CREATE TABLE answers ({plain}, purpose text, said text, said_at text)",
        *(
            f"INSERT INTO members VALUES {(*who, f'm{n}@example.org')};"
            f"INSERT INTO bills VALUES {(n, *who, 5)};"
            for n, who in enumerate(PEOPLE)
        ),
        "SELECT 1",
    )
    raw = copy.deepcopy(DECLARED)
    raw["source"]["url"] = url
    raw["subject"] = {"table": "members", "key": list(KEY), "minimum": 2}
    raw["records"] = {"table": "visits", "latest_by": "day"}
    tables = copy.deepcopy({n: TABLES[n] for n in ("members", "visits", "answers", "bills")})
    for table in tables.values():
        whose = table["columns"].pop("studio")
        del table["columns"]["number"]
        table["columns"] |= dict.fromkeys(KEY, whose)
        table["links"] = {} if whose["role"] == "subject_key" else {
            ", ".join(KEY): ", ".join(f"members.{each}" for each in KEY)
        }  # fmt: skip
    tables["visits"]["unused"] = []
    link = {"role": "link"}
    tables["streets"] = {"about": "nobody", "columns": {"town": link, "name": link}}
    if streets:
        tables["bills"]["links"]["town, street"] = "streets.town, streets.name"
    raw["tables"] = tables
    raw["consent"] |= {"subject": list(KEY), "answer": "said", "time": "said_at"}
    return run, parse_params(raw)


def test_parts_that_are_left_are_together_somebody_elses(url: str) -> None:
    """Town 1 and street 2 are other people's too, and together they were one person's alone."""
    run, params = homes(url)
    with pytest.raises(ErasureRefused, match="town, street, house cannot be null"):
        erase_from_source(params, traces(params, '("1","2","3")'), now=NOW)
    assert run("SELECT count(*) FROM bills WHERE house = 3") == [(1,)]
    assert erase_from_source(params, traces(params, '("5","6","7")'), now=NOW).count
    assert run("SELECT town, street, house FROM bills WHERE bill = 3") == [(5, 6, None)]


def test_or_one_link_has_all_of_them(url: str) -> None:
    run, params = homes(url, streets=True)
    assert erase_from_source(params, traces(params, '("1","2","3")'), now=NOW).count
    assert run("SELECT town, street, house FROM bills WHERE bill = 0") == [(1, 2, None)]


@pytest.mark.parametrize("free", ["town street house", "town house", "street house"])
def test_a_part_that_is_left_alone_is_as_before(url: str, free: str) -> None:
    run, params = homes(url, free=free)
    assert erase_from_source(params, traces(params, '("1","2","3")'), now=NOW).count
    left = [None if each in free else n for each, n in zip(KEY, (1, 2, 3), strict=True)]
    assert run("SELECT town, street, house FROM bills WHERE bill = 0") == [tuple(left)]


@pytest.mark.parametrize(
    ("kind", "shared"),
    [
        ("numeric(9,2)", "1234567.00"),
        ("numeric(12,1)", "1234567.5"),
        ("bigint", "1234567"),
        ("text", "tenant 1234567"),
        ("real", "1234567"),
    ],
)
def test_a_number_that_many_have_is_nobodys_own(kind: str, shared: str, url: str) -> None:
    """As the database spells it, 1234567.00, it is not as a key does."""
    if kind == "real" and not url.startswith("sqlite"):
        kind = "numeric(9,1)"
    if kind == "numeric(12,1)" and url.startswith("sqlite"):
        kind = "text"
    people = [(shared, "1"), (shared, "2"), ("7654321", "3")]
    build(url, people, studio=kind, linked=False)
    own: dict[str, Any] = TABLES["members"] | {"links": {}}
    params = declare(url, members=own)
    for key in people_in(params):
        words = {each for each in traces(params, key).identifiers if "@" not in each}
        assert words == ({"7654321"} if "7654321" in key else set())
