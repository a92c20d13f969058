"""validate: holds the shards against the declarations; one failed expectation stops the pipeline.

A Great Expectations suite built from `params.yaml`, in two parts: what holds row by row is
asked of a few shards at a time, so that memory is bounded; what holds only of all shards
together (shares, counts, people in two shards) is counted first, and asked of a table of
one row of those facts. Results are booleans, never values. Importing Great Expectations takes
seconds: this is the only module that does.
"""

import datetime as dt
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap

from lethe.config.params import Params
from lethe.config.tables import Column
from lethe.config.workspace import SHARDS, SUBJECTS, report_path, shard_name
from lethe.core.errors import NotFound, ValidationFailed
from lethe.core.files import write_json
from lethe.data.shards import read_people, read_shard

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # its imports of old standard modules
    import great_expectations as gx
    from great_expectations import expectations as gxe
    from great_expectations.data_context.types.base import ProgressBarsConfig

_BATCH_ROWS = 200_000  # rows in memory at a time, unless one shard has more
_LAST_TOKEN = 2**32 - 2  # the last number stands for no token

# What points at a person wherever it appears. Only what RE2 knows too: no look-around.
_EMAIL = r"[^\s@]+@[^\s@]+\.[A-Za-z]{2,}"
IDENTIFIERS = (
    _EMAIL,
    r"\+[0-9][0-9 ()./-]{6,}[0-9]",  # telephone, international
    r"\(?0?[0-9]{2,4}\)?[ ./-][0-9]{3,4}[ .-][0-9]{4}",  # telephone, national
    r"[0-9]{7,}",  # account, insurance, record and telephone numbers
    r"[0-9]{3}-[0-9]{2}-[0-9]{4}",  # social security number
    r"[0-9]{4}[ -][0-9]{4}[ -][0-9]{4}",  # card number
    r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}",  # UUID
    r"[0-9A-Fa-f]{16,}",  # digests and keys
    r"[A-Za-z]{1,6}[-_#:]?[0-9]{5,}",  # prefixed keys: MRN-00012345
)


@dataclass(frozen=True)
class Expected:
    """Whether one expectation holds; `column` is None if it is of the whole table."""

    name: str
    column: str | None
    success: bool

    def __str__(self) -> str:
        return self.name if self.column is None else f"{self.name}({self.column})"


def row_expectations(columns: Mapping[str, Column]) -> list[Any]:
    """What must hold of every row, and of the rows of one person, by the declarations alone.

    Args:
        columns: name in the shards → its declaration.
    """
    asked = [
        gxe.ExpectColumnValuesToNotBeNull(column="token"),
        gxe.ExpectColumnValuesToBeOfType(column="token", type_="uint32"),
        gxe.ExpectColumnValuesToBeBetween(column="token", min_value=0, max_value=_LAST_TOKEN),
        gxe.ExpectColumnValuesToNotBeNull(column="held_out"),
        gxe.ExpectColumnValuesToBeOfType(column="held_out", type_="bool"),
        gxe.ExpectColumnValuesToNotBeNull(column="rank"),
        gxe.ExpectColumnValuesToBeOfType(column="rank", type_="int32"),
        gxe.ExpectColumnValuesToBeBetween(column="rank", min_value=0),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["token", "rank"]),
    ]
    for name, column in columns.items():
        if column.role == "label":
            asked.append(gxe.ExpectColumnValuesToNotBeNull(column=name))
        if _is_number(column) and column.limits is not None:
            low, high = column.limits
            asked.append(gxe.ExpectColumnValuesToBeOfType(column=name, type_="float64"))
            asked.append(
                gxe.ExpectColumnValuesToBeBetween(column=name, min_value=low, max_value=high)
            )
    return asked


def value_expectations(columns: Mapping[str, Column]) -> list[Any]:
    """What must hold of every distinct value of the columns that are not numbers."""
    asked = []
    for name, column in columns.items():
        if _is_number(column):
            continue
        if column.categories is not None:
            asked.append(
                gxe.ExpectColumnValuesToBeInSet(column=name, value_set=list(column.categories))
            )
        asked.append(gxe.ExpectColumnValuesToNotMatchRegex(column=name, regex=_pattern(column)))
    return asked


def _is_number(column: Column) -> bool:
    return column.categories is None and column.role != "text"


