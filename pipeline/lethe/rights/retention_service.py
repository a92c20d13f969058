"""Carrying retention out on this machine: what `lethe retain` and its dry run do."""

import datetime as dt
from collections.abc import Callable
from typing import Any

from lethe.config import workspace
from lethe.config.keys import load_receipt_key
from lethe.config.params import Params
from lethe.core.files import write_whole
from lethe.rights import receipt_files
from lethe.rights.receipts import Signer
from lethe.rights.retention import RetentionCase, RetentionSummary
from lethe.stores.opening import open_requests, open_vault
from lethe.stores.requests.requests import OPEN, RETENTION
from lethe.stores.source.expire import look_for_expired


def run(
    params: Params, *, clock: Callable[[], dt.datetime], report: Callable[[str], None]
) -> RetentionSummary:
    """Takes out what is past its retention, and leaves new receipts in `receipts/`.

    Raises:
        Busy: another process carries requests out.
        KeyInvalid: the vault's or the receipts' key is not there.
        LetheError: the source cannot be looked through.
    """
    from lethe.rights.retention_stores import RetentionStores  # not at the top: MLflow

    signer = Signer(load_receipt_key(params.stores, params.root))  # before anything is deleted
    with (
        open_vault(params) as vault,
        open_requests(params) as requests,
    ):
        stores = RetentionStores(params, vault, requests, params.root, clock=clock)
        summary = RetentionCase(params, stores, requests, signer, clock=clock, report=report).run()
        if receipts := requests.receipts():
            receipt_files.write_missing(receipts, params.at(workspace.RECEIPTS))
            write_whole(params.at(workspace.RECEIPTS / receipt_files.PUBLIC_KEY), signer.public_pem)
    return summary


def forecast(params: Params, *, now: dt.datetime) -> dict[str, Any]:
    """What `run` would do now, in counts; changes nothing.

    Returns:
        By table: `rows` that go, `blanked` that stay without the declared columns, `undated`;
        `people` who leave whole; `open`: how many earlier days wait for something; `models`:
        what is declared for models in use, and `cost` of a training if one may be started.
    """
    expired = look_for_expired(params, as_of=now)
    with open_requests(params) as requests:
        waiting = [r for r in requests.all(state=OPEN) if r.kind == RETENTION]
    cost: str | None = None
    if params.erasure.retention.retrain == "automatic":
        from lethe.rights.retention_stores import RetentionStores

        with open_vault(params) as vault, open_requests(params) as requests:
            stores = RetentionStores(params, vault, requests, params.root, clock=lambda: now)
            found = stores.cost([])
        cost = None if found is None else str(found)
    return {
        "rows": expired.rows,
        "blanked": expired.blanked,
        "undated": expired.undated,
        "people": len(expired.people),
        "open": len(waiting),
        "models": params.erasure.retention.retrain,
        "cost": cost,
    }


def render_forecast(found: dict[str, Any]) -> str:
    """`forecast` for a reader."""
    lines = [f"{table}: {count} rows go." for table, count in found["rows"].items()]
    for table, count in found["blanked"].items():
        lines.append(f"{table}: {count} rows stay without the columns that only retention kept.")
    if found["people"]:
        lines.append(f"People who leave whole: {found['people']}.")
    lines += undated(found["undated"])
    if found["open"]:
        lines.append(f"Earlier days that are not done yet: {found['open']}.")
    if found["cost"]:
        lines.append(f"If a model in use learned from them, one training costs {found['cost']}.")
    return "\n".join(lines) or "Nothing is past its retention."


def undated(counts: dict[str, int]) -> list[str]:
    """What is said of rows whose time cannot be known."""
    return [
        f"{table}: {count} rows have no date that can be read, so they never expire; give them one."
        for table, count in counts.items()
    ]
