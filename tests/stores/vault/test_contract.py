"""What every vault keeps, on SQLite and on PostgreSQL."""

import datetime as dt
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from lethe.config.keys import key_id
from lethe.core.errors import KeyInvalid, LetheError, NotFound, ParamsInvalid, VaultMismatch
from lethe.stores.vault.vault import NO_TOKEN, Vault
from tests.postgres import postgres_server, postgres_url, postgres_urls  # noqa: F401

KEY, NEW_KEY = b"k" * 32, b"n" * 32
NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
PEOPLE = ["ada", "ben", "cleo", "dora"]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'vault.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def vault(url: str) -> Iterator[Vault]:
    with Vault.open(url, KEY) as opened:
        yield opened


def rows(url: str, query: str) -> list[sa.Row]:
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            return list(connection.exec_driver_sql(query).all())
    finally:
        engine.dispose()


def change(url: str, statement: str) -> None:
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)
    finally:
        engine.dispose()


def test_a_subject_keeps_its_token_and_shares_it_with_nobody(vault: Vault, url: str) -> None:
    first = vault.tokens(PEOPLE)
    assert first.dtype == np.uint32
    assert len(set(first.tolist())) == 4
    again = vault.tokens(["eve", "dora", "ada", "dora"])
    assert again[[1, 2, 3]].tolist() == [first[3], first[0], first[3]]
    assert again[0] not in first
    assert vault.count() == 5
    with Vault.open(url, KEY) as reopened:
        assert reopened.tokens(PEOPLE).tolist() == first.tolist()


def test_lookup_creates_nobody(vault: Vault) -> None:
    tokens = vault.tokens(["ada"])
    found = vault.lookup(["ada", "ben", "ada"])
    assert found.dtype == np.int64
    assert found.tolist() == [tokens[0], -1, tokens[0]]
    assert vault.count() == 1


def test_nobody_is_asked_for(vault: Vault) -> None:
    assert vault.tokens([]).shape == vault.lookup([]).shape == vault.suppressed([]).shape == (0,)


def test_lookup_of_few_among_many_and_of_many_among_few_agree(vault: Vault) -> None:
    people = [f"person {number}" for number in range(3_000)]
    tokens = vault.tokens(people)
    one_by_one = [int(vault.lookup([person])[0]) for person in people[::500]]
    assert one_by_one == tokens[::500].tolist()
    assert vault.lookup([*people, "nobody"]).tolist() == [*tokens.tolist(), -1]


def test_database_holds_no_key_of_a_subject(vault: Vault, url: str) -> None:
    tokens = vault.tokens(["ada@example.org"])
    vault.suppress(["ben@example.org"], now=NOW)
    vault.reveal(int(tokens[0]), reason="asked by the person", who="auditor", now=NOW)
    for table in ("vault", "vault_keys", "vault_subjects", "vault_suppressions", "vault_reveals"):
        assert "example.org" not in str(rows(url, f"SELECT * FROM {table}"))


def test_secrets_are_the_same_for_the_life_of_the_vault(vault: Vault, url: str) -> None:
    shard, holdout = vault.secret("shard"), vault.secret("holdout")
    assert len({shard, holdout, KEY}) == 3
    with Vault.open(url, KEY) as reopened:
        assert (reopened.secret("shard"), reopened.secret("holdout")) == (shard, holdout)


