"""The sections of `params.yaml`, each frozen and checked by itself.

Classes whose fields change the privacy guarantee say so in their first line; the others cannot
change it. `training` has a module of its own. What sections must agree on is checked by
`lethe.config.checks`.
"""

import re
from typing import Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from lethe.core.text import folded
from lethe.core.times import check_zone

CLOSED = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class Source:
    """Where the people's data is: a SQLAlchemy URL, `csv:FOLDER`, `parquet:FOLDER`, or
    `env:NAME` for a URL that is a secret; `time_zone` is that of times without one."""

    url: str
    chunk_rows: int = Field(default=20_000, ge=1)
    time_zone: str = "UTC"

    @model_validator(mode="after")
    def _zone(self) -> "Source":
        check_zone(self.time_zone)
        return self


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class Subject:
    """Which table has one row a person, its key, and how few people stop the pipeline."""

    table: str
    key: str
    minimum: int = Field(default=100, ge=1)


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class Records:
    """Which table has one row a training record; `latest_by` orders a person's records."""

    table: str
    latest_by: str | None = None


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class Consent:
    """Where people's answers are; an append-only history, the latest one counts.

    Answers and purposes are compared whatever their case and blanks. `every_purpose` names
    purposes of which a refusal ends consent for all, and a yes counts for none;
    `other_purposes` names those that look like the declared one and are not meant.
    """

    table: str
    subject: str
    purpose: str
    answer: str
    time: str
    yes: tuple[str, ...] = ("yes",)
    no: tuple[str, ...] = ("no", "withdrawn")
    every_purpose: tuple[str, ...] = ()
    other_purposes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _apart(self) -> "Consent":
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
    """How hard the model is attacked before it may be registered."""

    subjects: int = Field(default=5_000, ge=50)
    replays: int = Field(default=8, ge=1)


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
    """

    delay_days: int = Field(default=0, ge=0, le=25)
    retrain: Literal["automatic", "manual"] = "automatic"
    retention: ExpiredModels = Field(default_factory=ExpiredModels)
