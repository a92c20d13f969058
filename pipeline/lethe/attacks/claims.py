"""Does what was written down agree: plan, ledger, manifest, model and report?

Everything is computed anew from the plan's fields and the shards: an accountant, a
ledger or a trainer that was given something else contradicts it.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import dp_accounting as dp
import numpy as np
import pandas as pd
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from pyroaring import BitMap

from lethe.attacks.attack import Attack, Target, register
from lethe.attacks.statistics import Check, at_most, holds, number
from lethe.core.files import md5
from lethe.data import batches
from lethe.data.batches import PersonData
from lethe.data.encoding import Encoder
from lethe.privacy.bounds import ROUNDING, least_price
from lethe.privacy.plan import ADJACENCY, SAMPLING, UNIT, Plan
from lethe.privacy.release import Release
from lethe.training.trainer import Planned

# Of an event that `bounds` does not know: two accountings may differ by their grids.
_ACCOUNTING_TOLERANCE = 2e-3


def check_people(
    plan: Planned,
    data: PersonData,
    manifest: BitMap,
    *,
    paths: Sequence[Path],
    encoder: Encoder,
) -> list[Check]:
    """Who trained, counted from the shards without the trainer's code."""
    columns = ["token", "held_out", encoder.label]
    rows = pd.concat([pd.read_parquet(path, columns=columns) for path in paths])
    labelled = rows[rows[encoder.label].notna()]
    held = BitMap(rows.loc[rows["held_out"].astype(bool), "token"].to_numpy(np.uint32))
    counts = labelled.groupby("token").size().reindex(data.tokens, fill_value=0).to_numpy()
    expected = np.minimum(counts, plan.records_per_person)
    return [
        holds(
            "people.manifest",
            BitMap(data.tokens) == manifest and len(data) == len(manifest),
            meaning="everybody of the manifest has one place, and nobody else",
        ),
        at_most(
            "people.held_out",
            len(manifest & held),
            0,
            meaning="nobody trains who is held out",
        ),
        at_most(
            "people.records",
            int((data.mask.sum(1).numpy() != expected).sum()) + int((~np.isfinite(expected)).sum()),
            0,
            meaning="everybody has their records, and no more than the plan allows",
        ),
        at_most(
            "people.places",
            data.mask.shape[1],
            plan.records_per_person,
            meaning="there is no place for more records than the plan allows",
        ),
        at_most(
            "people.most_records",
            _records_of_the_busiest(plan, paths, encoder, manifest),
            plan.records_per_person,
            meaning="a person with many records comes with as many as the plan allows",
        ),
    ]


def _records_of_the_busiest(
    plan: Planned, paths: Sequence[Path], encoder: Encoder, manifest: BitMap
) -> float:
    """Records left of a person who has twice as many as the plan allows."""
    for path in paths:
        frame = encoder.labelled(pd.read_parquet(path))
        mine = frame[frame["token"].isin(list(manifest))]
        if mine.empty:
            continue
        many = 2 * plan.records_per_person
        copies = pd.concat([mine.iloc[:1]] * many, ignore_index=True)
        copies["rank"] = np.arange(many, dtype=np.int32)
        found = batches.person_rows(
            copies,
            encoder,
            people=BitMap(copies["token"].to_numpy(np.uint32)),
            records_per_person=plan.records_per_person,
        )
        return float(found.mask.sum())
    return math.nan


@register
class Accounting(Attack):
    """The plan of `data/plan.json` against the model, the report and the ledger."""

    name = "accounting"
    covers = ("accounting",)

    def run(self, target: Target) -> list[Check]:
        return [*_claimed(target), *_reported(target), *_charged(target)]


@register
class People(Attack):
    """Who trained, counted from the shards without the trainer's code."""

    name = "people"
    covers = ("people",)

    def run(self, target: Target) -> list[Check]:
        return check_people(
            target.plan,
            target.data,
            target.manifest,
            paths=target.paths,
            encoder=target.encoder,
        )


