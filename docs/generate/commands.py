"""The page of the command line, out of the application itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from docs.generate.tables import code, table
from lethe.cli.main import app
from lethe.cli.terminal import GROUPS


def commands() -> Iterator[tuple[str, Any]]:
    """(`erase run`, its command) of everything that a person may type, in the order of the help."""
    yield from _below(typer.main.get_command(app), "")


def _below(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name in group.list_commands(typer.Context(group)):
        command = group.commands[name]
        if command.hidden:
            continue
        here = f"{path} {name}".strip()
        yield here, command
        if hasattr(command, "commands"):
            yield from _below(command, here)


def page() -> str:
    """`lethe`, command by command."""
    parts = [
        "# Command line",
        "Every command reads `params.yaml` of the folder it is started in, or the file that "
        "`--params` names, whose folder is then the workspace. What went wrong is said on standard "
        "error, with "
        "[an exit code of its own](../exit-codes.md).",
    ]
    group = None
    for path, command in commands():
        panel = getattr(command, "rich_help_panel", None)
        if panel in GROUPS and panel != group:
            group = panel
            parts.append(f"## {panel}")
        parts += _command(path, command)
    return "\n\n".join(parts) + "\n"


def _command(path: str, command: Any) -> Iterator[str]:
    yield f"### lethe {path}"
    yield str(command.help or "").strip()
    example = str(command.epilog or "").removeprefix("Example: ")
    yield f"```console\n$ {example}\n```"
    if shown := [p for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]:
        yield table(["option", "value", "default", "meaning"], map(_option, shown))


_VALUES = {Path: "path", str: "text", int: "whole number", float: "number"}


def _option(parameter: Any) -> list[str]:
    names = [*parameter.opts, *parameter.secondary_opts]
    if parameter.param_type_name == "argument":
        names = [str(parameter.name).upper()]
    flag = getattr(parameter, "is_flag", False)
    kind = parameter.type_descriptor.annotation
    value = "" if flag else _VALUES.get(kind, getattr(kind, "__name__", str(kind)))
    if parameter.nargs == -1 or getattr(parameter, "multiple", False):
        value += ", any number"
    default = parameter.default
    known = default is not None and not flag and not callable(default)
    meaning = str(getattr(parameter, "help", "") or "")
    if parameter.envvar:
        meaning += f" Or the environment variable `{parameter.envvar}`."
    return [
        ", ".join(map(code, names)),
        value,
        code(default) if known else ("required" if parameter.required else ""),
        meaning,
    ]
