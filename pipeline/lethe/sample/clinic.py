"""Puts the demonstration clinic together and writes it."""

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from lethe.core.errors import ParamsInvalid
from lethe.sample.encounters import Encounters, GeneratedEncounters, RealEncounters
from lethe.sample.papers import PURPOSE, make_consents, make_invoices, make_notes
from lethe.sample.people import MOST_PEOPLE, Pools, make_people, make_pools
from lethe.sample.schema import CONSENTS, ENCOUNTERS, INVOICES, NOTES, PATIENTS, TABLES
from lethe.stores.source.demonstration import NewTable, new_clinic

_DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class SampleSummary:
    """How many rows of what the clinic has."""

    encounters_are: Literal["generated", "real"]
    patients: int
    encounters: int
    notes: int
    invoices: int
    consents: int
    consenting: int

    def __str__(self) -> str:
        origin = (
            "generated"
            if self.encounters_are == "generated"
            else "real (Diabetes 130-US, their dates invented)"
        )
        return (
            f"A clinic with {self.patients:,} patients, {self.consenting:,} of whom agree to "
            f"{PURPOSE}; {self.encounters:,} encounters, {self.notes:,} notes, "
            f"{self.invoices:,} invoices and {self.consents:,} consent answers. Every identity is "
            f"invented (Faker); the encounters are {origin}."
        )


def build_clinic(
    url: str,
    *,
    patients: int = 20_000,
    encounters_file: Path | None = None,
    seed: int = 1,
    consent_share: float = 0.85,
    notes_share: float = 0.05,
    now: dt.datetime,
) -> SampleSummary:
    """Writes the demonstration clinic into SQLite or PostgreSQL, whole or not at all.

    Guarantees: every identity is invented; the same arguments give the same clinic; a
        database that no earlier call made is not touched; no row lies after `now`.

    Args:
        patients: how many to generate; ignored with `encounters_file`.
        encounters_file: the real `diabetic_data.csv` or `.csv.gz`, whose patients get
            invented identities and dates.
        consent_share: share of people whose latest answer for the purpose is yes.
        notes_share: share of encounters with a note.
        now: aware; the end of the clinic's history so far.

    Raises:
        ParamsInvalid: an impossible argument, or a URL that may not be written.
        NotFound, SourceUnavailable, DiskFull: the encounters' file, the server or the disk.
    """
    _refuse_impossible(patients, consent_share=consent_share, notes_share=notes_share)
    end = int(now.timestamp())
    if encounters_file is None:
        source: Encounters = GeneratedEncounters(patients=patients, seed=seed, now=end)
    else:
        source = RealEncounters(encounters_file, seed=seed, now=end)
    rng, pools = np.random.default_rng([seed, 2]), make_pools(seed)
    people, answers = _who_came(source, pools, rng, share=consent_share, now=end)
    written: Counter[str] = Counter()
    with new_clinic(url, TABLES) as writer:
        writer.add("patients", _rows(people, PATIENTS))
        for chunk in source.chunks():
            papers = make_notes(chunk, people, share=notes_share, pools=pools, rng=rng)
            bills = make_invoices(chunk, people, rng=rng)
            whose = people["patient_id"].to_numpy()[chunk["person"]]
            stays = chunk.assign(patient_id=whose, admitted_at=_times(chunk["admitted_at"]))
            writer.add("encounters", _rows(stays, ENCOUNTERS))
            notes = _numbered(papers, "note_id", "written_at", after=written["notes"])
            writer.add("notes", _rows(notes, NOTES))
            invoices = _numbered(bills, "invoice_id", "issued_at", after=written["invoices"])
            writer.add("invoices", _rows(invoices, INVOICES))
            written.update(encounters=len(stays), notes=len(notes), invoices=len(invoices))
        consents = _numbered(answers, "consent_id", "answered_at", after=0)
        writer.add("consents", _rows(consents, CONSENTS))
    return SampleSummary(
        encounters_are="generated" if encounters_file is None else "real",
        patients=len(people),
        encounters=written["encounters"],
        notes=written["notes"],
        invoices=written["invoices"],
        consents=len(consents),
        consenting=round(consent_share * len(people)),
    )


def _who_came(
    source: Encounters, pools: Pools, rng: np.random.Generator, *, share: float, now: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Everybody with an identity, registered before they came, and what they answered."""
    facts = source.facts
    people = make_people(facts.keys, facts.gender, pools, rng)
    registered = facts.first_admitted - rng.integers(0, 300 * _DAY, size=len(people))
    answers = make_consents(facts.keys, registered, share=share, now=now, rng=rng)
    people["birth_date"] = _dates(facts.born)
    people["registered_at"] = _times(registered)
    return people, answers


def _refuse_impossible(patients: int, **shares: float) -> None:
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ParamsInvalid(f"{name}={value:g} must lie between 0 and 1.")
    if not 1 <= patients <= MOST_PEOPLE:
        raise ParamsInvalid(f"patients={patients} must lie between 1 and {MOST_PEOPLE}.")


def _numbered(papers: pd.DataFrame, number: str, moment: str, *, after: int) -> pd.DataFrame:
    """With a number each, after those that there are, and the moment as the database has it."""
    numbers = np.arange(after + 1, after + len(papers) + 1)
    added: dict[str, Any] = {number: numbers, moment: _times(papers[moment])}
    return papers.assign(**added)


def _times(seconds: Any) -> Sequence[str]:
    """Seconds since 1970 → `2020-01-31 12:00:00.000000`, UTC."""
    moments = np.asarray(seconds, dtype="int64").astype("datetime64[s]")
    return [f"{text.replace('T', ' ')}.000000" for text in np.datetime_as_string(moments).tolist()]


def _dates(seconds: np.ndarray) -> list[str]:
    days = seconds.astype("datetime64[s]").astype("datetime64[D]")
    return list(np.datetime_as_string(days).tolist())


def _rows(frame: pd.DataFrame, table: NewTable) -> Iterator[tuple[Any, ...]]:
    return zip(*(frame[name].tolist() for name in table.columns), strict=True)
