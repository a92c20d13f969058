"""Several people are looked for together in a source of either kind as each is alone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lethe.core.outcomes import Traces
from lethe.stores.source.compact import compact_source
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.find_people import subjects_by
from lethe.stores.source.identifiers import traces_of
from lethe.stores.source.mentions import find_mentions
from lethe.stores.source.verify import verify_source, verify_sources
from tests.postgres import postgres_server, postgres_urls
from tests.traps import NOW, ROWS, SCHEMA, Parish, declare, sqlite_url

__all__ = ["postgres_server", "postgres_urls"]

Make = Callable[..., Parish]
COLUMNS = """
    notice TEXT PRIMARY KEY, body TEXT, remark TEXT,
    posted_for INTEGER REFERENCES people (person_id) ON DELETE SET NULL"""
NOTICES = [
    ("a", "Ada Quill and CLEO FENWICK", "ask cleo.fenwick@example.org", None),
    ("b", "Choir at nine", None, 2),
    ("c", "call 212/555 01 09, dov.sorrel@example.org", None, None),
]


@pytest.fixture(params=["sqlite", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.chdir(tmp_path)
    url = (
        request.getfixturevalue("postgres_urls")()
        if request.param == "postgres"
        else sqlite_url(tmp_path)
    )

    def made(*, keyed: bool = True) -> Parish:
        """With a key, SQLite has no numbers of its own; without, PostgreSQL has places alone."""
        columns = COLUMNS if keyed else COLUMNS.replace(" PRIMARY KEY", "")
        parish = Parish.build(
            url, schema=SCHEMA | {"notices": columns}, rows=ROWS | {"notices": NOTICES}
        )
        if keyed and parish.sqlite:
            parish.run(
                f"CREATE TABLE moved ({columns}) WITHOUT ROWID",
                "INSERT INTO moved SELECT * FROM notices",
                "DROP TABLE notices",
                "ALTER TABLE moved RENAME TO notices",
            )
        return parish

    return made


@pytest.mark.parametrize("keyed", [True, False])
def test_several_people_leave_together_as_each_would_alone(make: Make, keyed: bool) -> None:
    parish = make(keyed=keyed)
    params = declare(parish.url)
    people = traces_of(params, [("1", None), ("3", None), ("4", None)])
    assert people == [traces_of(params, [(each.key, None)])[0] for each in people]
    before = verify_sources(params, people)
    assert before == [verify_source(params, each) for each in people]
    assert "notices.remark" in before[1].places and "notices.body" in before[2].places
    named = find_mentions(params, people)
    for each in people:
        done = erase_from_source(params, each, now=NOW, compact=False, mentioned=named[each.key])
        assert done.result == "erased"
    compact_source(params)
    assert parish.rows("notices") == [
        ("a", "<ERASED> and <ERASED>", "ask <ERASED>", None),
        ("b", "Choir at nine", None, 2),
        ("c", "call <ERASED>, <ERASED>", None, None),
    ]
    assert {each.result for each in verify_sources(params, people)} == {"absent"}


def test_who_is_left_is_reported_of_that_person_alone(make: Make) -> None:
    parish = make()
    params = declare(parish.url)
    people = traces_of(params, [("1", None), ("3", None)])
    erase_from_source(params, people[0], now=NOW)
    gone, left = verify_sources(params, people)
    assert gone.result == "absent"
    assert left.count > 0
    assert "people.person_id" in left.places
    assert verify_sources(params, []) == []
    assert verify_sources(params, [Traces("no such key", None)])[0].result == "absent"


def test_many_identifiers_are_one_look_and_case_does_not_matter(make: Make) -> None:
    params = declare(make().url)
    mails = [" ADA.quill@example.org", "bo.larkspur@EXAMPLE.org", "nobody@example.org"]
    assert subjects_by(params, "people.email", mails) == dict(
        zip(mails, [["1"], ["2"], []], strict=True)
    )