@pytest.mark.parametrize("name", ["lookup", "identity", "suppression", "other"])
def test_other_data_keys_never_leave_the_vault(vault: Vault, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        vault.secret(name)


def test_wrong_key_is_refused_and_both_keys_are_named(vault: Vault, url: str) -> None:
    with pytest.raises(VaultMismatch, match=f"{key_id(KEY)}.*{key_id(NEW_KEY)}"):
        Vault.open(url, NEW_KEY)


def test_wrong_key_is_refused_even_if_the_database_says_it_is_right(vault: Vault, url: str) -> None:
    change(url, f"UPDATE vault SET key_id = '{key_id(NEW_KEY)}'")
    with pytest.raises(VaultMismatch, match="does not open"):
        Vault.open(url, NEW_KEY)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("DELETE FROM vault_keys WHERE name = 'identity'", "identity"),
        ("UPDATE vault SET capacity = capacity * 2", "does not open"),
        ("DELETE FROM vault", "gone"),
        ("DROP TABLE vault_keys", "damaged|lacks"),
        ("UPDATE vault SET schema = 4", "Update Lethe"),
    ],
)
def test_damage_is_seen_at_opening(vault: Vault, url: str, damage: str, message: str) -> None:
    change(url, damage)
    with pytest.raises(VaultMismatch, match=message):
        Vault.open(url, KEY)


def test_keys_swapped_in_the_database_do_not_open(vault: Vault, url: str) -> None:
    change(url, "UPDATE vault_keys SET name = 'x' WHERE name = 'shard'")
    change(url, "UPDATE vault_keys SET name = 'shard' WHERE name = 'holdout'")
    change(url, "UPDATE vault_keys SET name = 'holdout' WHERE name = 'x'")
    with pytest.raises(VaultMismatch, match="does not open"):
        Vault.open(url, KEY)


def test_reveal_gives_the_subject_and_logs_who_asked_when_and_why(vault: Vault) -> None:
    token = int(vault.tokens(["Zoë Ångström"])[0])
    assert vault.reveal(token, reason=" asked by the person ", who="auditor", now=NOW) == (
        "Zoë Ångström"
    )
    assert vault.reveals() == [
        {
            "id": 1,
            "at": "2026-11-24T12:00:00+00:00",
            "who": "auditor",
            "reason": "asked by the person",
            "token": token,
        }
    ]


def test_reveal_is_logged_even_if_it_cannot_be_answered(vault: Vault, url: str) -> None:
    one, other = vault.tokens(["ada", "ben"]).tolist()
    (identity,) = rows(url, f"SELECT identity FROM vault_subjects WHERE token = {one}")[0]
    change(
        url,
        "UPDATE vault_subjects SET identity = "
        f"(SELECT identity FROM vault_subjects WHERE token = {other}) WHERE token = {one}",
    )
    assert rows(url, f"SELECT identity FROM vault_subjects WHERE token = {one}")[0][0] != identity
    with pytest.raises(VaultMismatch, match=f"token {one}"):  # ben's row under ada's token
        vault.reveal(one, reason="check", who="auditor", now=NOW)
    assert [entry["token"] for entry in vault.reveals()] == [one]


def test_reveal_refuses_without_reason_name_or_subject(vault: Vault) -> None:
    token = int(vault.tokens(["ada"])[0])
    for reason, who in (("", "auditor"), ("  ", "auditor"), ("check", "")):
        with pytest.raises(ParamsInvalid, match="reason"):
            vault.reveal(token, reason=reason, who=who, now=NOW)
    for unknown in ((token + 1) % 2**24, -1, 2**24, 2**40, NO_TOKEN):
        with pytest.raises(NotFound, match="token"):
            vault.reveal(unknown, reason="check", who="auditor", now=NOW)
    assert vault.reveals() == []


def test_suppressed_subject_is_given_no_token(vault: Vault) -> None:
    ada, ben = vault.tokens(["ada", "ben"])
    vault.suppress(["ada", "cleo", "ada"], now=NOW)
    vault.suppress(["ada"], now=NOW)
    assert vault.suppressed(["ada", "ben", "cleo"]).tolist() == [True, False, True]
    assert vault.tokens(["ada", "ben", "cleo"]).tolist() == [NO_TOKEN, ben, NO_TOKEN]
    assert vault.lookup(["ada", "ben", "cleo"]).tolist() == [ada, ben, -1]
    assert vault.count() == 2


LATER = NOW + dt.timedelta(hours=1)


