"""Carrying requests out on this machine: what `lethe erase run`, `step` and `verify` do."""

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lethe.config import workspace
from lethe.config.home import is_copy
from lethe.config.keys import load_key, load_receipt_key
from lethe.config.params import Params
from lethe.core.errors import Busy, NothingToDo, ParamsInvalid, SourceUnavailable
from lethe.core.files import write_whole
from lethe.core.outcomes import OPEN_ENDS, Traces
from lethe.people.references import reference_from_bytes
from lethe.people.suppression import concerns, restore
from lethe.rights import erasure_steps, receipt_files
from lethe.rights.case import look_into
from lethe.rights.erasure import (
    ASKED,
    ErasureCase,
    ErasureSummary,
    waits_until,
)
from lethe.rights.receipt_facts import versions_of
from lethe.rights.receipts import Signer
from lethe.rights.services import FINAL_CODES
from lethe.runs import ended
from lethe.runs.worktree import RunWorktree
from lethe.stores.opening import open_requests, open_vault
from lethe.stores.requests.requests import OPEN, RETENTION, Request, Requests
from lethe.stores.source.read import Source
from lethe.stores.store import Person
from lethe.stores.vault.vault import Vault

if TYPE_CHECKING:
    from lethe.rights.workspace_stores import WorkspaceStores


def run(
    params: Params, *, clock: Callable[[], dt.datetime], report: Callable[[str], None]
) -> ErasureSummary:
    """Carries every open request out, and leaves new receipts in `receipts/`.

    Raises:
        Busy: another process does. KeyInvalid: the vault's or the receipts' key is not there.
        ParamsInvalid: this is a copy; people are erased, and models retrained, in its HOME.
    """
    with _cases(params, clock, report) as (case, finish):
        summary = case.run() if case is not None else ErasureSummary()
        finish()
    return summary


def take_step(
    params: Params,
    name: str,
    *,
    elsewhere: bool = False,
    clock: Callable[[], dt.datetime],
    report: Callable[[str], None],
) -> ErasureSummary:
    """Takes every open request through one step of `erasure_steps.STEPS`.

    Args:
        elsewhere: models are trained by the run that `run_needed` asked for; none is here.

    Raises:
        NothingToDo: no request is open. Busy, KeyInvalid, ParamsInvalid: as `run`.
    """
    with _cases(params, clock, report, elsewhere=elsewhere) as (case, finish):
        if case is None:
            finish()
            raise NothingToDo("No request is open.")
        summary = erasure_steps.take(case, name, elsewhere=elsewhere)
        finish()
    return summary


def run_needed(
    params: Params, run: str, *, clock: Callable[[], dt.datetime], report: Callable[[str], None]
) -> None:
    """Asks for a run of the pipeline that open requests wait for.

    Args:
        run: names the run that is started if this returns.

    Raises:
        NothingToDo: none is needed, or not now; the reason is reported.
        Busy, KeyInvalid, ParamsInvalid: as `take_step`.
    """
    RunWorktree.of(params.home, run)  # what cannot name a folder names no file either
    with _cases(params, clock, report, elsewhere=True) as (case, _):
        if case is None:
            raise NothingToDo("No request is open.")
        waiting = erasure_steps.gather(case)
        if not waiting or params.erasure.retrain == "manual":
            raise NothingToDo("No model in use has to be replaced now.")
        if (cost := case.cost_of(waiting)) is not None:
            report(f"Training without those who asked costs {cost}.")
        ids = [request.request_id for request in waiting]
        try:
            needed = ended.begin(params.home, run, ids, final=FINAL_CODES, now=clock())
        except Busy as error:  # `retrain` says the same, of the requests
            raise NothingToDo(str(error)) from None
        if not needed:
            raise NothingToDo("A run of the pipeline has brought an answer.")


@contextmanager
def _cases(
    params: Params,
    clock: Callable[[], dt.datetime],
    report: Callable[[str], None],
    *,
    elsewhere: bool = False,
) -> Iterator[tuple[ErasureCase | None, Callable[[], None]]]:
    """The case of the open requests, None without any; and what ends a command that worked."""
    if is_copy(params.root):
        raise ParamsInvalid(
            f"This is a copy. Run it in {params.home}: it erases from copies as well."
        )
    signer = Signer(load_receipt_key(params.stores, params.root))  # before anything is erased
    with _opened(params) as (vault, requests):
        everything = requests.all()
        restore(vault, everything)
        case: ErasureCase | None = None

        def awaited() -> list[str]:
            if case is None:
                raise ValueError("nobody waits for a run")
            return [request.request_id for request in erasure_steps.waiting_for_model(case)]

        if any(r.state == OPEN and concerns(r, params) for r in everything):
            waits = ended.EndedRun(params.home, awaited) if elsewhere else None
            stores = _stores(params, vault, requests, clock, waits)
            case = ErasureCase(params, stores, requests, signer, clock=clock, report=report)

        def finish() -> None:
            try:
                requests.overwrite(now=clock())
            except (Busy, SourceUnavailable) as error:  # nothing waits for it but the next run
                report(str(error))
            if receipts := requests.receipts():  # those of a run that was ended before this, too
                receipt_files.write_missing(receipts, params.at(workspace.RECEIPTS))
                key = params.at(workspace.RECEIPTS / receipt_files.PUBLIC_KEY)
                write_whole(key, signer.public_pem)

        yield case, finish


