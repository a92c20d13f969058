"""What the tables and columns of the source are: the part of `params.yaml` about data.

Each class checks itself at construction; what several of them must agree on is
checked by `lethe.config.params`.
"""

import math
import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from lethe.config.aggregates import MOST_DAYS, Aggregate
from lethe.config.links import DeclaredLink, Link, When, as_declared, parse_links
from lethe.core.times import check_zone

_CLOSED = ConfigDict(extra="forbid")

Role = Literal[
    "subject_key",  # names the person; replaced by a token, never leaves source and vault
    "link",  # a key of a row or to another row; joins in SQL, never leaves the source
    "identifier",  # points at a person by itself (name, e-mail, phone)
    "quasi_identifier",  # points at a person together with others; must be generalized
    "feature",
    "label",
    "aggregated",  # a number of a row of which aggregates are made; itself it never leaves
    "text",  # free text: scrubbed or refused
    "timestamp",  # when the row came to be: for retention and order, never trained on
    "consent",  # a column of the consent table
    "unused",  # there, but not needed for this purpose: never read
]
# Whoever adds a role says here what it allows; what is said nowhere is not allowed.
TRAINED: frozenset[Role] = frozenset({"feature", "quasi_identifier", "label"})  # leaves minimize
READ: frozenset[Role] = TRAINED | {
    "subject_key",
    "link",
    "timestamp",
    "consent",
    "aggregated",
}  # by statements
ColumnType = Literal["integer", "real", "boolean", "category", "date", "timestamp", "text"]

# The first letter of an ICD-9 code or its number's range; published chapters of the
# classification (WHO, ICD-9, 1977), shortened to the groups of Strack et al. (2014), table 2.
ICD9_GROUPS = (
    "circulatory",
    "respiratory",
    "digestive",
    "diabetes",
    "injury",
    "musculoskeletal",
    "genitourinary",
    "neoplasms",
    "other",
)


