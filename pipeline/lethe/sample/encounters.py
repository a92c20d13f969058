"""Where the clinic's encounters come from: generated, or the real Diabetes 130-US file.

Both give people first, then encounters in the order of their numbers, which is the order in
time. The file has no dates; they are invented for both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from lethe.core.errors import SourceUnavailable
from lethe.sample.diabetes import COLUMNS, patient_key, read_encounters
from lethe.sample.generate import generate_rows
from lethe.sample.people import distinct_numbers

MOST_ENCOUNTERS = 40  # of one person, as in the real file
_DAY = 86_400
_SPAN = (60 * _DAY, 9 * 365 * _DAY)  # seconds before now; both ends well within retention
_OLD = (3_700 * _DAY, 4_400 * _DAY)  # past the ten years that params.yaml keeps
_OLD_SHARE = 0.03
_CHUNK = 20_000


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the encounters say about people: arrays in one order, a place for each person."""

    keys: list[str]
    gender: np.ndarray
    born: np.ndarray  # seconds since 1970
    first_admitted: np.ndarray  # seconds since 1970


class Encounters(Protocol):
    """People, then their encounters chunk by chunk."""

    facts: Facts

    def chunks(self) -> Iterator[pd.DataFrame]:
        """The file's columns, with `person` (a place in `facts`) for `patient_nbr`, and
        `admitted_at` in seconds since 1970."""
        ...


class GeneratedEncounters:
    """Encounters that a seeded generator makes, as many as people need."""

    def __init__(self, *, patients: int, seed: int, now: int) -> None:
        rng = np.random.default_rng([seed, 0])
        sizes = np.arange(1, MOST_ENCOUNTERS + 1)
        share = sizes**-2.7  # most people come once; the tail is heavy
        person = np.repeat(
            np.arange(patients), rng.choice(sizes, size=patients, p=share / share.sum())
        )
        ago = rng.integers(*_SPAN, size=len(person))
        old = rng.random(len(person)) < _OLD_SHARE
        ago[old] = rng.integers(*_OLD, size=int(old.sum()))
        order = np.argsort(-ago, kind="stable")
        self._person = person[order]
        self._admitted = now - ago[order]
        self._ids = np.sort(distinct_numbers(rng, len(person), below=10 + 4 * len(person)))
        self._seed = seed
        first = np.full(patients, np.iinfo(np.int64).max)
        np.minimum.at(first, self._person, self._admitted)
        ages = np.clip(rng.normal(64, 15, size=patients), 1, 92)
        self._race = rng.choice(
            np.array(["Caucasian", "AfricanAmerican", "?", "Hispanic", "Other", "Asian"], object),
            size=patients,
            p=[0.74, 0.19, 0.025, 0.02, 0.015, 0.01],
        )
        self._frailty = rng.gamma(0.5, 0.95, size=patients) + 0.05 * np.bincount(person)
        self.facts = Facts(
            keys=patient_key(distinct_numbers(rng, patients, below=1_000_000_000)),
            gender=np.where(rng.random(patients) < 0.54, "Female", "Male").astype(object),
            born=first - (ages * 365.25 * _DAY).astype(np.int64),
            first_admitted=first,
        )

    def chunks(self) -> Iterator[pd.DataFrame]:
        for start in range(0, len(self._person), _CHUNK):
            rows = slice(start, start + _CHUNK)
            person, admitted = self._person[rows], self._admitted[rows]
            age = (admitted - self.facts.born[person]) / (365.25 * _DAY)
            frame = generate_rows(
                age, self._frailty[person], np.random.default_rng([self._seed, 1, start])
            )
            yield frame.assign(
                encounter_id=self._ids[rows],
                person=person,
                admitted_at=admitted,
                race=self._race[person],
                gender=self.facts.gender[person],
            )


class RealEncounters:
    """The rows of the real file; only the dates are invented, all within retention.

    Raises:
        NotFound: there is no such file.
        SourceUnavailable: it is another file, damaged, or names an encounter twice.
    """

    def __init__(self, path: Path, *, seed: int, now: int) -> None:
        self._path = path
        needed = ("encounter_id", "patient_nbr", "gender", "age")
        rows = pd.concat(read_encounters(path, columns=needed), ignore_index=True)
        rows = rows.sort_values("encounter_id", ignore_index=True)
        if rows.empty or rows["encounter_id"].duplicated().any():
            raise SourceUnavailable(
                f"{path} has {'no encounters' if rows.empty else 'encounters of one number'}. "
                "Fetch it again."
            )
        rng = np.random.default_rng([seed, 0])
        self._ids = rows["encounter_id"].to_numpy()
        nearest, farthest = _SPAN
        # Rising by construction: each row has its own slot, and a random place in it.
        place = (np.arange(len(rows)) + rng.random(len(rows))) / len(rows)
        self._admitted = now - farthest + (place * (farthest - nearest)).astype(np.int64)
        first = rows.assign(at=self._admitted).drop_duplicates("patient_nbr")
        first = first.sort_values("patient_nbr", ignore_index=True)
        self._numbers = first["patient_nbr"].to_numpy()
        decade = first["age"].str.extract(r"^\[(\d+)-", expand=False)
        if decade.isna().any():
            raise SourceUnavailable(f"{path} has ages that are no intervals. Fetch it again.")
        age = decade.astype("int64").to_numpy() + 10 * rng.random(len(first))
        admitted = first["at"].to_numpy()
        self.facts = Facts(
            keys=patient_key(self._numbers),
            gender=first["gender"].to_numpy(dtype=object),
            born=admitted - (age * 365.25 * _DAY).astype(np.int64),
            first_admitted=admitted,
        )

    def chunks(self) -> Iterator[pd.DataFrame]:
        for rows in read_encounters(self._path, columns=COLUMNS, chunk_rows=_CHUNK):
            rank = np.searchsorted(self._ids, rows["encounter_id"].to_numpy())
            added: dict[str, Any] = {
                "person": np.searchsorted(self._numbers, rows["patient_nbr"].to_numpy()),
                "admitted_at": self._admitted[rank],
            }
            yield rows.drop(columns="patient_nbr").assign(**added)