def test_suppression_for_one_purpose_leaves_the_others(vault: Vault) -> None:
    ada = vault.tokens(["ada"]).tolist()
    vault.suppress(["ada"], now=NOW, purpose="letters")
    assert vault.suppressed(["ada", "ben"], purpose="letters").tolist() == [True, False]
    assert vault.suppressed(["ada"], purpose="parcels").tolist() == [False]
    assert vault.suppressed(["ada"]).tolist() == [False]
    assert vault.tokens(["ada"], purpose="letters").tolist() == [NO_TOKEN]
    assert vault.tokens(["ada"], purpose="parcels").tolist() == ada
    assert vault.not_before(["ada", "ben"], purpose="letters") == {"ada": NOW}
    assert vault.not_before(["ada"], purpose="parcels") == {}


def test_only_an_answer_after_the_suppression_lifts_it(vault: Vault) -> None:
    vault.suppress(["ada"], now=NOW)
    for too_early in (NOW - dt.timedelta(days=1), NOW):
        vault.lift({"ada": too_early}, purpose="letters")
        assert vault.suppressed(["ada"]).tolist() == [True]
    vault.lift({"ada": LATER}, purpose="letters")
    assert vault.suppressed(["ada"], purpose="letters").tolist() == [False]
    assert vault.not_before(["ada"], purpose="letters") == {"ada": NOW}, "old answers never count"
    vault.suppress(["ada"], now=NOW)  # the first erasure, resumed
    assert vault.suppressed(["ada"]).tolist() == [False]
    vault.suppress(["ada"], now=LATER)  # another one
    assert vault.suppressed(["ada"]).tolist() == [True]


def test_who_was_forgotten_and_answers_afresh_is_given_another_token(vault: Vault) -> None:
    (old,) = vault.tokens(["ada"]).tolist()
    vault.suppress(["ada"], now=NOW)
    vault.forget(["ada"])
    vault.lift({"ada": LATER}, purpose="letters")
    (new,) = vault.tokens(["ada"], purpose="letters").tolist()
    assert new not in (old, NO_TOKEN)
    assert vault.spend_entry("ada") == vault.spend_entry("ada") != vault.spend_entry("ben")


def test_suppressions_of_a_lost_vault_can_be_written_again_without_any_key(vault: Vault) -> None:
    entries = dict.fromkeys(vault.entries(["ada"]), NOW)
    vault.suppress_entries(entries)
    assert vault.suppressions() == entries
    assert vault.suppressed(["ada", "ben"]).tolist() == [True, False]
    assert not any(b"ada" in entry for entry in entries)


def test_row_that_a_backup_brought_back_can_be_forgotten_again(vault: Vault, url: str) -> None:
    (token,) = vault.tokens(["ada"]).tolist()
    lookup, identity = rows(url, "SELECT lookup, identity FROM vault_subjects")[0]
    vault.forget(["ada"])
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO vault_subjects VALUES (:token, :lookup, :identity)"),
            {"token": token, "lookup": lookup, "identity": identity},
        )
    engine.dispose()
    assert vault.forget(["ada"]) == 1
    assert vault.count() == 0


def test_what_a_request_remembers_opens_for_that_request_alone_and_after_a_rotation(
    vault: Vault, url: str
) -> None:
    encrypted = vault.encrypt(b"ada@example.org", about="request 1")
    assert b"ada" not in encrypted
    assert encrypted != vault.encrypt(b"ada@example.org", about="request 1")
    with pytest.raises(VaultMismatch, match="request 2"):
        vault.decrypt(encrypted, about="request 2")
    vault.rotate(NEW_KEY)
    with Vault.open(url, NEW_KEY) as rotated:
        assert rotated.decrypt(encrypted, about="request 1") == b"ada@example.org"


