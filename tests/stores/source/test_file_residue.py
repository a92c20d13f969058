"""After an erasure the source's file holds no byte of the person, free pages included."""

import sqlite3
from pathlib import Path

import pytest

from lethe.core.outcomes import Outcome
from lethe.stores.source.compact import MARKS, compact_source
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.identifiers import traces
from lethe.stores.source.verify import verify_source, verify_sources
from tests.traps import NOW, ROWS, SCHEMA, Parish, declare, sqlite_url

SECRETS = (b"Ada Quill", b"ada.quill@example.org", b"(212) 555-0107", b"Dear Ada")


@pytest.fixture
def parish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parish:
    monkeypatch.chdir(tmp_path)
    letters = [
        (n % 4 + 1, f"Dear Ada {n} {'x' * 700}" if n % 4 == 0 else f"no {n}") for n in range(400)
    ]
    # ROWS' notices have another's address that contains Ada's.
    rows = ROWS | {"letters": letters, "notices": [(1, "Ask Ada Quill", None, None)]}
    return Parish.build(sqlite_url(tmp_path), schema=SCHEMA, rows=rows)


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("parish.db*")))


@pytest.mark.parametrize("journal", ["delete", "persist", "wal"])
def test_no_byte_of_the_person_is_left_in_the_file(
    parish: Parish, tmp_path: Path, journal: str
) -> None:
    keeper = sqlite3.connect(tmp_path / "parish.db", isolation_level=None)
    keeper.execute("PRAGMA secure_delete = OFF")  # some builds have it on
    keeper.execute(f"PRAGMA journal_mode = {journal}")
    keeper.execute("DELETE FROM letters WHERE rowid % 8 = 1")  # the application's own way
    params = declare(parish.url)
    found = traces(params, "1")
    before = on_disk(tmp_path)
    assert all(secret in before for secret in SECRETS)
    assert erase_from_source(params, found, now=NOW).result == "erased"
    after = on_disk(tmp_path)
    assert [secret for secret in SECRETS if secret in after] == []
    assert b"bo.larkspur@example.org" in after
    assert verify_source(params, found).result == "absent"
    assert not MARKS.exists()
    keeper.close()


def test_residue_in_free_pages_is_seen_and_then_overwritten(parish: Parish, tmp_path: Path) -> None:
    """Somebody deleted the person's rows by hand: they are in no table and still in the file."""
    params = declare(parish.url)
    found = traces(params, "1")
    erase_from_source(params, found, now=NOW)
    with sqlite3.connect(tmp_path / "parish.db") as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        text = "ada.quill@example.org " * 400  # pages of its own
        connection.execute("INSERT INTO notices VALUES (9, ?, NULL, NULL)", [text])
        connection.commit()
        connection.execute("DELETE FROM notices WHERE notice = 9")
    connection.close()
    assert b"ada.quill@example.org" in on_disk(tmp_path)
    verified = verify_source(params, found)
    assert verified.result == "present"
    assert verified.places == ("the file's free space",)
    erase_from_source(params, found, now=NOW)
    assert b"ada.quill@example.org" not in on_disk(tmp_path)
    assert verify_source(params, found).result == "absent"


@pytest.mark.parametrize(("whose", "block"), [("1", 2**23), ("2", 17), ("3", 2**23)])
def test_residue_of_any_of_several_people_is_seen(
    parish: Parish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str, block: int
) -> None:
    monkeypatch.setattr("lethe.stores.source.file_residue._BLOCK", block)
    params = declare(parish.url)
    found = [traces(params, key) for key in ("1", "2", "3")]
    (mail,) = [v for each in found for v in each.identifiers if "@" in v and each.key == whose]
    for each in found:
        erase_from_source(params, each, now=NOW)
    with sqlite3.connect(tmp_path / "parish.db") as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("INSERT INTO notices VALUES (9, ?, NULL, NULL)", [f"{mail} " * 400])
        connection.commit()
        connection.execute("DELETE FROM notices WHERE notice = 9")
    connection.close()
    assert {each.places for each in verify_sources(params, found)} == {("the file's free space",)}
    compact_source(params)
    assert {each.result for each in verify_sources(params, found)} == {"absent"}


def test_somebody_elses_longer_value_is_no_residue(parish: Parish) -> None:
    params = declare(parish.url)
    found = traces(params, "1")
    erase_from_source(params, found, now=NOW)
    parish.run("INSERT INTO notices VALUES (9, 'xada.quill@example.org', NULL, NULL)")
    assert verify_source(params, found).result == "absent"


def test_a_reader_keeps_the_log_and_that_is_said(parish: Parish, tmp_path: Path) -> None:
    params = declare(parish.url)
    found = traces(params, "1")
    reader = sqlite3.connect(tmp_path / "parish.db", isolation_level=None)
    reader.execute("PRAGMA journal_mode = wal")
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM people").fetchone()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lethe.stores.source.connect.WAIT_SECONDS", 0.1)
        outcome = erase_from_source(params, found, now=NOW)
    assert outcome.result == "present" and outcome.count > 0
    assert "Nothing was changed" not in str(outcome.reason), "the rows are deleted"
    waiting = verify_source(params, found)
    assert waiting.result == "present"
    assert waiting.reason is not None and "waits to be overwritten" in waiting.reason
    reader.close()
    again = erase_from_source(params, found, now=NOW)
    assert (again.result, again.count) == ("erased", outcome.count)
    assert [secret for secret in SECRETS if secret in on_disk(tmp_path)] == []
    assert verify_source(params, found).result == "absent"


def test_several_people_are_overwritten_at_once(parish: Parish, tmp_path: Path) -> None:
    params = declare(parish.url)
    found = [traces(params, key) for key in ("1", "3")]
    for each in found:
        assert erase_from_source(params, each, now=NOW, compact=False).result == "erased"
    assert verify_source(params, found[0]).result == "present"
    compact_source(params)
    assert [secret for secret in SECRETS if secret in on_disk(tmp_path)] == []
    for each in found:
        assert verify_source(params, each) == Outcome("source", "absent")
    assert not MARKS.exists()


def test_what_is_remembered_of_an_erasure_names_nobody(parish: Parish) -> None:
    params = declare(parish.url)
    erase_from_source(params, traces(params, "1"), now=NOW)
    text = MARKS.read_text()
    assert "outcomes" in text and "visits: 3 deleted" in text
    assert not any(secret.decode() in text for secret in SECRETS)
    assert '"1"' not in text
