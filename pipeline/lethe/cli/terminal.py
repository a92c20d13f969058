"""What the sub-commands share: options that mean the same everywhere, and how they speak."""

import datetime as dt
import json
from pathlib import Path
from typing import Annotated, Any

import typer

ParamsFile = Annotated[Path, typer.Option("--params", help="The declarations.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
PARAMS = Path("params.yaml")


def say(text: str = "") -> None:
    typer.echo(text)


def say_json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=2, sort_keys=True, allow_nan=False))


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