def _claimed(target: Target) -> list[Check]:
    """The claim against what the plan costs, worked out by other ways than the accountants."""
    plan, report, stated = target.plan, target.report, stated_of(target)
    # A report of the version before calls it `epsilon`.
    pld = number({"epsilon_pld": report.get("epsilon"), **report}, "epsilon_pld")
    return [
        holds(
            "accounting.plan",
            plan.to_data() == target.described.plan == report.get("plan"),
            meaning="plan, model and report have one plan",
        ),
        holds(
            "accounting.event",
            target.release.event == stated.event,
            meaning="the plan's privacy event says what the plan's fields say",
        ),
        *check_price(plan, stated, rdp=number(report, "epsilon_rdp"), pld=pld),
        holds(
            "accounting.statement",
            [report.get(k) for k in ("delta", "unit", "adjacency", "sampling", "noise")]
            == [stated.delta, stated.unit, stated.adjacency, stated.sampling, plan.noise],
            meaning="delta, unit, adjacency, sampling and noise are the plan's",
        ),
    ]


def _reported(target: Target) -> list[Check]:
    """What the report says was done, against the plan and the manifest."""
    report, manifest = target.report, target.manifest
    paid = target.plan.to_data()
    steps = [
        at_most(
            "accounting.steps",
            # A report that does not count its steps is taken at its plan's word.
            number({**paid, **report}, "steps"),
            number(paid, "steps"),
            meaning="no more steps were taken than were paid for",
        )
    ]
    return [
        *(steps if "steps" in paid else ()),
        holds(
            "accounting.subjects",
            report.get("manifest_md5") == md5(manifest.serialize()),
            meaning="the report is about the manifest's people",
        ),
    ]


def _charged(target: Target) -> list[Check]:
    """The ledger's run against the plan and the manifest."""
    record, manifest, stated = target.record, target.manifest, stated_of(target)
    run_ids = {target.described.run_id, target.report.get("run_id")}
    return [
        holds(
            "accounting.reserved",
            record is not None and run_ids == {record.run_id},
            meaning="the ledger knows the run that made the model",
        ),
        holds(
            "accounting.settled",
            record is not None and record.state == "settled",
            meaning="the run's spend is settled",
        ),
        holds(
            "accounting.charged",
            record is not None
            and record.event == stated.event
            and record.records_per_person == target.plan.records_per_person
            and [record.delta, record.unit, record.adjacency, record.sampling]
            == [stated.delta, stated.unit, stated.adjacency, stated.sampling],
            meaning="the ledger was charged for what the plan does",
        ),
        at_most(
            "accounting.covered",
            len(manifest) if record is None else len(manifest - record.eligible),
            0,
            meaning="everybody who trained was charged",
        ),
    ]


def stated_of(target: Target) -> Release:
    """What must have been claimed and charged; of DP-SGD worked out anew from the plan's fields."""
    release, plan = target.release, target.plan
    if not isinstance(plan, Plan):
        return release
    return replace(
        release,
        event=event_of(plan),
        delta=plan.delta,
        unit=UNIT,
        adjacency=ADJACENCY,
        sampling=SAMPLING,
    )


def event_of(plan: Plan) -> dp.DpEvent:
    """The event that the plan's fields describe; on purpose not `Plan.event`."""
    drawn = dp.PoissonSampledDpEvent(
        sampling_probability=plan.sample_rate, event=dp.GaussianDpEvent(plan.noise_multiplier)
    )
    return dp.SelfComposedDpEvent(event=drawn, count=plan.steps)


def check_price(plan: Planned, stated: Release, *, rdp: float, pld: float) -> list[Check]:
    """Whether a claim by both accountants covers what the plan costs; an honest one always does.

    Args:
        stated: what the plan says that it releases.
    """
    if isinstance(plan, Plan):
        # A number that is missing passes nothing, whatever it is held against.
        least_rdp, least_pld = least_price(plan, near=pld if math.isfinite(pld) else 1.0)
        margins = (ROUNDING, 0.0)
    else:
        least_rdp = float(RdpAccountant().compose(stated.event).get_epsilon(stated.delta))
        least_pld = float(PLDAccountant().compose(stated.event).get_epsilon(stated.delta))
        margins = (_ACCOUNTING_TOLERANCE, _ACCOUNTING_TOLERANCE)
    return [
        at_most(
            f"accounting.epsilon_{name}",
            least,
            claimed * (1 + margin),
            meaning=f"the claimed epsilon ({name.upper()}) is not below what the plan costs",
        )
        for name, least, claimed, margin in (
            ("rdp", least_rdp, rdp, margins[0]),
            ("pld", least_pld, pld, margins[1]),
        )
    ]
