"""Who agrees: everybody's answers reduced to the latest one, a chunk at a time.

Default deny: whoever has no answer, or at their latest moment any answer but yes, is not in.
"""

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lethe.config.params import Params
from lethe.core.errors import ConsentInvalid
from lethe.core.times import in_zone
from lethe.stores.source.read import Source

_PROBLEMS = {  # of `Source.answer_problems`, in words that follow a count
    "unknown_subject": "of an unknown subject",
    "null_answer": "without an answer",
    "unknown_answer": "neither yes nor no",
    "undated": "without a time that can be read",
    "future": "from the future",
    "near_purpose": "for a purpose that is nearly the declared one",
    "no_purpose": "for no purpose",
}

_BUFFERED_ROWS = 200_000


@dataclass(frozen=True)
class Decisions:
    """The latest answer of everybody who has one.

    `latest`: subject key → answer as written, sorted by key.
    `willing`: the sorted keys whose latest answer is a yes.
    `answered`: subject key → when they gave it (UTC), sorted by key.
    """

    latest: pd.Series
    willing: pd.Index
    answered: pd.Series

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
    agreeing = [word for word in dict.fromkeys(yes) if word not in no]
    # A code is a place among the words, so codes rise with how much they deny.
    words = [*agreeing, *dict.fromkeys(no)]
    state = _coded(_NOTHING, words, None)
    buffer: list[pd.DataFrame] = []
    buffered = 0
    for chunk in answers:
        buffer.append(_coded(chunk, words, as_of))
        buffered += len(chunk)
        # As much again as what is known: then each row is sorted a few times at most.
        if buffered >= max(_BUFFERED_ROWS, len(state)):
            state, buffer, buffered = _latest([state, *buffer]), [], 0
    state = _latest([state, *buffer]).set_index("subject").sort_index()
    said = pd.Series(np.array(words, dtype=object)[state["code"]], index=state.index, dtype="str")
    agree = state.index[state["code"] < len(agreeing)]
    return Decisions(said.rename("answer"), agree, state["time"].rename("answered"))


_NOTHING = pd.DataFrame({"subject": [], "answer": [], "time": []}, dtype="str")


def _coded(chunk: pd.DataFrame, words: Sequence[str], as_of: dt.datetime | None) -> pd.DataFrame:
    code = pd.Index(words).get_indexer(pd.Index(chunk["answer"]))
    time = pd.to_datetime(chunk["time"], utc=True).astype("datetime64[us, UTC]")
    unknown = int((code < 0).sum())
    unnamed = int((chunk["subject"].isna() | time.isna()).sum())
    if unknown or unnamed:
        raise ConsentInvalid(
            f"{unknown} consent answers are neither yes nor no, {unnamed} have no subject or no "
            "time. Correct them, or declare the answers under consent.yes and consent.no."
        )
    coded = pd.DataFrame({"subject": chunk["subject"].astype("str"), "time": time, "code": code})
    return coded if as_of is None else coded.loc[time <= as_of]


def _latest(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """One row a subject: of their latest moment, the answer that denies most."""
    history = pd.concat(frames, ignore_index=True)
    person, _ = pd.factorize(history["subject"])  # integers sort several times faster than text
    order = np.lexsort((history["code"], history["time"].astype("int64"), person))
    last = np.append(person[order][1:] != person[order][:-1], True)[: len(order)]
    return history.iloc[np.sort(order[last])].reset_index(drop=True)


def snapshot(params: Params, now: dt.datetime) -> dt.datetime:
    """Up to when answers count: the declared snapshot, but never later than `now`; aware.

    A snapshot without a zone is of `source.time_zone`.
    """
    declared = params.snapshot
    if declared is None:
        return now
    return min(in_zone(declared, params.source.time_zone), now)


def read_decisions(
    source: Source, params: Params, *, as_of: dt.datetime, now: dt.datetime
) -> Decisions:
    """Everybody's latest answer for the declared purpose, from a source that was checked.

    Raises:
        ConsentInvalid: an answer is for an unknown subject, is neither yes nor no, lies after
            `now`, or is for no purpose or one that is nearly the declared one; with counts.
    """
    problems = {what: n for what, n in source.answer_problems(params, now).items() if n}
    if problems:
        counts = ", ".join(f"{n} {_PROBLEMS[what]}" for what, n in sorted(problems.items()))
        raise ConsentInvalid(
            f"Rows of the consent table {params.consent.table!r} do not hold ({counts}). Correct "
            "them in the source, or declare other answers under consent.yes and consent.no, and "
            "purposes under consent.other_purposes, or under consent.every_purpose if a refusal "
            "for them ends consent for all."
        )
    return willing_subjects(
        source.answers(params, as_of), yes=params.consent.yes, no=params.consent.no, as_of=as_of
    )


def decisions_now(params: Params, now: dt.datetime) -> Decisions:
    """Everybody's latest answer at `now`, whatever snapshot is declared.

    Raises:
        ConsentInvalid: as `read_decisions`.
    """
    with Source.open(params) as source:
        return read_decisions(source, params, as_of=now, now=now)
