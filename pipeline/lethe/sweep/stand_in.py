"""People to try a plan on who are nobody: invented from the declarations, or declared public.

What is invented has the declared columns, domains and number of records, and a label that
follows from a planted linear model of a strength that the caller guesses. It can show what so
much noise does to a signal of that strength, with so many people and features. It cannot show
how strong the signal in the real data is, nor what in it is not linear: the curve's shape is
worth more than its height.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyroaring import BitMap
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from lethe.config.params import Params
from lethe.config.tables import Column
from lethe.core.errors import NotFound, ParamsInvalid, SchemaMismatch, TrainingRefused
from lethe.data.batches import PersonData, RecordData, person_rows
from lethe.data.encoding import Encoder, ages_of
from lethe.data.generalize import generalize

MOST_PEOPLE = 100_000  # invented by default: bounds the memory
_MISSING = 0.05  # of the invented values
_HABIT = 0.5  # of a person's values that are the person's usual one
_WORDS = 12  # of an invented text
_TRIED = 20_000  # records that the planted model's strength is measured on


@dataclass(frozen=True)
class Tried:
    """Who a sweep trains on, who it measures on, and what to say of them."""

    kind: str  # generated, stand-in or charged
    words: str
    people: PersonData
    held_out: RecordData


def generated(
    params: Params, *, people: int | None = None, auc: float, base_rate: float, seed: int
) -> Tried:
    """Invented people, drawn from public declarations alone: no store is opened.

    Args:
        people: who train; the declared `expected_subjects`, at most 100,000, if not given.
        auc: what the planted model itself reaches on its records, in (0.5, 1).
        base_rate: share of positive labels, where the label is yes or no.
        seed: the same one invents the same people. Noise is never drawn from it.

    Raises:
        ParamsInvalid: a number is out of its range.
    """
    if not 0.5 < auc < 1:
        raise ParamsInvalid(f"--auc {auc:g} must lie between 0.5 and 1.")
    if not 0 < base_rate < 1:
        raise ParamsInvalid(f"--base-rate {base_rate:g} must lie between 0 and 1.")
    encoder = Encoder.from_params(params)
    mechanism, share = params.training.mechanism, params.training.held_out
    people = people or min(mechanism.expected_subjects, MOST_PEOPLE)
    total = people + max(2, round(people * share / (1 - share)))
    random = np.random.default_rng(seed)
    records = np.minimum(random.geometric(0.5, size=total), mechanism.records_per_person)
    person = np.repeat(np.arange(total), records)
    frame = pd.DataFrame(
        {n: _habitual(random, column, person) for n, column in encoder.features.items()}
    )
    frame[encoder.label] = _planted(random, encoder, encoder.encode(frame), auc, base_rate)
    words = f"{people:,} generated people, planted AUC {auc:g}"
    return _tried("generated", words, params, encoder, frame, person, person < people)


def from_files(params: Params, path: Path, *, person: str | None = None, seed: int) -> Tried:
    """People whose data is declared public by whoever names the file.

    Args:
        path: a Parquet or CSV file, or a folder of them, with the source's feature columns and
            the label, in the source's own values; made as coarse as declared here.
        person: the column that says whose a row is; `subject.key` if the file has all of it,
            else every row is a person.
        seed: who of them is held out.

    Raises:
        NotFound: there is no such file.
        SchemaMismatch: a column is not in it; names each.
        ValueOutsideDomain: as the column's policy says.
        TrainingRefused: fewer than four people.
    """
    encoder = Encoder.from_params(params)
    raw = _read(path)
    columns = {**encoder.features, encoder.label: encoder.label_column}
    wanted = [*columns, *ages_of(columns).values(), *([person] if person else [])]
    absent = sorted({name for name in wanted if name not in raw.columns})
    if absent:
        raise SchemaMismatch(
            f"The stand-in lacks the columns {absent}. It needs the declared features and the "
            "label, by the source's names."
        )
    made = generalize(raw, columns, at=encoder.ages_at(raw, columns), zone=encoder.zone)
    frame = made.frame.reset_index(drop=True)
    keys = [person] if person else [*params.subject.keys]
    who = np.arange(len(raw))
    if set(keys) <= set(raw.columns):
        together = [pd.factorize(raw[key], use_na_sentinel=False)[0] for key in keys]
        who = pd.factorize(pd.MultiIndex.from_arrays(together))[0]
    total = int(who.max()) + 1 if len(who) else 0
    if total < 4:
        raise TrainingRefused(f"The stand-in has {total} people; a sweep needs at least four.")
    held = max(2, round(total * params.training.held_out))
    order = np.random.default_rng(seed).permutation(total)
    trains = np.ones(total, dtype=np.bool_)
    trains[order[:held]] = False
    words = f"{total - held:,} people of a stand-in that is declared public"
    return _tried("stand-in", words, params, encoder, frame, who, trains[who])


def _tried(
    kind: str,
    words: str,
    params: Params,
    encoder: Encoder,
    frame: pd.DataFrame,
    person: npt.NDArray[np.int64],
    trains: npt.NDArray[np.bool_],
) -> Tried:
    frame = frame.assign(token=person.astype(np.uint32))
    frame["rank"] = frame.groupby("token").cumcount()
    rest = encoder.labelled(frame[~trains])
    return Tried(
        kind,
        words,
        person_rows(
            frame[trains],
            encoder,
            people=BitMap(frame["token"][trains].to_numpy(np.uint32)),
            records_per_person=params.training.mechanism.records_per_person,
        ),
        RecordData(encoder.encode(rest), encoder.labels(rest), rest["token"].to_numpy(np.uint32)),
    )


def _habitual(
    random: np.random.Generator, column: Column, person: npt.NDArray[np.int64]
) -> pd.Series:
    """A value for each record, from the declared domain; half of them the person's usual one."""
    usual = _values(random, column, int(person.max()) + 1)[person]
    fresh = _values(random, column, len(person))
    found = np.where(random.random(len(person)) < _HABIT, usual, fresh)
    found[random.random(len(person)) < _MISSING] = None if found.dtype == object else np.nan
    return pd.Series(found)


