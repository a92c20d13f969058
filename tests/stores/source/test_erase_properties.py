"""On any small graph of foreign keys one person leaves whole, and nobody else is touched."""

import copy
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.config.params import Params, parse_params
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.identifiers import traces
from lethe.stores.source.verify import verify_source
from tests.traps import DECLARED, NOW

PEOPLE = ("Ada Quill", "Bo Larkspur", "Cleo Fenwick")  # keys 1, 2, 3
TEXTS = ("", "plain", *(f"see {name.upper()}, today" for name in PEOPLE))
ACTIONS = ("", "ON DELETE CASCADE", "ON DELETE RESTRICT", "ON DELETE SET NULL")

Cell = tuple[str, int]  # a table and a row of it


@dataclass
class World:
    """Tables t0 … with a link `own` to an earlier table or to people, and a loose `extra`
    one to any; rows as (own, extra, text) by number, from 1."""

    own: list[str]
    bound: list[bool]
    extra: list[str]
    actions: list[tuple[str, str]]
    rows: list[list[tuple[int | None, int | None, str]]]

    def tables(self) -> Iterator[tuple[str, int]]:
        return ((f"t{place}", place) for place in range(len(self.own)))

    def links(self, table: str, number: int) -> tuple[Cell | None, Cell | None]:
        place = int(table[1:])
        own, extra, _ = self.rows[place][number - 1]
        return (
            None if own is None else (self.own[place], own),
            None if extra is None else (self.extra[place], extra),
        )

    def owner(self, table: str, number: int) -> int | None:
        """Whom a row's own chain leads to."""
        while table != "people":
            target = self.links(table, number)[0]
            if target is None:
                return None
            table, number = target
        return number

    def rows_of(self, person: int) -> set[Cell]:
        """Written anew from the promise, in the plainest way: again and again over all rows."""
        mine: set[Cell] = {("people", person)}
        while True:
            more = {
                (table, number)
                for table, place in self.tables()
                for number in range(1, len(self.rows[place]) + 1)
                if self.owner(table, number) == person
                or (
                    self.owner(table, number) is None
                    and any(link in mine for link in self.links(table, number))
                )
            }
            if more <= mine:
                return mine
            mine |= more


@st.composite
def worlds(draw: st.DrawFn) -> World:
    count = draw(st.integers(1, 4))
    names = [f"t{place}" for place in range(count)]
    own = [draw(st.sampled_from(["people", *names[:place]])) for place in range(count)]
    extra = [draw(st.sampled_from(["people", *names])) for _ in range(count)]
    bound = [draw(st.booleans()) for _ in range(count)]
    actions = [
        (draw(st.sampled_from(ACTIONS[:3] if tied else ACTIONS)), draw(st.sampled_from(ACTIONS)))
        for tied in bound
    ]
    sizes = {"people": len(PEOPLE)} | {name: draw(st.integers(0, 4)) for name in names}
    for place, name in enumerate(names):
        if bound[place] and sizes[own[place]] == 0:
            sizes[name] = 0

    def link(target: str, *, tied: bool) -> int | None:
        numbers = st.integers(1, sizes[target]) if sizes[target] else st.none()
        return draw(numbers if tied else st.none() | numbers)

    rows = [
        [
            (
                link(own[place], tied=bound[place]),
                link(extra[place], tied=False),
                draw(st.sampled_from(TEXTS)),
            )
            for _ in range(sizes[name])
        ]
        for place, name in enumerate(names)
    ]
    return World(own, bound, extra, actions, rows)


