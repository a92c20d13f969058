"""`params.yaml` as a whole, read into frozen, validated dataclasses.

Everything is checked before anything runs: unknown keys are refused by name
with the nearest known one, impossible values with the reason. What the source
itself must agree with (tables, columns, purposes asked) is checked by
`lethe.stores.source.read`, since that needs the database.
"""

import dataclasses
import datetime as dt
import os
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from lethe.config.aggregates import Aggregate
from lethe.config.checks import (
    check_aggregates,
    check_columns,
    check_links,
    check_names,
    check_privacy,
    latest_by,
    nearest,
)
from lethe.config.home import address_at_home, at_home, home
from lethe.config.links import Link, paths_between
from lethe.config.sections import (
    CLOSED,
    Audit,
    Budget,
    Consent,
    DeclaredSource,
    Erasure,
    Parallel,
    Records,
    Registration,
    Reporting,
    Stores,
    Subject,
    Validation,
)
from lethe.config.tables import Column, Table
from lethe.config.training import Training
from lethe.config.undecided import undecided
from lethe.core.children import keep_from_children
from lethe.core.errors import ParamsInvalid
from lethe.core.reading import TRIPPED, load_yaml
from lethe.core.text import folded

OWN_COLUMNS = frozenset({"subject", "token", "rank", "held_out"})  # the shards' own
ROOT = "root"  # of Params, and not of the file


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class Params:
    """All of `params.yaml`, and which workspace declared it.

    Attributes:
        root: the folder that `params.yaml` is in; every path that is declared, and every name of
            `lethe.config.workspace`, is meant from there. It is where, not what: no key of the
            file, and no part of a digest or of a report.
    """

    purpose: str
    source: DeclaredSource
    subject: Subject
    records: Records
    tables: dict[str, Table]
    consent: Consent
    budget: Budget
    training: Training
    registration: Registration
    shards: int = Field(ge=1, le=1024)
    validation: Validation
    audit: Audit
    snapshot: dt.datetime | None = None
    stores: Stores = Field(default_factory=Stores)
    reporting: Reporting = Field(default_factory=Reporting)
    parallel: Parallel = Field(default_factory=Parallel)
    erasure: Erasure = Field(default_factory=Erasure)
    root: Path = dataclasses.field(default=Path(), repr=False, compare=False)

    def at(self, path: Path) -> Path:
        """A path of this workspace; in a copy, the copy's own."""
        return self.root / path

    def at_home(self, path: Path) -> Path:
        """A path of the workspace that this one belongs to; mostly the same."""
        return at_home(path, self.root)

    def address(self, declared: str) -> str:
        """A declared address, with its secret, as it is valid from every folder.

        Raises:
            ParamsInvalid: it is `env:NAME`, and that variable is not set.
        """
        return address_at_home(resolve_secret(declared), self.root)

    @property
    def home(self) -> Path:
        """The folder of the workspace that this one belongs to; mostly its own."""
        return home(self.root)

    @property
    def label(self) -> tuple[str, str]:
        """(table, column) of the label."""
        return next(
            (table, name)
            for table, declared in self.tables.items()
            for name, column in declared.columns.items()
            if column.role == "label"
        )

    def paths(self, table: str, goal: str) -> tuple[tuple[Link, ...], ...]:
        """The chains of many-to-one links from `table` to `goal`; see `paths_between`."""
        return paths_between(self.tables, table, goal)

    @property
    def latest_by(self) -> tuple[str, str] | None:
        """(table, column) of `records.latest_by`, if one is declared."""
        return latest_by(self.tables, self.records)

    def taken_columns(self) -> dict[str, tuple[str, Column]]:
        """Name in the shards → (table, column) of what leaves minimize.

        The records' table comes first, and its aggregates are among its columns; a name that
        two tables share, or that the shards use themselves, is written `table.column`.
        """
        order = [self.records.table, *(t for t in self.tables if t != self.records.table)]
        found = [
            (table, name, column)
            for table in order
            for name, column in {
                **self.tables[table].columns,
                **self.tables[table].computed,
            }.items()
            if column.taken
        ]
        names = [name for _, name, _ in found]

        def shared(name: str) -> bool:
            return names.count(name) > 1 or name in OWN_COLUMNS

        return {
            (f"{table}.{name}" if shared(name) else name): (table, column)
            for table, name, column in found
        }

    @property
    def aggregates(self) -> dict[str, Aggregate]:
        """Those of `taken_columns` that are made of child rows, by its names."""
        table = self.records.table
        made = self.tables[table].aggregates
        found: dict[str, Aggregate] = {}
        for name, (whose, _) in self.taken_columns().items():
            own = name if name in made else name.removeprefix(f"{table}.")
            if whose == table and own in made:
                found[name] = made[own]
        return found

    def age_times(self) -> dict[str, Column]:
        """The columns of the records' table at whose days an age of a taken column counts."""
        kinds = [column.generalize for _, column in self.taken_columns().values()]
        names = dict.fromkeys(kind.age_at for kind in kinds if kind is not None and kind.age_at)
        return {name: self.tables[self.records.table].columns[name] for name in names}

    @field_validator("snapshot", mode="before")
    @classmethod
    def _a_date(cls, value: Any) -> Any:
        """A number is no date: it would be read as seconds since 1970."""
        if isinstance(value, str):
            with suppress(ValueError):
                return dt.datetime.fromisoformat(value.strip())
        elif value is None or isinstance(value, dt.date):
            return value
        raise ValueError("it is no date; write 2026-01-31, or 2026-01-31T12:00:00Z")

    @model_validator(mode="after")
    def _whole(self) -> "Params":
        consent = self.consent
        if folded(self.purpose) in map(folded, (*consent.every_purpose, *consent.other_purposes)):
            raise ValueError("every_purpose and other_purposes may not name the purpose itself")
        check_names(self.tables, self.subject, self.records, self.consent)
        check_links(self.tables)
        check_columns(self.tables, self.subject, self.records)
        check_aggregates(self.tables, self.subject, self.records)
        check_privacy(self.budget, self.training.mechanism, self.subject)
        return self


