"""Anything that leaves the workspace and costs people privacy: one object says what and whose.

A trained model, a statistic, a charged metric: whoever releases makes a `Release` of what
will run, and the ledger charges it to everybody it may touch. The ledger knows nothing else
of what is released.
"""

import math
from dataclasses import dataclass, field, fields

import dp_accounting as dp
from pyroaring import BitMap

from lethe.core.errors import ParamsInvalid
from lethe.privacy.events import event_to_data

# What is charged to one person adds up only where all of it means the same change of the data.
UNITS = ("person",)
ADJACENCIES = ("add or remove one person",)
_LONGEST = 64  # characters of a digest or of a mechanism's name, as a ledger stores them


@dataclass(frozen=True, kw_only=True)
class Release:
    """What leaves, what it costs one person, and every person whom it may be about.

    Guarantee: what comes out is an outcome of mechanisms whose privacy loss per `unit`, under
        `adjacency`, is at most that of `event`. Whoever makes a release answers for this; the
        audit looks at it.

    Attributes:
        event: how the privacy loss composes; of a kind that the accountants price.
        unit: who is protected as one; `person` alone, since the ledger keeps people's accounts.
        adjacency: which two data sets are neighbours; one of `ADJACENCIES`.
        sampling: who is drawn, and how, in words.
        mechanism: the kind of mechanism, such as `dp-sgd`.
        digest: SHA-256 over all that decides what runs, the kind of mechanism included.
        delta: at which the claim is made.
        records_per_person: at most so many records of one person are used.
        subjects: everybody whose data may be used, drawn or not.

    Raises:
        ParamsInvalid: a fact is absent or impossible, or cannot be added to other releases.
        LedgerInvalid: the event is of no kind that can be priced.
    """

    event: dp.DpEvent = field(compare=False)
    unit: str
    adjacency: str
    sampling: str
    mechanism: str
    digest: str
    delta: float
    records_per_person: int
    subjects: BitMap = field(repr=False)

    def __post_init__(self) -> None:
        for known in fields(self):
            value = getattr(self, known.name)
            if known.type is str and not (isinstance(value, str) and value.strip()):
                raise ParamsInvalid(f"A release must say its {known.name}; nothing was charged.")
        for name, value, allowed in (
            ("unit", self.unit, UNITS),
            ("adjacency", self.adjacency, ADJACENCIES),
        ):
            if value not in allowed:
                raise ParamsInvalid(
                    f"A release of {name} {value!r} cannot be added to what people have spent: "
                    f"the ledger adds up {', '.join(allowed)} alone. State it for that."
                )
        if max(len(self.digest), len(self.mechanism)) > _LONGEST:
            raise ParamsInvalid(
                f"A release's digest and mechanism have at most {_LONGEST} characters."
            )
        if not (math.isfinite(self.delta) and 0 < self.delta < 1):
            raise ParamsInvalid(f"A release's delta={self.delta!r} must be in (0, 1).")
        if self.records_per_person < 1:
            raise ParamsInvalid("A release uses at least one record per person, or charges nobody.")
        event_to_data(self.event)
