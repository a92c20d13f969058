"""What `lethe run` shows while the pipeline runs, and when it ends."""

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from lethe.cli.terminal import say
from lethe.config import private_reports, workspace
from lethe.config.params import Params
from lethe.core.errors import FileDamaged
from lethe.core.files import RESTORE, read_json
from lethe.core.reading import damage
from lethe.core.shown import about, shown
from lethe.privacy.claim import Claim
from lethe.runs.runner import Runner
from lethe.stages import STAGES
from lethe.stores.dvc.repro import StageEvent

_STATES = {"finished": "done", "skipped": "unchanged", "failed": "failed"}


class _Progress:
    """One line a stage: what it is doing, how long it took, and its most important number."""

    def __init__(self, params: Params) -> None:
        self.root, self.granularity = params.root, params.reporting.granularity
        self.state = dict.fromkeys(STAGES, "waiting")
        self.seconds: dict[str, float] = {}
        self.started = 0.0
        self.spinner = Spinner("dots")

    def take(self, event: StageEvent) -> None:
        """What became of a stage."""
        if event.kind == "started":
            self.state[event.stage] = "running"
            self.started = time.monotonic()
            return
        if self.state[event.stage] == "running":
            self.seconds[event.stage] = time.monotonic() - self.started
        self.state[event.stage] = _STATES[event.kind]

    def line(self, stage: str) -> str:
        """What became of a stage, for a log or a pipe."""
        state = self.state[stage]
        said = [stage, f"{self.seconds[stage]:.1f} s" if stage in self.seconds else ""]
        said.append(_headline(self.root, stage, self.granularity) if state == "done" else state)
        return "  ".join(filter(None, said))

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 2))
        marks = {"waiting": "·", "done": "✓", "unchanged": "=", "failed": "✗"}
        for stage, state in self.state.items():
            mark = self.spinner if state == "running" else Text(marks[state])
            took = f"{self.seconds[stage]:5.1f} s" if stage in self.seconds else ""
            said = _headline(self.root, stage, self.granularity) if state == "done" else state
            table.add_row(mark, stage, took, Text(shown(said)))
        return table


def run(params: Params, runner: Runner, *, force: bool, console: Console) -> None:
    """Runs what changed of the pipeline where `runner` does, shows it, and ends with a summary.

    Raises:
        StageFailed, Busy: as `Runner.run`.
    """
    progress = _Progress(params)
    if console.is_terminal:
        try:
            with Live(progress, console=console, refresh_per_second=8, transient=False):
                runner.run(force=force, report=progress.take)
        finally:
            console.print()  # the last frame of the progress ends without a new line
    else:

        def report(event: StageEvent) -> None:
            progress.take(event)
            if event.kind != "started":
                say(progress.line(event.stage))

        runner.run(force=force, report=report)
    console.print(summary(params))


def summary(params: Params) -> Panel:
    """What came of the run, in a person's words: who is in it, what it costs, what is next."""
    table = Table.grid(padding=(0, 2))
    reports = {stage: _report(params.root, stage) for stage in STAGES}
    with damage(_no_report):
        facts = _facts(params, reports)
    for what, said in facts:
        table.add_row(Text(what, style="bold"), Text(shown(said)))
    title = Text(shown(f"Lethe · {params.purpose}"))
    return Panel(table, title=title, title_align="left", expand=False, padding=(1, 2))


