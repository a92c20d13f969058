"""Rows like those of the Diabetes 130-US file: its columns and codes, invented frequencies.

The label follows a logistic model of what the row shows, so that a model has something to
learn: about one encounter in nine is `<30`, and a logistic regression without privacy reaches
an AUC near 0.67.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lethe.sample.diabetes import MEDICINES

_DISCHARGE = {
    "1": 0.60,
    "3": 0.14,
    "6": 0.12,
    "18": 0.035,
    "2": 0.02,
    "22": 0.02,
    "11": 0.015,
    "5": 0.012,
    "25": 0.01,
    "4": 0.008,
    "7": 0.007,
    "23": 0.005,
    "13": 0.004,
    "14": 0.004,
}
_SPECIALTY = {
    "?": 0.49,
    "InternalMedicine": 0.145,
    "Emergency/Trauma": 0.075,
    "Family/GeneralPractice": 0.07,
    "Cardiology": 0.055,
    "Surgery-General": 0.03,
    "Nephrology": 0.02,
    "Orthopedics": 0.015,
    "Orthopedics-Reconstructive": 0.015,
    "Pulmonology": 0.01,
    "Psychiatry": 0.01,
    "Surgery-Vascular": 0.008,
    "Surgery-Cardiovascular/Thoracic": 0.007,
    "Surgery-Neuro": 0.005,
    "Urology": 0.01,
    "Gastroenterology": 0.008,
    "Hematology/Oncology": 0.007,
    "Pediatrics": 0.005,
}
_SOURCE = {
    "7": 0.56,
    "1": 0.29,
    "17": 0.07,
    "4": 0.03,
    "6": 0.02,
    "2": 0.012,
    "5": 0.01,
    "20": 0.01,
}
_ADMISSION = {"1": 0.53, "3": 0.185, "2": 0.18, "6": 0.05, "5": 0.045, "8": 0.005, "7": 0.003}
_PAYER = {
    "?": 0.4,
    "MC": 0.32,
    "HM": 0.06,
    "SP": 0.05,
    "BC": 0.05,
    "MD": 0.04,
    "CP": 0.03,
    "UN": 0.03,
}
_WEIGHT = {"?": 0.97, "[50-75)": 0.01, "[75-100)": 0.012, "[100-125)": 0.006}
_GLUCOSE = {"None": 0.945, "Norm": 0.025, ">200": 0.015, ">300": 0.012}
_A1C = {"None": 0.83, ">8": 0.08, "Norm": 0.05, ">7": 0.04}
_DOSE = {"Steady": 0.92, "Up": 0.045, "Down": 0.035}
# Who takes what; medicines that are not here are taken by one in five thousand.
_TAKEN = {
    "metformin": 0.2,
    "repaglinide": 0.015,
    "nateglinide": 0.007,
    "glimepiride": 0.05,
    "glipizide": 0.125,
    "glyburide": 0.105,
    "pioglitazone": 0.072,
    "rosiglitazone": 0.063,
    "acarbose": 0.003,
    "glyburide-metformin": 0.007,
}
# Chapters of ICD-9 as ranges of its numbers: (first, last, how often as the main diagnosis).
_DIAGNOSES = (
    (390, 459, 0.30),
    (460, 519, 0.14),
    (520, 579, 0.09),
    (250, 250, 0.09),
    (800, 999, 0.07),
    (710, 739, 0.05),
    (580, 629, 0.05),
    (140, 239, 0.035),
    (1, 139, 0.03),
    (240, 289, 0.045),
    (290, 389, 0.04),
    (680, 709, 0.025),
    (780, 789, 0.035),
)
_DIED = ("11", "13", "14")  # or went home to die: nobody returns from there

# The label's model: log-odds of `<30` against everything else.
_INTERCEPT = -3.0
_PER_STAY = 0.42  # each of up to five stays in the year before
_PER_EMERGENCY = 0.15
_PER_DAY = 0.035
_PER_DIAGNOSIS = 0.06
_BY_DISCHARGE = {"22": 1.1, "5": 0.8, "2": 0.5, "3": 0.45, "6": 0.3, "4": 0.4, "7": 0.4, "23": 0.3}
_BY_CHAPTER = {390: 0.15, 250: 0.3, 140: 0.35, 460: -0.15, 710: -0.2, 580: 0.1}
_OLDER = 0.15


def _pick(shares: Mapping[str, float], count: int, rng: np.random.Generator) -> np.ndarray:
    weights = np.array(list(shares.values()))
    chosen = rng.choice(len(weights), size=count, p=weights / weights.sum())
    return np.array(list(shares), dtype=object)[chosen]


def _effect(values: np.ndarray, effects: Mapping[str, float]) -> np.ndarray:
    return pd.Series(values).map(effects).fillna(0.0).to_numpy(dtype=float)


def _diagnoses(
    count: int, rng: np.random.Generator, *, missing: float
) -> tuple[np.ndarray, np.ndarray]:
    """Codes, and the first number of each one's range."""
    first = np.array([low for low, _, _ in _DIAGNOSES])
    last = np.array([high for _, high, _ in _DIAGNOSES])
    weights = np.array([share for _, _, share in _DIAGNOSES])
    place = rng.choice(len(first), size=count, p=weights / weights.sum())
    # Squared: some codes of a chapter are much more frequent than others.
    number = first[place] + ((last - first + 1)[place] * rng.random(count) ** 2).astype(int)
    codes = np.char.zfill(number.astype(str), 3).astype(object)
    sugar = number == 250
    codes[sugar] = [f"250.{part:02d}" for part in rng.integers(0, 94, size=int(sugar.sum()))]
    other = rng.random(count) < 0.03
    codes[other] = [f"V{part}" for part in rng.integers(10, 87, size=int(other.sum()))]
    codes[rng.random(count) < missing] = "?"
    return codes, np.where(other | (codes == "?"), 0, first[place])