def forecast(params: Params, *, now: dt.datetime) -> str:
    """What `run` would do now and what it would cost; changes nothing."""
    with _opened(params) as (vault, requests):
        waiting = [r for r in requests.all(state=OPEN) if concerns(r, params)]
        if not waiting:
            return "Nothing to do."
        stores = _stores(params, vault, requests, lambda: now)
        tokens = [t for t in (_token(vault, request) for request in waiting) if t is not None]
        cost = stores.cost(tokens)
    starts = min(waits_until(request, params) for request in waiting)
    lines = [f"Open requests: {len(waiting)}; the first is due {_first_due(waiting):%Y-%m-%d}."]
    if starts > now:
        lines.append(f"Erased from the data at once; models are trained anew from {starts:%F}.")
    if params.erasure.retrain == "manual":
        lines.append("Models that anybody was in are retired, and none is trained.")
    elif cost is not None:
        lines.append(f"If anybody was in a model in use, one retraining costs {cost}.")
    return "\n".join(lines)


def verify(params: Params, request_id: str | None, *, now: dt.datetime) -> dict[str, Any]:
    """A fresh look for everybody who has an open request, and for erased people who came back.

    Returns:
        `requests`: outcomes by request id; `came_back`: how many people of the source are
        suppressed, or have a token although they are; `still_there`: how many findings.

    Raises:
        NotFound: no such request. ParamsInvalid: it is closed, and nothing leads to its person.
    """
    with _opened(params) as (vault, requests):
        restore(vault, requests.all())
        if request_id is not None:
            request = requests.find(request_id)
            if request.state != OPEN:
                raise ParamsInvalid(
                    f"Request {request_id} is {request.state}: nothing leads to its person any "
                    "more. Its receipt says what was seen then; lethe erase verify alone looks "
                    "for everybody who came back."
                )
            chosen = [request]
        else:
            chosen = [r for r in requests.all(state=OPEN) if r.kind != RETENTION]
        stores = _stores(params, vault, requests, lambda: now).stores
        looks: dict[str, Any] = {r.request_id: None for r in chosen}  # not looked up yet
        sought: dict[str, Person] = {}
        for request in chosen:
            traces = _traces(vault, request)
            if traces is not None:
                models = versions_of(request)[0]
                keeps_records = ASKED[request.kind].keeps_records
                sought[request.request_id] = Person(
                    traces, keeps_records=keeps_records, models=tuple(models)
                )
        findings = 0
        if sought:
            for asked, seen in zip(sought, look_into(stores, list(sought.values())), strict=True):
                findings += sum(outcome.still_there for outcome in seen)
                looks[asked] = [outcome.to_data() for outcome in seen]
        back = _came_back(params, vault)
    return {"requests": looks, "came_back": back, "still_there": findings + sum(back.values())}


_PLACES_SHOWN = 10  # of a store; --json has all


def render_verify(found: dict[str, Any]) -> str:
    """`verify` for a reader."""
    lines = []
    for request_id, seen in found["requests"].items():
        lines.append(f"{request_id}: {'not looked up yet' if seen is None else ''}".rstrip(": "))
        for each in seen or ():
            said = f"{each['count']} found" if each["count"] else each["result"]
            lines.append(f"  {each['store']:<22} {said}{_because(each['reason'])}")
            if each["result"] in OPEN_ENDS:
                lines += [f"    {place}" for place in each["places"][:_PLACES_SHOWN]]
    for where, count in found["came_back"].items():
        lines.append(f"erased people who are back in the {where}: {count}")
    return "\n".join(lines)


def _because(reason: str | None) -> str:
    return f" ({reason})" if reason else ""


def _came_back(params: Params, vault: Vault) -> dict[str, int]:
    """How many people are in the source, or have a token, who are erased and did not agree since.

    They are used nowhere; yet a source that a backup brought back should lose them again.
    """
    source = tokens = 0
    if vault.suppressions():
        with Source.open(params) as opened:
            for keys in opened.subjects():
                people = keys.dropna().tolist()
                out = vault.suppressed(people)
                source += int(out.sum())
                tokens += int((vault.lookup(people)[out] >= 0).sum())
    return {"source": source, "vault": tokens}


def _first_due(requests: list[Request]) -> dt.datetime:
    return min(request.due_at for request in requests)


def _traces(vault: Vault, request: Request) -> Traces | None:
    if request.encrypted is None:
        return None
    about = reference_from_bytes(vault.decrypt(request.encrypted, about=request.request_id))
    return about if isinstance(about, Traces) else None


def _token(vault: Vault, request: Request) -> int | None:
    traces = _traces(vault, request)
    return None if traces is None else traces.token


def _stores(
    params: Params,
    vault: Vault,
    requests: Requests,
    clock: Callable[[], dt.datetime],
    elsewhere: ended.EndedRun | None = None,
) -> "WorkspaceStores":
    """Not at the top: who has nothing to do needs neither MLflow nor the accountants."""
    from lethe.rights.workspace_stores import WorkspaceStores

    return WorkspaceStores(params, vault, requests, params.root, clock=clock, elsewhere=elsewhere)


@contextmanager
def _opened(params: Params) -> Iterator[tuple[Vault, Requests]]:
    key = load_key(params.stores, params.root)
    with (
        open_vault(params, key=key) as vault,
        open_requests(params) as requests,
    ):
        yield vault, requests
