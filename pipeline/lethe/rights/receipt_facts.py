"""What a receipt says, worked out of a request's marks; for a program and for a reader.

Three looks decide what is told of a store: what was there at first, what was done, and that
nothing is there any more. What was there and is gone was erased, even if a crash between took
the count of the deed.
"""

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from lethe.core.outcomes import Outcome
from lethe.core.version import VERSION
from lethe.reports.card import Card
from lethe.rights.stores import LEAVES
from lethe.stores.requests.requests import RETENTION, Kind, Request

_DEEDS = ("source", "vault", "history", "retired")  # steps that take something out of a store
_HASH = re.compile(r"(m-)?[0-9a-f]{32}")
_KINDS = {
    "erase": "to be erased",
    "withdraw": "to withdraw consent",
    "object": "to object to the use",
}


def outcome_from(data: Mapping[str, Any]) -> Outcome:
    """The outcome that `Outcome.to_data` wrote."""
    return Outcome(
        store=data["store"],
        result=data["result"],
        count=data["count"],
        places=tuple(data["places"]),
        reason=data["reason"],
        retained=tuple(data["retained"]),
    )


def still_there(outcome: Outcome) -> bool:
    """Whether a fresh look found something, or could not look where it should."""
    return outcome.count > 0 or (outcome.result == "not attempted" and outcome.reason != LEAVES)


def in_words(outcomes: Iterable[Outcome]) -> str:
    """Why a request stays open, store by store, without places: they may name the person."""
    return "; ".join(
        f"{each.store}: {each.reason}"
        if each.result == "not attempted"
        else f"{each.store}: {each.count} still there"
        for each in outcomes
    )


def settled(request: Request) -> list[Outcome]:
    """What became of every store, after the last look."""
    there, seen = _by_store(request, ("found",)), _by_store(request, ("verified",))
    done = _by_store(request, _DEEDS)
    return [
        _settle(store, there.get(store), done.get(store), seen.get(store))
        for store in dict.fromkeys([*there, *done, *seen])
    ]


def what_became(request: Request) -> dict[str, dict[str, str | None]]:
    """Version → what replaces it, or why nothing does; neither for what was not in use."""
    found, trained = request.marks["found"].content, request.marks["retrained"].content
    nothing: dict[str, str | None] = {"replaced_by": None, "reason": None}
    became = {name: trained[name] for name in nothing}
    return {v: became if v in found["live"] else nothing for v in found["models"]}


def receipt_facts(request: Request, *, closed_at: dt.datetime) -> dict[str, Any]:
    """What is signed, but for the place in the chain; it names nobody and has no floats."""
    outcomes = settled(request)
    return {
        "closed_at": closed_at.isoformat(),
        "due_at": request.due_at.isoformat(),
        "extension": request.extension,
        "kind": request.kind,
        "models": [
            {
                "version": version,
                "became": "withdrawn" if became["reason"] else "retired",
                **became,
            }
            for version, became in what_became(request).items()
        ],
        "purpose": request.purpose,
        "received_at": request.received_at.isoformat(),
        "request": request.request_id,
        "result": _result(outcomes, request.kind),
        "retained": [
            *(dict(each) for outcome in outcomes for each in outcome.retained),
            *_kept_by_lethe(outcomes, request.kind),
        ],
        "software": f"lethe {VERSION}",
        "steps": {step: mark.at.isoformat() for step, mark in request.marks.items()},
        "stores": [
            {k: v for k, v in outcome.to_data().items() if k != "retained"} for outcome in outcomes
        ],
    }


def receipt_card(facts: Mapping[str, Any], *, digest: str) -> Card:
    """A receipt for a reader."""
    return Card(
        title=f"Receipt {facts['number']}",
        summary=(
            f"{_why(facts)} Outcome: {facts['result']}. Closed on {_day(facts['closed_at'])}, "
            "after a fresh look into every store below found nothing left."
        ),
        sections={
            "The request": [
                ("request", facts["request"]),
                ("received", _moment(facts["received_at"])),
                ("to be answered by", _moment(facts["due_at"])),
                *([("extended because", facts["extension"])] if facts["extension"] else []),
                ("closed", _moment(facts["closed_at"])),
            ],
            "Where it was looked, and what was done": [
                (each["store"], _said(each)) for each in facts["stores"]
            ],
            "Models that had learned from it": [
                (each["version"], _ended(each)) for each in facts["models"]
            ]
            or [("none", "no model version was trained on what is gone")],
            "What is kept, and why": [
                (str(each.get("table", "")), _kept(each)) for each in facts["retained"]
            ]
            or [("nothing", "")],
            "When each step was done": [
                (step, _moment(at)) for step, at in sorted(facts["steps"].items(), key=_second)
            ],
            "How to check this": [
                ("hash of this receipt", digest),
                ("hash of the receipt before", facts["previous"]),
                ("signed by key", facts["signing_key"]),
                ("command", "lethe erase receipt --check FILES --public-key receipts.pub"),
            ],
        },
    )