DATE_CODES = frozenset({f"%{code}" for code in "YymdHIMSpbBj"})


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Generalization:
    """How a value is made coarser before it is stored; exactly one kind.

    `bins`: numeric edges; a value becomes the half-open interval that has it.
    `bottom`, `top`: numeric values beyond are set to the limit (bottom and top coding).
    `groups`: category → its raw values; `others` names the group of everything else.
    `prefix`: the first characters of a text, upper case (postcodes).
    `icd9`: an ICD-9 code becomes its chapter.
    `year`: a date becomes its year.
    `age_at`: a birth date becomes whole years at that timestamp column of the records'
        table; with `bins` the interval of it.
    """

    bins: tuple[float, ...] | None = None
    bottom: float | None = None
    top: float | None = None
    groups: dict[str, tuple[str, ...]] | None = None
    others: str | None = None
    prefix: int | None = Field(default=None, ge=1)
    icd9: bool = False
    year: bool = False
    age_at: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "Generalization":
        kinds = [
            bool(self.bins) and not self.age_at,
            self.bottom is not None or self.top is not None,
            bool(self.groups),
            self.prefix is not None,
            self.icd9,
            self.year,
            bool(self.age_at),
        ]
        if sum(kinds) != 1:
            raise ValueError("declare exactly one kind of generalization")
        if self.bins is not None and (
            len(self.bins) < 2
            or any(a >= b for a, b in zip(self.bins, self.bins[1:], strict=False))
        ):
            raise ValueError(f"bins must be two or more rising edges, not {list(self.bins)}")
        if self.others is not None and not self.groups:
            raise ValueError("others names the remaining group of `groups`; declare groups")
        if self.bottom is not None and self.top is not None and self.bottom >= self.top:
            raise ValueError(f"bottom={self.bottom:g} must be below top={self.top:g}")
        return self

    @property
    def intervals(self) -> tuple[str, ...] | None:
        """Names of the half-open intervals that `bins` makes, e.g. `[0,30)`."""
        if self.bins is None:
            return None
        return tuple(f"[{a:g},{b:g})" for a, b in zip(self.bins, self.bins[1:], strict=False))


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Column:
    """One column: what it is, what may be in it, and why it is needed.

    `mentions`, of texts and identifiers: what an erasure does where somebody else's row names
    the person; `redact` takes the words out, `report` (of texts the default) leaves it to a
    human.
    `time_zone`: of times without one, where it is not the source's. `format`: of dates that are
    not ISO 8601, as `strptime` has it (`%d/%m/%Y`).
    """

    role: Role
    type: ColumnType = "text"
    why: str | None = None
    domain: tuple[str, ...] | None = None
    bounds: tuple[float, float] | None = None
    outside: Literal["reject", "clip", "null"] = "reject"
    missing: tuple[str, ...] = ()
    generalize: Generalization | None = None
    positive: tuple[str, ...] | None = None
    scrub: Literal["refuse", "presidio"] = "refuse"
    buckets: int = Field(default=32, ge=2, le=65536)
    names_people: bool = False
    mentions: Literal["redact", "report"] | None = None
    time_zone: str | None = None
    format: str | None = None

    @property
    def taken(self) -> bool:
        """Whether minimize lets the column's (generalized) values through."""
        return self.role in TRAINED or (self.role == "text" and self.scrub == "presidio")

    @property
    def categories(self) -> tuple[str, ...] | None:
        """Every value that can leave minimize, for what is categorical then; public."""
        g = self.generalize
        if g is not None:
            if g.intervals is not None:
                return g.intervals
            if g.icd9:
                return ICD9_GROUPS
            if g.groups is not None:
                # Sorted, as JSON has them: an encoding that was written and read is the same one.
                return (*sorted(g.groups), *((g.others,) if g.others else ()))
        if self.type == "boolean":
            return ("false", "true")
        return self.domain

    @property
    def limits(self) -> tuple[float, float] | None:
        """Least and greatest number that can leave minimize, for what is numeric then; public."""
        g = self.generalize
        if self.categories is not None:
            return None
        if g is not None and (g.bottom is not None or g.top is not None):
            low, high = self.bounds or (-math.inf, math.inf)
            return (
                low if g.bottom is None else max(low, g.bottom),
                high if g.top is None else min(high, g.top),
            )
        return self.bounds

    def _check_dates(self) -> None:
        if self.time_zone is not None:
            check_zone(self.time_zone)
        unknown = set(re.findall("%.?", self.format or "")) - DATE_CODES
        if self.format is not None and (unknown or "%" not in self.format):
            raise ValueError(
                f"format {self.format!r} must be of {', '.join(sorted(DATE_CODES))}, as in %d/%m/%Y"
            )
        dated = self.type in ("date", "timestamp") or self.role in ("timestamp", "consent")
        if (self.format or self.time_zone) and not dated:
            raise ValueError("format and time_zone belong to dates: type date or timestamp")

    @model_validator(mode="after")
    def _possible(self) -> "Column":
        if self.role not in ("unused", "link", "consent") and not (self.why or "").strip():
            raise ValueError(f"role {self.role} needs `why`: what the column is needed for")
        self._check_dates()
        if self.mentions is not None and self.role not in ("text", "identifier"):
            raise ValueError(f"mentions belongs to role text or identifier, not {self.role}")
        if self.bounds is not None and not (
            self.bounds[0] < self.bounds[1] and all(map(math.isfinite, self.bounds))
        ):
            raise ValueError(f"bounds must be two finite rising numbers, not {list(self.bounds)}")
        if self.domain is not None and (
            len(self.domain) == 0 or len(set(self.domain)) != len(self.domain)
        ):
            raise ValueError("domain must list at least one value, and each once")
        g = self.generalize
        numeric = self.type in ("integer", "real")
        if g is not None:
            if (
                g.bottom is not None or g.top is not None or (g.bins and not g.age_at)
            ) and not numeric:
                raise ValueError(f"bins, bottom and top need type integer or real, not {self.type}")
            if (g.year or g.age_at) and self.type not in ("date", "timestamp"):
                raise ValueError(f"year and age_at need type date or timestamp, not {self.type}")
            if (g.groups or g.icd9 or g.prefix) and self.type not in ("category", "text"):
                raise ValueError(f"groups, icd9 and prefix need type category, not {self.type}")
        if self.role == "aggregated" and (not numeric or g is not None or self.domain is not None):
            raise ValueError("role aggregated is of numbers: type integer or real, and no domain")
        if self.outside == "clip" and not (numeric or (g is not None and (g.year or g.age_at))):
            raise ValueError("outside: clip needs a number; use reject or null for categories")
        if self.role == "quasi_identifier" and g is None:
            raise ValueError("a quasi_identifier needs `generalize`, or is a feature")
        if self.role in TRAINED:
            limits = self.limits
            if self.categories is None and (limits is None or not all(map(math.isfinite, limits))):
                raise ValueError(
                    f"a {self.role} needs a declared domain, bounds or bins: they come from "
                    "public knowledge, never from the data"
                )
        if self.role == "label":
            if self.categories is None:
                raise ValueError("the label must be categorical: declare a domain or bins")
            unknown = set(self.positive or ()) - set(self.categories)
            if unknown:
                raise ValueError(
                    f"positive names {sorted(unknown)}, not in {list(self.categories)}"
                )
        elif self.positive is not None:
            raise ValueError("positive belongs to the label")
        return self


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Retention:
    """Rows of a day more than `days` ago, by column `by`, are never read, and leave by
    `lethe retain`."""

    days: int = Field(ge=1, le=MOST_DAYS)
    by: str


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Erase:
    """What an erasure does to this table's rows about the person.

    `columns` are blanked in rows that are anonymized or retained: null, or where the database
    allows none, `replace`'s value, or for text the word `erased`. Links to rows that go are
    cut by themselves.
    `days` after `by` (a timestamp column; without one, after the erasure) a retained row's
    legal basis ends: what is older is deleted like everything else.
    `shared`: what happens to a row that is about somebody else and points at the person too, or
    that points at a row past its retention (`unlink` nulls the link). Without it a link that can
    be null is nulled, a row of nothing but links is deleted, and any other stops it.
    """

    action: Literal["delete", "anonymize", "retain"]
    columns: tuple[str, ...] = ()
    replace: dict[str, str | int | float | bool] = Field(default_factory=dict)
    basis: str | None = None
    days: int | None = Field(default=None, ge=1, le=MOST_DAYS)
    by: str | None = None
    shared: Literal["delete", "unlink"] | None = None

    @model_validator(mode="after")
    def _complete(self) -> "Erase":
        if self.action == "anonymize" and not self.columns:
            raise ValueError("erase: anonymize needs the columns to blank")
        if self.action == "retain" and not (self.basis and self.days):
            raise ValueError("erase: retain needs its legal basis (Art. 17(3)) and days")
        if self.action == "delete" and self.columns:
            raise ValueError("erase: delete takes whole rows; columns is for anonymize and retain")
        stray = sorted(set(self.replace) - set(self.columns))
        if stray:
            raise ValueError(f"erase: replace names {stray}, which columns does not")
        return self


