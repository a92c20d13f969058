"""How long the ledger takes to answer, and the accountants over a long history."""

import datetime as dt
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from pyroaring import BitMap

from benchmarks.timing import Row
from lethe.config.sections import Budget
from lethe.ledger.ledger import Ledger
from lethe.privacy.accounting import dp_sgd_event, epsilon_pld, epsilon_rdp
from lethe.privacy.plan import Plan

SUBJECTS, RUNS, DIFFERENT = 1_000_000, 24, 1_000
_DELTA = 1e-7


def measure() -> list[Row]:
    rows = [_ledger(share) for share in (0.9, 0.5)]
    random = np.random.default_rng(int.from_bytes(os.urandom(8), "big"))
    events = [
        dp_sgd_event(rate, int(steps), noise)
        for rate, steps, noise in zip(
            random.uniform(0.001, 0.05, DIFFERENT),
            random.integers(100, 2000, DIFFERENT),
            random.uniform(5.0, 20.0, DIFFERENT),
            strict=True,
        )
    ]
    start = time.perf_counter()
    rdp = epsilon_rdp(events, 1e-5)
    middle = time.perf_counter()
    pld = epsilon_pld(events, 1e-5)
    end = time.perf_counter()
    return [
        *rows,
        (f"RDP and PLD of {DIFFERENT:,} different runs, s", f"{end - start:.2f}", "≤ 10"),
        (
            "of which RDP, PLD; epsilon by each",
            f"{middle - start:.2f}, {end - middle:.2f}; {rdp:.2f}, {pld:.2f}",
            "",
        ),
    ]


def _ledger(share: float) -> Row:
    """A ledger opened afresh answers who may be in a further run.

    Each run had another random `share` of everybody and another noise, so hardly two
    people have the same history; the budget lies where some are over it.
    """
    random = np.random.default_rng(7)
    plans = [_plan(noise) for noise in np.linspace(4.0, 6.0, RUNS)]
    events = [plan.event for plan in plans]
    everything = epsilon_rdp([*events, plans[0].event], _DELTA)
    generous = Budget(epsilon=1e6, delta=_DELTA)
    limit = everything * (0.96 if share > 0.8 else 0.75)
    tight = Budget(epsilon=limit, delta=_DELTA, over_budget="leave_out")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'ledger.db'}"
        with Ledger.open(url) as ledger:
            for number, plan in enumerate(plans):
                members = BitMap(np.flatnonzero(random.random(SUBJECTS) < share).astype(np.uint32))
                made = ledger.reserve(
                    plan.release(members),
                    budget=generous,
                    request=str(number),
                    now=dt.datetime.now(dt.UTC),
                )
                ledger.settle(made.run_id)
        everybody = BitMap(range(SUBJECTS))
        with Ledger.open(url) as ledger:
            start = time.perf_counter()
            admitted, left_out = ledger.admissible(plans[0].release(everybody), tight)
            taken = time.perf_counter() - start
    what = f"ledger check, {SUBJECTS:,} subjects × {RUNS} runs of a random {share:.0%}"
    print(f"{what}: {len(admitted):,} admitted, {left_out:,} left out")
    return (f"{what}, s", f"{taken:.2f}", "≤ 2")


def _plan(noise_multiplier: float) -> Plan:
    return Plan(
        sample_rate=0.01,
        steps=1000,
        records_per_person=1,
        clip_norm=1.0,
        noise_multiplier=float(noise_multiplier),
        expected_batch_size=10_000.0,
        delta=_DELTA,
    )