def test_vault_of_the_first_schema_is_migrated_and_keeps_its_suppressions(
    vault: Vault, url: str
) -> None:
    vault.suppress(["ada"], now=NOW)
    change(url, "DROP TABLE vault_lifts")
    change(url, "DROP TABLE vault_reveals_head")
    for name in ("content", "chain", "erased"):
        change(url, f"ALTER TABLE vault_reveals DROP COLUMN {name}")
    change(url, "UPDATE vault SET schema = 1")
    with Vault.open(url, KEY, create=False) as migrated:
        migrated.lift({"ben": LATER}, purpose="letters")
        assert migrated.suppressed(["ada"]).tolist() == [True]
    assert rows(url, "SELECT schema FROM vault") == [(3,)]


def test_forgotten_subject_is_in_no_table_and_stays_suppressed(vault: Vault, url: str) -> None:
    ada, ben = vault.tokens(["ada", "ben"]).tolist()
    vault.reveal(ada, reason="check", who="auditor", now=NOW)
    vault.suppress(["ada"], now=NOW)
    assert vault.forget(["ada", "ada", "nobody"]) == 1
    assert vault.forget(["ada"]) == 0
    assert vault.lookup(["ada", "ben"]).tolist() == [-1, ben]
    assert vault.tokens(["ada"]).tolist() == [NO_TOKEN]
    with pytest.raises(NotFound):
        vault.reveal(ada, reason="check", who="auditor", now=NOW)
    assert [entry["token"] for entry in vault.reveals()] == [None]
    assert str(ada) not in str(rows(url, "SELECT token FROM vault_subjects"))


def test_token_of_a_forgotten_subject_is_given_to_nobody_else(url: str) -> None:
    people = [f"person {number}" for number in range(64)]
    with Vault.open(url, KEY, capacity=128) as vault:
        gone = vault.tokens(people[:32]).tolist()
        assert vault.forget(people[:32]) == 32
        new = vault.tokens(people[32:]).tolist()  # by chance apart: once in 10,000
        assert not set(gone) & set(new)
        with pytest.raises(LetheError, match="128 tokens and 64 in use"):
            vault.tokens(["ada"])


def test_more_than_half_of_the_capacity_is_refused_and_nobody_added(url: str) -> None:
    with Vault.open(url, KEY, capacity=16) as vault:
        vault.tokens(PEOPLE)
        with pytest.raises(LetheError, match="over half"):
            vault.tokens([f"person {number}" for number in range(5)])
        assert vault.count() == 4
        assert set(vault.tokens([f"person {number}" for number in range(4)]).tolist()) <= set(
            range(16)
        )


def test_capacity_is_fixed_when_the_vault_is_made(url: str) -> None:
    with Vault.open(url, KEY, capacity=8) as vault:
        vault.tokens(PEOPLE)
    with Vault.open(url, KEY) as vault, pytest.raises(LetheError, match="8 tokens"):
        vault.tokens(["eve"])


def test_rotation_keeps_tokens_and_secrets_and_refuses_the_old_key(vault: Vault, url: str) -> None:
    tokens = vault.tokens(PEOPLE).tolist()
    vault.suppress(["eve"], now=NOW)
    secrets = [vault.secret(name) for name in ("shard", "holdout")]
    before = rows(url, "SELECT token, lookup, identity FROM vault_subjects ORDER BY token")
    vault.rotate(NEW_KEY)
    after = rows(url, "SELECT token, lookup, identity FROM vault_subjects ORDER BY token")
    for old, new in zip(before, after, strict=True):
        assert old.token == new.token
        assert old.lookup != new.lookup
        assert old.identity != new.identity
    assert vault.lookup(PEOPLE).tolist() == tokens  # this one goes on with the new key
    with pytest.raises(VaultMismatch, match=f"{key_id(NEW_KEY)}.*{key_id(KEY)}"):
        Vault.open(url, KEY)
    with Vault.open(url, NEW_KEY) as reopened:
        assert reopened.tokens(PEOPLE).tolist() == tokens
        assert [reopened.secret(name) for name in ("shard", "holdout")] == secrets
        assert reopened.suppressed(["eve", "ada"]).tolist() == [True, False]
        for person, token in zip(PEOPLE, tokens, strict=True):
            assert reopened.reveal(token, reason="check", who="auditor", now=NOW) == person


