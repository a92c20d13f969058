"""Taking requests in: nobody is looked up, nobody is named, and every deadline is the law's."""

import base64
import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lethe.cli.erase import erase
from lethe.config.params import Params
from lethe.core.errors import LetheError, NotFound, ParamsInvalid, RequestsOpen
from lethe.people.references import Reference, refer, reference_from_bytes
from lethe.rights import deadlines, intake
from lethe.stores.requests.requests import Requests
from lethe.stores.vault.vault import Vault
from tests.conftest import PROJECT
from tests.library import declare

NOW = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
KEY = b"k" * 32


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project's declarations, a key, and no source at all."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LETHE_KEY", base64.urlsafe_b64encode(KEY).decode())
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    yield tmp_path


def lethe(*words: str, stdin: str | None = None) -> str:
    """What `lethe erase …` says; the error where it ends with one."""
    done = CliRunner().invoke(erase, list(words), input=stdin)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def stored() -> list[Reference]:
    params = declare("sqlite:///x.db")
    with (
        Vault.open(params.stores.vault, KEY) as vault,
        Requests.open(params.stores.ledger) as requests,
    ):
        found = []
        for request in requests.all():
            assert request.encrypted is not None
            about = reference_from_bytes(vault.decrypt(request.encrypted, about=request.request_id))
            assert isinstance(about, Reference)
            found.append(about)
        return found


def test_a_request_is_taken_in_where_nobody_could_be_looked_up(here: Path) -> None:
    """There is no source: so neither the words nor the time can depend on who is in it."""
    said = lethe("request", "--subject", "P4711")
    assert said.startswith("Request ")
    assert "P4711" not in said
    assert stored() == [Reference(None, "P4711")]
    assert not (here / "data").exists()


def test_no_file_holds_what_a_request_says(here: Path) -> None:
    lethe("request", "--subject", "P4711-0815")
    lethe("request", "--email", "ada@example.org")
    for path in here.rglob("*"):
        if path.is_file():
            content = path.read_bytes().lower()
            assert b"p4711-0815" not in content, path
            assert b"ada@example.org" not in content, path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--subject", "P1"], Reference(None, "P1")),
        (["--email", " a@b.org "], Reference("patients.email", "a@b.org")),
        (["--identifier", "phone=+49 30=1"], Reference("patients.phone", "+49 30=1")),
        (["--identifier", "patients.full_name=Ada"], Reference("patients.full_name", "Ada")),
        (["--identifier", "patient_id=P1"], Reference(None, "P1")),
        (["--identifier", "fullName=Ada"], Reference("patients.full_name", "Ada")),
    ],
)
def test_people_are_named_by_key_or_by_any_declared_identifier(
    here: Path, words: list[str], expected: Reference
) -> None:
    lethe("request", *words)
    assert stored() == [expected]


def test_a_key_can_be_read_from_input_so_that_no_list_of_processes_shows_it(here: Path) -> None:
    lethe("request", "--subject", "-", stdin="P4711\n")
    assert stored() == [Reference(None, "P4711")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one of --subject"),
        (["--subject", "P1", "--email", "a@b"], "one of --subject"),
        (["--subject", "  "], "empty"),
        (["--identifier", "phone"], "COLUMN=VALUE"),
        (["--identifier", "age=4"], "not a declared identifier"),
        (["--subject", "P1", "--kind", "forget"], "erase, withdraw, object"),
    ],
)
def test_words_that_are_wrong_are_named_and_nothing_is_recorded(
    here: Path, words: list[str], message: str
) -> None:
    with pytest.raises(ParamsInvalid, match=message):
        lethe("request", *words)
    assert not (here / ".lethe").exists()


def test_a_folder_of_files_is_asked_by_key_alone() -> None:
    params = declare("csv:somewhere")
    assert refer(params, None, "7") == Reference(None, "7")
    with pytest.raises(ParamsInvalid, match="Give the subject's key"):
        refer(params, "email", "ada@example.org")


