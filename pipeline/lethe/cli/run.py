"""`lethe worktree …`: a run in a git worktree of its own, and the one writer that publishes it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lethe.cli.terminal import PARAMS, ParamsFile, now, say

if TYPE_CHECKING:
    from lethe.runs.publication import Published

worktree = typer.Typer(
    help="Run the pipeline in a git worktree of its own, and release what came of it.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
Run = Annotated[str, typer.Argument(help="The run: letters, digits, `_`, `-` and `.`.")]


@worktree.command("open", epilog="Example: lethe worktree open nightly-7")
def open_(run: Run) -> None:
    """Open a worktree and say where it is; one that is open is gone on with.

    It begins at HOME's commit, with HOME's dvc.lock and outputs.
    """
    from lethe.runs import service

    say(str(service.start(run, Path.cwd(), now=now()).root))


@worktree.command(epilog="Example: lethe worktree wait nightly-7 --seconds 60")
def wait(
    run: Run,
    seconds: Annotated[float, typer.Option(min=0, help="How long at most.")] = 900,
) -> None:
    """Say where an open worktree is, once nothing else holds it, such as an erasure."""
    from lethe.runs import service

    say(str(service.wait(run, Path.cwd(), seconds=seconds).root))


@worktree.command(epilog="Example: lethe worktree publish nightly-7")
def publish(
    run: Annotated[str | None, typer.Argument(help="The run; HOME's own lock without it.")] = None,
    params_file: ParamsFile = PARAMS,
) -> None:
    """Commit a worktree's dvc.lock to the branch that HOME has checked out, and its outputs there.

    Refuses with 34 what was not registered, is older than what is released, or names what an
    erasure took; ends with 29 while an erasure or another publication is under way.
    """
    from lethe.config.params import load_params
    from lethe.runs import service

    params = load_params(params_file)
    say_released(service.publish(params, run, now=now()) if run else service.publish_home(params))


def say_released(made: "Published | None") -> None:
    """What came of a publication, in a line."""
    if made is None:
        say("Nothing to release.")
    elif made.commit is None:
        say(f"{made.version} is released already.")
    else:
        say(f"Released {made.version} in commit {made.commit[:12]}.")


@worktree.command(epilog="Example: lethe worktree close nightly-7")
def close(run: Run) -> None:
    """Remove a worktree and everything in it, whatever state it is in.

    What is left of its stages is ended. Reservations and checkpoints stay: they are HOME's.
    """
    from lethe.runs import service

    say("Closed." if service.end(run, Path.cwd(), now=now()) else "There was no such worktree.")
