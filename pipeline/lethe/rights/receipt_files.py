"""Receipts as files and pages, and the check of either."""

from collections.abc import Sequence
from pathlib import Path

from lethe.config.keys import load_receipt_key, receipt_key_file
from lethe.config.params import Params
from lethe.core.errors import KeyInvalid, NotFound, ParamsInvalid, ReceiptInvalid
from lethe.core.files import write_whole
from lethe.core.reading import damage
from lethe.rights.receipt_facts import SOFTWARE, receipt_card
from lethe.rights.receipts import (
    Checked,
    Signer,
    check,
    facts_of,
    hash_of,
    public_key_id,
    read_public_key,
)
from lethe.stores.opening import open_requests
from lethe.stores.requests.requests import CLOSED, StoredReceipt

PUBLIC_KEY = "receipts.pub"


def show(params: Params, request_id: str | None) -> str:
    """The receipts' text: of one request, or one line each of all.

    Raises:
        NotFound: there is no such request, or it has no receipt yet.
    """
    with open_requests(params) as requests:
        stored = requests.receipts()
        if request_id is None:
            lines = [f"{r.number:>6}  {r.request_id}  {_result(r.text)}" for r in stored]
            return "\n".join(lines) or "No receipts yet."
        request = requests.find(request_id)
    wanted = request.joined_to or request_id
    for each in stored:
        if each.request_id == wanted:
            return each.text.rstrip()
    raise NotFound(f"Request {request_id} is {request.state} and has no receipt yet.")


def write_all(params: Params, folder: Path) -> int:
    """Writes every receipt as JSON and as a page, with the public key; returns how many."""
    with open_requests(params) as requests:
        stored = requests.receipts()
    for each in stored:
        _write(each, folder)
    write_whole(
        folder / PUBLIC_KEY, Signer(load_receipt_key(params.stores, params.root)).public_pem
    )
    return len(stored)


def write_missing(stored: Sequence[StoredReceipt], folder: Path) -> None:
    """Writes the receipts whose files are not there yet."""
    for each in stored:
        if not (folder / f"{_name(each)}.html").exists():
            _write(each, folder)


def check_files(paths: Sequence[Path], keys: Sequence[Path], *, head: str | None) -> str:
    """Checks receipts in files, and the pages beside them; a folder stands for all in it.

    Args:
        keys: public keys to trust; by default the one that lies with the receipts.

    Raises:
        ReceiptInvalid: see `receipts.check`; or a folder lacks the oldest receipts, or a page
            that this version wrote says something else than its receipt.
        KeyInvalid: there is no key, or it is none.
    """
    trusted = list(keys) or [key_beside(paths)]
    found: list[Path] = []
    for path in paths:
        found += sorted(path.glob("*.json")) if path.is_dir() else [path]
    try:
        texts = [path.read_text(encoding="utf-8") for path in found]
    except (OSError, UnicodeDecodeError) as error:
        raise ReceiptInvalid(f"A receipt cannot be read ({type(error).__name__}).") from None
    checked = check(texts, [read_public_key(key) for key in trusted], head=parse_head(head))
    if checked.first > 1 and any(path.is_dir() for path in paths):
        raise _beginning_lost(checked)
    pages = _check_pages(found, texts)
    return "\n".join([_report(checked, trusted, beside=not keys), *pages])


def check_stored(params: Params, keys: Sequence[Path], *, head: str | None) -> str:
    """Checks what the ledger's database has, against the closed requests as well.

    Raises:
        ReceiptInvalid: see `receipts.check`; or a closed request lost its receipt.
    """
    with open_requests(params) as requests:
        stored, closed = requests.receipts(), requests.all(state=CLOSED)
    lost = {each.request_id for each in closed} - {each.request_id for each in stored}
    if lost:
        raise ReceiptInvalid(
            f"{len(lost)} closed requests have no receipt any more, among them {min(lost)}: "
            "receipts were cut off. Restore the newest copy of the ledger's database."
        )
    paths = list(keys) or [receipt_key_file(params.stores, params.root).with_name(PUBLIC_KEY)]
    known = [read_public_key(path) for path in paths]
    checked = check([r.text for r in stored], known, head=parse_head(head))
    if checked.first > 1:
        raise _beginning_lost(checked)
    return _report(checked, paths, beside=not keys)


def _beginning_lost(checked: Checked) -> ReceiptInvalid:
    return ReceiptInvalid(
        f"The oldest receipt is number {checked.first}: those before it were removed. Bring them "
        "back from a copy."
    )


def _check_pages(files: Sequence[Path], texts: Sequence[str]) -> list[str]:
    """Holds each page beside its receipt, which alone is signed; says which cannot be."""
    older = []
    for path, text in zip(files, texts, strict=True):
        page = path.with_suffix(".html")
        if not page.is_file():
            continue
        facts = facts_of(text)
        if page.read_bytes() == _page(text):
            continue
        if facts.get("software") == SOFTWARE:
            raise ReceiptInvalid(
                f"{page.name} does not say what its receipt says: it was changed. Write it anew "
                "with `lethe erase receipt --out FOLDER`."
            )
        older.append(page.name)
    if not older:
        return []
    return [
        f"Not checked: {len(older)} pages of another version, the first is {older[0]}. Rely on the "
        "JSON, or write pages anew with `lethe erase receipt --out FOLDER`."
    ]


def parse_head(words: str | None) -> tuple[int, str] | None:
    """`NUMBER:HASH` → both."""
    if words is None:
        return None
    number, _, digest = words.partition(":")
    if not number.isdigit() or len(digest) != 64:
        raise ParamsInvalid("--head is NUMBER:HASH, as an earlier check printed it.")
    return int(number), digest


def key_beside(paths: Sequence[Path]) -> Path:
    """The public key that lies with the receipts; whoever can, gives one they had before.

    Raises:
        KeyInvalid: there is none.
    """
    for path in paths:
        beside = (path if path.is_dir() else path.parent) / PUBLIC_KEY
        if beside.exists():
            return beside
    raise KeyInvalid("Give --public-key FILE: no receipts.pub lies with the receipts.")


def _report(checked: Checked, keys: Sequence[Path], *, beside: bool) -> str:
    span = f"Receipt {checked.first}"
    if checked.last != checked.first:
        span = f"Receipts {checked.first} to {checked.last}"
    lines = [f"{span}: signatures and chain hold.", f"Head: {checked.last}:{checked.head}"]
    for path in keys:
        lines.append(f"Trusted key: {public_key_id(read_public_key(path))}, from {path}")
    if beside:
        lines.append(
            "That key lies with what it was used to check: whoever can change both can sign anew. "
            "Compare it with one that you had before, or give that by --public-key."
        )
    if checked.first > 1:
        lines.append(f"Receipts before {checked.first} were not given.")
    lines.append("Keep the head: with --head a later check sees whether the newest were cut off.")
    return "\n".join(lines)


def _write(stored: StoredReceipt, folder: Path) -> None:
    write_whole(folder / f"{_name(stored)}.json", stored.text.encode())
    write_whole(folder / f"{_name(stored)}.html", _page(stored.text))


def _page(text: str) -> bytes:
    with damage(_no_receipt):
        return receipt_card(facts_of(text), digest=hash_of(text)).page().encode()


def _result(text: str) -> str:
    with damage(_no_receipt):
        return str(facts_of(text)["result"])


def _no_receipt() -> ReceiptInvalid:
    return ReceiptInvalid("A receipt lacks facts that every receipt has. It was changed.")


def _name(stored: StoredReceipt) -> str:
    return f"{stored.number:06d}-{stored.request_id}"
