"""People with the same history are one class: how the ledger prices a million of them.

Pure functions over Roaring bitmaps and event data; `lethe.ledger.ledger` has the rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import dp_accounting as dp
import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from lethe.privacy.accounting import epsilon_pld, epsilon_rdp
from lethe.privacy.events import leaves
from lethe.privacy.renyi import ORDERS, best_order, conversion, epsilon_of, rdp_vector

_BLOCK = 2_048  # classes priced at a time: what is in work stays in the processor's cache
_BITS = 62  # runs that one number distinguishes
_EXACT = 256  # histories whose PLD is worked out; beyond them RDP, which is never less, stands in

Tokens = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Charge:
    """One run that counts (reserved or settled), and everybody who is charged for it."""

    run_id: str
    event: dp.DpEvent = field(compare=False)
    members: BitMap = field(compare=False)
    delta: float


@dataclass(frozen=True)
class SpendClass:
    """People who were charged for the same runs, and what that comes to at `delta`."""

    members: BitMap
    run_ids: tuple[str, ...]
    events: tuple[dp.DpEvent, ...]
    delta: float
    epsilon_rdp: float

    @property
    def subjects(self) -> int:
        return len(self.members)

    @cached_property
    def epsilon_pld(self) -> float:
        return epsilon_pld(self.events, self.delta)


@dataclass(frozen=True, kw_only=True)
class ClassPrice:
    """What people of one history have spent, and would have with the run."""

    subjects: int
    runs: int
    epsilon_rdp_before: float
    epsilon_pld_before: float
    epsilon_rdp_after: float
    epsilon_pld_after: float
    remaining: float  # of the budget, before the run


@dataclass(frozen=True)
class Histories:
    """Everybody's history, by class.

    Shapes: tokens (people,), rising; class_of (people,); runs bool (classes, charges).
    """

    tokens: Tokens
    class_of: npt.NDArray[np.int64]
    runs: npt.NDArray[np.bool_]
    charges: tuple[Charge, ...]

    @cached_property
    def _vectors(self) -> npt.NDArray[np.float64]:
        """RDP of each charge. Shapes: (charges, orders)."""
        found = [rdp_vector(leaves([charge.event])) for charge in self.charges]
        # Finite, however large: nobody's history may turn 0 * infinity into not a number.
        return np.minimum(found, 1e300).reshape(len(self.charges), len(ORDERS))

    def rdp(self, classes: slice) -> npt.NDArray[np.float64]:
        """RDP vectors of some classes. Shapes: (classes, orders)."""
        spent: npt.NDArray[np.float64] = self.runs[classes].astype(np.float64) @ self._vectors
        return spent

    def epsilons(self, delta: float, and_then: dp.DpEvent | None = None) -> npt.NDArray[np.float64]:
        """RDP epsilon of each class, with one event more if given. Shapes: (classes,)."""
        more = rdp_vector(leaves([and_then])) if and_then is not None else 0.0
        found = np.zeros(len(self.runs))
        for start in range(0, len(self.runs), _BLOCK):
            block = slice(start, start + _BLOCK)
            found[block] = epsilon_of(self.rdp(block) + more, delta)
        return found

    def at_order(
        self, order: int, delta: float, and_then: dp.DpEvent | None = None
    ) -> npt.NDArray[np.float64]:
        """What one of ORDERS proves, at least the RDP epsilon. Shapes: (classes,)."""
        prices = self._vectors[:, order]
        more = rdp_vector(leaves([and_then]))[order] if and_then is not None else 0.0
        found = np.full(len(self.runs), more + conversion(delta)[order])
        for start in range(0, len(found), _BLOCK):
            block = slice(start, start + _BLOCK)
            found[block] += self.runs[block].astype(np.float64) @ prices
        return found

    def largest_epsilon(self, order: int, delta: float) -> float:
        """The largest RDP epsilon of any class, 0 if there is none.

        Args:
            order: one of ORDERS by its place; what it proves says who is looked at first, and
                ends the search once nobody who is left can be above what was found.
        """
        bounds = self.at_order(order, delta)
        ranked = np.argsort(-bounds)
        found = 0.0
        for start in range(0, len(ranked), _BLOCK):
            block = ranked[start : start + _BLOCK]
            if bounds[block[0]] <= found:
                break
            found = max(found, float(replace(self, runs=self.runs[block]).epsilons(delta).max()))
        return found

    def sizes(self) -> npt.NDArray[np.int64]:
        return np.bincount(self.class_of, minlength=len(self.runs))

    def people(self, classes: npt.NDArray[np.bool_]) -> BitMap:
        """Everybody in the classes that are true."""
        return BitMap(self.tokens[classes[self.class_of]])


def histories(tokens: BitMap, charges: Sequence[Charge]) -> Histories:
    """Groups people by the exact set of runs they were charged for.

    Guarantees: two people are in one class if and only if every charge has both or neither.
    """
    charges = tuple(charges)
    people = as_array(tokens)
    different = _distinct(charge.members for charge in charges)
    lookup = np.zeros(int(people[-1]) + 1 if len(people) else 0, dtype=np.bool_)
    class_of = np.zeros(len(people), dtype=np.int64)
    runs = np.zeros((1 if len(people) else 0, 0), dtype=np.bool_)
    for start in range(0, len(different), _BITS):
        part = different[start : start + _BITS]
        codes = np.zeros(len(people), dtype=np.int64)
        for bit, members in enumerate(part):
            inside = as_array(tokens & members)
            lookup[inside] = True
            codes |= lookup[people].astype(np.int64) << bit
            lookup[inside] = False
        found, of_part = np.unique(codes, return_inverse=True)
        pairs, class_of = np.unique(class_of * len(found) + of_part, return_inverse=True)
        bits = (found[:, None] >> np.arange(len(part))) & 1
        before, now = np.divmod(pairs, max(1, len(found)))
        runs = np.hstack([runs[before], bits.astype(np.bool_)[now]])
    places = [different.index(charge.members) for charge in charges]
    return Histories(people, class_of, runs[:, places], charges)


def over_budget(
    tokens: BitMap, charges: Sequence[Charge], event: dp.DpEvent, *, epsilon: float, delta: float
) -> tuple[BitMap, float, float]:
    """Who would be above `epsilon` by RDP after one event more.

    Returns:
        Those people, the least that any of them has left, and the most that any would have.
    """
    everything = [*(charge.event for charge in charges), event]
    if epsilon_rdp(everything, delta) <= epsilon:
        return BitMap(), epsilon, 0.0  # even who was in every run is within
    grouped = histories(tokens, charges)
    # One order that proves a class to be within is enough; only the others are priced in full.
    order = best_order(rdp_vector(leaves(everything)), delta)
    over = ~(grouped.at_order(order, delta, event) <= epsilon)  # also what is not a number
    after = replace(grouped, runs=grouped.runs[over]).epsilons(delta, event)
    over[over] = ~(after <= epsilon)
    if not over.any():
        return BitMap(), epsilon, 0.0
    spent = replace(grouped, runs=grouped.runs[over]).largest_epsilon(order, delta)
    return grouped.people(over), max(0.0, epsilon - spent), float(after.max())


def spend_classes(tokens: BitMap, charges: Sequence[Charge], *, delta: float) -> list[SpendClass]:
    """The classes as facts, the largest first."""
    grouped = histories(tokens, charges)
    epsilons = grouped.epsilons(delta)
    order = np.argsort(grouped.class_of, kind="stable")
    ends = np.cumsum(grouped.sizes())
    found = []
    for number, end in enumerate(ends):
        start = ends[number - 1] if number else 0
        charged = [charge for charge, has in zip(charges, grouped.runs[number], strict=True) if has]
        found.append(
            SpendClass(
                members=BitMap(grouped.tokens[order[start:end]]),
                run_ids=tuple(charge.run_id for charge in charged),
                events=tuple(charge.event for charge in charged),
                delta=delta,
                epsilon_rdp=float(epsilons[number]),
            )
        )
    return sorted(found, key=lambda each: (-each.subjects, each.run_ids))


def class_prices(
    tokens: BitMap, charges: Sequence[Charge], event: dp.DpEvent, *, epsilon: float, delta: float
) -> list[ClassPrice]:
    """What one event more would bring each class to, the largest class first.

    PLD is worked out for the largest classes; for the others RDP, which is valid too,
    stands in its place.
    """
    grouped = histories(tokens, charges)
    before, after = grouped.epsilons(delta), grouped.epsilons(delta, event)
    sizes = grouped.sizes()
    found = []
    for rank, number in enumerate(np.lexsort((after, -sizes))):
        events = [c.event for c, has in zip(charges, grouped.runs[number], strict=True) if has]
        exact = rank < _EXACT
        found.append(
            ClassPrice(
                subjects=int(sizes[number]),
                runs=len(events),
                epsilon_rdp_before=float(before[number]),
                epsilon_pld_before=(epsilon_pld(events, delta) if exact else float(before[number])),
                epsilon_rdp_after=float(after[number]),
                epsilon_pld_after=(
                    epsilon_pld([*events, event], delta) if exact else float(after[number])
                ),
                remaining=max(0.0, epsilon - float(before[number])),
            )
        )
    return found


def as_array(tokens: BitMap) -> Tokens:
    """The tokens, rising."""
    return np.array(tokens.to_array(), dtype=np.uint32)


def _distinct(bitmaps: Iterable[BitMap]) -> list[BitMap]:
    """Equal bitmaps once: retraining the same people distinguishes nobody twice."""
    kept: list[BitMap] = []
    for bitmap in bitmaps:
        if bitmap not in kept:
            kept.append(bitmap)
    return kept
