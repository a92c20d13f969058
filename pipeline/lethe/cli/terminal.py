"""What the sub-commands share: options that mean the same everywhere, and how they speak."""

import datetime as dt
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lethe.config import workspace
from lethe.core.ends import ended_with_output

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
GROUPS = (START, RUN, STAGE, LOOK, RIGHTS, OPERATE)


class Grouped(TyperGroup):
    """Lists commands group by group, in the order of `GROUPS`.

    Whatever is run, what a command that was killed has left in the workspace is removed first.
    """

    def invoke(self, ctx: Any) -> Any:
        with ended_with_output():
            if workspace.remove_leftovers(Path.cwd()):
                typer.echo("Removed what has subject keys of a command that was killed.", err=True)
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        def rank(name: str) -> int:
            panel = getattr(self.commands[name], "rich_help_panel", None)
            return GROUPS.index(panel) if panel in GROUPS else len(GROUPS)

        return sorted(self.commands, key=rank)


def say(text: str = "") -> None:
    typer.echo(text)


def say_json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=2, sort_keys=True, allow_nan=False))


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