def _facts(params: Params, reports: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    consent, trained = private_reports.read(params.root, "consent"), reports["train"]
    audit, registered = reports["audit"], reports["register"]
    claim = Claim.from_data(trained)
    some = partial(about, granularity=params.reporting.granularity)
    metrics = trained["metrics"]
    name = f"{registered['model']}/{registered['version']}"
    return [
        ("asked", f"{some(consent['subjects_in'])} people with records within retention"),
        ("agreed", f"{some(consent['subjects'])} people"),
        ("trained on", _counted_in_words(metrics)),
        ("costs each", f"{claim}; budget {params.budget.epsilon:g}"),
        (
            "on terms",
            "; ".join(
                [claim.adjacency, claim.sampling, f"{claim.noise} noise", *_terms(trained["plan"])]
            ),
        ),
        ("measured", _measured_in_words(metrics, trained["figures"])),
        ("attacked", _attack_in_words(audit)),
        ("registered", f"{name}, {' and '.join(registered['aliases']) or 'no alias'}"),
        ("next", f"lethe lineage --model {name}"),
        ("look", _look(params)),
    ]


def _look(params: Params) -> str:
    """How the registry's page is opened: a workspace of `lethe init` has no Makefile."""
    with suppress(OSError):
        makefile = params.at_home(Path("Makefile")).read_text(encoding="utf-8", errors="replace")
        if re.search("^mlflow:", makefile, re.MULTILINE):
            return "make mlflow"
    declared = params.stores.registry
    if declared.startswith(("http://", "https://")):
        return declared
    named = f'"${declared.removeprefix("env:")}"' if declared.startswith("env:") else declared
    return f"mlflow ui --backend-store-uri {named}"


def _counted_in_words(metrics: Mapping[str, Any]) -> str:
    """As they are charged: with noise."""
    if not {"subjects", "records"} <= set(metrics):
        return "figures are not reported"
    subjects, records = (metrics[name]["value"] for name in ("subjects", "records"))
    return f"about {subjects:,} people, {records:,} records (charged)"


def _measured_in_words(metrics: Mapping[str, Any], price: Any) -> str:
    """The figures with their 95 % intervals, and what they cost."""
    if isinstance(price, str):
        return price
    shown = ", ".join(
        f"{name.replace('_', ' ')} {metrics[name]['value']:.3f} "
        f"({metrics[name]['low']:.3f} to {metrics[name]['high']:.3f})"
        for name in ("auc", "accuracy", "base_rate")
        if name in metrics
    )
    shown = shown or "the held-out people are too few at this price"
    return f"{shown}; charged, epsilon {price['epsilon_pld']:.3f}"


_TERMS = {  # what a plan has of them is shown; another kind of training has others
    "sample_rate": "sample rate {:g}",
    "noise_multiplier": "noise multiplier {:.3f}",
    "steps": "{} steps",
    "records_per_person": "at most {} records a person",
}


def _terms(plan: Mapping[str, Any]) -> list[str]:
    return [words.format(plan[name]) for name, words in _TERMS.items() if name in plan]


def _attack_in_words(audit: dict[str, Any]) -> str:
    attacked = "no attack beat the claim" if audit["attack"]["attempted"] else "too few to attack"
    return f"{len(audit['checks'])} checks held; {attacked}"


def _headline(root: Path, stage: str, granularity: int = 100) -> str:
    """What a stage's report is about; counts of people are rounded."""
    with damage(_no_report):
        exact = private_reports.read(root, stage) if stage in _COUNTING else {}
        return _said_of(stage, _report(root, stage), exact, partial(about, granularity=granularity))


def _no_report() -> FileDamaged:
    return FileDamaged(f"A report in {workspace.REPORTS} is not as Lethe writes it. {RESTORE}")


_COUNTING = frozenset({"minimize", "consent", "pseudonymize"})


def _said_of(
    stage: str, report: dict[str, Any], exact: dict[str, Any], some: Callable[[int], str]
) -> str:
    match stage:
        case "minimize":
            return f"{some(exact['records'])} records, {len(report['columns'])} columns"
        case "consent" | "pseudonymize":
            return f"{some(exact['subjects'])} people"
        case "validate":
            return "the data is what it was declared to be"
        case "budget":
            return f"this run costs epsilon {report['epsilon_pld']:.3f}"
        case "train":
            return _counted_in_words(report["metrics"])
        case "audit":
            return _attack_in_words(report)
        case _:
            return f"{report['model']}/{report['version']}"


def _report(root: Path, stage: str) -> dict[str, Any]:
    try:
        return read_json(root / workspace.report_path(stage))
    except FileNotFoundError:
        return {}
