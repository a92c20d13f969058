"""What a receipt says, worked out of a request's marks; for a program and for a reader.

Three looks decide what is said of a store: what was there at first, what was done, and that
nothing is there any more. What was there and is gone was erased, even if a crash between took
the count of the deed.
"""

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lethe.core.outcomes import Outcome, Result
from lethe.core.version import VERSION
from lethe.reports.card import Card
from lethe.rights.right import Right
from lethe.stores.requests.requests import RETENTION, Request
from lethe.stores.store import Ending

SOFTWARE = f"lethe {VERSION}"
_LOOKS = ("found", "seen", "verified")  # marks of looks; what others say of stores are deeds
_SAID = {
    Result.ABSENT: "nothing found",
    Result.KEPT: "kept on purpose",
    Result.PRESENT: "something is still there",
    Result.UNREACHABLE: "could not be looked into",
}
_HASH = re.compile(r"(m-)?[0-9a-f]{32}")
_ASKED = {  # of receipts that were signed before they said it themselves
    "erase": "to be erased",
    "withdraw": "to withdraw consent",
    "object": "to object to the use",
}


def in_words(outcomes: Iterable[Outcome]) -> str:
    """Why a request stays open, store by store, without places: they may name the person."""
    return "; ".join(
        f"{each.store}: {(each.reason or f'{each.count} still there').rstrip('.')}"
        for each in outcomes
    )


def settled(request: Request) -> list[Outcome]:
    """What became of every store, after the last look."""
    there, seen = _by_store(request, ("found",)), _by_store(request, ("verified",))
    deeds = sorted((mark.at, step) for step, mark in request.marks.items() if step not in _LOOKS)
    done = _by_store(request, [step for _, step in deeds])
    return [
        _settle(store, there.get(store), done.get(store), seen.get(store))
        for store in dict.fromkeys([*there, *done, *seen])
        # One that did not answer as a whole has been looked into by its own names since.
        if store in seen or store in done or there[store].result != Result.UNREACHABLE
    ]


def what_became(request: Request) -> dict[str, Ending]:
    """Version → what replaces it, or why nothing does; neither for what was not in use."""
    if "retrained" not in request.marks:
        return {}
    trained = request.marks["retrained"].content
    became = Ending(trained["replaced_by"], trained["reason"])
    models, live = versions_of(request)
    return {v: became if v in live else Ending() for v in models}


def versions_of(request: Request) -> tuple[list[str], list[str]]:
    """Versions that learned from the person, and which were in use, as far as it is known.

    Version 0.1 noted them where it looked the person up; retention has marks of its own.
    """
    for step in ("models", "found"):
        if step in request.marks and "models" in request.marks[step].content:
            content = request.marks[step].content
            return list(content["models"]), list(content["live"])
    return [], []


def receipt_facts(
    request: Request,
    right: Right,
    *,
    unseen: Mapping[str, Sequence[str]],
    closed_at: dt.datetime,
) -> dict[str, Any]:
    """What is signed, but for the place in the chain; it names nobody and has no floats.

    Args:
        unseen: by store, what it cannot look into.
    """
    outcomes = settled(request)
    done = any(outcome.result == Result.ERASED for outcome in outcomes)
    return {
        "asked": right.asked,
        "closed_at": closed_at.isoformat(),
        "due_at": request.due_at.isoformat(),
        "extension": request.extension,
        "kind": request.kind,
        "models": [
            {
                "version": version,
                "became": "retired",
                "replaced_by": became.replaced_by,
                "reason": became.reason,
            }
            for version, became in what_became(request).items()
        ],
        "purpose": request.purpose,
        "received_at": request.received_at.isoformat(),
        "request": request.request_id,
        "result": right.did if done else "nothing found",
        "retained": [
            *(dict(each) for outcome in outcomes for each in outcome.retained),
            *_kept_by_lethe(outcomes, suppressed="suppressed" in request.marks),
        ],
        "software": SOFTWARE,
        "steps": {step: mark.at.isoformat() for step, mark in request.marks.items()},
        "stores": [
            {k: v for k, v in outcome.to_data().items() if k != "retained"} for outcome in outcomes
        ],
        "unseen": [
            {"store": store, "what": what} for store, whats in unseen.items() for what in whats
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
            "Where nobody can look from here": [
                (each["store"], each["what"]) for each in facts.get("unseen", ())
            ]
            or [("not said", "the receipt is of a version that did not say this")],
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
    asked = facts.get("asked") or _ASKED[facts["kind"]]
    return f"Somebody asked on {day} {asked}{purpose}."


def _second(pair: tuple[str, str]) -> str:
    return pair[1]


def _by_store(request: Request, steps: Iterable[str]) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    for step in steps:
        mark = request.marks.get(step)
        for data in mark.content.get("stores", ()) if mark else ():
            outcome = Outcome.from_data(data)
            before = found.get(outcome.store)
            found[outcome.store] = _added(before, outcome) if before else outcome
    return found


def _added(before: Outcome, outcome: Outcome) -> Outcome:
    """Two deeds in one store as one."""
    both = (before, outcome)
    erased = [each for each in both if each.result == Result.ERASED]
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
    if seen is not None and seen.still_there:
        return seen
    if done is not None and done.result == Result.ERASED:
        return done
    if seen is not None and seen.result == Result.KEPT:
        return seen
    # The deed was done by a run that ended before it could record it.
    looked = there or Outcome(store, Result.ABSENT)
    if done is not None and done.result == Result.KEPT:
        return done
    retained = (done.retained if done is not None else ()) or looked.retained
    note = seen.reason if seen is not None else None  # what the fresh look could not look at
    if looked.count:
        return Outcome(store, Result.ERASED, looked.count, looked.places, note, retained)
    if retained:
        reason = " ".join(filter(None, ["nothing but what the law keeps, listed below.", note]))
        return Outcome(store, Result.KEPT, reason=reason, retained=retained)
    return Outcome(store, Result.ABSENT, reason=note)


def _kept_by_lethe(outcomes: Iterable[Outcome], *, suppressed: bool) -> list[dict[str, Any]]:
    """What Lethe itself keeps, of everybody alike or of whom it knew."""
    kept = [
        {
            "table": "suppressions (vault, requests)",
            "basis": "Art. 17(1), 21 GDPR: a keyed hash, so that no backup brings the person back",
            "until": None,
            "count": 1,
        }
    ]
    if not suppressed:  # whose time was over may come back
        kept.clear()
    if any(each.store == "vault" and each.result == Result.ERASED for each in outcomes):
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


def _said(store: Mapping[str, Any]) -> str:
    outcome = Outcome.from_data(store)
    reason = f". {outcome.reason}" if outcome.reason else ""
    if outcome.result != Result.ERASED:
        return f"{_SAID[outcome.result]}{reason}"
    shown = ", ".join(map(_short, outcome.places[:4]))
    more = f" and {len(outcome.places) - 4} more" if len(outcome.places) > 4 else ""
    return f"erased: {outcome.count}" + (f" ({shown}{more})" if shown else "") + reason


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
