"""Receipts as files and pages, and the check of either."""

from collections.abc import Sequence
from pathlib import Path

from lethe.config.keys import load_receipt_key, receipt_key_file
from lethe.config.params import Params
from lethe.core.errors import KeyInvalid, NotFound, ParamsInvalid, ReceiptInvalid
from lethe.core.files import write_whole
from lethe.rights.receipt_facts import receipt_card
from lethe.rights.receipts import Checked, Signer, check, facts_of, read_public_key
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
            lines = [f"{r.number:>6}  {r.request_id}  {facts_of(r.text)['result']}" for r in stored]
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
    write_whole(folder / PUBLIC_KEY, Signer(load_receipt_key(params.stores)).public_pem)
    return len(stored)


def write_missing(stored: Sequence[StoredReceipt], folder: Path) -> None:
    """Writes the receipts whose files are not there yet."""
    for each in stored:
        if not (folder / f"{_name(each)}.html").exists():
            _write(each, folder)


def check_files(paths: Sequence[Path], keys: Sequence[Path], *, head: str | None) -> str:
    """Checks receipts in files; a folder stands for all in it.

    Raises:
        ReceiptInvalid, KeyInvalid: see `receipts.check`.
    """
    found: list[Path] = []
    for path in paths:
        found += sorted(path.glob("*.json")) if path.is_dir() else [path]
    try:
        texts = [path.read_text(encoding="utf-8") for path in found]
    except (OSError, UnicodeDecodeError) as error:
        raise ReceiptInvalid(f"A receipt cannot be read ({type(error).__name__}).") from None
    return _told(check(texts, [read_public_key(key) for key in keys], head=parse_head(head)))


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
            "receipts were cut off. Bring back the newest copy of the ledger's database."
        )
    paths = list(keys) or [receipt_key_file(params.stores).with_name(PUBLIC_KEY)]
    known = [read_public_key(path) for path in paths]
    return _told(check([r.text for r in stored], known, head=parse_head(head)))


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


def _told(checked: Checked) -> str:
    span = f"Receipt {checked.first}"
    if checked.last != checked.first:
        span = f"Receipts {checked.first} to {checked.last}"
    lines = [f"{span}: signatures and chain hold.", f"Head: {checked.last}:{checked.head}"]
    if checked.first > 1:
        lines.append(f"Receipts before {checked.first} were not given.")
    lines.append("Keep the head: with --head a later check sees whether the newest were cut off.")
    return "\n".join(lines)


def _write(stored: StoredReceipt, folder: Path) -> None:
    card = receipt_card(facts_of(stored.text), digest=stored.hash)
    write_whole(folder / f"{_name(stored)}.json", stored.text.encode())
    write_whole(folder / f"{_name(stored)}.html", card.page().encode())


def _name(stored: StoredReceipt) -> str:
    return f"{stored.number:06d}-{stored.request_id}"