def test_rotation_to_the_same_key_is_refused(vault: Vault) -> None:
    with pytest.raises(KeyInvalid, match="own"):
        vault.rotate(KEY)


def test_rotation_that_fails_changes_nothing(vault: Vault, url: str) -> None:
    vault.tokens(PEOPLE)
    change(url, "UPDATE vault_subjects SET identity = lookup WHERE token = "
           "(SELECT max(token) FROM vault_subjects)")  # fmt: skip
    everything = "SELECT * FROM vault_subjects ORDER BY token"
    before = rows(url, everything), rows(url, "SELECT * FROM vault_keys ORDER BY name")
    with pytest.raises(VaultMismatch, match="damaged"):
        vault.rotate(NEW_KEY)
    assert before == (rows(url, everything), rows(url, "SELECT * FROM vault_keys ORDER BY name"))
    with Vault.open(url, KEY) as reopened:
        assert reopened.count() == 4


def test_vault_that_was_open_during_a_rotation_adds_nobody_under_the_old_keys(
    vault: Vault, url: str
) -> None:
    vault.tokens(["ada"])
    with Vault.open(url, KEY) as elsewhere:
        vault.rotate(NEW_KEY)
        for use in (elsewhere.tokens, elsewhere.lookup, elsewhere.suppressed):
            with pytest.raises(VaultMismatch, match="rotated"):
                use(["ada", "ben"])
    assert vault.count() == 1


def test_many_at_once_agree_on_every_token(url: str) -> None:
    start = threading.Barrier(6)

    def ask(number: int) -> dict[str, int]:
        people = [f"person {(number + step) % 40}" for step in range(30)]
        start.wait()
        with Vault.open(url, KEY) as vault:  # the first of them makes it
            return dict(zip(people, vault.tokens(people).tolist(), strict=True))

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(0, 60, 10)))
    agreed: dict[str, int] = {}
    for answer in answers:
        assert all(agreed.setdefault(person, token) == token for person, token in answer.items())
    assert len(set(agreed.values())) == len(agreed) == 40
    with Vault.open(url, KEY) as vault:
        assert vault.count() == 40


SWAPS = {  # of the rows of two people: what whoever can write to the database may do
    "lookups": ("lookup",),
    "identities": ("identity",),
    "tokens": ("lookup", "identity"),
}


def _swap(url: str, one: int, other: int, names: tuple[str, ...]) -> None:
    change(url, f"UPDATE vault_subjects SET token = 16777300 WHERE token = {one}")  # unique lookups
    for name in names:
        (first,) = rows(url, f"SELECT {name} FROM vault_subjects WHERE token = 16777300")[0]
        (second,) = rows(url, f"SELECT {name} FROM vault_subjects WHERE token = {other}")[0]
        _set(url, name, other, b"\0" * 32)
        _set(url, name, 16777300, bytes(second))
        _set(url, name, other, bytes(first))
    change(url, f"UPDATE vault_subjects SET token = {one} WHERE token = 16777300")


def _set(url: str, name: str, token: int, value: bytes) -> None:
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            statement = sa.text(f"UPDATE vault_subjects SET {name} = :value WHERE token = :token")
            connection.execute(statement, {"value": value, "token": token})
    finally:
        engine.dispose()


