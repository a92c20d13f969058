"""Privacy events as plain data, and as what they come down to.

The ledger keeps events for years, so they are stored as JSON over a closed table of
kinds: nothing is imported or called by a name that comes from data, and a kind or a
field that the table does not have is refused.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import dp_accounting as dp
from dp_accounting import dp_event

from lethe.core.errors import LedgerInvalid

_DEEPEST = 32  # nesting of composed events in data


class Leaf(NamedTuple):
    """One mechanism that is applied to everybody, or to a Poisson sample of everybody.

    `kind` is gaussian, laplace, discrete_laplace or randomized_response; `scale` its noise
    (multiplier, or noise parameter), `extra` sensitivity or number of buckets.
    """

    kind: str
    scale: float
    extra: int = 1
    sample_rate: float = 1.0


@dataclass(frozen=True)
class _Kind:
    event: type[dp.DpEvent]
    numbers: Mapping[str, Callable[[Any], float | int]]
    inner: str | None = None


def _positive(value: Any) -> float:
    return _real(value, above=0.0)


def _probability(value: Any) -> float:
    number = _real(value, above=None)
    if not 0 <= number <= 1:
        raise ValueError(f"{number} is no probability")
    return number


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("not a count of at least 1")
    return value


def _real(value: Any, *, above: float | None) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    number = float(value)
    if not math.isfinite(number) or (above is not None and number <= above):
        raise ValueError(f"{number} is not finite and above {above}")
    return number


_KINDS: Mapping[str, _Kind] = {
    "no_op": _Kind(dp_event.NoOpDpEvent, {}),
    "gaussian": _Kind(dp_event.GaussianDpEvent, {"noise_multiplier": _positive}),
    "laplace": _Kind(dp_event.LaplaceDpEvent, {"noise_multiplier": _positive}),
    "discrete_laplace": _Kind(
        dp_event.DiscreteLaplaceDpEvent, {"noise_parameter": _positive, "sensitivity": _count}
    ),
    "randomized_response": _Kind(
        dp_event.RandomizedResponseDpEvent,
        {"noise_parameter": _probability, "num_buckets": _count},
    ),
    "poisson_sampled": _Kind(
        dp_event.PoissonSampledDpEvent, {"sampling_probability": _probability}, "event"
    ),
    "self_composed": _Kind(dp_event.SelfComposedDpEvent, {"count": _count}, "event"),
    "composed": _Kind(dp_event.ComposedDpEvent, {}, "events"),
}
_NAMES = {kind.event: name for name, kind in _KINDS.items()}


def event_to_data(event: dp.DpEvent) -> dict[str, Any]:
    """The event as JSON-ready data; `event_from_data` gives the equal event back.

    Raises:
        LedgerInvalid: the event, or one inside it, is of no kind in the table, or has a
            number that no mechanism has.
    """
    name = _NAMES.get(type(event))
    if name is None:
        raise _unknown(type(event).__name__)
    kind = _KINDS[name]
    data: dict[str, Any] = {"kind": name}
    for field, check in kind.numbers.items():
        data[field] = _checked(name, field, check, getattr(event, field))
    if kind.inner == "event":
        data["event"] = event_to_data(getattr(event, "event"))  # noqa: B009 - of a subclass
    elif kind.inner == "events":
        data["events"] = [event_to_data(each) for each in getattr(event, "events")]  # noqa: B009
    return data


def event_from_data(data: Any, *, depth: int = 0) -> dp.DpEvent:
    """The event that `event_to_data` wrote.

    Raises:
        LedgerInvalid: an unknown kind, a field too many or too few, an impossible number.
    """
    if not isinstance(data, Mapping) or depth > _DEEPEST:
        raise LedgerInvalid("A stored privacy event is not a mapping, or nests without end.")
    name = data.get("kind")
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(name, str):
        raise _unknown(str(name)[:40])
    expected = {"kind", *kind.numbers, *([kind.inner] if kind.inner else [])}
    if set(data) != expected:
        raise LedgerInvalid(f"A stored {name} event has not exactly the fields {sorted(expected)}.")
    values: dict[str, Any] = {
        field: _checked(name, field, check, data[field]) for field, check in kind.numbers.items()
    }
    if kind.inner == "event":
        values["event"] = event_from_data(data["event"], depth=depth + 1)
    elif kind.inner == "events":
        if not isinstance(data["events"], list):
            raise LedgerInvalid("A stored composed event has no list of events.")
        values["events"] = [event_from_data(each, depth=depth + 1) for each in data["events"]]
    return kind.event(**values)


def leaves(events: Sequence[dp.DpEvent]) -> Counter[Leaf]:
    """How often each mechanism was applied: all that the price of a history depends on.

    Guarantees: composition, self-composition and order do not matter; what has no cost
        (no-op, sampling at rate 0, a response without choice) is left out.

    Raises:
        LedgerInvalid: an event that cannot be priced.
    """
    found: Counter[Leaf] = Counter()
    for event in events:
        _collect(event, 1, found)
    return found


def _collect(event: dp.DpEvent, count: int, found: Counter[Leaf]) -> None:
    match event:
        case dp_event.NoOpDpEvent():
            return
        case dp_event.SelfComposedDpEvent():
            _collect(event.event, count * _checked("", "count", _count, event.count), found)
        case dp_event.ComposedDpEvent():
            for each in event.events:
                _collect(each, count, found)
        case dp_event.PoissonSampledDpEvent():
            rate = _checked("", "sampling_probability", _probability, event.sampling_probability)
            if rate == 1:
                _collect(event.event, count, found)
            elif rate > 0:
                inner = _as_one(event.event)
                if inner is not None:
                    found[inner._replace(sample_rate=float(rate))] += count
        case _:
            leaf = _leaf(event)
            if leaf is not None:
                found[leaf] += count


def _leaf(event: dp.DpEvent) -> Leaf | None:
    data = event_to_data(event)
    match data["kind"]:
        case "gaussian" | "laplace":
            return Leaf(data["kind"], data["noise_multiplier"])
        case "discrete_laplace":
            return Leaf(data["kind"], data["noise_parameter"], data["sensitivity"])
        case "randomized_response":
            if data["num_buckets"] == 1 or data["noise_parameter"] == 1:
                return None
            return Leaf(data["kind"], data["noise_parameter"], data["num_buckets"])
    raise _unknown(data["kind"])


def _as_one(event: dp.DpEvent) -> Leaf | None:
    """What runs on one Poisson sample, as one mechanism.

    Several Gaussians on the same sample are one with noise (sum of sigma^-2)^-1/2.
    """
    inside = leaves([event])
    if not inside:
        return None
    if len(inside) == 1:
        leaf, count = next(iter(inside.items()))
        if count == 1 and leaf.sample_rate == 1:
            return leaf
    if any(leaf.kind != "gaussian" or leaf.sample_rate != 1 for leaf in inside):
        raise LedgerInvalid(
            "Only one mechanism, or Gaussians, can be priced on one Poisson sample."
        )
    return Leaf("gaussian", sum(n / leaf.scale**2 for leaf, n in inside.items()) ** -0.5)


def _checked(kind: str, field: str, check: Callable[[Any], Any], value: Any) -> Any:
    try:
        return check(value)
    except ValueError as error:
        raise LedgerInvalid(f"Privacy event {kind}: {field} is {error}.") from None


def _unknown(name: str) -> LedgerInvalid:
    return LedgerInvalid(f"Privacy event {name!r} is of no known kind ({', '.join(_KINDS)}).")