def build(world: World, path: Path) -> None:
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("CREATE TABLE people (person_id INTEGER PRIMARY KEY, name TEXT)")
        connection.executemany("INSERT INTO people VALUES (?, ?)", enumerate(PEOPLE, 1))
        for name, place in world.tables():
            keys = [
                f"REFERENCES {table} ({'person_id' if table == 'people' else 'row'}) {action}"
                for table, action in zip(
                    (world.own[place], world.extra[place]), world.actions[place], strict=True
                )
            ]
            tied = "NOT NULL" if world.bound[place] else ""
            connection.execute(
                f"CREATE TABLE {name} (row INTEGER PRIMARY KEY, own INTEGER {tied} {keys[0]},"
                f" extra INTEGER {keys[1]}, remark TEXT, label TEXT, n INTEGER)"
            )
            connection.executemany(
                f"INSERT INTO {name} VALUES (?, ?, ?, ?, 'no', 1)",
                [(number, *row) for number, row in enumerate(world.rows[place], 1)],
            )
        connection.execute("CREATE TABLE answers (person_id REFERENCES people, p, said, said_at)")
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


def declared(world: World, path: Path) -> Params:
    raw = copy.deepcopy(DECLARED)
    link = {"role": "link"}

    def target(table: str) -> str:
        return "people.person_id" if table == "people" else f"{table}.row"

    raw["source"]["url"] = f"sqlite:///{path}"
    raw["records"] = {"table": "t0"}
    raw["tables"] = {"people": raw["tables"]["people"], "answers": raw["tables"]["answers"]}
    raw["tables"]["people"].pop("links")
    columns = raw["tables"]["people"]["columns"]
    raw["tables"]["people"]["columns"] = {n: columns[n] for n in ("person_id", "name")}
    raw["tables"]["answers"] = {
        "links": {"person_id": "people.person_id"},
        "erase": {"action": "delete"},
        "columns": {"person_id": link}
        | {name: {"role": "consent"} for name in ("p", "said", "said_at")},
    }
    raw["consent"].update(subject="person_id", purpose="p")
    for name, place in world.tables():
        raw["tables"][name] = {
            "links": {"own": target(world.own[place]), "extra": target(world.extra[place])},
            "erase": {"action": "delete", "shared": "unlink"},
            "columns": {
                "row": link,
                "own": link,
                "extra": link,
                "remark": {"role": "text", "mentions": "redact", "why": "w"},
            },
            "unused": ["label", "n"],
        }
    visits = DECLARED["tables"]["visits"]["columns"]
    raw["tables"]["t0"]["columns"] |= {"label": visits["returned"], "n": visits["minutes"]}
    raw["tables"]["t0"]["unused"] = []
    return parse_params(raw)


def expected(world: World, person: int) -> dict[str, list[tuple[Any, ...]]]:
    gone = world.rows_of(person)
    name = PEOPLE[person - 1].upper()
    found: dict[str, list[tuple[Any, ...]]] = {
        "people": [(n, p) for n, p in enumerate(PEOPLE, 1) if n != person]
    }
    for table, place in world.tables():
        found[table] = []
        for number, (own, extra, text) in enumerate(world.rows[place], 1):
            links = world.links(table, number)
            if (table, number) not in gone:
                kept = [
                    None if link in gone else value
                    for link, value in zip(links, (own, extra), strict=True)
                ]
                found[table].append((number, *kept, text.replace(name, "<ERASED>")))
    return found


@settings(max_examples=40, deadline=None, derandomize=True)
@given(worlds(), st.integers(1, len(PEOPLE)))
def test_one_person_leaves_and_nobody_else_is_touched(world: World, person: int) -> None:
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        path = Path(folder) / "world.db"
        build(world, path)
        params = declared(world, path)
        found = traces(params, str(person))
        erase_from_source(params, found, now=NOW)
        with sqlite3.connect(path) as connection:
            seen = {"people": connection.execute("SELECT * FROM people ORDER BY 1").fetchall()} | {
                name: connection.execute(
                    f"SELECT row, own, extra, remark FROM {name} ORDER BY 1"
                ).fetchall()
                for name, _ in world.tables()
            }
            broken = connection.execute("PRAGMA foreign_key_check").fetchall()
        connection.close()
        assert seen == expected(world, person)
        assert broken == []
        assert verify_source(params, found).result == "absent"
