"""A first look at a source that nobody has declared yet: facts for a draft of `params.yaml`.

Guarantees: nothing is written to the source, and no value leaves this module: of a few rows a
    table, which are read to see what they look like, the facts say that alone.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lethe.config.csv_form import CsvForm
from lethe.config.tables import Link
from lethe.core.errors import ParamsInvalid, SchemaMismatch
from lethe.stores.source import signs
from lethe.stores.source.catalogue import table_named
from lethe.stores.source.connect import engine_at, place_of_url
from lethe.stores.source.files import FolderCopy, folder_tables
from lethe.stores.source.reader import database_errors
from lethe.stores.source.schema import PLAIN, TableInfo, reflect

SAMPLE = 200  # rows of a table that are looked at
_KINDS = ("csv", "parquet")
_UNKNOWN = ("", "NUMERIC")
_SEPARATORS = (",", ";", "|")  # a tab in a name is refused as every control character is


@dataclass(frozen=True)
class SeenColumn:
    """`kind`: see `schema.kind_of`. `sign`: what it seems to be of a person, and whether its
    `name` or its `values` say so. `unique`: no value repeats and none is null, as far as was
    looked. `texts`: its values are sentences.
    """

    name: str
    kind: str
    sign: str | None = None
    by: str = "name"
    unique: bool = False
    texts: bool = False


@dataclass(frozen=True)
class SeenTable:
    """A table as the database has it, and what its columns seem to be."""

    name: str
    columns: tuple[SeenColumn, ...]
    primary_key: tuple[str, ...]
    unique: tuple[frozenset[str], ...]
    foreign_keys: tuple[Link, ...]

    def column(self, name: str) -> SeenColumn:
        return next(each for each in self.columns if each.name == name)


def survey(
    address: str,
    *,
    root: Path,
    values: bool = True,
    separator: str = ",",
    header: bool = False,
) -> tuple[list[SeenTable], list[str]]:
    """Every table of a source, and the names of its views.

    Args:
        address: as `source.url`, absolute, with its secret.
        root: the workspace, where a folder's private copy lies meanwhile.
        values: whether to look at a few rows; without, names and types alone are known.
        separator: of the fields of CSV files.
        header: whether somebody looked, and the first line of each of them has names.

    Raises:
        SourceUnavailable: it does not answer. ParamsInvalid: it has no table.
        SchemaMismatch: the first line of a CSV file may be a row.
    """
    form = CsvForm(separator=separator)
    with _connected(address, root, form=form, values=values) as connection:
        tables = reflect(connection)
        found = []
        for name, info in tables.items():
            seen = _few(connection, name, info) if values else {}
            if address.startswith("csv:"):
                _refuse_row_as_header(name, info.columns, seen, form)
                if not header and not (values and _has_header(info.columns, seen)):
                    raise SchemaMismatch(
                        f"Whether the first line of {name}.csv has the names of columns, or is a "
                        f"row, {'cannot be seen' if values else 'is not looked at'}. Look, and "
                        "if it has names, say so: --header."
                    )
            if not info.view:
                found.append(_facts(name, info, seen))
    if not found:
        raise ParamsInvalid("The source has no table. Name the database that has, or its schema.")
    return found, [name for name, info in tables.items() if info.view]


@contextmanager
def _connected(address: str, root: Path, *, form: CsvForm, values: bool) -> Iterator[sa.Connection]:
    kind, _, folder = address.partition(":")
    if kind in _KINDS:
        copy = FolderCopy(Path(folder), root=root, kind=kind, chunk_rows=SAMPLE, form=form)
        with closing(copy):
            if values:
                copy.fill(None, first_rows=True)
            with _open(f"sqlite:///{copy.path}") as opened:
                yield opened
    else:
        with _open(address) as opened:
            yield opened


def _refuse_row_as_header(
    table: str, names: Sequence[str], seen: Mapping[str, list[str | None]], form: CsvForm
) -> None:
    """A file without a header begins with a row: its values would be the names of columns."""
    others = [each for each in _SEPARATORS if each != form.separator]
    for place, name in enumerate(names, start=1):
        if any(each in name for each in others):
            raise SchemaMismatch(
                f"{table}.csv: the name of column {place} in the header has one of "
                f"{' '.join(others)} in it. Say what separates the fields: --separator."
            )
        if signs.may_be_value(name, [each for each in seen.get(name, ()) if each is not None]):
            raise SchemaMismatch(
                f"The first line of {table}.csv looks like a row, not like the names of columns "
                f"(column {place}). Put a line with the names above it. If it has names, join the "
                "words of each by _ (first_name)."
            )


def _has_header(names: Sequence[str], seen: Mapping[str, list[str | None]]) -> bool:
    """Whether a first line shows that it is none of the rows: by a word of headers, or above
    values of another kind."""
    return any(
        signs.is_header(name, [each for each in seen.get(name, ()) if each is not None])
        for name in names
    )


@contextmanager
def _open(address: str) -> Iterator[sa.Connection]:
    engine = engine_at(address)
    try:
        with database_errors(place_of_url(engine.url)), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _few(connection: sa.Connection, name: str, info: TableInfo) -> dict[str, list[str | None]]:
    """Some values of each column, as text or null, so that each can be read."""
    read = [each for each in info.columns if info.kinds[each] in (*PLAIN, *_UNKNOWN)]
    if not read:
        return {}
    if connection.dialect.name == "sqlite":
        driver: Any = connection.connection.driver_connection
        driver.text_factory = lambda content: content.decode(errors="replace")
    columns = [
        sa.cast(sa.column(column), sa.Text()).label(f"value{place}")
        for place, column in enumerate(read)
    ]
    rows = connection.execute(
        sa.select(*columns).select_from(table_named(name, connection.dialect.name)).limit(SAMPLE)
    ).all()
    return {column: [row[place] for row in rows] for place, column in enumerate(read)}


def _facts(name: str, info: TableInfo, seen: Mapping[str, list[str | None]]) -> SeenTable:
    columns = [_column(each, info.kinds[each], seen.get(each, [])) for each in info.columns]
    found = {each.sign for each in columns}
    said = set(map(signs.singular, signs.words(name)))
    if found <= {None, signs.NAME} and not said & (signs.PEOPLE | signs.STAFF):
        columns = [_unless_bare(each) for each in columns]
    if signs.ADDRESS in found:
        columns = [
            replace(each, sign=signs.ADDRESS, by="name") if signs.is_town(each.name) else each
            for each in columns
        ]
    return SeenTable(
        name=name,
        columns=tuple(columns),
        primary_key=info.primary_key,
        unique=info.unique,
        foreign_keys=info.foreign_keys,
    )


def _unless_bare(column: SeenColumn) -> SeenColumn:
    """Things have names too: `name` alone, where nothing else is of people, is no sign."""
    bare = signs.plain_name(column.name) in ("name", "names") and column.by == "name"
    return replace(column, sign=None) if bare else column


def _column(name: str, kind: str, seen: Sequence[str | None]) -> SeenColumn:
    there = [str(value) for value in seen if value is not None]
    sign, by = signs.sign_of_name(name), "name"
    if sign is None and kind in ("text", *_UNKNOWN):
        sign, by = signs.sign_of_values(there), "values"
    return SeenColumn(
        name,
        kind,
        sign,
        by,
        unique=bool(seen) and len(set(there)) == len(seen),
        texts=kind in ("text", *_UNKNOWN) and signs.are_texts(there),
    )


def source_address(given: str, root: Path) -> str:
    """What `source.url` says of a source that was named on a command line.

    A folder of CSV or Parquet files, and such a file, are named by the folder; a file of SQLite by
    its URL; everything else is as it was given.

    Raises:
        ParamsInvalid: there is neither such a path, nor is it an address.
    """
    path = root / given
    kind, colon, _ = given.partition(":")
    if path.is_dir():
        kinds = {each.name.removesuffix(".gz").rpartition(".")[2] for each in path.iterdir()}
        found = [kind for kind in _KINDS if kind in kinds]
        if len(found) != 1:
            what = (
                "both CSV and Parquet files; say csv: or parquet:"
                if found
                else "no CSV or Parquet file"
            )
            raise ParamsInvalid(f"The folder {given} has {what}.")
        return f"{found[0]}:{given}"
    if path.is_file():
        suffix = path.name.removesuffix(".gz").rpartition(".")[2]
        if suffix in _KINDS:
            return f"{suffix}:{Path(given).parent}"
        return f"sqlite:///{given}"
    if not colon or len(kind) == 1:
        raise ParamsInvalid(
            "The source is neither a file or folder that exists, nor an address such as "
            "sqlite:///FILE, postgresql://USER@HOST/DATABASE, csv:FOLDER, parquet:FOLDER, env:NAME."
        )
    return given


def files_of(address: str, root: Path) -> list[str]:
    """What git must leave out, in its words: the source's files that are in the workspace."""
    kind, place = _located(address, root)
    if kind in _KINDS and place == root.resolve():
        return [f"/*.{kind}", *(["/*.csv.gz"] if kind == "csv" else [])]
    below = None if place is None else _below(place, root)
    if below is None:
        return []
    return [f"/{_literal(below)}{'/' if kind in _KINDS else '*'}"]


def source_files(address: str, root: Path) -> list[str]:
    """The source's files that are in the workspace, as paths from there."""
    kind, place = _located(address, root)
    if place is None:
        return []
    found = folder_tables(place, kind).values() if kind in _KINDS else [place]
    return [str(below) for each in found if (below := _below(each, root)) is not None]


def _located(address: str, root: Path) -> tuple[str, Path | None]:
    """The kind of a source, and its folder or file; None where it is on a server."""
    kind, _, rest = address.partition(":")
    if kind in _KINDS:
        return kind, (root / rest).resolve()
    if kind.startswith("sqlite"):
        return kind, (root / (sa.make_url(address).database or "")).resolve()
    return kind, None


def _literal(path: Path) -> str:
    """A path as `.gitignore` has it where each of its letters means itself."""
    return re.sub(r"[\\\[\]*?!#]|\s+$", lambda m: "".join(f"\\{c}" for c in m[0]), str(path))


def _below(path: Path, root: Path) -> Path | None:
    """A path as seen from the workspace; None if it is not in there."""
    top = root.resolve()
    return path.relative_to(top) if top in path.parents else None
