"""The `lethe` command: one thin function per sub-command, and how errors reach a person."""

import errno
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lethe.cli.ending import leave
from lethe.cli.erase import erase
from lethe.cli.keys import key, reveal, rotate_key
from lethe.cli.pod import pod
from lethe.cli.retain import retain
from lethe.cli.run import worktree
from lethe.cli.start import check, init
from lethe.cli.sweep import sweep
from lethe.cli.terminal import (
    LOOK,
    OPERATE,
    PARAMS,
    RIGHTS,
    RUN,
    STAGE,
    START,
    AsJson,
    Grouped,
    ParamsFile,
    now,
    say,
    say_json,
)
from lethe.config import private_reports, workspace
from lethe.config.params import load_params
from lethe.core.ends import Ended, raise_on_signals
from lethe.core.errors import (
    ApprovalRefused,
    BudgetExceeded,
    DiskFull,
    LetheError,
)
from lethe.core.files import write_json, write_whole
from lethe.stages import STAGES, behaviour, run_stage
from lethe.stores.opened import OpenStores

app = typer.Typer(
    cls=Grouped,
    help="A machine-learning pipeline that can forget.",
    epilog="Example: lethe check; each command has its own --help.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _stage(name: str) -> Callable[..., None]:
    def command(params_file: ParamsFile = PARAMS) -> None:
        params = load_params(params_file)
        behaviour.refuse_changed(params)
        run_stage(name, params, now=now())

    return command


def budget(
    params_file: ParamsFile = PARAMS,
    subject: Annotated[
        str | None, typer.Option(help="Only look: one person, by their key in the source.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Only look: write the plot (PNG) to this file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only look: print JSON.")] = False,
) -> None:
    params = load_params(params_file)
    from lethe.registration import spending
    from lethe.stores.source.find_people import key_meant

    looks = as_json or subject is not None or plot is not None
    refused: BudgetExceeded | None = None
    if not looks:
        behaviour.refuse_changed(params)
        try:
            run_stage("budget", params, now=now())
        except BudgetExceeded as error:  # the table says who, and by how much
            refused, plot = error, None
        else:
            plot = params.at_home(private_reports.REPORTS / "budget.png")
    with OpenStores(params) as stores:
        report = spending.spending(stores, key=subject and key_meant(params, subject))
    if plot is not None:
        from lethe.reports.plots import budget_plot

        write_whole(plot, budget_plot(report), private=not looks)
    # What the stage says is in the scheduler's log; who looks is the operator.
    granularity = None if looks else params.reporting.granularity
    say_json(report) if as_json else say(spending.render_budget(report, granularity=granularity))
    if refused is not None:
        raise refused


def audit(
    params_file: ParamsFile = PARAMS,
    deep: Annotated[
        bool, typer.Option("--deep", help="Train twins of the plan with canaries: minutes.")
    ] = False,
    trials: Annotated[
        int, typer.Option(min=1000, help="With --deep: coins for each of two adversaries.")
    ] = 40_000,
) -> None:
    params = load_params(params_file)
    behaviour.refuse_changed(params)
    if not deep:
        run_stage("audit", params, now=now())
        return
    from lethe.stages import deep_audit

    report = deep_audit.run(params, now=now(), trials=trials)
    say(deep_audit.render(report))


_OWN_OPTIONS: dict[str, Callable[..., None]] = {"audit": audit, "budget": budget}
_STAGE_HELP = {
    "minimize": "Select the declared columns, drop what is past retention, generalize.",
    "consent": "Keep the subjects whose latest answer for the purpose is yes.",
    "pseudonymize": "Replace subject keys by tokens from the vault.",
    "validate": "Hold the data against its declarations.",
    "budget": "Plan the training; say what people spent, have left, and the next run would cost.",
    "train": "Reserve the budget, train with person-level privacy, settle.",
    "audit": "Attack the model and check the mechanism.",
    "register": "Register the model, if everything it claims holds.",
}
app.command(rich_help_panel=START, epilog="Example: lethe init postgresql://reader@db/clinic")(init)
app.command(rich_help_panel=START, epilog="Example: lethe check")(check)
app.add_typer(
    erase, name="erase", rich_help_panel=RIGHTS, epilog="Example: lethe erase run --dry-run"
)
app.add_typer(
    pod, name="pod", rich_help_panel=OPERATE, epilog="Example: lethe pod close --run nightly-7"
)
app.add_typer(
    worktree,
    name="worktree",
    rich_help_panel=OPERATE,
    epilog="Example: lethe worktree open nightly-7",
)
for _name in STAGES:
    _command = _OWN_OPTIONS.get(_name) or _stage(_name)
    app.command(
        _name, help=_STAGE_HELP[_name], rich_help_panel=STAGE, epilog=f"Example: lethe {_name}"
    )(_command)


@app.command(hidden=True)
def assist(device: Annotated[str, typer.Argument(help="As training.device.")]) -> None:
    """Be one of the further processes of a training; `train` starts it, not a person."""
    from lethe.training import dpsgd_fit

    dpsgd_fit.assist(device, Path.cwd())


@app.command(rich_help_panel=RUN, epilog="Example: lethe run")
def run(
    params_file: ParamsFile = PARAMS,
    force: Annotated[
        bool, typer.Option("--force", help="Train again even if nothing changed; spends again.")
    ] = False,
) -> None:
    """Run the whole pipeline and say what came of it."""
    from lethe.cli import progress
    from lethe.runs.worktree import runner_in

    params = load_params(params_file)
    behaviour.refuse_changed(params)
    progress.run(params, runner_in(params.root), force=force, console=Console())


@app.command(rich_help_panel=START, epilog="Example: lethe sample --patients 2000")
def sample(
    params_file: ParamsFile = PARAMS,
    patients: Annotated[int, typer.Option(min=1, help="How many to generate.")] = 70_000,
    encounters: Annotated[
        Path | None, typer.Option(help="The real diabetic_data.csv or .csv.gz to build from.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch that file from the UCI repository first.")
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(envvar="LETHE_DIABETES_URL", help="Where --download finds the zip file."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same clinic.")] = 1,
    consent_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of patients who agree.")
    ] = 0.85,
) -> None:
    """Build the demonstration clinic; its identities are invented (Faker)."""
    from lethe.sample import build_clinic, download_diabetes

    params = load_params(params_file)
    if download:
        encounters = encounters or params.at(Path("data/diabetic_data.csv"))
        download_diabetes(encounters, url=url)
    summary = build_clinic(
        params.address(params.source.url),
        patients=patients,
        encounters_file=encounters,
        seed=seed,
        consent_share=consent_share,
        now=now(),
    )
    say(str(summary))


@app.command("compile", rich_help_panel=OPERATE, epilog="Example: lethe compile")
def compile_(params_file: ParamsFile = PARAMS) -> None:
    """Write dags/pipeline.json for the scheduler, and behaviour.json: what code each stage runs by.

    Commit both. A stage runs again where its code does something else than before; a comment or a
    docstring changes nothing.
    """
    from lethe.stores.dvc.graph import COMPILED, compile_pipeline, read_stages

    params = load_params(params_file)
    stages = read_stages(params.at(Path("dvc.yaml")))
    pipeline = compile_pipeline(stages, params.registration.approvers)
    changed = behaviour.write(params)
    compiled = params.at(COMPILED)
    write_json(compiled, pipeline)
    compiled.with_name("road.json").unlink(missing_ok=True)  # its name in the version before
    say(f"Wrote {len(pipeline['stages'])} stages to {COMPILED}, and their code to behaviour.json.")
    if changed:
        what = f"The code of {', '.join(changed)} changed: {behaviour.consequence(changed)}."
        say(f"{what} Commit behaviour.json.")


@app.command(rich_help_panel=OPERATE, epilog="Example: lethe approve readmission/3 --by kim")
def approve(
    version: Annotated[
        str | None, typer.Argument(help="MODEL/VERSION; without it: what waits.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="One of registration.approvers.")] = None,
    reason: Annotated[str | None, typer.Option(help="Kept with the version.")] = None,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Print the name alone; 40 if nothing waits.")
    ] = False,
    params_file: ParamsFile = PARAMS,
) -> None:
    """Say which version waits for a person's approval, or make it champion."""
    from lethe.registration import approval

    params = load_params(params_file)
    if version is not None:
        if by is None:
            raise typer.BadParameter("Say --by whom it is approved.")
        say(approval.approve(params, version, by=by, reason=reason, now=now()))
        return
    found = approval.waiting(params)
    if found is None and waiting:
        raise ApprovalRefused("No version waits for approval.")
    if found is None:
        say("No version waits for approval.")
    else:
        say(found.name if waiting else found.facts)


@app.command(rich_help_panel=LOOK, epilog="Example: lethe lineage --model readmission/1")
def lineage(
    model: Annotated[str | None, typer.Option(help="NAME/VERSION or NAME@ALIAS.")] = None,
    subject: Annotated[
        str | None,
        typer.Option(help="A subject's key in the source; of several columns a list: [1, 12]."),
    ] = None,
    params_file: ParamsFile = PARAMS,
    as_json: AsJson = False,
) -> None:
    """Say what a model was trained on, or which models and datasets a person is in."""
    from lethe.people import lineage as answers
    from lethe.stores.source.find_people import key_meant

    if (model is None) == (subject is None):
        raise typer.BadParameter("Give either --model NAME/VERSION or --subject KEY.")
    params = load_params(params_file)
    with OpenStores(params) as stores:
        if model is not None:
            found = answers.model_lineage(stores, model)
            say_json(found) if as_json else say(answers.render_model(found))
        elif subject is not None:
            found = answers.subject_lineage(stores, key_meant(params, subject))
            say_json(found) if as_json else say(answers.render_subject(found))


@app.command(
    rich_help_panel=LOOK,
    epilog="Example: lethe epsilon --sample-rate 0.1 --steps 300 --noise-multiplier 6",
)
def epsilon(
    subjects: Annotated[int | None, typer.Option(help="People in the training set.")] = None,
    batch_size: Annotated[float | None, typer.Option(help="Expected people a step.")] = None,
    noise_multiplier: Annotated[float | None, typer.Option(help="Noise over clip norm.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Expected passes over the people.")] = None,
    delta: Annotated[float, typer.Option(help="Failure probability.")] = 1e-5,
    sample_rate: Annotated[float | None, typer.Option(help="Instead of the two sizes.")] = None,
    steps: Annotated[int | None, typer.Option(help="Instead of epochs.")] = None,
    target_epsilon: Annotated[
        float | None, typer.Option(help="Solve for the noise multiplier instead.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a training with these numbers costs a person, and on what assumptions."""
    from lethe.privacy.statement import from_options

    statement = from_options(
        subjects=subjects,
        batch_size=batch_size,
        noise_multiplier=noise_multiplier,
        epochs=epochs,
        delta=delta,
        sample_rate=sample_rate,
        steps=steps,
        target_epsilon=target_epsilon,
    )
    say_json(statement.to_data()) if as_json else say(str(statement))


app.command(rich_help_panel=START, epilog="Example: lethe key")(key)
app.command(
    rich_help_panel=OPERATE, epilog='Example: lethe reveal 8391 --reason "complaint of 3 May"'
)(reveal)
app.command(
    "rotate-key",
    rich_help_panel=OPERATE,
    epilog="Example: lethe rotate-key --new-key-file secrets/new.key",
)(rotate_key)
app.command(rich_help_panel=RUN, epilog="Example: lethe sweep --epsilon 0.5,1,2")(sweep)
app.command(rich_help_panel=RIGHTS, epilog="Example: lethe retain --dry-run")(retain)


def main() -> None:
    """Runs the command; a user's error is one line on stderr and an exit code of its own."""
    os.umask(0o077)  # what a stage leaves behind is its owner's unless said otherwise
    raise_on_signals()
    try:
        app(standalone_mode=True)
    except Ended as ended:
        leave(ended)
    except LetheError as error:
        _fail(error)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _fail(DiskFull("No space is left on the device that the run writes to. Free some."))
        _internal(error)
    except Exception as error:  # noqa: BLE001 - the last chance: a message may hold a value of a person
        _internal(error)


def _fail(error: LetheError) -> None:
    message = " ".join(str(error).split())
    workspace.write_failure(Path.cwd(), error.exit_code, message)
    say(f"lethe: error: {message}", err=True)
    sys.exit(error.exit_code)


def _internal(error: Exception) -> None:
    """Says where it broke, not what it held: the message may quote a row."""
    if os.environ.get("LETHE_TRACEBACK") == "1":
        traceback.print_exception(error)
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "lethe" in frame.filename
    ]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "start"
    message = (
        f"internal error {type(error).__name__} at {where}. Set LETHE_TRACEBACK=1 to see it "
        "whole; it may then show personal data."
    )
    workspace.write_failure(Path.cwd(), 1, message)
    say(f"lethe: {message}", err=True)
    sys.exit(1)
