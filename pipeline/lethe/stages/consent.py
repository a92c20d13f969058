"""consent: keeps the subjects whose latest answer for the purpose is yes.

Reads `data/minimized` and the consent table, writes `data/consented`, and counts for the operator.
"""

import datetime as dt
from collections import Counter
from functools import partial
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lethe.config import private_reports
from lethe.config.params import Params
from lethe.config.workspace import CONSENTED, MINIMIZED, report_path, shard_name, whole_directory
from lethe.core.errors import FileDamaged, NobodyConsents, NotFound, TooFewSubjects
from lethe.core.files import RESTORE, write_json
from lethe.core.reading import damage
from lethe.core.shown import about
from lethe.data.shards import read_shard
from lethe.people.consents import Decisions, read_decisions, snapshot
from lethe.people.suppression import Standing, come_back, standing
from lethe.stores.source.read import Source

NO_ANSWER = "no answer for this purpose"
KEPT_OUT = "has asked to be left out, or was erased"


def consent(records: pa.Table, willing: pd.Index) -> pa.Table:
    """The records of willing subjects, as they were.

    Guarantees: a record whose subject is not among `willing`, or null, is absent; the rest
        keep their order and schema.
    Shapes: records with `subject` → the same columns.
    """
    agreed = pa.array(willing, type=records.schema.field("subject").type)
    return records.filter(pc.is_in(records["subject"], value_set=agreed, skip_nulls=True))


def left_out(subjects: pd.Index, decisions: Decisions, allowed: pd.Index) -> Counter[str]:
    """How many of these subjects are not kept, by reason."""
    unwilling = subjects.difference(decisions.willing)
    answers = decisions.latest.reindex(unwilling)
    reasons: Counter[str] = Counter()
    for answer, count in answers.value_counts(dropna=True).items():
        reasons[f"latest answer is {answer}"] += int(count)
    if unanswered := int(answers.isna().sum()):
        reasons[NO_ANSWER] += unanswered
    if kept_out := len(subjects.intersection(decisions.willing).difference(allowed)):
        reasons[KEPT_OUT] += kept_out
    return reasons


def run(params: Params, *, now: dt.datetime) -> dict[str, Any]:
    """Runs the stage.

    Guarantees: `data/consented` is readable by its owner alone and holds nobody whose latest
        answer up to the snapshot is not yes, who has an open request that concerns the
        purpose, or who is suppressed and has not agreed since; counts go to the
        operator's private report alone.

    Raises:
        ConsentInvalid: the consent table does not hold; see `read_decisions`.
        NobodyConsents, TooFewSubjects: too few are left.
        NotFound: minimize has not run.
    """
    names = [shard_name(shard) for shard in range(params.shards)]
    if sorted(path.name for path in params.at(MINIMIZED).glob("*.parquet")) != names:
        raise NotFound(
            f"{MINIMIZED} does not hold the {params.shards} declared shards. Run lethe minimize."
        )
    with Source.open(params) as source:
        decisions = read_decisions(source, params, as_of=snapshot(params, now), now=now)
    stand = standing(params, decisions)
    if stand.fresh:
        come_back(params, stand)
    subjects = records_in = willing = records = 0
    reasons: Counter[str] = Counter()
    with whole_directory(params.root, CONSENTED, private=True) as folder:
        for name in names:
            everything = read_shard(params.at(MINIMIZED) / name)
            kept = consent(everything, stand.allowed)
            pq.write_table(kept, folder / name, compression="zstd")
            everybody = _people(everything)
            subjects += len(everybody)
            willing += len(_people(kept))
            records_in += everything.num_rows
            records += kept.num_rows
            reasons += left_out(everybody, decisions, stand.allowed)
        if willing == 0:
            raise NobodyConsents(_why_nobody(params, decisions, stand, records_in))
        _refuse_few(willing, params)
    report: dict[str, Any] = {"purpose": params.purpose}
    exact: dict[str, Any] = {
        "subjects_in": subjects,
        "subjects": willing,
        "left_out": dict(reasons),
        "records_in": records_in,
        "records": records,
    }
    private_reports.write(params.root, "consent", exact)
    write_json(params.at(report_path("consent")), report)
    return exact | report


def _people(records: pa.Table) -> pd.Index:
    return pd.Index(pc.unique(records["subject"]).drop_null().to_pylist(), dtype="str")


def _why_nobody(params: Params, decisions: Decisions, stand: Standing, records: int) -> str:
    """Which of the things that leave nobody to learn from it is."""
    table = params.records.table
    some = partial(about, granularity=params.reporting.granularity)
    if not records:
        made = private_reports.read(params.root, "minimize")
        names = ("rows", "rows_past_retention", "rows_undated")
        with damage(
            lambda: FileDamaged(f"{private_reports.REPORTS}/minimize.json lacks counts. {RESTORE}")
        ):
            rows, past, undated = (made[name] for name in names)
        if not rows:
            return (
                f"Nobody has a record: table {table} is empty. Check records.table and source.url."
            )
        return (
            f"Nobody has a record that may be used: of {some(rows)} rows of {table}, {some(past)} "
            f"are past their retention and {some(undated)} have no date that can be read. Check "
            f"tables.{table}.retention and the dates in the source."
        )
    if not len(decisions.willing):
        return (
            f"Nobody's latest answer for purpose {params.purpose!r} is yes. Ask people, or check "
            "that purpose and consent in params.yaml name what the source has."
        )
    if not len(stand.allowed):
        return (
            f"{some(len(decisions.willing))} people agree to purpose {params.purpose!r}, and all "
            "of them have asked to be left out, or were erased and have not agreed since."
        )
    return (
        f"{some(len(stand.allowed))} people agree to purpose {params.purpose!r}, and none of them "
        f"has a record of {table} that may be used. Ask those who have one."
    )


def _refuse_few(willing: int, params: Params) -> None:
    if willing < params.subject.minimum:
        raise TooFewSubjects(
            f"{about(willing, params.reporting.granularity)} subjects with records consent; "
            "subject.minimum is "
            f"{params.subject.minimum}. Ask more people, or lower it if so few may be learned from."
        )