def generate_rows(age: np.ndarray, frailty: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Rows for people of these ages (years) and frailties (mean stays in the year before).

    Shapes: age, frailty (rows,) → the file's columns but number, person, race and gender.
    """
    count = len(age)
    decade = np.clip(age // 10, 0, 9).astype(int)
    bands = np.array([f"[{low}-{low + 10})" for low in range(0, 100, 10)], dtype=object)
    stays = np.minimum(rng.poisson(frailty), 21)
    emergencies = np.minimum(rng.poisson(0.35 * frailty * rng.gamma(0.5, 2.0, size=count)), 76)
    days = np.clip(rng.gamma(1.7, 2.4, size=count).astype(int) + 1, 1, 14)
    illnesses = np.clip(np.rint(rng.normal(8.2, 2.2, size=count)), 1, 9).astype(int)
    main, chapter = _diagnoses(count, rng, missing=0.0005)
    discharge = _pick(_DISCHARGE, count, rng)
    rows: dict[str, np.ndarray] = {
        "age": bands[decade],
        "weight": _pick(_WEIGHT, count, rng),
        "admission_type_id": _pick(_ADMISSION, count, rng),
        "discharge_disposition_id": discharge,
        "admission_source_id": _pick(_SOURCE, count, rng),
        "time_in_hospital": days,
        "payer_code": _pick(_PAYER, count, rng),
        "medical_specialty": _pick(_SPECIALTY, count, rng),
        "num_lab_procedures": np.clip(rng.normal(43, 20, size=count), 1, 132).astype(int),
        "num_procedures": np.minimum(rng.geometric(0.42, size=count) - 1, 6),
        "num_medications": np.clip(6 + rng.poisson(1.9 * days + 2), 1, 81),
        "number_outpatient": np.minimum(rng.poisson(rng.gamma(0.13, 2.8, size=count)), 42),
        "number_emergency": emergencies,
        "number_inpatient": stays,
        "diag_1": main,
        "diag_2": _diagnoses(count, rng, missing=0.004)[0],
        "diag_3": _diagnoses(count, rng, missing=0.014)[0],
        "number_diagnoses": illnesses,
        "max_glu_serum": _pick(_GLUCOSE, count, rng),
        "A1Cresult": _pick(_A1C, count, rng),
    }
    rows |= _medicines(count, rng)
    odds = (
        _INTERCEPT
        + _PER_STAY * np.minimum(stays, 5)
        + _PER_EMERGENCY * np.minimum(emergencies, 4)
        + _PER_DAY * (days - 4)
        + _PER_DIAGNOSIS * (illnesses - 7)
        + _OLDER * (decade >= 7)
        + _effect(discharge, _BY_DISCHARGE)
        + pd.Series(chapter).map(_BY_CHAPTER).fillna(0.0).to_numpy(dtype=float)
        + 0.2 * (rows["diabetesMed"] == "Yes")
    )
    soon = rng.random(count) < 1 / (1 + np.exp(-odds))
    later = rng.random(count) < np.clip(0.33 + 0.09 * np.minimum(stays, 4), 0, 0.75)
    rows["readmitted"] = np.where(soon, "<30", np.where(later, ">30", "NO")).astype(object)
    rows["readmitted"][np.isin(discharge, _DIED)] = "NO"
    return pd.DataFrame(rows)


def _medicines(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    rows: dict[str, np.ndarray] = {}
    changed = rng.random(count) < 0.3
    treated = np.zeros(count, dtype=bool)
    for name in MEDICINES:
        if name == "insulin":
            doses = _pick({"No": 0.465, "Steady": 0.305, "Down": 0.12, "Up": 0.11}, count, rng)
        else:
            doses = np.full(count, "No", dtype=object)
            taken = rng.random(count) < _TAKEN.get(name, 0.0002)
            doses[taken] = _pick(_DOSE, int(taken.sum()), rng)
        rows[name] = doses
        treated |= doses != "No"
        changed |= (doses == "Up") | (doses == "Down")
    rows["change"] = np.where(changed & treated, "Ch", "No").astype(object)
    rows["diabetesMed"] = np.where(treated, "Yes", "No").astype(object)
    return rows
