"""What `lethe run` shows while the pipeline runs, and when it ends."""

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from lethe.cli.terminal import say
from lethe.config import workspace
from lethe.config.params import Params
from lethe.core.files import read_json
from lethe.runs.stages import run_stages
from lethe.stages import STAGES
from lethe.stores.dvc.repro import StageEvent

_STATES = {"finished": "done", "skipped": "unchanged", "failed": "failed"}


class _Progress:
    """One line a stage: what it is doing, how long it took, and its most important number."""

    def __init__(self) -> None:
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
        said.append(_headline(stage) if state == "done" else state)
        return "  ".join(filter(None, said))

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 2))
        marks = {"waiting": "·", "done": "✓", "unchanged": "=", "failed": "✗"}
        for stage, state in self.state.items():
            mark = self.spinner if state == "running" else Text(marks[state])
            took = f"{self.seconds[stage]:5.1f} s" if stage in self.seconds else ""
            table.add_row(mark, stage, took, _headline(stage) if state == "done" else state)
        return table


def run(params: Params, *, force: bool, console: Console) -> None:
    """Runs what changed of the pipeline, shows it, and ends with a summary.

    Raises:
        StageFailed, Busy: as `run_stages`.
    """
    progress = _Progress()
    if console.is_terminal:
        try:
            with Live(progress, console=console, refresh_per_second=8, transient=False):
                run_stages(Path.cwd(), force=force, report=progress.take)
        finally:
            console.print()  # the last frame of the progress ends without a new line
    else:

        def report(event: StageEvent) -> None:
            progress.take(event)
            if event.kind != "started":
                say(progress.line(event.stage))

        run_stages(Path.cwd(), force=force, report=report)
    console.print(summary(params))


def summary(params: Params) -> Panel:
    """What came of the run, in a person's words: who is in it, what it costs, what is next."""
    table = Table.grid(padding=(0, 2))
    for what, said in _facts(params, {stage: _report(stage) for stage in STAGES}):
        table.add_row(Text(what, style="bold"), Text(said))
    title = f"Lethe · {params.purpose}"
    return Panel(table, title=title, title_align="left", expand=False, padding=(1, 2))


def _facts(params: Params, reports: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    consent, trained = reports["consent"], reports["train"]
    plan, audit, registered = trained["plan"], reports["audit"], reports["register"]
    reasons = "; ".join(f"{why}: {count:,}" for why, count in sorted(consent["left_out"].items()))
    metrics = trained["metrics"]
    measured = ", ".join(
        f"{name.replace('_', ' ')} {metrics[name]['value']:.3f}"
        for name in ("auc", "accuracy", "log_loss", "base_rate")
        if name in metrics
    )
    name = f"{registered['model']}/{registered['version']}"
    return [
        ("asked", f"{consent['subjects_in']:,} people with records within retention"),
        ("agreed", f"{consent['subjects']:,} people ({reasons or 'nobody left out'})"),
        ("trained on", f"{trained['subjects']:,} people, {trained['records']:,} records"),
        (
            "costs each",
            f"epsilon {trained['epsilon_pld']:.3f} (PLD), {trained['epsilon_rdp']:.3f} (RDP) at "
            f"delta {trained['delta']:g}, per {trained['unit']}; budget {params.budget.epsilon:g}",
        ),
        (
            "on terms",
            f"{trained['adjacency']}; {trained['sampling']}, "
            f"sample rate {plan['sample_rate']:g}; "
            f"{plan['steps']} steps; {plan['noise']} noise, multiplier "
            f"{plan['noise_multiplier']:.3f}; "
            f"at most {plan['records_per_person']} records a person",
        ),
        ("measured", f"{measured} on held-out people (not private)"),
        ("attacked", _attack_in_words(audit)),
        ("registered", f"{name}, {' and '.join(registered['aliases']) or 'no alias'}"),
        ("next", f"lethe lineage --model {name}    make mlflow"),
    ]


def _attack_in_words(audit: dict[str, Any]) -> str:
    attack = audit["attack"]
    held = f"{len(audit['checks'])} checks held"
    if "auc" not in attack:
        return held
    return f"{held}; membership attack AUC {attack['auc']:.3f} (0.5 is a coin; not private)"


def _headline(stage: str) -> str:
    """The one number that a stage's report is about."""
    report = _report(stage)
    match stage:
        case "minimize":
            return f"{report['records']:,} records, {len(report['columns'])} columns"
        case "consent" | "pseudonymize":
            return f"{report['subjects']:,} people"
        case "validate":
            return "the data is what it was declared to be"
        case "budget":
            return f"this run costs epsilon {report['epsilon_pld']:.3f}"
        case "train":
            return f"{report['plan']['steps']} steps, engine {report['engine']}"
        case "audit":
            return _attack_in_words(report)
        case _:
            return f"{report['model']}/{report['version']}"


def _report(stage: str) -> dict[str, Any]:
    try:
        return read_json(workspace.report_path(stage))
    except FileNotFoundError:
        return {}
