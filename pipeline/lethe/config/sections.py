"""The sections of `params.yaml`, each frozen and checked by itself.

Classes whose fields change the privacy guarantee say so in their first line; the others cannot
change it. `training` has a module of its own. What sections must agree on is checked by
`lethe.config.checks`.
"""

import re
from pathlib import PurePosixPath
from typing import Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from lethe.config.csv_form import CsvForm
from lethe.core.text import folded
from lethe.core.times import check_zone

CLOSED = ConfigDict(extra="forbid")
_MADE = frozenset(
    {".dvc", ".git", ".lethe", "data", "mlartifacts", "mlruns", "model", "receipts", "reports"}
)


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class DeclaredSource:
    """Where the people's data is: a SQLAlchemy URL, `csv:FOLDER`, `parquet:FOLDER`, or
    `env:NAME` for a URL that is a secret; `time_zone` is that of times without one.

    `schema`: of PostgreSQL, the one schema that is read and erased from. `csv`: how a folder's
    CSV files are written.
    """

    url: str
    chunk_rows: int = Field(default=20_000, ge=1)
    time_zone: str = "UTC"
    schema: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    csv: CsvForm = Field(default_factory=CsvForm)

    @model_validator(mode="after")
    def _possible(self) -> "DeclaredSource":
        check_zone(self.time_zone)
        kind = self.url.partition(":")[0]
        if self.csv != CsvForm() and kind not in ("csv", "env"):
            raise ValueError("csv says how CSV files are written; source.url is no csv:FOLDER")
        if self.schema is not None and not kind.startswith(("postgres", "env")):
            raise ValueError("schema is of PostgreSQL; source.url leads to none")
        return self


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class Subject:
    """Which table has one row a person, its key, and how few people stop the pipeline.

    `key`: a column, or several as a list, which then name a person together and in this order.
    """

    table: str
    key: str | tuple[str, ...]
    minimum: int = Field(default=100, ge=1)

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns of the key, in their order."""
        return (self.key,) if isinstance(self.key, str) else self.key

    @property
    def called(self) -> str:
        """The key as a message names it."""
        return ", ".join(self.keys)

    @model_validator(mode="after")
    def _as_list(self) -> "Subject":
        if isinstance(self.key, str):
            if "," in self.key:
                listed = ", ".join(part.strip() for part in self.key.split(","))
                raise ValueError(
                    f"key {self.key!r}: write a key of several columns as a list: [{listed}]"
                )
        elif len(set(self.key)) < max(2, len(self.key)):
            raise ValueError("key: a list names two columns or more, each once; write one as it is")
        return self


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class Records:
    """Which table has one row a training record; `latest_by` orders a person's records.

    `latest_by`: a column of that table, or `table.column` of one that its rows point at.
    `without_person`: what becomes of records that lead to nobody: `refuse` stops the run,
        `leave_out` counts them in the report.
    """

    table: str
    latest_by: str | None = None
    without_person: Literal["refuse", "leave_out"] = "refuse"


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class Consent:
    """Where people's answers are; an append-only history, the latest one counts.

    `subject`: the column, or of a key of several columns a list of them in the key's order.
    Answers and purposes are compared whatever their case and blanks. `every_purpose` names
    purposes of which a refusal ends consent for all, and a yes counts for none;
    `other_purposes` names those that look like the declared one and are not meant.
    """

    table: str
    subject: str | tuple[str, ...]
    purpose: str
    answer: str
    time: str
    yes: tuple[str, ...] = ("yes",)
    no: tuple[str, ...] = ("no", "withdrawn")
    every_purpose: tuple[str, ...] = ()
    other_purposes: tuple[str, ...] = ()

    @property
    def subjects(self) -> tuple[str, ...]:
        """The columns that say whose an answer is, in the order of the subject's key."""
        return (self.subject,) if isinstance(self.subject, str) else self.subject

    @model_validator(mode="after")
    def _apart(self) -> "Consent":
        if not isinstance(self.subject, str) and len(set(self.subject)) < max(2, len(self.subject)):
            raise ValueError("subject: a list names two columns or more, each once")
        both = set(map(folded, self.yes)) & set(map(folded, self.no))
        if both or not any(map(folded, self.yes)) or not all(map(folded, self.yes)):
            raise ValueError(f"yes must name an answer, and none of no's; both have {sorted(both)}")
        both = set(map(folded, self.every_purpose)) & set(map(folded, self.other_purposes))
        if both:
            raise ValueError(f"every_purpose and other_purposes both have {sorted(both)}")
        return self


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class Stores:
    """Lethe's own databases and keys; any SQLAlchemy URL or `env:NAME`."""

    vault: str = "sqlite:///.lethe/vault.db"
    ledger: str = "sqlite:///.lethe/ledger.db"
    registry: str = "sqlite:///mlflow.db"
    key_file: str = "secrets/lethe.key"


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class Validation:
    """Limits of the validation suite beyond what the columns declare."""

    max_missing_share: float = Field(default=1.0, ge=0, le=1)
    max_records_per_subject: int | None = Field(default=None, ge=1)


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class Budget:
    """Changes the guarantee: what one person may lose over all runs together.

    >>> import lethe
    >>> lethe.Budget(epsilon=6.0, delta=1e-5).over_budget
    'refuse'

    `over_budget` says what happens to a run that would bring somebody above it: `refuse`, or
    `leave_out` those people. RDP is what the budget is held to.
    """

    epsilon: float = Field(gt=0, allow_inf_nan=False)
    delta: float = Field(gt=0, lt=1)
    over_budget: Literal["leave_out", "refuse"] = "refuse"


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class Parallel:
    """Over how many processes of this machine a training runs: cannot change the guarantee.

    Apart from `training`, so that another number trains, and spends, nothing anew.
    """

    processes: int = Field(default=1, ge=1, le=64)


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class Audit:
    """How hard the model is attacked before it may be registered.

    `transcript_megabytes`: of what a training's steps drew and released, kept until its audit; of
        a longer run, a random part.
    `look_operations`: that sums of the run's steps may cost, computed anew person by person; as
        many steps are looked at as that allows, and four whatever they cost: the last one, and
        one from each third of those that are kept. 3e11 are minutes on two cores.
    `transcript_days`: how long that waits for an audit that does not come.
    """

    subjects: int = Field(default=5_000, ge=50)
    replays: int = Field(default=8, ge=1)
    transcript_megabytes: int = Field(default=1_024, ge=1)
    look_operations: float = Field(default=3e11, gt=0, le=1e18)
    transcript_days: int = Field(default=14, ge=1, le=366)


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class Reporting:
    """Changes the guarantee: what may be said of people in figures, beside the model.

    `epsilon`: what the figures of one training cost everybody in them, held-out people included,
        by PLD at `budget.delta`; 0 for no figures at all.
    `granularity`: counts of people on a screen and in messages are rounded to multiples of it.
    """

    epsilon: float = Field(default=0.25, ge=0, le=100)
    granularity: int = Field(default=100, ge=1)