def load_params(path: Path = Path("params.yaml"), *, root: Path | None = None) -> Params:
    """Reads and checks `params.yaml`.

    Args:
        root: of the workspace; the file's folder by default.

    Raises:
        ParamsInvalid: absent, not YAML, an unknown key or an impossible value; names each.
    """
    try:
        raw, text = load_yaml(path)
    except FileNotFoundError:
        raise ParamsInvalid(
            f"{path} does not exist: this is no workspace. Change into one, make one here with "
            "`lethe init SOURCE`, or give --params."
        ) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" at line {mark.line + 1}" if mark else ""
        raise ParamsInvalid(f"{path} is not YAML{line}: {error.problem}.") from None
    except (YAMLError, OSError, *TRIPPED) as error:
        raise ParamsInvalid(f"{path} cannot be read as YAML: {type(error).__name__}.") from None
    if open_ := undecided(raw, text):
        raise ParamsInvalid(f"{path}, {open_[0]} ({len(open_)} left to decide).")
    return parse_params(raw, name=str(path), root=path.absolute().parent if root is None else root)


def parse_params(raw: Any, *, name: str = "params.yaml", root: Path = Path()) -> Params:
    """Checks what a YAML reader returned; see `load_params`."""
    if not isinstance(raw, Mapping):
        raise ParamsInvalid(f"{name} must be a mapping of sections, not {type(raw).__name__}.")
    if ROOT in raw:
        raise ParamsInvalid(f"{name}: unknown key {ROOT!r}{nearest(ROOT, _fields_at(()))}.")
    try:
        params = TypeAdapter(Params).validate_python({**raw, ROOT: root})
    except ValidationError as error:
        problems = "; ".join(_problem(detail) for detail in error.errors(include_url=False)[:5])
        raise ParamsInvalid(f"{name}: {problems}.") from None
    stores = params.stores
    addresses = (params.source.url, stores.vault, stores.ledger, stores.registry)
    keep_from_children(each.removeprefix("env:") for each in addresses if each.startswith("env:"))
    return params


def _problem(detail: ErrorDetails) -> str:
    """One complaint in the house's words: where, what, and the nearest known key."""
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _fields_at(detail["loc"][:-1])
        return f"unknown key {where!r}{nearest(str(detail['loc'][-1]), known)}"
    if detail["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"key {where!r} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _fields_at(location: Sequence[int | str]) -> list[str]:
    """The keys that the declarations know at a place of the file."""
    kind: Any = Params
    for part in location:
        kind = getattr(kind, "__origin__", kind) if hasattr(kind, "__metadata__") else kind
        if typing.get_origin(kind) is tuple:
            kind = typing.get_args(kind)[0]
        elif hasattr(kind, "__dataclass_fields__"):
            field = kind.__dataclass_fields__.get(part)
            if field is None:
                return []
            kind = field.type
            options = [a for a in typing.get_args(kind) if hasattr(a, "__dataclass_fields__")]
            if options and typing.get_origin(kind) is not dict:
                kind = options[0]
        elif typing.get_origin(kind) is dict:
            kind = typing.get_args(kind)[1]
    known = set(getattr(kind, "__dataclass_fields__", {}))
    return sorted(known - {ROOT} if kind is Params else known)


def resolve_secret(value: str) -> str:
    """`env:NAME` → that environment variable; anything else as it is.

    Raises:
        ParamsInvalid: the variable is not set.
    """
    if not value.startswith("env:"):
        return value
    name = value.removeprefix("env:")
    try:
        return os.environ[name]
    except KeyError:
        raise ParamsInvalid(f"params.yaml asks for ${name}, which is not set. Export it.") from None
