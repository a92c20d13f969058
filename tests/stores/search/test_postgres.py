"""What PostgreSQL keeps of people who were erased: bytes in its files, values in its statistics."""

import dataclasses
import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from lethe.config.params import load_params
from lethe.core.errors import Busy
from lethe.core.outcomes import Outcome
from lethe.sample.clinic import build_clinic
from lethe.stores.requests.requests import DROPPED, Requests
from lethe.stores.search.postgres import write_anew
from lethe.stores.source.compact import compact_source
from lethe.stores.source.erase import erase_from_source
from lethe.stores.source.identifiers import traces
from lethe.stores.source.verify import verify_source
from lethe.stores.vault.vault import Vault
from tests.conftest import PROJECT
from tests.postgres import Server, postgres_server, postgres_url, postgres_urls  # noqa: F401
from tests.rights.desk import Desk

NOW = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)


def lies_in(server: Server, url: str, *values: bytes) -> list[bool]:
    """Whether each value is in any file of the database."""
    content = [path.read_bytes() for path in server.files(url.rpartition("/")[2])]
    return [any(value in each for each in content) for value in values]


def rows(url: str, statement: str) -> list[tuple[bytes, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        done = connection.execute(statement.encode())
        return done.fetchall() if done.description else []


def test_what_a_closed_request_dropped_is_in_no_file(
    postgres_server: Server,  # noqa: F811
    postgres_url: str,  # noqa: F811
) -> None:
    encrypted = [os.urandom(900) for _ in range(3)]
    heads = [each[:40] for each in encrypted]
    url = postgres_url.replace("postgresql:", "postgresql+psycopg:")
    with Requests.open(url) as requests:
        for number, each in enumerate(encrypted):
            requests.receive(
                f"r{number}",
                kind="erase",
                purpose=None,
                reference=each[:32],
                encrypted=each,
                received_at=NOW,
                due_at=NOW,
            )
        # The bytes of a page's last row stay when its space is freed.
        requests.close("r2", lambda number, _: (f"receipt {number}", "0"), verified={}, now=NOW)
        rows(postgres_url, "VACUUM rights_requests")
        assert lies_in(postgres_server, postgres_url, *heads) == [True] * 3
        requests.overwrite(now=NOW)
        assert lies_in(postgres_server, postgres_url, *heads) == [True, True, False]
        marks = [DROPPED in each.marks for each in requests.all()]
        assert marks == [False, False, True]
        file = "SELECT pg_relation_filenode('rights_requests')"
        before = rows(postgres_url, file)
        requests.overwrite(now=NOW)
        assert rows(postgres_url, file) == before, "it is done once"


@pytest.mark.parametrize("value", ["ada", "nobody"])
def test_what_a_request_dropped_after_every_step_of_an_erasure_is_in_no_file(
    postgres_server: Server,  # noqa: F811
    postgres_url: str,  # noqa: F811
    value: str,
) -> None:
    desk = Desk(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    with desk.requests as requests:
        asked = desk.ask(value)
        head = desk.request(asked).encrypted[:20]  # type: ignore[index]
        assert desk.run().closed == {asked: 1}
        requests.overwrite(now=NOW)
        assert DROPPED in desk.request(asked).marks
        assert lies_in(postgres_server, postgres_url, head) == [False]


def test_whom_the_vault_forgot_is_in_no_file(
    postgres_server: Server,  # noqa: F811
    postgres_url: str,  # noqa: F811
) -> None:
    with Vault.open(postgres_url, b"k" * 32) as vault:
        vault.tokens(["ada", "bo"])
        kept = "SELECT lookup, identity FROM vault_subjects WHERE token = "
        # The bytes of a page's last row stay when its space is freed.
        last, other = sorted(["ada", "bo"], key=lambda key: -vault.lookup([key])[0])
        ada, bo = (rows(postgres_url, f"{kept}{vault.lookup([k])[0]}")[0] for k in (last, other))
        vault.forget([last])
    rows(postgres_url, "VACUUM vault_subjects")
    assert all(lies_in(postgres_server, postgres_url, *ada))
    write_anew(postgres_url, ["vault_subjects"])
    assert lies_in(postgres_server, postgres_url, *ada, *bo) == [False, False, True, True]


def test_deleted_rows_that_a_reader_still_needs_are_reported_and_not_taken_for_gone(
    postgres_url: str,  # noqa: F811
) -> None:
    rows(postgres_url, "CREATE TABLE kept (value int); INSERT INTO kept VALUES (1), (2)")
    with psycopg.connect(postgres_url) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT * FROM pg_class")
        rows(postgres_url, "DELETE FROM kept WHERE value = 1")
        with pytest.raises(Busy, match="kept still lie"):
            write_anew(postgres_url, ["kept"])
    write_anew(postgres_url, ["kept"])


def test_the_planner_knows_nobody_who_was_erased(
    postgres_urls: Callable[[], str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    url = postgres_urls()
    build_clinic(url, patients=300, now=NOW)
    loaded = load_params(PROJECT / "params.yaml", root=Path())
    params = dataclasses.replace(loaded, source=dataclasses.replace(loaded.source, url=url))
    ((key, email),) = rows(  # the last of all is a bound of its histogram
        url, "SELECT patient_id, email FROM patients ORDER BY patient_id DESC LIMIT 1"
    )
    rows(url, "ANALYZE")
    known = f"SELECT attname FROM pg_stats WHERE histogram_bounds::text LIKE '%{key}%'"
    assert rows(url, known)
    found = traces(params, str(key))
    assert email in found.identifiers
    erase_from_source(params, found, now=NOW, compact=False)
    seen = verify_source(params, found)
    assert seen.result == "present"
    assert "the statistics of patients.patient_id" in str(seen.reason)
    compact_source(params)
    assert verify_source(params, found) == Outcome("source", "absent")
    assert rows(url, known) == []