def _pattern(column: Column) -> str:
    """What no value may look like; a declared category is public and may look like a number."""
    public = column.categories or ()
    return "|".join(
        f"(?:{pattern})"
        for pattern in IDENTIFIERS
        if pattern == _EMAIL or not any(re.search(pattern, category) for category in public)
    )


@dataclass
class ShardFacts:
    """What is counted over all shards; numbers of people and records only."""

    columns: Sequence[str]
    records: int = 0
    people: BitMap = field(default_factory=BitMap)
    held_out: BitMap = field(default_factory=BitMap)
    trained: BitMap = field(default_factory=BitMap)
    in_several_shards: BitMap = field(default_factory=BitMap)
    missing: dict[str, int] = field(default_factory=dict)
    most_records: int = 0

    def add(self, shard: pd.DataFrame) -> None:
        self.records += len(shard)
        tokens = pd.to_numeric(shard["token"], errors="coerce").dropna()
        tokens = tokens[(tokens >= 0) & (tokens <= _LAST_TOKEN)].astype(np.uint32)
        out = shard.loc[tokens.index, "held_out"].isin([True])
        here = BitMap(tokens.unique())
        self.in_several_shards |= self.people & here
        self.people |= here
        self.held_out |= BitMap(tokens[out].unique())
        self.trained |= BitMap(tokens[~out].unique())
        if len(tokens):
            self.most_records = max(self.most_records, int(tokens.value_counts().iloc[0]))
        for name in self.columns:
            self.missing[name] = self.missing.get(name, 0) + int(shard[name].isna().sum())

    def frame(self, listed: BitMap) -> pd.DataFrame:
        """One row; `listed` is what `data/subjects.roaring` says who is there."""
        shares = {name: [self.missing.get(name, 0) / max(self.records, 1)] for name in self.columns}
        return pd.DataFrame(
            {
                "subjects": [len(self.people)],
                "subjects_in_several_shards": [len(self.in_several_shards)],
                "subjects_held_out_and_not": [len(self.held_out & self.trained)],
                "subjects_not_as_listed": [len(self.people ^ listed)],
                "records_per_subject": [self.most_records],
                **{f"missing_share {name}": share for name, share in shares.items()},
            }
        )


def fact_expectations(params: Params) -> list[Any]:
    """What must hold of `Facts.frame`."""

    def between(column: str, low: float | None, high: float | None) -> Any:
        return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high)

    asked = [
        between("subjects", params.subject.minimum, None),
        between("subjects_in_several_shards", 0, 0),
        between("subjects_held_out_and_not", 0, 0),
        between("subjects_not_as_listed", 0, 0),
    ]
    if params.validation.max_records_per_subject is not None:
        asked.append(between("records_per_subject", 1, params.validation.max_records_per_subject))
    made = params.aggregates  # missing where there are no child rows, which is no gap
    for name in (name for name in params.taken_columns() if name not in made):
        asked.append(between(f"missing_share {name}", 0, params.validation.max_missing_share))
    return asked


class Suite:
    """Asks expectations of frames; an expectation holds if it held of every frame."""

    def __init__(self) -> None:
        context = gx.get_context(mode="ephemeral")
        context.enable_analytics(False)
        context.variables.progress_bars = ProgressBarsConfig(
            globally=False, metric_calculations=False
        )
        asset = context.data_sources.add_pandas("memory").add_dataframe_asset("shards")
        self._batches = asset.add_batch_definition_whole_dataframe("rows")
        self._held: dict[tuple[str, str | None], bool] = {}

    def ask(self, frame: pd.DataFrame, expectations: Sequence[Any]) -> None:
        suite = gx.ExpectationSuite(name="declarations", expectations=list(expectations))
        batch = self._batches.get_batch(batch_parameters={"dataframe": frame})
        answers = batch.validate(suite, result_format="BOOLEAN_ONLY")
        if len(answers.results) != len(expectations):
            raise ValidationFailed(
                f"{len(expectations)} expectations were asked and {len(answers.results)} answered."
            )
        for answer in answers.results:
            config = answer.expectation_config
            asked = (config.type, config.kwargs.get("column"))
            self._held[asked] = self._held.get(asked, True) and bool(answer.success)

    def outcomes(self) -> list[Expected]:
        return [
            Expected(name, column, success)
            for (name, column), success in sorted(
                self._held.items(), key=lambda item: (item[0][1] or "", item[0][0])
            )
        ]