def _why(facts: Mapping[str, Any]) -> str:
    day = _day(facts["received_at"])
    if facts["kind"] == RETENTION:
        return f"On {day} data was past its declared retention; nobody had asked."
    purpose = f" for {facts['purpose']}" if facts["purpose"] else ""
    return f"Somebody asked on {day} {_KINDS.get(facts['kind'], facts['kind'])}{purpose}."


def _second(pair: tuple[str, str]) -> str:
    return pair[1]


def _by_store(request: Request, steps: Iterable[str]) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    for step in steps:
        mark = request.marks.get(step)
        for data in mark.content["stores"] if mark else ():
            outcome = outcome_from(data)
            before = found.get(outcome.store)
            found[outcome.store] = _added(before, outcome) if before else outcome
    return found


def _added(before: Outcome, outcome: Outcome) -> Outcome:
    """Two deeds in one store as one."""
    both = (before, outcome)
    erased = [each for each in both if each.result == "erased"]
    kept = erased[0] if erased else outcome
    return replace(
        kept,
        count=sum(each.count for each in erased),
        places=tuple(dict.fromkeys(place for each in erased for place in each.places)),
        retained=tuple(retained for each in both for retained in each.retained),
    )


def _settle(
    store: str, there: Outcome | None, done: Outcome | None, seen: Outcome | None
) -> Outcome:
    if seen is not None and seen.result == "not attempted":
        return seen
    if done is not None and done.result == "erased":
        return done
    # The deed was done by a run that ended before it could tell.
    looked = there or Outcome(store, "nothing found")
    retained = (done.retained if done is not None else ()) or looked.retained
    if looked.count:
        return Outcome(store, "erased", looked.count, looked.places, retained=retained)
    return Outcome(store, "nothing found", retained=retained)


def _kept_by_lethe(outcomes: Iterable[Outcome], kind: Kind) -> list[dict[str, Any]]:
    """What Lethe itself keeps, of everybody alike or of whom it knew."""
    kept = [
        {
            "table": "suppressions (vault, requests)",
            "basis": "Art. 17(1), 21 GDPR: a keyed hash, so that no backup brings the person back",
            "until": None,
            "count": 1,
        }
    ]
    if kind == RETENTION:  # who comes back is collected anew
        kept.clear()
    if any(each.store == "vault" and each.result == "erased" for each in outcomes):
        kept.append(
            {
                "table": "ledger",
                "basis": "Art. 5(2) GDPR: what trainings were charged to a random number, from "
                "which nothing leads to the person",
                "until": None,
                "count": 1,
            }
        )
    return kept


def _result(outcomes: Iterable[Outcome], kind: Kind) -> str:
    if not any(outcome.result == "erased" for outcome in outcomes):
        return "nothing found"
    return "erased" if kind in ("erase", RETENTION) else "left out of training"


def _said(store: Mapping[str, Any]) -> str:
    if store["result"] == "not attempted":
        return f"not attempted: {store['reason']}"
    told = f". {store['reason']}" if store["reason"] else ""
    if store["result"] == "nothing found":
        return f"nothing found{told}"
    shown = ", ".join(map(_short, store["places"][:4]))
    more = f" and {len(store['places']) - 4} more" if len(store["places"]) > 4 else ""
    return f"erased: {store['count']}" + (f" ({shown}{more})" if shown else "") + told


def _short(place: str) -> str:
    """A hash by its first digits; the JSON has it whole."""
    last = place.rpartition("/")[2]
    return f"{last[:8]}…" if _HASH.match(last) else place


def _ended(model: Mapping[str, Any]) -> str:
    if model["replaced_by"]:
        return f"{model['became']}, replaced by {model['replaced_by']}"
    return model["became"] + (f": {model['reason']}" if model["reason"] else ", was not in use")


def _kept(each: Mapping[str, Any]) -> str:
    until = f", until {_day(str(each['until']))}" if each.get("until") else ""
    count = each.get("count", 0)
    return f"{count} {'row' if count == 1 else 'rows'}: {each.get('basis', '')}{until}"


def _day(moment: str) -> str:
    return moment[:10]


def _moment(moment: str) -> str:
    return f"{moment[:10]} {moment[11:19]} UTC"
