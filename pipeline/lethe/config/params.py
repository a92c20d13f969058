"""`params.yaml` read into frozen, validated dataclasses.

Everything is checked before anything runs: unknown keys are refused by name
with the nearest known one, impossible values with the reason. What the source
itself must agree with (tables, columns, purposes asked) is checked by
`lethe.stores.source.read`, since that needs the database.

Classes whose fields change the privacy guarantee say so in their first line;
the others cannot change it.
"""

import datetime as dt
import difflib
import os
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from lethe.config.home import address_at_home
from lethe.config.tables import Column, Link, Table
from lethe.core.errors import ParamsInvalid

_CLOSED = ConfigDict(extra="forbid")

OWN_COLUMNS = frozenset({"subject", "token", "rank", "held_out"})  # the shards' own


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Source:
    """Where the people's data is: a SQLAlchemy URL, `csv:FOLDER`, `parquet:FOLDER`, or
    `env:NAME` for a URL that is a secret."""

    url: str
    chunk_rows: int = Field(default=20_000, ge=1)


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Subject:
    """Which table has one row a person, its key, and how few people stop the run."""

    table: str
    key: str
    minimum: int = Field(default=100, ge=1)


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Records:
    """Which table has one row a training record; `latest_by` orders a person's records."""

    table: str
    latest_by: str | None = None


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Consent:
    """Where people's answers are; an append-only history, the latest one counts."""

    table: str
    subject: str
    purpose: str
    answer: str
    time: str
    yes: tuple[str, ...] = ("yes",)
    no: tuple[str, ...] = ("no", "withdrawn")

    @model_validator(mode="after")
    def _apart(self) -> "Consent":
        both = set(self.yes) & set(self.no)
        if both or not self.yes:
            raise ValueError(f"yes must name an answer, and none of no's; both have {sorted(both)}")
        return self


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Stores:
    """Lethe's own databases and keys; any SQLAlchemy URL or `env:NAME`."""

    vault: str = "sqlite:///.lethe/vault.db"
    ledger: str = "sqlite:///.lethe/ledger.db"
    registry: str = "sqlite:///mlflow.db"
    key_file: str = "secrets/lethe.key"


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Validation:
    """Limits of the validation suite beyond what the columns declare."""

    max_missing_share: float = Field(default=1.0, ge=0, le=1)
    max_records_per_subject: int | None = Field(default=None, ge=1)


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Budget:
    """Changes the guarantee: what one person may lose over all runs together."""

    epsilon: float = Field(gt=0, allow_inf_nan=False)
    delta: float = Field(gt=0, lt=1)
    over_budget: Literal["leave_out", "refuse"] = "refuse"


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Adaptive:
    """Changes the guarantee: a clip that follows a quantile of people's gradient norms.

    `count_noise` is of the count of people within the clip; a twentieth of the expected
    batch if not given.
    """

    quantile: float = Field(default=0.5, gt=0, lt=1)
    learning_rate: float = Field(default=0.2, gt=0, le=1)
    count_noise: float | None = Field(default=None, gt=0, allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Mechanism:
    """Changes the guarantee: the person-level DP-SGD plan, in public numbers only.

    `expected_subjects` is a public estimate of how many people train, never counted from
    the data: `sample_rate * expected_subjects` normalizes every step.
    Give either `noise_multiplier`, or `epsilon` to solve for it (at the budget's delta,
    by `accountant`, rounded to the private side). `noise: discrete` is the float-safe noise,
    at the same price. With `adaptive`, `clip_norm` is where the clip begins, at the same price.
    """

    records_per_person: int = Field(ge=1)
    expected_subjects: int = Field(ge=1)
    sample_rate: float = Field(gt=0, le=1)
    steps: int = Field(ge=1)
    clip_norm: float = Field(gt=0, allow_inf_nan=False)
    noise_multiplier: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    epsilon: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    accountant: Literal["rdp", "pld"] = "pld"
    noise: Literal["gaussian", "discrete"] = "gaussian"
    adaptive: Adaptive | None = None

    @property
    def expected_batch_size(self) -> float:
        """Public normalizer of every step, in subjects."""
        return self.sample_rate * self.expected_subjects

    @model_validator(mode="after")
    def _one_price(self) -> "Mechanism":
        if (self.noise_multiplier is None) == (self.epsilon is None):
            raise ValueError("declare exactly one of noise_multiplier and epsilon")
        return self


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Optimizer:
    """Post-processing of private gradients: cannot change the guarantee."""

    name: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    averaging: float = Field(default=0.0, ge=0, lt=1)
    schedule: Literal["constant", "cosine"] = "constant"


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Training:
    """What is trained, and how; `mechanism` alone decides the privacy."""

    mechanism: Mechanism
    optimizer: Optimizer
    model: str = "logistic"
    hidden: tuple[int, ...] = (64,)
    held_out: float = Field(gt=0, lt=1)
    engine: Literal["auto", "opacus", "opacus_ghost", "bookkeeping", "functional"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    physical_batch: int = Field(default=4096, ge=1)

    @model_validator(mode="after")
    def _known_model(self) -> "Training":
        if self.model not in ("logistic", "mlp") and self.model.count(":") != 1:
            known = difflib.get_close_matches(self.model, ["logistic", "mlp"], 1) or ["mlp"]
            raise ValueError(
                f"model {self.model!r} is neither logistic, mlp nor module:function; "
                f"did you mean {known[0]!r}?"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Parallel:
    """Over how many processes of this machine a training runs: cannot change the guarantee.

    Apart from `training`, so that another number trains, and spends, nothing anew.
    """

    processes: int = Field(default=1, ge=1, le=64)


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Audit:
    """How hard the model is attacked before it may be registered."""

    subjects: int = Field(default=5_000, ge=50)
    replays: int = Field(default=8, ge=1)


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Registration:
    """The model's name, and who makes a new version champion.

    `promote`: `automatic`, if its auc reaches `min_auc`; `approval`, if moreover one of
        `approvers` (their user names in Airflow) says so; or `manual`, by hand in MLflow.
    """

    name: str
    promote: Literal["automatic", "approval", "manual"] = "manual"
    approvers: tuple[str, ...] = ()
    min_auc: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _approvers_where_they_decide(self) -> "Registration":
        if (self.promote == "approval") != bool(self.approvers):
            raise ValueError("approvers are named where promote is approval, and only there")
        if any(not re.fullmatch(r"[A-Za-z0-9][\w.@+-]*", name) for name in self.approvers):
            raise ValueError("an approver is a user name: letters, digits and . _ @ + -")
        return self


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class LapsedModels:
    """What becomes of a model in use that learned from rows whose time is over since.

    `retrain`: `next_training` keeps it until the road trains the next one anyway, so that
        retention spends nobody's budget by itself; `automatic` trains anew if that has not
        happened `delay_days` after the rows left.
    """

    retrain: Literal["next_training", "automatic"] = "next_training"
    delay_days: int = Field(default=30, ge=0, le=366)


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Erasure:
    """How an erasure goes on once everything but models is gone.

    `delay_days`: how long requests are gathered before one retraining ends them all; people
        who remain pay for each retraining. At most 25: a request has a month.
    `retrain`: `automatic`, or `manual` to withdraw the models that somebody was in and leave
        it to a person to walk the road anew.
    `retention`: the same of rows past their retention, for which nobody asked.
    """

    delay_days: int = Field(default=0, ge=0, le=25)
    retrain: Literal["automatic", "manual"] = "automatic"
    retention: LapsedModels = Field(default_factory=LapsedModels)


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Params:
    """All of `params.yaml`."""

    purpose: str
    source: Source
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
    parallel: Parallel = Field(default_factory=Parallel)
    erasure: Erasure = Field(default_factory=Erasure)

    @property
    def label(self) -> tuple[str, str]:
        """(table, column) of the label."""
        return next(
            (table, name)
            for table, declared in self.tables.items()
            for name, column in declared.columns.items()
            if column.role == "label"
        )

    def path(self, table: str, goal: str) -> tuple[Link, ...] | None:
        """The shortest chain of many-to-one links from `table` to `goal`; None without one."""
        frontier: list[tuple[str, tuple[Link, ...]]] = [(table, ())]
        seen = {table}
        while frontier:
            here, links = frontier.pop(0)
            if here == goal:
                return links
            for link in self.tables[here].parsed_links:
                if link.table not in seen:
                    seen.add(link.table)
                    frontier.append((link.table, (*links, link)))
        return None

    def taken_columns(self) -> dict[str, tuple[str, Column]]:
        """Name in the shards → (table, column) of what leaves minimize.

        The records' table comes first; a name that two tables share, or that the shards
        use themselves, is written `table.column`.
        """
        order = [self.records.table, *(t for t in self.tables if t != self.records.table)]
        found = [
            (table, name, column)
            for table in order
            for name, column in self.tables[table].columns.items()
            if column.taken
        ]
        names = [name for _, name, _ in found]

        def shared(name: str) -> bool:
            return names.count(name) > 1 or name in OWN_COLUMNS

        return {
            (f"{table}.{name}" if shared(name) else name): (table, column)
            for table, name, column in found
        }

    @model_validator(mode="after")
    def _whole(self) -> "Params":
        _check_tables(self)
        _check_privacy(self)
        return self


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _check_tables(params: Params) -> None:
    tables = params.tables
    named = {
        "subject.table": params.subject.table,
        "records.table": params.records.table,
        "consent.table": params.consent.table,
    }
    for where, name in named.items():
        if name not in tables:
            raise ValueError(f"{where}={name!r} is not among tables{_nearest(name, list(tables))}")
    key = tables[params.subject.table].columns.get(params.subject.key)
    if key is None or key.role != "subject_key":
        raise ValueError(
            f"subject.key={params.subject.key!r} must be a column of {params.subject.table!r} "
            "with role subject_key"
        )
    for name, table in tables.items():
        for link in table.parsed_links:
            if link.table not in tables:
                raise ValueError(
                    f"tables.{name}: link to unknown table {link.table!r}"
                    f"{_nearest(link.table, list(tables))}"
                )
            for column in link.references:
                if column not in tables[link.table].columns:
                    known = list(tables[link.table].columns)
                    raise ValueError(
                        f"tables.{name}: link to undeclared column {link.table}.{column}"
                        f"{_nearest(column, known)}"
                    )
    for name, table in tables.items():
        reaches = params.path(name, params.subject.table) is not None
        if table.about == "person" and not reaches:
            raise ValueError(
                f"tables.{name}: no chain of links leads to {params.subject.table!r}; declare its "
                "link, or about: nobody"
            )
        if table.about != "nobody" and table.erase is None:
            raise ValueError(f"tables.{name}: say what an erasure does to it (erase: …)")
        for column_name, declared in table.columns.items():
            at = declared.generalize.age_at if declared.generalize else None
            if at is not None and (
                at not in tables[params.records.table].columns
                or tables[params.records.table].columns[at].role != "timestamp"
            ):
                raise ValueError(
                    f"tables.{name}.{column_name}: age_at={at!r} must be a timestamp column of "
                    f"{params.records.table!r}"
                )
            if declared.taken and params.path(params.records.table, name) is None:
                raise ValueError(
                    f"tables.{name}.{column_name}: role {declared.role}, but no chain of links "
                    f"leads from {params.records.table!r} to {name!r}; a record takes columns of "
                    "rows it points at, no others"
                )
    latest = params.records.latest_by
    if latest is not None and latest not in tables[params.records.table].columns:
        raise ValueError(
            f"records.latest_by={latest!r} is not declared in {params.records.table!r}"
        )
    consent = tables[params.consent.table]
    for where in ("subject", "purpose", "answer", "time"):
        column_name = getattr(params.consent, where)
        if column_name not in consent.columns:
            raise ValueError(
                f"consent.{where}={column_name!r} is not declared in {params.consent.table!r}"
                f"{_nearest(column_name, list(consent.columns))}"
            )
    labels = [
        f"{name}.{column}"
        for name, table in tables.items()
        for column, declared in table.columns.items()
        if declared.role == "label"
    ]
    if len(labels) != 1:
        raise ValueError(f"exactly one column must have role label; declared: {labels or 'none'}")
    if not any(
        c.role in ("feature", "quasi_identifier", "text") and c.taken
        for t in tables.values()
        for c in t.columns.values()
    ):
        raise ValueError("no feature is declared: nothing to learn from")


def _check_privacy(params: Params) -> None:
    expected = params.training.mechanism.expected_subjects
    if params.budget.delta >= 1 / expected:
        raise ValueError(
            f"budget.delta={params.budget.delta:g} must be below 1/expected_subjects="
            f"{1 / expected:g}: a larger one allows to publish a person outright"
        )
    if params.subject.minimum > expected:
        raise ValueError(
            f"subject.minimum={params.subject.minimum} is above "
            f"training.mechanism.expected_subjects={expected}"
        )
    target = params.training.mechanism.epsilon
    if target is not None and target > params.budget.epsilon:
        raise ValueError(
            f"training.mechanism.epsilon={target:g} is above the whole budget.epsilon="
            f"{params.budget.epsilon:g}"
        )


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Reads and checks `params.yaml`.

    Raises:
        ParamsInvalid: absent, not YAML, an unknown key or an impossible value; names each.
    """
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsInvalid(
            f"{path} does not exist. Run from the project's folder, or give --params."
        ) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" at line {mark.line + 1}" if mark else ""
        raise ParamsInvalid(f"{path} is not YAML{line}: {error.problem}.") from None
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise ParamsInvalid(f"{path} cannot be read as YAML: {type(error).__name__}.") from None
    return parse_params(raw, name=str(path))


def parse_params(raw: Any, *, name: str = "params.yaml") -> Params:
    """Checks what a YAML reader returned; see `load_params`."""
    if not isinstance(raw, Mapping):
        raise ParamsInvalid(f"{name} must be a mapping of sections, not {type(raw).__name__}.")
    try:
        return TypeAdapter(Params).validate_python(raw)
    except ValidationError as error:
        problems = "; ".join(_problem(detail) for detail in error.errors(include_url=False)[:5])
        raise ParamsInvalid(f"{name}: {problems}.") from None


def _problem(detail: ErrorDetails) -> str:
    """One complaint in the house's words: where, what, and the nearest known key."""
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _fields_at(detail["loc"][:-1])
        return f"unknown key {where!r}{_nearest(str(detail['loc'][-1]), known)}"
    if detail["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"key {where!r} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _fields_at(location: Sequence[int | str]) -> list[str]:
    """The keys that the declarations know at a place of the file."""
    kind: Any = Params
    for part in location:
        if hasattr(kind, "__dataclass_fields__"):
            field = kind.__dataclass_fields__.get(part)
            if field is None:
                return []
            kind = field.type
            options = [a for a in typing.get_args(kind) if hasattr(a, "__dataclass_fields__")]
            if options and typing.get_origin(kind) is not dict:
                kind = options[0]
        elif typing.get_origin(kind) is dict:
            kind = typing.get_args(kind)[1]
    return sorted(getattr(kind, "__dataclass_fields__", {}))


def resolve_secret(value: str) -> str:
    """`env:NAME` → that environment variable; anything else as it is. In a walk, a relative
    address is HOME's.

    Raises:
        ParamsInvalid: the variable is not set.
    """
    if not value.startswith("env:"):
        return address_at_home(value)
    name = value.removeprefix("env:")
    try:
        return address_at_home(os.environ[name])
    except KeyError:
        raise ParamsInvalid(f"params.yaml asks for ${name}, which is not set. Export it.") from None
