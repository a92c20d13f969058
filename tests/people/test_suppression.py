"""Who is kept out although they agree: by a request that is open, or by an erasure before."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyroaring import BitMap

from lethe.config.params import Params
from lethe.core.outcomes import Traces
from lethe.ledger.ledger import Ledger
from lethe.people.consents import decisions_now
from lethe.people.references import Expiry, Reference
from lethe.people.suppression import carry_spend, come_back, standing
from lethe.rights.intake import receive
from lethe.stores.requests.requests import Requests
from lethe.stores.source.find_people import subjects_by
from lethe.stores.vault.vault import Vault
from tests.library import NOW, at, build, declare, rows
from tests.postgres import postgres_server, postgres_url, postgres_urls  # noqa: F401
from tests.trained_run import params as trained_params
from tests.trained_run import plan_of

KEY = b"k" * 32
ASKED = at("2026-05-01")


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Params]:
    """Ada (7), Bo (8), Cleo (9) and Dot (10) agree; Bo and Dot share an e-mail address."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LETHE_KEY", base64.urlsafe_b64encode(KEY).decode())
    data = rows()
    data["readers"].append((10, "Dot Lark", "BO@example.org", None, 39))
    data["answers"] = [(who, "reading", "yes", at("2026-01-01")) for who in (7, 8, 9, 10)]
    yield declare(build("sqlite", tmp_path, data, None))


def ask(params: Params, value: str, column: str | None = None, kind: str = "erase") -> str:
    (made,) = receive(params, [Reference(column, value)], kind=kind, now=ASKED)
    return made.request_id


def allowed(params: Params) -> list[str]:
    found: list[str] = standing(params, decisions_now(params, NOW)).allowed.tolist()
    return found


def answer(params: Params, who: int, moment: str, words: str = "yes") -> None:
    import sqlite3

    with sqlite3.connect(params.source.url.removeprefix("sqlite:///")) as source:
        source.execute("INSERT INTO answers VALUES (?, 'reading', ?, ?)", (who, words, moment))


EVERYBODY = ["10", "7", "8", "9"]


def test_nobody_is_kept_out_for_nothing(params: Params) -> None:
    assert allowed(params) == EVERYBODY


@pytest.mark.parametrize(
    ("value", "column", "out"),
    [
        ("7", None, ["7"]),
        ("ada@example.org", "readers.email", ["7"]),
        (" ADA@Example.org ", "readers.email", ["7"]),
        ("bo@example.org", "readers.email", ["10", "8"]),  # nobody knows which: both
        ("Cleo Fenwick", "readers.name", ["9"]),
        ("nobody@example.org", "readers.email", []),
        ("77", None, []),
    ],
)
def test_from_the_moment_a_request_is_recorded_the_person_is_out(
    params: Params, value: str, column: str | None, out: list[str]
) -> None:
    ask(params, value, column)
    assert allowed(params) == [each for each in EVERYBODY if each not in out]


@pytest.mark.parametrize("kind", ["erase", "withdraw", "object"])
def test_every_kind_of_request_keeps_the_person_out(params: Params, kind: str) -> None:
    ask(params, "7", kind=kind)
    assert allowed(params) == ["10", "8", "9"]


def test_a_withdrawal_for_another_purpose_keeps_nobody_out_of_this_one(params: Params) -> None:
    other = declare(params.source.url, purpose="letters")
    ask(other, "7", kind="withdraw")
    assert allowed(params) == EVERYBODY
    ask(other, "8")  # an erasure is for all
    assert "8" not in allowed(params)


def test_while_retention_takes_somebody_out_they_are_out_and_whose_rows_expire_stay(
    params: Params,
) -> None:
    expiry = Expiry(BitMap([3]), (Traces("7", 1, ("ada@example.org",)),))
    with (
        Vault.open(params.stores.vault, KEY) as vault,
        Requests.open(params.stores.ledger) as requests,
    ):
        encrypted = vault.encrypt(expiry.to_bytes(), about="expiry")
        requests.receive(
            "expiry",
            kind="retention",
            purpose=None,
            reference=b"r",
            encrypted=encrypted,
            received_at=ASKED,
            due_at=NOW,
        )
        assert allowed(params) == ["10", "8", "9"]
        requests.resolve("expiry", encrypted=encrypted, entry=None, found={}, now=NOW)
        requests.mark("expiry", "vault", {}, now=NOW)
        assert "7" not in allowed(params)
        requests.mark("expiry", "seen", {}, now=NOW)  # what is left waits for a model alone
        assert allowed(params) == EVERYBODY
        requests.close("expiry", lambda n, before: ("text", "hash"), verified={}, now=NOW)
        assert allowed(params) == EVERYBODY, "nothing keeps out who comes back"
        assert vault.suppressions() == {}


