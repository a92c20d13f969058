"""Receipts can be checked by anybody with the public key, and not be changed by anybody."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lethe.core.errors import KeyInvalid, ParamsInvalid, ReceiptInvalid
from lethe.rights.receipt_facts import SOFTWARE, receipt_card
from lethe.rights.receipt_files import check_files, key_beside, parse_head
from lethe.rights.receipts import Signer, check, facts_of, read_public_key
from lethe.stores.requests.requests import GENESIS

SIGNER, STRANGER = Signer(b"s" * 32), Signer(b"t" * 32)


def public(folder: Path, signer: Signer = SIGNER) -> Ed25519PublicKey:
    path = folder / "key.pem"
    path.write_bytes(signer.public_pem)
    return read_public_key(path)


def chain(length: int, signer: Signer = SIGNER) -> tuple[list[str], list[str]]:
    """Texts and hashes of a chain of receipts."""
    texts, hashes = [], [GENESIS]
    for number in range(1, length + 1):
        facts = {"request": f"r{number}", "result": "erased", "stores": [{"count": number}]}
        text, digest = signer.sign(facts, number=number, previous=hashes[-1])
        texts.append(text)
        hashes.append(digest)
    return texts, hashes[1:]


def test_a_sound_chain_holds_in_any_order_and_spelling(tmp_path: Path) -> None:
    texts, hashes = chain(4)
    compact = [json.dumps(json.loads(text)) for text in reversed(texts)]
    for given in (texts, compact):
        checked = check(given, [public(tmp_path)])
        assert (checked.first, checked.last, checked.head) == (1, 4, hashes[-1])


def edited(text: str, edit: Any) -> str:
    whole = json.loads(text)
    edit(whole)
    return json.dumps(whole)


@pytest.mark.parametrize(
    "edit",
    [
        lambda w: w["receipt"].update(result="nothing found"),
        lambda w: w["receipt"]["stores"][0].update(count=99),
        lambda w: w["receipt"].update(request="another"),
        lambda w: w["receipt"].update(more="than there was"),
        lambda w: w["receipt"].pop("stores"),
        lambda w: w["receipt"].update(previous=GENESIS),
        lambda w: w.update(signature=w["signature"][:-4] + "AAA="),
        lambda w: w.update(signature="not base64!"),
        lambda w: w.update(signature=""),
    ],
)
def test_any_change_of_a_receipt_is_seen(tmp_path: Path, edit: Any) -> None:
    texts, _ = chain(3)
    with pytest.raises(ReceiptInvalid, match="2 was changed"):
        check([texts[0], edited(texts[1], edit), texts[2]], [public(tmp_path)])


@pytest.mark.parametrize(
    ("signed", "shown"),
    [
        ('"result": "erased"', '"result": "nothing found", "result": "erased"'),
        ('"result": "erased"', '"result": "erased", "result": "erased"'),
        ('"count": 1', '"count": 0, "count": 1'),
        ('"signature": ', '"signature": "", "signature": '),
        ('"request": "r1"', '"request": "r1", "\\u0072equest": "r1"'),
    ],
)
def test_a_receipt_that_says_something_twice_is_refused(
    tmp_path: Path, signed: str, shown: str
) -> None:
    """Readers of JSON differ: some take the first value, some the last."""
    text = chain(1)[0][0]
    assert signed in text
    with pytest.raises(ReceiptInvalid, match="twice"):
        check([text.replace(signed, shown)], [public(tmp_path)])


def test_receipts_that_change_places_are_seen(tmp_path: Path) -> None:
    texts, _ = chain(3)
    swapped = [edited(texts[0], lambda w: w["receipt"].update(number=2)), texts[1], texts[2]]
    with pytest.raises(ReceiptInvalid):
        check(swapped, [public(tmp_path)])


def test_a_receipt_that_is_taken_out_of_the_middle_is_seen(tmp_path: Path) -> None:
    texts, _ = chain(4)
    with pytest.raises(ReceiptInvalid, match="Receipt 2 is missing"):
        check([texts[0], *texts[2:]], [public(tmp_path)])


def test_a_receipt_made_anew_with_the_same_key_does_not_fit(tmp_path: Path) -> None:
    texts, _ = chain(3)
    other, _ = SIGNER.sign({"request": "r2", "result": "x"}, number=2, previous="0" * 64)
    with pytest.raises(ReceiptInvalid, match="Receipt 2 does not follow"):
        check([texts[0], other, texts[2]], [public(tmp_path)])


def test_two_of_one_number_are_seen(tmp_path: Path) -> None:
    texts, _ = chain(2)
    with pytest.raises(ReceiptInvalid, match="Two receipts have number 2"):
        check([*texts, texts[1]], [public(tmp_path)])


def test_what_was_cut_off_at_the_end_is_seen_by_who_holds_a_later_receipt(tmp_path: Path) -> None:
    texts, hashes = chain(5)
    assert check(texts[:3], [public(tmp_path)]).last == 3, "a shorter chain is a valid one"
    for head in ((5, hashes[4]), (4, hashes[3])):
        with pytest.raises(ReceiptInvalid, match="cut off"):
            check(texts[:3], [public(tmp_path)], head=head)
    assert check(texts, [public(tmp_path)], head=(4, hashes[3])).last == 5


def test_one_persons_own_receipt_can_be_checked_alone(tmp_path: Path) -> None:
    texts, hashes = chain(3)
    checked = check([texts[1]], [public(tmp_path)])
    assert (checked.first, checked.last, checked.head) == (2, 2, hashes[1])


def test_another_key_is_refused_even_under_the_first_ones_name(tmp_path: Path) -> None:
    texts, _ = chain(1, STRANGER)
    with pytest.raises(ReceiptInvalid, match="signed by key"):
        check(texts, [public(tmp_path)])
    disguised = edited(texts[0], lambda w: w["receipt"].update(signing_key=SIGNER.key_id))
    with pytest.raises(ReceiptInvalid, match="was changed"):
        check([disguised], [public(tmp_path)])


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[" * 100_000, '{"receipt": 1, "signature": ""}', "\x00"]
)
def test_what_is_no_receipt_is_reported(tmp_path: Path, text: str) -> None:
    with pytest.raises(ReceiptInvalid, match="no receipt"):
        check([text], [public(tmp_path)])
    with pytest.raises(ReceiptInvalid, match="no receipts"):
        check([], [public(tmp_path)])


def test_openssl_agrees_about_the_signature(tmp_path: Path) -> None:
    """Anybody can check without Lethe: the canonical JSON, the PEM key, Ed25519."""
    import base64
    import shutil
    import subprocess

    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    whole = json.loads(chain(1)[0][0])
    signed = json.dumps(whole["receipt"], sort_keys=True, separators=(",", ":")).encode()
    for name, content in (
        ("signed", signed),
        ("signature", base64.b64decode(whole["signature"])),
        ("key", SIGNER.public_pem),
    ):
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        [
            *("openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key", "-rawin"),
            *("-in", "signed", "-sigfile", "signature"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "Verified Successfully" in done.stdout, done.stderr


def test_files_are_checked_with_the_key_beside_them_or_one_that_is_given(tmp_path: Path) -> None:
    texts, hashes = chain(2)
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.json").write_text(text)
    with pytest.raises(KeyInvalid, match="--public-key"):
        key_beside([tmp_path])
    (tmp_path / "receipts.pub").write_bytes(SIGNER.public_pem)
    said = check_files([tmp_path], [key_beside([tmp_path])], head=f"1:{hashes[0]}")
    assert f"Head: 2:{hashes[1]}" in said
    assert f"Trusted key: {SIGNER.key_id}, from" in said
    assert "Compare it with one that you had before" in check_files([tmp_path], [], head=None)
    (tmp_path / "0.json").unlink()
    assert "Receipts before 2 were not given" in check_files(
        [tmp_path / "1.json"], [tmp_path / "receipts.pub"], head=None
    )
    with pytest.raises(ReceiptInvalid, match="oldest receipt is number 2"):
        check_files([tmp_path], [tmp_path / "receipts.pub"], head=None)
    (tmp_path / "rsa.pem").write_text("no key")
    with pytest.raises(KeyInvalid, match="no public key"):
        check_files([tmp_path], [tmp_path / "rsa.pem"], head=None)
    with pytest.raises(ParamsInvalid, match="NUMBER:HASH"):
        parse_head("2")


OLD_FACTS = {  # as the version before wrote them
    "closed_at": "2026-06-02T12:00:00+00:00",
    "due_at": "2026-07-01T12:00:00+00:00",
    "extension": None,
    "kind": "withdraw",
    "models": [],
    "purpose": "reading",
    "received_at": "2026-06-01T12:00:00+00:00",
    "request": "r1",
    "result": "left out of training",
    "retained": [],
    "software": "lethe 0",
    "steps": {"source": "2026-06-01T13:00:00+00:00"},
    "stores": [
        {
            "store": "source",
            "result": "not attempted",
            "count": 0,
            "places": [],
            "reason": "stays: only its use for this purpose ends",
        },
        {"store": "cache", "result": "erased", "count": 2, "places": ["a", "b"], "reason": None},
        {"store": "registry", "result": "nothing found", "count": 0, "places": [], "reason": None},
    ],
}


def test_receipts_of_the_version_before_hold_and_are_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lethe.rights.receipts.FORMAT", "lethe receipt 1")
    old, digest = SIGNER.sign(OLD_FACTS, number=1, previous=GENESIS)
    monkeypatch.undo()
    new, _ = SIGNER.sign({"request": "r2", "software": "x"}, number=2, previous=digest)
    assert '"lethe receipt 1"' in old and '"lethe receipt 2"' in new
    assert check([old, new], [public(tmp_path)]).last == 2
    page = receipt_card(facts_of(old), digest=digest).page()
    for said in (
        "to withdraw consent for reading",
        "kept on purpose",
        "erased: 2",
        "nothing found",
    ):
        assert said in page
    other, _ = SIGNER.sign(OLD_FACTS, number=1, previous=GENESIS)
    with pytest.raises(ReceiptInvalid, match="no receipt"):
        check([other.replace("lethe receipt 2", "lethe receipt 3")], [public(tmp_path)])


def test_a_page_that_was_changed_is_seen_and_one_of_another_version_is_named(
    tmp_path: Path,
) -> None:
    (tmp_path / "receipts.pub").write_bytes(SIGNER.public_pem)
    text, digest = SIGNER.sign(OLD_FACTS | {"software": SOFTWARE}, number=1, previous=GENESIS)
    (tmp_path / "1.json").write_text(text)
    page = receipt_card(facts_of(text), digest=digest).page()
    (tmp_path / "1.html").write_text(page)
    assert "Not checked" not in check_files([tmp_path], [], head=None)
    for changed in (page.replace("erased: 2", "erased: 9"), page + " ", ""):
        (tmp_path / "1.html").write_text(changed)
        with pytest.raises(ReceiptInvalid, match=r"1\.html does not say what its receipt says"):
            check_files([tmp_path], [], head=None)
    text, _ = SIGNER.sign(OLD_FACTS, number=1, previous=GENESIS)
    (tmp_path / "1.json").write_text(text)
    assert "Not checked: 1 pages of another version" in check_files([tmp_path], [], head=None)


def test_the_page_shows_everything_and_runs_nothing() -> None:
    facts = {
        "closed_at": "2026-06-02T12:00:00+00:00",
        "due_at": "2026-07-01T12:00:00+00:00",
        "extension": "many requests",
        "kind": "erase",
        "models": [
            {"version": "m/1", "became": "retired", "replaced_by": "m/2", "reason": None},
            {"version": "m/0", "became": "withdrawn", "replaced_by": None, "reason": "<budget>"},
        ],
        "purpose": None,
        "received_at": "2026-06-01T12:00:00+00:00",
        "request": "r1",
        "result": "erased",
        "retained": [{"table": "invoices", "basis": "tax law", "until": "2036-01-01", "count": 2}],
        "steps": {"source": "2026-06-01T13:00:00+00:00"},
        "stores": [
            {
                "store": "source",
                "result": "erased",
                "count": 3,
                "places": ["patients: 1 deleted"],
                "reason": "a text is to be read by somebody",
            },
            {
                "store": "cache",
                "result": "nothing found",
                "count": 0,
                "places": [],
                "reason": None,
            },
            {
                "store": "run-cache",
                "result": "erased",
                "count": 1,
                "places": [f"runs/ab/{'ab' * 32}/{'cd' * 32}"],
                "reason": None,
            },
        ],
    }
    text, digest = SIGNER.sign(facts, number=7, previous="f" * 64)
    page = receipt_card(facts_of(text), digest=digest).page()
    for said in (
        *("Receipt 7", "many requests", "m/1", "replaced by m/2", "withdrawn: &lt;budget&gt;"),
        *("2 rows: tax law, until 2036-01-01", "patients: 1 deleted", "nothing found"),
        *("erased: 1 (cdcdcdcd…)",),
        *("a text is to be read by somebody", digest, "f" * 64, SIGNER.key_id, "2026-07-01"),
    ):
        assert said in page
    assert "<script" not in page
    assert "<budget>" not in page
