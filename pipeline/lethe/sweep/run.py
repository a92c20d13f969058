"""A sweep from its options to its files: `sweep.json`, and a plot as CSV and PNG.

Of a stand-in they lie in `reports`. Of people they are exact, so they are the operator's alone and
lie with the other exact numbers, below `.lethe/private`.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroaring import BitMap
from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import TimeElapsedColumn

from lethe.config import private_reports, workspace
from lethe.config.home import at_home
from lethe.config.params import Params
from lethe.core.errors import NotFound, TrainingRefused
from lethe.core.files import json_bytes, read_json, write_whole
from lethe.core.shown import about
from lethe.data.batches import held_out_records, person_data
from lethe.data.encoding import Encoder
from lethe.data.shards import eligible_people, read_people, shard_paths
from lethe.ledger.admission import check_subjects
from lethe.ledger.ledger import Ledger
from lethe.people.withdrawn import count_withdrawn
from lethe.privacy.accounting import epsilon_pld, epsilon_rdp
from lethe.privacy.plan import Plan
from lethe.registration.rollback import refuse_rolled_back
from lethe.reports.plots import sweep_plot
from lethe.stores.dvc.inputs import verify_inputs
from lethe.stores.opening import open_ledger
from lethe.sweep.points import Network, Point, Watch, charged_points, free_points
from lethe.sweep.report import sweep_csv, sweep_report
from lethe.sweep.stand_in import Tried
from lethe.training.locks import alone
from lethe.training.processes import resolve_device
from lethe.training.trainer import Progress

Agree = Callable[[str], None]  # shown what a charged sweep costs; raises to spend nothing


def sweep_stand_in(
    params: Params, plans: Sequence[Plan], tried: Tried, *, repeats: int, console: Console
) -> dict[str, Any]:
    """Sweeps a stand-in; opens no store and charges nobody."""
    network = _network(params)
    reference = network.auc_without_privacy(plans[-1], tried)
    with _watched(console, plans, repeats) as watch:
        points = []
        for point in free_points(network, plans, tried, repeats=repeats, watch=watch):
            points.append(point)
            _say_problem(console, point)
    return _written(params, points, tried, reference)


def sweep_charged(
    params: Params,
    plans: Sequence[Plan],
    *,
    repeats: int,
    now: dt.datetime,
    console: Console,
    agree: Agree,
) -> dict[str, Any]:
    """Sweeps the people in the shards; each training is charged to everybody who may be in it.

    Guarantees: nothing is reserved before `agree` has been shown the whole price and returned;
        nothing is trained while somebody in the shards has withdrawn or was erased.

    Raises:
        FileDamaged: the shards are not those that `dvc.lock` names; nothing was read or charged.
        NotFound: the pipeline was not run up to validate.
        TrainingRefused: somebody withdrew since, or delta is not below 1/subjects.
        LedgerInvalid: the ledger lacks the training of a registered model.
    """
    verify_inputs(params.root, "validate")  # the shards and who is in them
    paths = shard_paths(params.at(workspace.SHARDS))
    eligible = eligible_people(paths)
    network = _network(params)
    for plan in plans:
        check_subjects(plan.release(eligible), minimum=params.subject.minimum)
    refuse_unsound(params, now)
    with alone(params.root), open_ledger(params) as ledger:
        refuse_rolled_back(params, ledger)
        agree(_price(params, plans, repeats, ledger, eligible))
        points: list[Point] = []
        tried = Tried(
            "charged",
            f"{len(eligible):,} people (not private)",
            person_data(
                paths,
                network.encoder,
                admitted=eligible,
                records_per_person=plans[0].records_per_person,
            ),
            held_out_records(paths, network.encoder),
        )
        with _watched(console, plans, repeats) as watch:
            for point in charged_points(
                network,
                plans,
                ledger,
                paths,
                eligible,
                params=params,
                repeats=repeats,
                now=now,
                watch=watch,
            ):
                points.append(point)
                _say_problem(console, point)
                report = _written(params, points, tried, None)  # what was paid for is kept at once
    return report


def _network(params: Params) -> Network:
    training = params.training
    device = resolve_device(training.device)
    return Network(training, Encoder.from_params(params), device, params.root)


def refuse_unsound(params: Params, now: dt.datetime) -> None:
    """Raises: NotFound: not validated. TrainingRefused: somebody in the shards withdrew since."""
    path = params.at(workspace.report_path("validate"))
    if not path.exists() or read_json(path).get("passed") is not True:
        raise NotFound("The data has not passed validation. Run the pipeline up to it: lethe run.")
    everybody = read_people(params.at(workspace.SUBJECTS))
    withdrawn = count_withdrawn(params, everybody, now)
    if withdrawn:
        raise TrainingRefused(
            f"{about(withdrawn, params.reporting.granularity)} people in the shards have withdrawn "
            "or were erased since. Run the pipeline without them first: lethe run. Nothing was "
            "charged."
        )


def _price(
    params: Params, plans: Sequence[Plan], repeats: int, ledger: Ledger, eligible: BitMap
) -> str:
    delta, budget = params.budget.delta, params.budget.epsilon
    asked = about(len(eligible), params.reporting.granularity)
    lines = [
        f"{len(plans)} points, {repeats} trainings each, charged to {asked} people:",
        "",
    ]
    for plan in plans:
        rdp, pld = epsilon_rdp([plan.event], delta), epsilon_pld([plan.event], delta)
        lines.append(
            f"  noise {plan.noise_multiplier:>8.3f}  clip {plan.clip_norm:>6.2f}  epsilon "
            f"{rdp:.3f} (RDP), {pld:.3f} (PLD) x {repeats}"
        )
    events = [plan.event for plan in plans for _ in range(repeats)]
    classes = ledger.classes(eligible, delta=delta)
    after = max(epsilon_rdp([*each.events, *events], delta) for each in classes)
    spent = max(each.epsilon_rdp for each in classes)
    lines += [
        "",
        f"Together epsilon {epsilon_rdp(events, delta):.3f} (RDP), "
        f"{epsilon_pld(events, delta):.3f} (PLD) at delta {delta:g} per person. Who has spent most "
        f"is at {spent:.3f} and would be at {after:.3f} of {budget:g}.",
    ]
    if after > budget:
        lines.append(
            "That is over the budget: the cheapest points run first, the last ones may not."
        )
    return "\n".join(lines)


def _written(
    params: Params, points: Sequence[Point], tried: Tried, reference: float | None
) -> dict[str, Any]:
    accountant = params.training.mechanism.accountant
    report = sweep_report(points, tried, accountant=accountant, reference=reference)
    contents = (json_bytes(report), sweep_csv(report).encode(), sweep_plot(report))
    charged = tried.kind == "charged"
    for path, content in zip(paths_written(params, charged=charged), contents, strict=True):
        if charged:
            private_reports.write_file(params.root, path.name, content)
        else:
            write_whole(path, content)
    return report


@contextmanager
def _watched(console: Console, plans: Sequence[Plan], repeats: int) -> Iterator[Watch]:
    """A bar over all steps of all trainings; it shows steps alone."""
    steps = sum(plan.steps for plan in plans) * repeats
    with Bar(*Bar.get_default_columns(), TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("sweep", total=steps)

        def watch(plan: Plan, number: int) -> Progress | None:
            words = f"{_named(plan)} #{number + 1}"
            bar.update(task, description=words)

            def advance(step: int, of: int) -> None:
                bar.advance(task)
                if step == of and not console.is_terminal:  # a log shows no bar
                    console.print(f"trained: {words}")

            return advance

        yield watch


def _say_problem(console: Console, point: Point) -> None:
    """Why a point has no number, into a log; a training that came to its end said so itself."""
    if point.problem and not console.is_terminal:
        console.print(f"{point.problem}: {_named(point.plan)}")


def _named(plan: Plan) -> str:
    return f"noise {plan.noise_multiplier:.2f} clip {plan.clip_norm:g}"


def paths_written(params: Params, *, charged: bool) -> tuple[Path, ...]:
    """Where a sweep writes its numbers; those that are measured on people, where no copy goes."""
    if charged:
        folder = at_home(private_reports.REPORTS, params.root)
        return tuple(folder / f"sweep.{kind}" for kind in ("json", "csv", "png"))
    return (
        params.at(workspace.report_path("sweep")),
        params.at(workspace.PLOTS / "sweep.csv"),
        params.at(workspace.PLOTS / "sweep.png"),
    )