def test_many_come_in_one_file_each_with_a_request(here: Path) -> None:
    (here / "asked.csv").write_text("email\na@b.org\nc@d.org\n\na@b.org\n")
    said = lethe("request", "--csv", "asked.csv").splitlines()
    assert said.pop() == "lethe: Wrote lethe.id, which names this workspace. Commit it."
    assert len(said) == 3
    assert said[0] == said[2], "the same person is one request"
    assert sorted(each.value for each in stored()) == ["a@b.org", "c@d.org"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "one column"),
        ("email,phone\n1,2\n", "one column"),
        ("age\n3\n", "line 1: the header is neither 'patient_id' nor one declared identifier"),
        ("ada@example.org\ncy@example.org\n", "line 1: the header is neither"),
        ("age\n", "line 1: the header is neither"),
        ("\ufeffNobody Known\n", "line 1: the header is neither"),
        ("email\n", "a header and nobody below it"),
        ("patient_id\n\n\n", "a header and nobody below it"),
        ("patients.phone", "a header and nobody below it"),
        ("email\na@b\n  \n", "line 3"),
        ("email\na@b,2\n", "line 2"),
    ],
)
def test_a_file_that_is_wrong_is_reported_by_line_and_nothing_is_recorded(
    here: Path, content: str, message: str
) -> None:
    (here / "asked.csv").write_text(content)
    with pytest.raises(ParamsInvalid, match=message) as failed:
        lethe("request", "--csv", "asked.csv")
    assert "ada@" not in str(failed.value), "a file without a header begins with a person"
    assert not (here / ".lethe").exists()


def test_status_says_how_requests_stand_and_names_nobody(here: Path) -> None:
    lethe("request", "--subject", "P4711", "--kind", "withdraw")
    said = lethe("status")
    assert "withdraw" in said
    assert "step 0 of 11" in said
    assert "P4711" not in said + lethe("status", "--json")
    with pytest.raises(NotFound):
        lethe("status", "unknown")


def test_a_request_that_is_late_or_stuck_says_so(here: Path) -> None:
    params = declare("sqlite:///x.db", erasure__delay_days=7)
    (made,) = intake.receive(params, [Reference(None, "7")], kind="erase", now=NOW)
    with Requests.open(params.stores.ledger) as requests:
        requests.stays_open(made.request_id, "a remote is silent")
        request = requests.find(made.request_id)
    early = intake.status(request, params, now=NOW)
    late = intake.status(request, params, now=NOW + dt.timedelta(days=40))
    assert (early["overdue"], late["overdue"]) == (False, True)
    assert early["waits_until"] == "2026-02-07T12:00:00+00:00"
    assert late["waits_until"] is None
    assert "OVERDUE since 2026-02-28" in intake.render_status([late])
    assert "a remote is silent" in intake.render_status([early])


@pytest.mark.parametrize(
    ("received", "one", "three"),
    [
        ("2026-01-15", "2026-02-15", "2026-04-15"),
        ("2026-01-31", "2026-02-28", "2026-04-30"),  # the last day of a month that is too short
        ("2024-01-31", "2024-02-29", "2024-04-30"),
        ("2026-11-30", "2026-12-30", "2027-02-28"),
        ("2026-12-31", "2027-01-31", "2027-03-31"),
    ],
)
def test_a_deadline_is_one_calendar_month_and_extended_three(
    received: str, one: str, three: str
) -> None:
    at = dt.datetime.fromisoformat(received).replace(hour=23, tzinfo=dt.UTC)
    assert deadlines.due(at).isoformat() == f"{one}T23:00:00+00:00"
    assert deadlines.extended(at, now=at).isoformat() == f"{three}T23:00:00+00:00"


def test_an_extension_after_the_first_month_is_refused(here: Path) -> None:
    params: Params = declare("sqlite:///x.db")
    (made,) = intake.receive(params, [Reference(None, "7")], kind="erase", now=NOW)
    with pytest.raises(ParamsInvalid, match="2026-02-28"):
        intake.extend(params, made.request_id, reason="many", now=NOW + dt.timedelta(days=29))
    extended = intake.extend(params, made.request_id, reason="many", now=NOW)
    assert extended.due_at.date() == dt.date(2026, 4, 30)


def test_an_empty_desk_ends_well_and_needs_a_key_to_sign_with(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LetheError, match="lethe key"):
        lethe("run")
    monkeypatch.setenv("LETHE_RECEIPT_KEY", base64.urlsafe_b64encode(b"s" * 32).decode())
    assert lethe("run").splitlines()[0] == "Nothing to do."
    assert lethe("run", "--dry-run") == "Nothing to do.\n"
    assert lethe("receipt") == "No receipts yet.\n"
    assert issubclass(RequestsOpen, LetheError)