@dataclass(frozen=True, kw_only=True, config=CLOSED)
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
    def _name_of_a_model(self) -> "Registration":
        name = self.name
        if (
            not re.fullmatch(r"[^/:\x00-\x1f\x7f]{1,256}", name)
            or name.strip() != name
            or name == "."
            or name.startswith("..")
        ):
            raise ValueError(
                "name must be one that the registry takes: 1 to 256 characters, no / or :, no "
                "blank at an end, and no dots alone"
            )
        return self

    @model_validator(mode="after")
    def _approvers_where_they_decide(self) -> "Registration":
        if (self.promote == "approval") != bool(self.approvers):
            raise ValueError("approvers are named where promote is approval, and only there")
        if any(not re.fullmatch(r"[A-Za-z0-9][\w.@+-]*", name) for name in self.approvers):
            raise ValueError("an approver is a user name: letters, digits and . _ @ + -")
        return self


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class ExpiredModels:
    """What becomes of a model in use that learned from rows whose time is over since.

    `retrain`: `next_training` keeps it until the next training happens anyway, so that
        retention spends nobody's budget by itself; `automatic` trains anew if that has not
        happened `delay_days` after the rows left.
    """

    retrain: Literal["next_training", "automatic"] = "next_training"
    delay_days: int = Field(default=30, ge=0, le=366)


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class Erasure:
    """How an erasure goes on once everything but models is gone.

    `delay_days`: how long requests are gathered before one retraining ends them all; people
        who remain pay for each retraining. At most 25: a request has a month.
    `retrain`: `automatic`, or `manual` to withdraw the models that somebody was in and leave
        it to a person to run the pipeline again.
    `retention`: the same of rows past their retention, for which nobody asked.
    `code`: folders of the workspace whose files in git are code: they, and their versions in git's
        history, are not searched for people's keys and identifiers. Receipts name them.
    """

    delay_days: int = Field(default=0, ge=0, le=25)
    retrain: Literal["automatic", "manual"] = "automatic"
    retention: ExpiredModels = Field(default_factory=ExpiredModels)
    code: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _only_code(self) -> "Erasure":
        for folder in self.code:
            parts = PurePosixPath(folder).parts
            if not parts or PurePosixPath(folder).is_absolute() or {"..", "~"} & set(parts):
                raise ValueError(f"code names folders below params.yaml, like tests; not {folder}")
            if parts[0] in _MADE:
                raise ValueError(f"code cannot name {folder}: what is made of people lies there")
        return self
