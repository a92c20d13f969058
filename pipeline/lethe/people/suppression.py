"""Who must not be used although they agree: people who asked to be left out, or were erased.

Default deny, in this order. Whoever has an open request is out, found or not yet. Whoever
is suppressed is out unless their yes was given after the moment that the suppression
answers: then they agreed afresh. What a restored vault has lost comes back from the requests.
"""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from lethe.config.params import Params
from lethe.core.outcomes import Traces
from lethe.people.consents import Decisions
from lethe.people.references import Expiry, reference_from_bytes
from lethe.stores.opening import open_ledger, open_requests, open_vault
from lethe.stores.requests.requests import OPEN, RETENTION, Request
from lethe.stores.source.find_people import keys_spelled, subjects_by
from lethe.stores.vault.vault import Vault

_EVER = dt.datetime.min.replace(tzinfo=dt.UTC)


@dataclass(frozen=True)
class Standing:
    """What may be done with people who agree.

    `allowed`: the sorted keys of those who may be used.
    `fresh`: of these, who was suppressed before, and when they agreed since.
    `kept_out`: how many agree and may not be used.
    """

    allowed: pd.Index
    fresh: dict[str, dt.datetime]
    kept_out: int


def standing(params: Params, decisions: Decisions) -> Standing:
    """Holds everybody who agrees against requests and suppressions.

    Guarantees: nobody is allowed who has an open request that concerns this purpose, or is
        suppressed and gave their latest yes not after it.

    Raises:
        KeyInvalid, VaultMismatch: the vault does not open.
        SourceUnavailable, LedgerInvalid: of the source and the ledger's database.
    """
    willing = decisions.willing
    with (
        open_requests(params) as requests,
        open_vault(params) as vault,
    ):
        everybody = requests.all()
        restore(vault, everybody)
        asked = _asked(params, vault, (r for r in everybody if r.state == OPEN))
        moments = vault.not_before(willing.tolist(), purpose=params.purpose)
    fresh: dict[str, dt.datetime] = {}
    for key, moment in moments.items():
        answered = decisions.answered.loc[key].to_pydatetime()
        if answered > moment and key not in asked:
            fresh[key] = answered
    out = (asked | set(moments)) - set(fresh)
    allowed = willing[~willing.isin(list(out))]
    return Standing(allowed, fresh, kept_out=len(willing) - len(allowed))


def come_back(params: Params, stand: Standing) -> None:
    """Lifts the suppression of everybody who agreed afresh."""
    with open_vault(params) as vault:
        vault.lift(stand.fresh, purpose=params.purpose)


def carry_spend(params: Params, vault: Vault, tokens: dict[str, int], *, now: dt.datetime) -> int:
    """Charges everybody who comes back under a new token with what they had spent before.

    Whoever was erased is known by their suppression. Who left when their time was over has
    none, and is known by what the ledger remembers.

    Args:
        tokens: key → token of everybody who is used.

    Returns:
        How many people have been suppressed before; the same call again charges nothing more.
    """
    suppressed = set(vault.not_before(list(tokens), purpose=params.purpose))
    with open_ledger(params) as ledger:
        remembered = ledger.remembered()
        if remembered:
            entries = vault.spend_entries(list(tokens))
            for token, entry in zip(tokens.values(), entries, strict=True):
                if entry in remembered:
                    ledger.carry_over(entry, token, now=now)
    return len(suppressed)


def restore(vault: Vault, requests: Iterable[Request]) -> None:
    """Writes the suppressions that a vault should have and lacks: it came from a backup."""
    due: dict[bytes, dt.datetime] = {}
    for request in requests:
        if request.entry is not None:
            due[request.entry] = max(request.received_at, due.get(request.entry, _EVER))
    there = vault.suppressions()
    lost = {e: moment for e, moment in due.items() if e not in there or there[e] < moment}
    if lost:
        vault.suppress_entries(lost)


def concerns(request: Request, params: Params) -> bool:
    """Whether a request of a person is about what this pipeline does."""
    if request.kind == RETENTION:
        return False
    return request.purpose is None or request.purpose == params.purpose


def _asked(params: Params, vault: Vault, requests: Iterable[Request]) -> set[str]:
    """The keys of everybody whom these requests lead to; unknown keys stay among them."""
    keys: set[str] = set()
    by_column: dict[str, list[str]] = {}
    said: list[str] = []
    for request in requests:
        if request.kind == RETENTION:
            if request.encrypted is None or "seen" in request.marks:
                continue  # they are gone; who is there is back
            expiry = Expiry.from_bytes(vault.decrypt(request.encrypted, about=request.request_id))
            keys |= {each.key for each in expiry.people}
            continue
        if request.encrypted is None or not concerns(request, params):
            continue
        about = reference_from_bytes(vault.decrypt(request.encrypted, about=request.request_id))
        if isinstance(about, Traces):
            keys.add(about.key)
        elif about.column is None:
            keys.add(about.value)
            said.append(about.value)
        else:
            by_column.setdefault(about.column, []).append(about.value)
    for spelled in keys_spelled(params, said).values():
        keys.update(spelled)
    for column, values in by_column.items():
        for found in subjects_by(params, column, values).values():
            keys.update(found)
    return keys