@dataclass(frozen=True, kw_only=True, config=_CLOSED)
class Table:
    """One table of the source.

    `about`: `person` if its rows are about the person that their links lead to; `shared` if
    people's rows point at them (an address of two): one goes with the last that does.
    `links` maps own columns to another table's: `{patient_id: patients.patient_id}`;
    a composite key is written with commas: `{"a, b": "t.a, t.b"}`; a link that holds for some
    rows only, with `when`: `{object_id: [{to: people.id, when: {object_type: Person}}]}`.
    `not_links` names columns that look like a link to a person and are none.
    `aggregates`, of the records' table: features made of other tables' rows.
    """

    columns: dict[str, Column]
    about: Literal["person", "nobody", "shared"] = "person"
    links: dict[str, Annotated[tuple[DeclaredLink, ...], BeforeValidator(as_declared)]] = Field(
        default_factory=dict
    )
    not_links: tuple[str, ...] = ()
    retention: Retention | None = None
    erase: Erase | None = None
    unused: tuple[str, ...] = ()
    aggregates: dict[str, Aggregate] = Field(default_factory=dict)

    @property
    def computed(self) -> dict[str, Column]:
        """What the aggregates become, as columns."""
        return {
            name: Column(
                role="feature",
                type="integer" if made.function == "count" else "real",
                why=made.why,
                bounds=made.bounds,
                outside=made.outside,
            )
            for name, made in self.aggregates.items()
        }

    @property
    def parsed_links(self) -> tuple[Link, ...]:
        return tuple(
            link for own, declared in self.links.items() for link in parse_links(own, declared)[1]
        )

    @property
    def conditions(self) -> dict[tuple[str, ...], tuple[When, ...]]:
        """Own columns of the links that hold for some rows only, and for which."""
        return {
            parse_links(own, declared)[0]: tuple(each.condition for each in declared)
            for own, declared in self.links.items()
            if any(each.when for each in declared)
        }

    @property
    def declared(self) -> frozenset[str]:
        """Every column that the declaration knows, the unused ones included."""
        return frozenset(self.columns) | frozenset(self.unused)

    @model_validator(mode="after")
    def _consistent(self) -> "Table":
        both = set(self.aggregates) & self.declared
        if both:
            raise ValueError(f"aggregates {sorted(both)}: there are columns of that name")
        odd = [name for name in self.aggregates if not name.isidentifier()]
        if odd:
            raise ValueError(f"aggregates {odd}: a name is letters, digits and _")
        both = set(self.columns) & set(self.unused)
        if both:
            raise ValueError(f"columns {sorted(both)} are declared and listed as unused")
        if self.retention is not None:
            by = self.columns.get(self.retention.by)
            if by is None or by.role != "timestamp":
                raise ValueError(
                    f"retention.by={self.retention.by!r} must be a column with role timestamp"
                )
        for link in self.parsed_links:
            for column in link.columns:
                if column not in self.columns:
                    raise ValueError(f"link column {column!r} is not declared in this table")
        self._check_conditions()
        erase = self.erase
        for column in (*erase.columns, *filter(None, [erase.by])) if erase else ():
            if column not in self.declared:
                raise ValueError(f"erase names column {column!r}, which is not declared")
        if erase is not None and erase.by is not None:
            by = self.columns.get(erase.by)
            if by is None or by.role != "timestamp":
                raise ValueError(f"erase.by={erase.by!r} must be a column with role timestamp")
        for column in self.not_links:
            if column not in self.declared:
                raise ValueError(f"not_links names column {column!r}, which is not declared")
        return self

    def _check_conditions(self) -> None:
        """What says where a row points can be read, and outlives what the row points at."""
        blanked = self.erase.columns if self.erase else ()
        for whens in self.conditions.values():
            for column in {column for when in whens for column, _ in when}:
                declared = self.columns.get(column)
                if declared is None or declared.role not in READ:
                    raise ValueError(f"when names column {column!r}: declare it with role link")
                if column in blanked:
                    raise ValueError(
                        f"erase blanks {column!r}, which says where a row points; blank the link"
                    )
