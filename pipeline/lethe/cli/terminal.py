"""What the sub-commands share: options that mean the same everywhere, and how they speak."""

import datetime as dt
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lethe.config import workspace
from lethe.config.transcripts import remove_abandoned, remove_expired
from lethe.core.ends import ended_with_output
from lethe.core.shown import shown
from lethe.stages import STAGES

ParamsFile = Annotated[Path, typer.Option("--params", help="The declarations.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
PARAMS = Path("params.yaml")

# The groups of `lethe --help`, in the order in which a newcomer needs them.
START = "Start: declare, check, make keys"
RUN = "Run: the whole pipeline, and what it could cost"
STAGE = "Stages: the pipeline, one step at a time"
LOOK = "Look: what was spent, and whose data is where"
RIGHTS = "Rights: what people ask for, and what time ends"
OPERATE = "Operate: schedules, approvals, keys"
_RUN_STAGES = (
    "assist",
    "erase",
    "pod",
    "retain",
    "run",
    "worktree",
)  # they run stages, or belong to one
GROUPS = (START, RUN, STAGE, LOOK, RIGHTS, OPERATE)


class Grouped(TyperGroup):
    """Lists commands group by group, in the order of `GROUPS`.

    Whatever is run, what a command that was killed has left in the workspace is removed first.
    """

    def invoke(self, ctx: Any) -> Any:
        with ended_with_output():
            if workspace.remove_leftovers(Path.cwd()):
                typer.echo("Removed what has subject keys of a command that was killed.", err=True)
            if not _goes_on(ctx) and remove_abandoned(Path.cwd()):
                typer.echo("Removed the transcript of a run whose audit was killed.", err=True)
            for run in remove_expired(Path.cwd(), time.time()):
                typer.echo(
                    f"Removed the transcript of run {run}: nobody audited it within the days that "
                    "audit.transcript_days declares.",
                    err=True,
                )
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        def rank(name: str) -> int:
            panel = getattr(self.commands[name], "rich_help_panel", None)
            return GROUPS.index(panel) if panel in GROUPS else len(GROUPS)

        return sorted(self.commands, key=rank)


def _goes_on(ctx: Any) -> bool:
    """Whether a command may be an audit again, which needs what the one that was killed read."""
    words = [*ctx._protected_args, *ctx.args]
    return not words or words[0] in (*STAGES, *_RUN_STAGES)


def say(text: str = "", *, err: bool = False) -> None:
    """The one way to a terminal for text that may be of data."""
    typer.echo(shown(text), err=err)


def say_json(content: Any) -> None:
    say(json.dumps(content, indent=2, sort_keys=True, allow_nan=False))


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
