"""What no history of answers can change about consent."""

import datetime as dt

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.people.consents import Decisions, willing_subjects

Row = tuple[str, str, int]
rows = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "cid", "dan"]),
        st.sampled_from(["yes", "no", "withdrawn"]),
        st.integers(0, 5),  # few moments, so that answers meet
    ),
    max_size=12,
)
# A busy machine is no reason to fail: frames take milliseconds, and sometimes many.
UNHURRIED = settings(deadline=None, max_examples=60)
START = pd.Timestamp("2026-01-01", tz="UTC")


def decide(
    *chunks: list[Row], as_of: dt.datetime | None = None, no: tuple[str, ...] = ("no", "withdrawn")
) -> Decisions:
    frames = [
        pd.DataFrame(
            {
                "subject": pd.Series([row[0] for row in chunk], dtype="str"),
                "answer": pd.Series([row[1] for row in chunk], dtype="str"),
                "time": pd.Series(
                    [START + pd.Timedelta(hours=row[2]) for row in chunk],
                    dtype="datetime64[us, UTC]",
                ),
            }
        )
        for chunk in chunks
    ]
    return willing_subjects(frames, yes=("yes",), no=no, as_of=as_of)


@UNHURRIED
@given(rows, rows)
def test_answers_of_others_never_change_mine(history: list[Row], more: list[Row]) -> None:
    others = [("eve" if name == "ann" else name, answer, when) for name, answer, when in more]
    alone = [row for row in history if row[0] == "ann"]
    expected = ("ann" in decide(alone).willing, decide(alone).latest.get("ann"))
    for chunks in ([history, others], [others, history], [alone, others]):
        found = decide(*chunks)
        assert ("ann" in found.willing, found.latest.get("ann")) == expected


@UNHURRIED
@given(rows, st.randoms(use_true_random=False), st.integers(0, 12))
def test_order_and_chunks_are_irrelevant(history: list[Row], random: object, cut: int) -> None:
    shuffled = list(history)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    whole, parts = decide(history), decide(shuffled[:cut], [], shuffled[cut:])
    assert whole.latest.to_dict() == parts.latest.to_dict()
    assert list(whole.willing) == list(parts.willing)


@UNHURRIED
@given(rows)
def test_without_a_yes_nobody_is_in_and_everybody_in_said_it_last(history: list[Row]) -> None:
    found = decide(history)
    for name in ("ann", "bob", "cid", "dan"):
        mine = [(when, answer) for who, answer, when in history if who == name]
        last = {answer for when, answer in mine if when == max(mine)[0]}
        assert (name in found.willing) == (last == {"yes"})


@UNHURRIED
@given(rows, st.integers(0, 5))
def test_later_answers_than_the_snapshot_are_as_if_never_given(
    history: list[Row], hours: int
) -> None:
    as_of = (START + pd.Timedelta(hours=hours)).to_pydatetime()
    found = decide(history, as_of=as_of)
    expected = decide([row for row in history if row[2] <= hours])
    assert found.latest.to_dict() == expected.latest.to_dict()
    assert list(found.willing) == list(expected.willing)


@UNHURRIED
@given(rows)
def test_a_withdrawal_always_takes_a_person_out(history: list[Row]) -> None:
    found = decide([*history, ("ann", "withdrawn", 5)])
    assert "ann" not in found.willing
