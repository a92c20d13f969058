"""`lethe pod`: what a run in pods is made of, for a scheduler that starts each in a pod."""

import re
from pathlib import Path
from typing import Annotated

import typer

from lethe.cli.terminal import PARAMS, ParamsFile, now, say
from lethe.core.errors import ParamsInvalid

pod = typer.Typer(
    help="Run the pipeline in pods: each stage in a folder of its own.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

_NAME = r"[a-z0-9](?:[-a-z0-9]{0,38}[a-z0-9])?"
Run = Annotated[str, typer.Option(help="The run's opaque id: small letters, digits, hyphens.")]
Remote = Annotated[
    str,
    typer.Option(
        envvar="LETHE_GIT_REMOTE", show_envvar=True, help="The git remote that has the runs."
    ),
]


@pod.command("open", epilog="Example: lethe pod open --run nightly-7 --remote origin")
def open_(run: Run, remote: Remote) -> None:
    """In the workspace: open a run at its release, for pods to go on with."""
    from lethe.runs.pods.home import open_run

    open_run(Path.cwd(), _checked(run), remote=remote)
    say(f"Run {run} is open.")


@pod.command(epilog="Example: lethe pod stage train --run nightly-7 --remote origin")
def stage(
    name: Annotated[str, typer.Argument(help="The stage, as dvc.yaml names it.")],
    run: Run,
    remote: Remote,
    folder: Annotated[
        Path, typer.Option(help="Where to work: empty, or this run's own of an earlier try.")
    ] = Path("work"),
    watch_seconds: Annotated[
        float, typer.Option(min=0.1, help="How often to look whether the run was revoked.")
    ] = 30.0,
) -> None:
    """In a pod: fetch what the stage reads, run it, and send what it made."""
    from lethe.runs.pods.stage import PodRunner

    runner = PodRunner(
        _checked(run), remote=remote, folder=folder.resolve(), watch_seconds=watch_seconds
    )
    runner.run_stage(name)
    say(f"{name} of run {run} is done.")


@pod.command(epilog="Example: lethe pod publish --run nightly-7")
def publish(run: Run, params_file: ParamsFile = PARAMS) -> None:
    """In the workspace: release what a run made, as `lethe worktree publish` does."""
    from lethe.cli.run import say_released
    from lethe.config.params import load_params
    from lethe.runs.pods.home import publish_run

    params = load_params(params_file)
    say_released(publish_run(params, params.root, _checked(run), now=now()))


@pod.command(epilog="Example: lethe pod close --run nightly-7")
def close(run: Run) -> None:
    """In the workspace: end a run, and remove what it left on the remotes unless published."""
    from lethe.runs import ended
    from lethe.runs.pods.home import close_run

    count = close_run(Path.cwd(), _checked(run))
    ended.note(Path.cwd(), run, now=now(), anew=True)  # unless it was published
    say(f"Run {run} is closed; {count} objects that nothing else names went.")


def _checked(run: str) -> str:
    if not re.fullmatch(_NAME, run):
        raise ParamsInvalid(
            "--run is an opaque id of at most 40 small letters, digits and hyphens, such as the "
            "scheduler's own for the run."
        )
    return run