def validate(paths: Sequence[Path], listed: BitMap, params: Params) -> list[Expected]:
    """Every expectation of the declarations and whether the shards meet it.

    Guarantees: what is returned names expectations and columns, never a value.
    Args:
        paths: the shards.
        listed: the tokens that should be in them.
    """
    columns = {name: column for name, (_, column) in params.taken_columns().items()}
    names = ["token", "held_out", "rank", *columns]
    facts = ShardFacts(list(columns))
    with _quiet():
        suite = Suite()
        in_order = [gxe.ExpectTableColumnsToMatchOrderedList(column_list=names)]
        for path in paths:
            suite.ask(pd.DataFrame(columns=pq.read_schema(path).names), in_order)
        by_row, by_value = row_expectations(columns), value_expectations(columns)
        for frame in _batches(paths, names, facts):
            suite.ask(frame, by_row)
            if by_value:
                suite.ask(_distinct(frame, columns), by_value)
        suite.ask(facts.frame(listed), fact_expectations(params))
    return suite.outcomes()


def _frame(path: Path, names: Sequence[str]) -> pd.DataFrame:
    """A shard with exactly these columns; one that is not there is all null."""
    table = read_shard(path)
    frame = table.to_pandas(ignore_metadata=True).reindex(columns=list(names))
    text = [
        name
        for name in names
        if name not in table.column_names or pa.types.is_null(table.schema.field(name).type)
    ]
    return frame.astype(dict.fromkeys(text, "float64"))


def _distinct(frame: pd.DataFrame, columns: Mapping[str, Column]) -> pd.DataFrame:
    """Each column's distinct values, null below: a hundred values to search, not all rows."""
    return pd.DataFrame(
        {
            name: pd.Series(frame[name].dropna().unique(), dtype=frame[name].dtype)
            for name, column in columns.items()
            if not _is_number(column)
        }
    )


def _batches(
    paths: Sequence[Path], names: Sequence[str], facts: ShardFacts
) -> Iterator[pd.DataFrame]:
    """The shards, counted one by one, and a few in one frame to ask of: asking is dear."""
    waiting: list[pd.DataFrame] = []
    rows = 0
    for path in paths:
        waiting.append(_frame(path, names))
        facts.add(waiting[-1])
        rows += len(waiting[-1])
        if rows >= _BATCH_ROWS:
            yield pd.concat(waiting, ignore_index=True)
            waiting, rows = [], 0
    if waiting:
        yield pd.concat(waiting, ignore_index=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Its log may quote values in what an expectation raised; the outcome says that it failed."""
    logger = logging.getLogger("great_expectations")
    before = logger.propagate, logger.handlers
    # Not by level: some of its modules set their own.
    logger.propagate, logger.handlers = False, [logging.NullHandler()]
    try:
        yield
    finally:
        logger.propagate, logger.handlers = before


def run(params: Params, *, now: dt.datetime) -> dict[str, Any]:
    """Runs the stage; `now` is not used.

    Raises:
        ValidationFailed: an expectation failed; the report was written and says which.
        NotFound: pseudonymize has not run.
    """
    names = [shard_name(shard) for shard in range(params.shards)]
    shards, subjects = params.at(SHARDS), params.at(SUBJECTS)
    if sorted(path.name for path in shards.glob("*")) != names or not subjects.exists():
        raise NotFound(
            f"{SHARDS} and {SUBJECTS} do not hold the {params.shards} declared shards. "
            "Run lethe pseudonymize."
        )
    listed = read_people(subjects)
    outcomes = validate([shards / name for name in names], listed, params)
    failed = [str(outcome) for outcome in outcomes if not outcome.success]
    report: dict[str, Any] = {
        "passed": not failed,
        "expectations": [
            {"name": outcome.name, "column": outcome.column, "success": outcome.success}
            for outcome in outcomes
        ],
    }
    write_json(params.at(report_path("validate")), report)
    if failed:
        raise ValidationFailed(
            f"{len(failed)} of {len(outcomes)} expectations failed: {', '.join(failed)}. "
            f"{report_path('validate')} lists all; correct the source or the declarations."
        )
    return report
