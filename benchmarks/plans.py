"""Random plans over all that may be declared, each price against two others and from both sides.

    python -m benchmarks.plans                 500 plans, and the plans that have a name
    python -m benchmarks.plans --count 40

Of each plan the claim by RDP is held against a quadrature at the best order and against
dp_accounting's accountant; the claim by PLD against a bound from below of the true epsilon and
against dp_accounting's PLD, which is pessimistic and so a bound from above up to its grid.
"""

import argparse
import itertools
import logging
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from lethe.privacy.accounting import dp_sgd_event, epsilon_pld, epsilon_rdp
from lethe.privacy.bounds import epsilon_at_least, epsilon_of_renyi

Facts = tuple[float, int, float, float]  # sample rate, steps, noise multiplier, delta

TUTORIAL: Facts = (32 / 60_000, 131_250, 2.0, 1e-5)  # 60,000 people, batches of 32, 70 epochs
HALF: Facts = (0.5, 20, 2.0007, 1e-3)
# Where dp_accounting says 0, by a bound on the total variation, the claim may be a little more.
NEAR_ZERO = 0.02
SLACK = 1e-6  # relative: of two quadratures of one integral
GRID = 1e-4  # of dp_accounting's losses, by default


@dataclass(frozen=True)
class Priced:
    """One plan's two claims, with what bounds them; NaN where the other accountant cannot say.

    Attributes:
        renyi: by quadrature at the best of the public orders, and nothing of the accountant's code.
        least: the true epsilon is not below it.
        other_rdp, other_pld: dp_accounting's.
    """

    facts: Facts
    rdp: float
    renyi: float
    other_rdp: float
    pld: float
    least: float
    other_pld: float

    @property
    def wrong(self) -> list[str]:
        """What contradicts the claims, or would contradict an honest plan."""
        found = {
            "the audit contradicts the claim by RDP": self.renyi > self.rdp * (1 + SLACK),
            "the audit contradicts the claim by PLD": self.least > self.pld,
            "PLD above RDP": self.pld > self.rdp,
            "RDP above the other accountant's": self.rdp
            > max(self.other_rdp * (1 + 1e-3), NEAR_ZERO),
            "PLD above the other accountant's": self.pld > self.other_pld * (1 + 1e-3) + 1e-6,
        }
        return [name for name, is_so in found.items() if is_so]


def random_plans(count: int) -> list[Facts]:
    """Log-uniform over the declared range, one in twenty of everybody; the same ones every time."""
    draw = np.random.default_rng(20)
    return [
        (
            1.0 if draw.random() < 0.05 else float(10 ** draw.uniform(-7, 0)),
            int(10 ** draw.uniform(0, 6)),
            float(10 ** draw.uniform(-1, 3)),
            float(10 ** draw.uniform(-12, -1)),
        )
        for _ in range(count)
    ]


def grid_plans() -> list[Facts]:
    """294 usual plans: seven rates, three lengths, seven multipliers, two deltas."""
    return list(
        itertools.product(
            (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.8),
            (20, 60, 300),
            (0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0),
            (1e-3, 1e-5),
        )
    )


def priced(facts: Facts) -> Priced:
    rate, steps, noise, delta = facts
    event = dp_sgd_event(rate, steps, noise)
    rdp, pld = epsilon_rdp([event], delta), epsilon_pld([event], delta)
    # Its grid is too coarse for losses below it, and too long for very large ones.
    fits = rate >= 1e-4 and noise >= 0.4 and 0.01 < pld < 50
    other = PLDAccountant(value_discretization_interval=GRID) if fits else None
    return Priced(
        facts,
        rdp=rdp,
        renyi=epsilon_of_renyi(*facts),
        other_rdp=RdpAccountant().compose(event).get_epsilon(delta),
        pld=pld,
        least=epsilon_at_least(*facts, near=pld),
        other_pld=other.compose(event).get_epsilon(delta) if other else float("nan"),
    )


def report(name: str, found: Sequence[Priced]) -> str:
    """A row of the table in the documentation."""
    both = [p for p in found if np.isfinite(p.other_pld)]
    near = [p for p in found if p.facts[3] > 1e-9 and 1e-3 < p.pld < 1e3]
    gap = max((1 - p.least / p.pld for p in near), default=float("nan"))
    off = sum(p.rdp < p.other_rdp * (1 - 1e-3) for p in found)
    return (
        f"| {name} | {len(found)} | {sum(bool(p.wrong) for p in found)} | {len(both)} | "
        f"{gap:.1%} of {len(near)} | {off} |"
    )


HEADER = (
    "| plans | number | contradicted, or dearer than another's price | with another's PLD | "
    "bound from below is at most so far below the claim | RDP lower by 0.1 % than "
    "dp_accounting's, which drops orders |\n|---|---|---|---|---|---|"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.plans", description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    count = parser.parse_args().count
    logging.disable(logging.WARNING)
    print(HEADER)
    parts: Iterable[tuple[str, list[Facts]]] = [
        ("with a name", [TUTORIAL, HALF]),
        ("random, over all that may be declared", random_plans(count)),
        ("usual, on a grid", grid_plans()[:count]),
    ]
    wrong = 0
    for name, plans in parts:
        start, found = time.process_time(), []
        for facts in plans:
            found.append(priced(facts))
            if found[-1].wrong or name == "with a name":
                print(found[-1].wrong, found[-1], file=sys.stderr, flush=True)
        wrong += sum(bool(p.wrong) for p in found)
        print(report(name, found), flush=True)
        print(f"{name}: {time.process_time() - start:.0f} s", file=sys.stderr, flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
