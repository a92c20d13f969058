"""`lethe init` and `lethe check`: a workspace for one's own data, and what is wrong with it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lethe.cli.terminal import PARAMS, ParamsFile, say
from lethe.config.params import load_params, resolve_secret
from lethe.core.errors import ParamsInvalid

if TYPE_CHECKING:
    from lethe.config.undecided import Decision

VARIABLE = "LETHE_SOURCE_URL"  # where the address of a source goes that has a password

Separator = Annotated[
    str, typer.Option(help="What separates the fields of CSV files; `tab` for a tab.")
]
Header = Annotated[
    bool, typer.Option("--header", help="You looked: CSV files begin with the names of columns.")
]


def init(
    source: Annotated[
        str,
        typer.Argument(
            help="A SQLAlchemy URL, env:NAME of one, a SQLite file, or a folder of files."
        ),
    ],
    people: Annotated[
        str | None, typer.Option(help="The table with one row a person, if you know it.")
    ] = None,
    names_only: Annotated[
        bool,
        typer.Option("--names-only", help="Look at names and types alone, at no row of the data."),
    ] = False,
    separator: Separator = ",",
    header: Header = False,
) -> None:
    """Make this folder a workspace: git, DVC, the pipeline, and a draft of params.yaml.

    A few rows of each table are read to see what they look like; no value is written or shown.
    """
    from lethe.config.home import address_at_home
    from lethe.core.files import write_whole
    from lethe.stages import behaviour
    from lethe.stores.dvc.begin import begin, refuse_other_pipeline
    from lethe.stores.source.draft import draft
    from lethe.stores.source.guess import guess
    from lethe.stores.source.survey import files_of, source_address, source_files, survey

    root = Path.cwd()
    if (root / PARAMS).exists():
        raise ParamsInvalid(f"{PARAMS} is there already: this is a workspace. Run `lethe check`.")
    code = behaviour.first()
    refuse_other_pipeline(root, {behaviour.FILE: code})
    address = source_address(resolve_secret(source), root)
    separator = _separator(separator)
    tables, views = survey(
        address_at_home(address, root),
        root=root,
        values=not names_only,
        separator=separator,
        header=header,
    )
    names = [table.name for table in tables]
    if people is not None and people not in names:
        raise ParamsInvalid(
            f"The source has no table of the name that --people gives{_one_of(names)}."
        )
    guesses = guess(tables, people)
    named = _without_secret(source, address)
    text = draft(named, tables, views, guesses, separator=separator)
    open_ = _decisions(text)
    begin(root, ignored=files_of(address, root), files=source_files(address, root))
    write_whole(root / behaviour.FILE, code)
    write_whole(root / PARAMS, text.encode())
    columns = sum(len(table.columns) for table in tables)
    say(f"Drafted {PARAMS}: {len(tables)} tables, {columns} columns; {_looked(names_only)}.")
    if named.startswith("env:") and not source.startswith("env:"):
        say(f"The address has a password, so {PARAMS} has ${VARIABLE} instead: export it.")
    say(_closing(open_))


def _looked(names_only: bool) -> str:
    return "no row was read" if names_only else "a few rows were looked at, and none was kept"


def check(params_file: ParamsFile = PARAMS) -> None:
    """Check params.yaml, the source against it, without reading people's data, and the code.

    Also what would end a run late: folders, a network of your own, and a price that nobody can pay.
    """
    from lethe.registration import preflight
    from lethe.stages import behaviour
    from lethe.stores.dvc.inputs import unverified_remotes
    from lethe.stores.source.connect import check_one_place
    from lethe.stores.source.read import Source

    params = load_params(params_file)
    behaviour.refuse_changed(params)
    preflight.refuse_unwritable(params)
    check_one_place(params)
    with Source.open(params) as source:
        source.check(params)
        unseen = source.outside()
    preflight.refuse_unpayable(params)
    spent = preflight.refuse_spent(params)
    preflight.refuse_unbuildable(params)
    taken = f"{len(params.taken_columns())} columns taken for {params.purpose}"
    say(f"{params_file} is sound: {len(params.tables)} tables, {taken}.")
    if spent:
        say(spent)
    if unseen:
        say(f"Nobody is looked for, and nobody erased, in: {'; '.join(unseen)}.")
    for name in unverified_remotes(params.root):
        say(f"DVC takes remote {name} at its word; run: dvc remote modify {name} verify true")


def _separator(given: str) -> str:
    if given == "tab":
        return "\t"
    if len(given) != 1 or given in '"\r\n':
        raise ParamsInvalid("--separator is one character, such as ; or |, or the word tab.")
    return given


def _without_secret(given: str, address: str) -> str:
    """What may stand in a file that git keeps."""
    from lethe.stores.source.connect import has_secret

    if given.startswith("env:"):
        return given
    return f"env:{VARIABLE}" if has_secret(address) else address


def _decisions(text: str) -> "list[Decision]":
    """What the draft leaves open; it is read here as every command will read it."""
    from ruamel.yaml import YAML

    from lethe.config.undecided import undecided

    return undecided(YAML(typ="safe", pure=True).load(text), text)


def _closing(open_: "list[Decision]") -> str:
    keys = ", ".join(f"{each.key} (line {each.line})" for each in open_)
    return (
        f"Decide next, in {PARAMS}: {keys}; then one label and the features, of what is unused in "
        "the records' table. `lethe check` names the next decision each time."
    )


def _one_of(names: list[str]) -> str:
    from lethe.stores.source.signs import shown

    return f"; it has {', '.join(map(shown, names))}"