@pytest.mark.parametrize("what", SWAPS)
def test_swapped_rows_lead_nothing_to_another_person(vault: Vault, url: str, what: str) -> None:
    ada, ben, _ = vault.tokens(["ada", "ben", "cleo"]).tolist()
    _swap(url, ada, ben, SWAPS[what])
    before = rows(url, "SELECT * FROM vault_subjects ORDER BY token")
    for use in (
        lambda: vault.lookup(["ada"]),
        lambda: vault.tokens(["cleo", "ben"]),
        lambda: vault.forget(["ben"]),
        lambda: vault.rotate(NEW_KEY),
    ):
        with pytest.raises(VaultMismatch, match="The vault is damaged") as raised:
            use()
        assert "ada" not in str(raised.value)
    assert rows(url, "SELECT * FROM vault_subjects ORDER BY token") == before
    assert vault.lookup(["cleo", "nobody"]).tolist()[1] == -1


def _logged(vault: Vault, *people: str) -> list[int]:
    tokens: list[int] = vault.tokens(list(people)).tolist()
    for token, person in zip(tokens, people, strict=True):
        vault.reveal(token, reason=f"{person} asked", who="auditor", now=NOW)
    return tokens


@pytest.mark.parametrize(
    "change_",
    [
        "DELETE FROM vault_reveals WHERE id = 1",
        "DELETE FROM vault_reveals WHERE id = 3",
        "DELETE FROM vault_reveals",
        "UPDATE vault_reveals SET who = 'somebody else' WHERE id = 2",
        "UPDATE vault_reveals SET at = '2020-01-01T00:00:00+00:00' WHERE id = 2",
        "UPDATE vault_reveals SET reason = 'as ordered' WHERE id = 2",
        "UPDATE vault_reveals SET token = NULL WHERE id = 2",
        "UPDATE vault_reveals SET token = NULL, reason = '' WHERE id = 2",
        "UPDATE vault_reveals SET token = token + 1 WHERE id = 3",
        "UPDATE vault_reveals SET id = 9 WHERE id = 3",
        "INSERT INTO vault_reveals (id, at, who, reason, token) VALUES (4, '', 'kim', 'x', 1)",
        "DELETE FROM vault_reveals_head",
        "UPDATE vault_reveals_head SET entries = 2",
    ],
)
def test_no_entry_of_the_log_is_changed_or_removed_unnoticed(
    vault: Vault, url: str, change_: str
) -> None:
    tokens = _logged(vault, "ada", "ben", "cleo")
    assert len(vault.reveals()) == 3
    change(url, change_)
    with pytest.raises(VaultMismatch, match="log of reveals was changed"):
        vault.reveals()
    with pytest.raises(VaultMismatch, match="log of reveals was changed"):
        vault.reveal(tokens[0], reason="again", who="auditor", now=NOW)


def test_the_reason_goes_with_the_person_and_the_chain_holds(vault: Vault, url: str) -> None:
    _logged(vault, "ada", "ben")
    vault.forget(["ada"])
    assert [entry["reason"] for entry in vault.reveals()] == ["", "ben asked"]
    assert "ada asked" not in str(rows(url, "SELECT * FROM vault_reveals"))
    vault.rotate(NEW_KEY)
    _logged(vault, "cleo")
    assert [entry["who"] for entry in vault.reveals()] == ["auditor"] * 3


def test_a_log_of_the_version_before_is_taken_into_the_chain(vault: Vault, url: str) -> None:
    _logged(vault, "ada", "ben")
    vault.forget(["ada"])
    change(url, "DROP TABLE vault_reveals_head")
    for name in ("content", "chain", "erased"):
        change(url, f"ALTER TABLE vault_reveals DROP COLUMN {name}")
    change(url, "UPDATE vault_reveals SET reason = 'ada asked' WHERE id = 1")  # it kept reasons
    change(url, "UPDATE vault SET schema = 2")
    with pytest.raises(VaultMismatch, match="belongs to key"):
        Vault.open(url, NEW_KEY)
    with Vault.open(url, KEY) as migrated:
        assert [entry["reason"] for entry in migrated.reveals()] == ["", "ben asked"]
    change(url, "DELETE FROM vault_reveals WHERE id = 2")
    with Vault.open(url, KEY) as migrated, pytest.raises(VaultMismatch, match="log of reveals"):
        migrated.reveals()
