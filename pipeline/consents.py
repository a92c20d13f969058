"""Who agrees: everybody's answers reduced to the latest one, a chunk at a time.

Default deny: whoever has no answer, or at their latest moment any answer but yes, is not in.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.errors import ConsentInvalid
from pipeline.params import Params
from pipeline.stores.source import Source

_BUFFERED_ROWS = 200_000
_YES = 0  # codes of answers rise with how much they deny


@dataclass(frozen=True)
class Decisions:
    """The latest answer of everybody who has one.

    `latest`: subject key → answer as written, sorted by key.
    `willing`: the sorted keys whose latest answer is a yes.
    """

    latest: pd.Series
    willing: pd.Index

    def __post_init__(self) -> None:
        if not self.latest.index.is_unique or not self.willing.isin(self.latest.index).all():
            raise ValueError("a subject has one latest answer, and needs one to be willing")


def willing_subjects(
    answers: Iterable[pd.DataFrame],
    *,
    yes: Sequence[str],
    no: Sequence[str],
    as_of: dt.datetime | None = None,
) -> Decisions:
    """Reduces a history of answers for one purpose to everybody's latest.

    Guarantees: a subject is willing if and only if they have an answer up to `as_of`, and
        every answer of theirs at the latest moment is a yes; neither the order of rows and
        chunks nor anybody else's answers change that. Memory is bounded by the number of
        subjects, not of answers.
    Shapes: frames with `subject` (canonical key), `answer` and `time`.

    Args:
        as_of: later answers do not count; aware. None: all count.

    Raises:
        ConsentInvalid: an answer is null or neither yes nor no, or a subject or time is null.
    """
    words = [*yes, *no]
    codes = {answer: _YES if answer in yes else place for place, answer in enumerate(words, 1)}
    state = _empty()
    buffer: list[pd.DataFrame] = []
    buffered = 0
    for chunk in answers:
        buffer.append(_coded(chunk, codes, as_of))
        buffered += len(chunk)
        # As much again as what is known: then each row is sorted a few times at most.
        if buffered >= max(_BUFFERED_ROWS, len(state)):
            state, buffer, buffered = _latest([state, *buffer]), [], 0
    state = _latest([state, *buffer])
    latest = pd.Series(
        state["answer"].to_numpy(), index=pd.Index(state["subject"], dtype="str"), dtype="str"
    ).sort_index()
    willing = pd.Index(state["subject"][state["code"] == _YES], dtype="str").sort_values()
    return Decisions(latest.rename("answer"), willing.rename("subject"))


def _empty() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "subject": pd.Series(dtype="str"),
            "answer": pd.Series(dtype="str"),
            "time": pd.Series(dtype="datetime64[us, UTC]"),
            "code": pd.Series(dtype="int64"),
        }
    )


def _coded(
    chunk: pd.DataFrame, codes: Mapping[str, int], as_of: dt.datetime | None
) -> pd.DataFrame:
    answer = chunk["answer"].astype("str")
    code = answer.map(codes)
    time = pd.to_datetime(chunk["time"], utc=True).astype("datetime64[us, UTC]")
    unknown = int(code.isna().sum())
    unnamed = int((chunk["subject"].isna() | time.isna()).sum())
    if unknown or unnamed:
        raise ConsentInvalid(
            f"{unknown} consent answers are neither yes nor no, {unnamed} have no subject or no "
            "time. Mend them, or declare the answers under consent.yes and consent.no."
        )
    coded = pd.DataFrame(
        {
            "subject": chunk["subject"].astype("str"),
            "answer": answer,
            "time": time,
            "code": code.astype("int64"),
        }
    )
    return coded if as_of is None else coded.loc[time <= as_of]


def _latest(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """One row a subject: of their latest moment, the answer that denies most."""
    history = pd.concat(frames, ignore_index=True)
    history = history.sort_values(["subject", "time", "code", "answer"], kind="stable")
    return history.drop_duplicates("subject", keep="last").reset_index(drop=True)


def snapshot(params: Params, now: dt.datetime) -> dt.datetime:
    """Up to when answers count: the declared snapshot, but never later than `now`; aware."""
    declared = params.snapshot
    if declared is None:
        return now
    if declared.tzinfo is None:
        declared = declared.replace(tzinfo=dt.UTC)
    return min(declared, now)


def read_decisions(
    source: Source, params: Params, *, as_of: dt.datetime, now: dt.datetime
) -> Decisions:
    """Everybody's latest answer for the declared purpose, from a source that was checked.

    Raises:
        ConsentInvalid: an answer is for an unknown subject, is neither yes nor no, or lies
            after `now`; with counts.
    """
    problems = {what: n for what, n in source.answer_problems(params, now).items() if n}
    if problems:
        counts = ", ".join(f"{what}: {n}" for what, n in sorted(problems.items()))
        raise ConsentInvalid(
            f"Rows of the consent table {params.consent.table!r} do not hold ({counts}). Mend "
            "them in the source, or declare other answers under consent.yes and consent.no."
        )
    return willing_subjects(
        source.answers(params, as_of), yes=params.consent.yes, no=params.consent.no, as_of=as_of
    )


def willing_now(params: Params, now: dt.datetime) -> set[str]:
    """The keys of everybody who agrees at `now`, whatever snapshot is declared.

    Raises:
        ConsentInvalid: as `read_decisions`.
    """
    with Source.open(params) as source:
        return set(read_decisions(source, params, as_of=now, now=now).willing)
