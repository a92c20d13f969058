"""What a clinic keeps beside encounters: notes that name people, invoices, consents."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lethe.sample.people import Pools, make_names

PURPOSE = "readmission_model"
OTHER_PURPOSES = ("newsletter", "research_sharing")

_DAY = 86_400
_OPENINGS = (
    "{name} came in with {reason}; {relative} waited outside.",
    "Spoke with {name} and the daughter, {relative}, about {reason}.",
    "{name} reports {reason} since last week. Seen by Dr. {doctor}.",
    "Dr. {doctor} examined {name} for {reason}.",
)
_MIDDLES = (
    "Please call {relative} at {phone} before discharge.",
    "Letters go to {email}.",
    "{name} lives alone at {street}, {city} {postcode}.",
    "{relative} brings the medicines from home.",
    "Dr. {doctor} will see {name} again on Thursday.",
)
_REMARKS = (
    "Blood glucose stable, diet discussed.",
    "Insulin raised by two units; control tomorrow morning.",
    "Wound dry, no fever.",
    "Sleeps badly, no pain at rest.",
    "Kidney values to be repeated before the next dose.",
)
_REASONS = ("chest pain", "shortness of breath", "a swollen foot", "dizziness", "high sugar")


def make_notes(
    encounters: pd.DataFrame,
    people: pd.DataFrame,
    *,
    share: float,
    pools: Pools,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """A note for `share` of the encounters: one to three sentences that mention people.

    Shapes: encounters with `encounter_id`, `person`, `admitted_at`; people one row a place →
        `encounter_id, patient_id, written_at, text`.
    """
    chosen = encounters.loc[rng.random(len(encounters)) < share]
    count = len(chosen)
    whose = people.iloc[chosen["person"].to_numpy()]
    both = np.where(rng.random(2 * count) < 0.5, "Female", "Male")
    others = make_names(pools, both, rng)
    doctors, strangers = others[:count], others[count:]
    # Half of the relatives bear the patient's last name.
    shared = rng.random(count) < 0.5
    texts = []
    for place, person in enumerate(whose.itertuples(index=False)):
        name = str(person.full_name)
        relative = str(strangers[place])
        if shared[place]:
            relative = f"{relative.split(' ', 1)[0]} {name.split(' ', 1)[1]}"
        words = {
            "name": name,
            "relative": relative,
            "doctor": str(doctors[place]).split(" ", 1)[1],
            "reason": _REASONS[rng.integers(len(_REASONS))],
            "phone": person.phone,
            "email": person.email,
            "street": person.street,
            "city": person.city,
            "postcode": person.postcode,
        }
        sentences = [_OPENINGS[rng.integers(len(_OPENINGS))]]
        if rng.random() < 0.6:
            sentences.append(_MIDDLES[rng.integers(len(_MIDDLES))])
        if rng.random() < 0.7:
            sentences.append(_REMARKS[rng.integers(len(_REMARKS))])
        texts.append(" ".join(sentences).format(**words))
    return pd.DataFrame(
        {
            "encounter_id": chosen["encounter_id"].to_numpy(),
            "patient_id": whose["patient_id"].to_numpy(),
            "written_at": chosen["admitted_at"].to_numpy() + rng.integers(3_600, _DAY, size=count),
            "text": pd.Series(texts, dtype=object),
        }
    )


def make_invoices(
    encounters: pd.DataFrame, people: pd.DataFrame, *, rng: np.random.Generator
) -> pd.DataFrame:
    """An invoice for six encounters in ten, with the name and address it went to.

    Shapes: as `make_notes` → `patient_id, encounter_id, issued_at, amount_cents, billed_to`.
    """
    chosen = encounters.loc[rng.random(len(encounters)) < 0.6]
    whose = people.iloc[chosen["person"].to_numpy()]
    days = chosen["time_in_hospital"].to_numpy() + rng.integers(1, 20, size=len(chosen))
    billed = (
        f"{name}, {street}, {city} {postcode}"
        for name, street, city, postcode in zip(
            whose["full_name"], whose["street"], whose["city"], whose["postcode"], strict=True
        )
    )
    return pd.DataFrame(
        {
            "patient_id": whose["patient_id"].to_numpy(),
            "encounter_id": chosen["encounter_id"].to_numpy(),
            "issued_at": chosen["admitted_at"].to_numpy() + days * _DAY,
            "amount_cents": rng.integers(8_000, 2_500_000, size=len(chosen)),
            "billed_to": pd.Series(list(billed), dtype=object),
        }
    )


# Histories of one person: (share, ((purpose, answer), …) in order of time).
_WILLING = (
    (0.70, ((PURPOSE, "yes"),)),
    (0.12, (("newsletter", "no"), (PURPOSE, "yes"))),
    (0.08, ((PURPOSE, "no"), (PURPOSE, "yes"))),
    (0.05, ((PURPOSE, "yes"), ("research_sharing", "withdrawn"))),
    (0.05, ((PURPOSE, "yes"), (PURPOSE, "withdrawn"), (PURPOSE, "yes"))),
)
_UNWILLING = (
    (0.25, ()),
    (0.20, (("newsletter", "yes"), ("research_sharing", "yes"))),
    (0.25, ((PURPOSE, "no"),)),
    (0.25, ((PURPOSE, "yes"), (PURPOSE, "withdrawn"))),
    (0.05, ((PURPOSE, "no"), (PURPOSE, "yes"), (PURPOSE, "no"), ("newsletter", "yes"))),
)
_MOST_ANSWERS = 4


def make_consents(
    keys: Sequence[str],
    registered: np.ndarray,
    *,
    share: float,
    now: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Everybody's answers so far, oldest first; for `share` of the people the last is yes.

    Guarantees: exactly `round(share * people)` end in yes for `PURPOSE`; every answer lies
        between registration and `now`, and no two of a person at the same time.
    Shapes: registered (people,), seconds since 1970 → `patient_id, purpose, answer,
        answered_at`, in order of time.
    """
    count = len(keys)
    willing = np.zeros(count, dtype=bool)
    willing[rng.permutation(count)[: round(share * count)]] = True
    kind = np.empty(count, dtype=int)
    for histories, whom in ((_WILLING, willing), (_UNWILLING, ~willing)):
        weights = np.array([weight for weight, _ in histories])
        kind[whom] = rng.choice(len(histories), size=int(whom.sum()), p=weights / weights.sum())
    # A slot for each answer keeps their order whatever place in it is drawn.
    place = (np.arange(_MOST_ANSWERS) + 0.1 + 0.8 * rng.random((count, _MOST_ANSWERS))) / (
        _MOST_ANSWERS + 0.1
    )
    times = registered[:, None] + (place * (now - registered)[:, None]).astype(np.int64)
    parts = []
    for histories, whom in ((_WILLING, willing), (_UNWILLING, ~willing)):
        for number, (_, history) in enumerate(histories):
            people = np.flatnonzero(whom & (kind == number))
            for step, (purpose, answer) in enumerate(history):
                parts.append(
                    pd.DataFrame(
                        {
                            "person": people,
                            "purpose": purpose,
                            "answer": answer,
                            "answered_at": times[people, step],
                        }
                    )
                )
    answers = pd.concat(parts, ignore_index=True)
    answers = answers.sort_values(["answered_at", "person"], ignore_index=True)
    named = np.array(keys, dtype=object)[answers.pop("person").to_numpy()]
    answers.insert(0, "patient_id", named)
    return answers
