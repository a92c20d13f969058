"""What would end a run late, after much work or after people were charged, looked at before.

Nothing is written, and nothing of the source is read.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pyroaring import BitMap

from lethe.config import workspace
from lethe.config.params import Params
from lethe.config.sections import Budget
from lethe.core.errors import BudgetExceeded, NotFound, ParamsInvalid, SourceUnavailable
from lethe.core.shown import about
from lethe.core.values import rounded_up

if TYPE_CHECKING:
    from lethe.ledger.ledger import Ledger
    from lethe.privacy.release import Release

_FOLDERS = (
    workspace.SHARDS.parent,
    workspace.MODEL,
    workspace.REPORTS,
    workspace.RECEIPTS,
    workspace.STATE,
)
_SQLITE = "sqlite:///"


def refuse_unwritable(params: Params) -> None:
    """Whether what a run makes can be put where it belongs.

    Raises:
        ParamsInvalid: names each folder and store that cannot be written to.
    """
    problems = [f"{what}: {why}" for what, path in _written(params) if (why := _hindrance(path))]
    if problems:
        raise ParamsInvalid(f"What a run makes has no place. {'; '.join(problems)}.")


def refuse_unpayable(params: Params) -> None:
    """Whether one run is within the budget of somebody whom nobody has charged yet.

    Raises:
        BudgetExceeded: it is not; so nobody could ever be in it.
        ParamsInvalid: no noise reaches the declared epsilon.
    """
    from lethe.privacy.accounting import epsilon_rdp

    budget = params.budget
    need = epsilon_rdp([_release(params, BitMap([0])).event], budget.delta)
    if need > budget.epsilon:
        raise BudgetExceeded(
            f"One run costs a person epsilon={rounded_up(need)} (RDP, delta={budget.delta:g}), its "
            f"figures included; budget.epsilon={budget.epsilon:g}, so that nobody can pay. Lower "
            "training.mechanism.epsilon (RDP is above PLD), steps or reporting.epsilon, raise "
            "noise_multiplier, or raise the budget."
        )


def refuse_spent(params: Params) -> str | None:
    """Whether people who were charged before can pay for another run, where there is a ledger.

    Nothing is written, and without a ledger nothing is said. Whom the next run draws from is known
    as the last one left it in `data/shards`; without them nobody is refused, and only counted.

    Returns:
        How many cannot, for a person to read; None if all can.

    Raises:
        BudgetExceeded: by the budget's policy a run on the people in `data/shards` is refused.
        LedgerInvalid: the ledger is damaged, of a newer schema, or another workspace's.
    """
    from lethe.data.shards import eligible_people, shard_paths
    from lethe.stores.opening import open_ledger

    if _missing(params.address(params.stores.ledger)):
        return None
    shards = params.at(workspace.SHARDS)
    drawn = eligible_people(shard_paths(shards)) if any(shards.glob("shard-*.parquet")) else None
    try:
        with open_ledger(params, create=False) as ledger:
            if drawn:
                _, over = ledger.admissible(_release(params, drawn), params.budget)
                return _over(params, over, "will be left out of the next run") if over else None
            charged = BitMap.union(BitMap(), *(each.members for each in ledger.classes()))
            over = _spent(ledger, _release(params, charged), params.budget) if charged else 0
            return _over(params, over, "could not be in another run as declared") if over else None
    except NotFound:
        return None
    except SourceUnavailable as error:
        return f"What people have spent was not looked at. {error}"


def _spent(ledger: "Ledger", release: "Release", budget: Budget) -> int:
    try:
        return ledger.admissible(release, replace(budget, over_budget="leave_out"))[1]
    except BudgetExceeded:
        return len(release.subjects)  # all of them


def _release(params: Params, people: BitMap) -> "Release":
    """A training of these people with its figures: what everybody in it pays."""
    from lethe.data.encoding import Encoder
    from lethe.privacy.figures import figures_plan, with_figures
    from lethe.training.trainers import trainer_of

    plan, outputs = trainer_of(params.training).plan(params), Encoder.from_params(params).outputs
    figures = figures_plan(params, records_per_person=plan.records_per_person, outputs=outputs)
    return with_figures(plan.release(people), figures)


def _over(params: Params, people: int, what: str) -> str:
    who = f"{about(people, params.reporting.granularity)} people who were"
    return f"{who} charged before {what}: the budget is used up (lethe budget --json)."


def _missing(url: str) -> bool:
    """Whether a ledger's file is not there; a server has to be asked."""
    return url.startswith(_SQLITE) and not _file(url).is_file()


def _file(url: str) -> Path:
    return Path(url.removeprefix(_SQLITE).partition("?")[0])


def refuse_unbuildable(params: Params) -> None:
    """Whether a network of the user's own can be built, takes the encoded records, and can be
    taken to where the model is served.

    Raises:
        ParamsInvalid: it cannot be imported or called, gives something else, or imports what can
            neither travel nor be installed elsewhere.
        TrainingRefused: it cannot be clipped by person.
    """
    if ":" not in params.training.model:
        return
    from lethe.data.encoding import Encoder
    from lethe.stores.registry.bundle import own_packages
    from lethe.training.trainers import trainer_of
    from lethe.training.tryout import try_out

    encoder = Encoder.from_params(params)
    try_out(params.training, features=len(encoder.names), outputs=encoder.outputs, root=params.root)
    trainer = trainer_of(params.training)
    trainer.rehearse(params, plan=trainer.plan(params), encoder=encoder)
    own_packages(params.root, params.training.model.partition(":")[0])


def _written(params: Params) -> Iterator[tuple[str, Path]]:
    """What is written, in the user's words, and a file that would be: there, or in the folder."""
    for folder in _FOLDERS:
        yield str(folder), params.at(folder) / "new"
    stores = params.stores
    for setting in ("vault", "ledger", "registry"):
        address = params.address(getattr(stores, setting))
        if address.startswith(_SQLITE):
            path = _file(address)
            yield f"stores.{setting} ({path.name})", path


def _hindrance(path: Path) -> str | None:
    """Why a file cannot be written; None where it can."""
    if path.is_dir():
        return "there is a folder in place of the file"
    if path.exists():
        return None if os.access(path, os.W_OK) else "the file is not yours to write"
    above = next(each for each in path.parents if each.exists() or each.is_symlink())
    if not above.is_dir():
        return f"{above.name} is not a folder"
    return None if os.access(above, os.W_OK | os.X_OK) else f"{above.name} is not yours to write"
