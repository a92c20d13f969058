"""An erasure in steps that a scheduler starts one by one, each a command of its own.

They are the steps of `lethe.rights.erasure` in groups, by the same engine: a step takes every open
request that has come to it as far as the step goes, and may be repeated. What keeps one request
from a step keeps no other, so a later step may be started whatever came of an earlier one.

Models may be trained elsewhere, by the schedule that always trains: it is asked whether a run is
needed for the open requests (`gather`), starts it, and `retrain` then takes what it came to.
"""

import datetime as dt
from collections.abc import Callable, Mapping

from lethe.core.errors import LetheError, ParamsInvalid
from lethe.core.outcomes import Outcome
from lethe.rights.case import VERIFIED
from lethe.rights.erasure import (
    BEFORE,
    HISTORY,
    MODELS,
    OVERWRITTEN,
    RETIRED,
    RETRAINED,
    ErasureCase,
    ErasureSummary,
    in_use,
)
from lethe.rights.receipt_facts import in_words
from lethe.rights.right import Step
from lethe.stores.requests.requests import Request

LOOK_HOLDS = dt.timedelta(minutes=15)  # a receipt is written of no older look

Take = Callable[[ErasureCase], None]


def collect(case: ErasureCase) -> None:
    """Finds who everybody is who asked; what kept a request open before is found out anew."""
    for request in case.open():
        case.solved(request)
    case.carry(case.open(), BEFORE[:1])


def suppress(case: ErasureCase) -> None:
    case.carry(case.open(), BEFORE[1:])


def erase_source(case: ErasureCase) -> None:
    """Out of every store of people, who has very much there last; then what was deleted."""
    batch = case.open()
    large = [request for request in batch if case.has_much(request)]
    for part in ([request for request in batch if request not in large], large):
        case.carry(part, case.store_steps())
    case.as_one(case.through(), [OVERWRITTEN])


def erase_history(case: ErasureCase) -> None:
    case.as_one(case.through(), [MODELS, HISTORY])


def retrain(case: ErasureCase) -> None:
    join(case)
    case.as_one(case.ready(), [RETRAINED])


def join(case: ErasureCase) -> None:
    """Takes along who asked since the batch was collected: one training is for all of them."""
    if any(BEFORE[0].name not in r.marks and not r.problem for r in case.open()):
        case.carry(case.open(), BEFORE)
        erase_source(case)
        erase_history(case)


def retire(case: ErasureCase) -> None:
    case.as_one(case.ready(), [RETIRED])


def verify(case: ErasureCase) -> None:
    """A fresh look into every store, for everybody for whom all is done."""
    batch, at = case.done(), case.clock()
    if not batch:
        return
    try:
        looks = case.look(batch)
    except LetheError as error:
        for request in batch:
            case.problem(request, str(error))
        return
    for request, seen in zip(batch, looks, strict=True):
        left = [outcome for outcome in seen if outcome.still_there]
        if left:
            case.do_again(request, left)
            case.problem(request, f"{in_words(left)}. {case.where(request)}")
        else:
            case.mark(request, VERIFIED, seen, at=at)


def receipt(case: ErasureCase) -> None:
    """Closes those whom a look just now found nowhere; who was not looked for is looked for."""
    seen: list[Request] = []
    others: list[Request] = []
    for request in case.done():
        (seen if looked(request, case.clock()) else others).append(request)
    for request in seen:
        mark = request.marks[VERIFIED]
        outcomes = [Outcome.from_data(each) for each in mark.content["stores"]]
        try:
            case.sign(request, outcomes, at=mark.at)
        except LetheError as error:
            case.problem(request, str(error))
    case.prove(others)


def looked(request: Request, now: dt.datetime) -> bool:
    """Whether the last look was just now, and nothing was done for the request since."""
    if VERIFIED not in request.marks:
        return False
    at = request.marks[VERIFIED].at
    done = max(mark.at for step, mark in request.marks.items() if step != VERIFIED)
    return done <= at <= now <= at + LOOK_HOLDS


STEPS: Mapping[str, Take] = {
    each.__name__: each
    for each in (
        collect,
        suppress,
        erase_source,
        erase_history,
        retrain,
        retire,
        verify,
        receipt,
    )
}


def take(case: ErasureCase, name: str, *, elsewhere: bool = False) -> ErasureSummary:
    """Takes every open request through one step.

    Args:
        elsewhere: the step `retrain` takes what a run came to; who asked since it began is not in
            it, and waits for the next.

    Raises:
        ParamsInvalid: there is no such step. Busy: another process works on the requests.
    """
    if name not in STEPS:
        raise ParamsInvalid(f"{name} is no step; they are {', '.join(STEPS)}, in this order.")
    with case.requests.alone():
        case.note_problems()
        if elsewhere:
            case.as_one(case.ready(), [RETRAINED])
        else:
            STEPS[name](case)
    return case.summary


def gather(case: ErasureCase) -> list[Request]:
    """Whose models in use are to be replaced now, with who asked since the batch was collected.

    Raises:
        Busy: another process works on the requests.
    """
    with case.requests.alone():
        case.note_problems()
        join(case)
        return waiting_for_model(case)


def waiting_for_model(case: ErasureCase) -> list[Request]:
    """Whose models in use are still to be replaced, now."""
    ready = [r for r in case.ready() if _comes_to(RETRAINED, case, r)]
    return ready if in_use(ready) else []


def _comes_to(step: Step, case: ErasureCase, request: Request) -> bool:
    return step.name not in request.marks and case.has_come_to(step.name, request)