def test_what_is_kept_of_an_expiry_comes_back_as_it_was_and_grows_by_more() -> None:
    first = Expiry(BitMap([1, 2]), (Traces("7", 7, ("a",)), Traces("8", None)))
    again = Expiry.from_bytes(first.to_bytes())
    assert (again, again.leaving) == (first, BitMap([7]))
    later = Expiry(BitMap([3, 7]), (Traces("7", None), Traces("9", 2)))
    both = first.joined(later)
    assert both.tokens == BitMap([1, 3]), "who leaves whole is no more among who stays"
    assert [(each.key, each.token) for each in both.people] == [("7", 7), ("8", None), ("9", 2)]


def test_no_answer_of_an_open_request_counts_however_late_it_is(params: Params) -> None:
    ask(params, "7")
    answer(params, 7, "2026-05-20 00:00:00")
    assert "7" not in allowed(params)


@pytest.mark.parametrize(
    ("purpose", "moment", "comes_back"),
    [
        (None, None, False),  # a stale source: the yes of before
        (None, "2026-04-30 00:00:00", False),
        (None, "2026-05-01 00:00:00", False),  # at the very moment
        (None, "2026-05-01 00:00:01", True),
        ("reading", None, False),
        ("reading", "2026-05-02 00:00:00", True),
        ("letters", None, True),  # of another purpose alone
    ],
)
def test_only_a_yes_after_the_suppression_brings_somebody_back(
    params: Params, purpose: str | None, moment: str | None, comes_back: bool
) -> None:
    with Vault.open(params.stores.vault, KEY) as vault:
        vault.suppress(["7"], now=ASKED, purpose=purpose)
    if moment:
        answer(params, 7, moment)
    stand = standing(params, decisions_now(params, NOW))
    assert ("7" in stand.allowed) == comes_back
    assert set(stand.fresh) == ({"7"} if comes_back and moment else set())
    assert stand.kept_out == (0 if comes_back else 1)


def test_a_later_no_is_no_however_fresh(params: Params) -> None:
    with Vault.open(params.stores.vault, KEY) as vault:
        vault.suppress(["7"], now=ASKED)
    answer(params, 7, "2026-05-02 00:00:00")
    answer(params, 7, "2026-05-03 00:00:00", "withdrawn")
    assert "7" not in allowed(params)


def test_a_vault_from_a_backup_gets_its_suppressions_back_from_the_requests(
    params: Params,
) -> None:
    request_id = ask(params, "7")
    with (
        Vault.open(params.stores.vault, KEY) as vault,
        Requests.open(params.stores.ledger) as requests,
    ):
        (token,) = vault.tokens(["7"]).tolist()
        (entry,) = vault.entries(["7"])
        requests.resolve(request_id, encrypted=b"x", entry=entry, found={}, now=NOW)
        requests.close(
            request_id, lambda number, previous: ("text", "0" * 64), verified={}, now=NOW
        )
        assert vault.suppressed(["7"]).tolist() == [False], "the backup is older than the erasure"
    assert "7" not in allowed(params)
    with Vault.open(params.stores.vault, KEY) as vault:
        assert vault.suppressed(["7"]).tolist() == [True]
        assert vault.not_before(["7"], purpose="reading") == {"7": ASKED}
        assert vault.tokens(["7"]).tolist() != [token]


def test_who_comes_back_pays_for_what_they_were_in_before(params: Params) -> None:
    plan, budget = plan_of(trained_params()), trained_params().budget
    with Vault.open(params.stores.vault, KEY) as vault, Ledger.open(params.stores.ledger) as ledger:
        old, other = vault.tokens(["7", "8"]).tolist()
        ledger.reserve(plan.release(BitMap([old, other])), budget=budget, request="one", now=NOW)
        vault.suppress(["7"], now=ASKED)
        ledger.remember(vault.spend_entry("7"), old, now=NOW)
        vault.forget(["7"])
    answer(params, 7, "2026-05-02 00:00:00")
    stand = standing(params, decisions_now(params, NOW))
    come_back(params, stand)
    with Vault.open(params.stores.vault, KEY) as vault:
        new, same = vault.tokens(["7", "8"], purpose=params.purpose).tolist()
        assert new != old
        for _ in range(2):  # the stage may be run again
            assert carry_spend(params, vault, {"7": new, "8": same}, now=NOW) == 1
    with Ledger.open(params.stores.ledger) as ledger:
        runs = [each.run_ids for each in ledger.classes(BitMap([new]))]
        assert runs == [each.run_ids for each in ledger.classes(BitMap([other]))]
        assert len(runs[0]) == 1


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_people_are_found_by_an_identifier_whatever_the_database(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    urls: Any = (lambda: None) if kind == "sqlite" else request.getfixturevalue("postgres_urls")
    params = declare(build(kind, tmp_path, rows(), urls))
    found = subjects_by(params, "readers.email", ["Bo@example.org ", "x' OR '1'='1", "%"])
    assert found == {"Bo@example.org ": ["8"], "x' OR '1'='1": [], "%": []}
    assert pd.Series(found).map(len).sum() == 1