def _values(random: np.random.Generator, column: Column, count: int) -> npt.NDArray[np.generic]:
    if column.role == "text":
        words = random.integers(0, 4 * column.buckets, size=(count, _WORDS))
        return np.array([" ".join(f"w{word}" for word in row) for row in words], dtype=object)
    if column.categories is not None:
        domain = np.array(column.categories, dtype=object)
        return domain[random.integers(0, len(domain), size=count)]
    low, high = column.limits or (0.0, 1.0)
    return random.uniform(low, high, size=count)


def _planted(
    random: np.random.Generator,
    encoder: Encoder,
    encoded: npt.NDArray[np.float32],
    auc: float,
    base_rate: float,
) -> npt.NDArray[np.object_]:
    """A label for each record by a linear model, as strong as gives it that AUC."""
    classes = 2 if encoder.binary else len(encoder.classes)
    scores = encoded @ random.normal(size=(encoded.shape[1], 1 if encoder.binary else classes))
    scores = (scores - scores.mean(0)) / scores.std(0).clip(min=1e-9)
    if encoder.binary:
        luck = random.logistic(size=len(scores))

        def binary(strength: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
            drawn = strength * scores[:, 0] + luck
            return (drawn > np.quantile(drawn, 1 - base_rate)).astype(np.int64), scores[:, 0]

        labels = _as_strong(binary, auc)
        positive = (encoder.label_column.positive or ())[0]
        rest = [
            each
            for each in encoder.label_column.categories or ()
            if each not in (encoder.label_column.positive or ())
        ]
        if not rest:
            raise ParamsInvalid("Every label is positive: there is nothing to learn.")
        return np.array([rest[0], positive], dtype=object)[labels]
    noise = random.gumbel(size=scores.shape)

    def several(strength: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        return (strength * scores + noise).argmax(1), softmax(strength * scores, axis=1)

    return np.array(encoder.classes, dtype=object)[_as_strong(several, auc)]


def _as_strong(
    labelled: Callable[[float], tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]], auc: float
) -> npt.NDArray[np.int64]:
    """Labels at the strength whose own AUC is the one asked for, by bisection."""
    low, high = 1e-3, 1e3
    for _ in range(30):
        middle = (low * high) ** 0.5
        labels, scores = labelled(middle)
        reached = roc_auc_score(labels[:_TRIED], scores[:_TRIED], multi_class="ovr")
        low, high = (middle, high) if reached < auc else (low, middle)
    return labelled((low * high) ** 0.5)[0]


def _read(path: Path) -> pd.DataFrame:
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    parts = []
    for file in files:
        if not file.is_file():
            raise NotFound(f"--stand-in: there is no file or folder {path}.")
        if file.name.endswith(".parquet"):
            parts.append(pd.read_parquet(file))
        elif file.name.endswith((".csv", ".csv.gz")):
            parts.append(pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""]))
    if not parts:
        raise NotFound(f"--stand-in: {path} has no .parquet, .csv or .csv.gz file.")
    return pd.concat(parts, ignore_index=True)
