"""What the requests keep, on SQLite and on PostgreSQL."""

import datetime as dt
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from lethe.core.errors import Busy, LedgerInvalid, NotFound, ParamsInvalid
from lethe.ledger.ledger import Ledger
from lethe.stores.requests.requests import CLOSED, GENESIS, JOINED, OPEN, Request, Requests
from tests.postgres import postgres_server, postgres_url, postgres_urls  # noqa: F401

NOW = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
DUE = dt.datetime(2026, 7, 1, 12, tzinfo=dt.UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    found = str(request.getfixturevalue("postgres_url"))
    return found.replace("postgresql:", "postgresql+psycopg:")


@pytest.fixture
def requests(url: str) -> Iterator[Requests]:
    with Requests.open(url) as opened:
        yield opened


def receive(requests: Requests, request_id: str, reference: bytes = b"ada") -> Request:
    return requests.receive(
        request_id,
        kind="erase",
        purpose=None,
        reference=reference,
        encrypted=b"encrypted " + reference,
        received_at=NOW,
        due_at=DUE,
    )


def receipt(number: int, previous: str) -> tuple[str, str]:
    return f"receipt {number} after {previous}", f"{number:064d}"


def change(url: str, statement: str) -> None:
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)
    finally:
        engine.dispose()


def test_a_request_is_kept_as_it_came(requests: Requests, url: str) -> None:
    made = receive(requests, "r1")
    assert made == requests.find("r1")
    assert (made.state, made.received_at, made.due_at) == (OPEN, NOW, DUE)
    assert made.encrypted == b"encrypted ada"
    with Requests.open(url) as again:
        assert again.all() == [made]
    with pytest.raises(NotFound, match="erase status"):
        requests.find("r2")
    assert "encrypted" not in repr(made)


def test_the_same_reference_is_one_request_while_it_is_open(requests: Requests) -> None:
    receive(requests, "r1")
    assert receive(requests, "r2").request_id == "r1"
    assert receive(requests, "r3", b"bo").request_id == "r3"
    requests.close("r1", receipt, verified={}, now=NOW)
    assert receive(requests, "r4").request_id == "r4"


def test_marks_are_replaced_and_removed_by_step(requests: Requests) -> None:
    receive(requests, "r1")
    requests.mark("r1", "source", {"count": 1}, now=NOW)
    requests.mark("r1", "source", {"count": 2}, now=DUE)
    requests.mark("r1", "vault", {}, now=NOW)
    marks = requests.find("r1").marks
    assert (marks["source"].at, marks["source"].content) == (DUE, {"count": 2})
    requests.unmark("r1", "source", "history")
    assert set(requests.find("r1").marks) == {"vault"}


def test_a_closed_request_keeps_nothing_that_leads_to_the_person(
    requests: Requests, url: str
) -> None:
    receive(requests, "r1")
    requests.resolve(
        "r1", encrypted=b"encrypted traces", entry=b"entry", found={"live": []}, now=NOW
    )
    assert requests.find("r1").marks["found"].content == {"live": []}
    requests.stays_open("r1", "a remote is silent")
    requests.close("r1", receipt, verified={}, now=DUE)
    closed = requests.find("r1")
    assert (closed.state, closed.closed_at, closed.problem) == (CLOSED, DUE, None)
    assert (closed.encrypted, closed.entry) == (None, b"entry")
    assert requests.all(state=OPEN) == []
    if url.startswith("sqlite"):  # freed pages too
        content = Path(url.removeprefix("sqlite:///")).read_bytes()
        assert b"encrypted traces" not in content
        assert b"encrypted ada" not in content


def test_a_joined_request_names_the_one_that_answers_it(requests: Requests) -> None:
    receive(requests, "r1")
    receive(requests, "r2", b"ada's address")
    requests.join("r2", "r1", now=NOW)
    joined = requests.find("r2")
    assert (joined.state, joined.joined_to, joined.encrypted) == (JOINED, "r1", None)


def test_receipts_are_one_chain_and_one_a_request(requests: Requests) -> None:
    for name in ("r1", "r2"):
        receive(requests, name, name.encode())
    first = requests.close("r1", receipt, verified={}, now=NOW)
    second = requests.close("r2", receipt, verified={}, now=NOW)
    assert first.text == f"receipt 1 after {GENESIS}"
    assert second.text == f"receipt 2 after {first.hash}"
    assert requests.close("r1", receipt, verified={}, now=NOW) == first, (
        "again is no second receipt"
    )
    assert requests.receipts() == [first, second]


def test_a_request_whose_receipt_cannot_be_made_stays_open(requests: Requests) -> None:
    receive(requests, "r1")

    def fails(number: int, previous: str) -> tuple[str, str]:
        raise OSError("no key")

    with pytest.raises(OSError, match="no key"):
        requests.close("r1", fails, verified={}, now=NOW)
    assert requests.find("r1").state == OPEN
    assert requests.find("r1").encrypted == b"encrypted ada"


@pytest.mark.parametrize(
    "words", ["UPDATE rights_receipts SET text = ''", "DELETE FROM rights_receipts"]
)
def test_a_receipt_is_never_changed_or_removed(requests: Requests, url: str, words: str) -> None:
    receive(requests, "r1")
    requests.close("r1", receipt, verified={}, now=NOW)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"):
        change(url, words)


def test_a_deadline_is_extended_once_and_with_a_reason(requests: Requests) -> None:
    receive(requests, "r1")
    with pytest.raises(ParamsInvalid, match="reason"):
        requests.extend("r1", due_at=DUE, reason=" ")
    later = DUE + dt.timedelta(days=61)
    assert requests.extend("r1", due_at=later, reason="many requests").due_at == later
    assert requests.find("r1").extension == "many requests"
    with pytest.raises(ParamsInvalid, match="extended already"):
        requests.extend("r1", due_at=later, reason="again")
    requests.close("r1", receipt, verified={}, now=NOW)
    with pytest.raises(ParamsInvalid, match="closed"):
        requests.extend("r1", due_at=later, reason="again")


def test_one_process_works_on_requests_and_the_next_may_when_it_ends(
    requests: Requests, url: str
) -> None:
    with Requests.open(url) as other:
        with requests.alone():
            with pytest.raises(Busy, match="or publication is under way"), other.alone():
                pass
            receive(other, "r1")  # asking is not held up
        with other.alone():
            pass


def test_many_at_once_are_each_recorded_and_one_person_once(url: str) -> None:
    with Requests.open(url) as requests:

        def ask(number: int) -> None:
            receive(requests, f"r{number}", b"ada" if number % 2 else f"p{number}".encode())

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(requests.all()) == 5


def test_they_lie_beside_the_ledger_and_change_nothing_of_it(requests: Requests, url: str) -> None:
    receive(requests, "r1")
    with Ledger.open(url) as ledger:
        assert ledger.head() == (0, GENESIS)


def test_a_newer_schema_is_refused(requests: Requests, url: str) -> None:
    change(url, "INSERT INTO rights_schema VALUES (99)")
    with pytest.raises(LedgerInvalid, match="schema 99"):
        Requests.open(url)
