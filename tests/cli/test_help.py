"""Every command says what it does, how it is called, and where it belongs."""

import shlex
from collections.abc import Iterator

import pytest
import typer
from typer.core import TyperCommand, TyperGroup
from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.cli.terminal import GROUPS
from lethe.stages import STAGES

Command = TyperCommand | TyperGroup
Found = tuple[tuple[str, ...], Command]


def _found(command: Command, path: tuple[str, ...] = ()) -> Iterator[Found]:
    if not command.hidden:
        yield path, command
        if isinstance(command, TyperGroup):
            for name, each in command.commands.items():
                yield from _found(each, (*path, name))


COMMANDS = list(_found(typer.main.get_command(app)))
NAMES = [" ".join(("lethe", *path)) for path, _ in COMMANDS]


def _help(*words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=NAMES)
def test_a_command_says_what_it_does_and_so_does_each_option(
    path: tuple[str, ...], command: Command
) -> None:
    assert (command.help or "").strip()
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue  # an older name, which is refused by the new one
        assert (getattr(parameter, "help", None) or "").strip(), parameter.name


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=NAMES)
def test_the_example_of_a_command_is_shown_and_would_be_understood(
    path: tuple[str, ...], command: Command
) -> None:
    lead, _, example = (command.epilog or "").partition(": ")
    assert lead == "Example"
    assert " ".join(example.split()) in " ".join(_help(*path).split())
    words = shlex.split(example.partition(";")[0])
    assert tuple(words[: 1 + len(path)]) == ("lethe", *path) or not path
    here: Command = typer.main.get_command(app)
    context = typer.Context(here)
    words = words[1:]
    while isinstance(here, TyperGroup):
        name, found, words = here.resolve_command(context, words)
        assert name is not None
        assert found is not None
        here = found
        context = typer.Context(here, parent=context, info_name=name)
    here.parse_args(context, words)  # raises where an option or a value is none


def test_every_command_is_in_a_group_and_the_groups_are_in_order() -> None:
    shown = _help()
    top = [(path[0], command) for path, command in COMMANDS if len(path) == 1]
    for name, command in top:
        assert getattr(command, "rich_help_panel", None) in GROUPS, name
    places = [shown.index(f"─ {group} ─") for group in GROUPS]
    assert places == sorted(places)
    assert "─ Commands ─" not in shown
    stages = [name for name, command in top if command.rich_help_panel == GROUPS[2]]  # type: ignore[attr-defined]
    assert stages == list(STAGES)


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=NAMES)
def test_no_line_of_help_is_cut_off_at_eighty_columns(
    path: tuple[str, ...], command: Command
) -> None:
    shown = _help(*path)
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    said = " ".join(shown.replace("│", " ").split())
    sentences = [command.help or ""]
    if isinstance(command, TyperGroup):
        sentences += [
            (each.help or "").split("\n\n")[0]
            for each in command.commands.values()
            if not each.hidden
        ]
    sentences += [getattr(each, "help", None) or "" for each in command.params]
    for sentence in sentences:
        words = sentence.replace("`", "").split()
        # A column beside may stand between words of a wrapped line; no word may be missing.
        assert all(word in said for word in words), sentence
