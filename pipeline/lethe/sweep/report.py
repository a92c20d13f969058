"""What a sweep found, as data, as a table and as CSV; and which epsilon is enough."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from lethe.privacy.accounting import Accountant, epsilon_pld, epsilon_rdp
from lethe.privacy.plan import ADJACENCY, SAMPLING, UNIT
from lethe.sweep.points import Point
from lethe.sweep.stand_in import Tried

WITHIN = 0.005  # of the reference's AUC is enough

_CANNOT = {
    "generated": "Generated people have a planted linear signal: the curve's shape can be trusted "
    "more than its height, and --auc is a guess of yours.",
    "stand-in": "The curve is that of other people, declared public by whoever ran this; with "
    "fewer of them than expected_subjects, the same noise weighs more than it will.",
    "charged": "Numbers are measured on held-out people without noise: they are not private, and "
    "to choose by them is to have looked at those people.",
}


def sweep_report(
    points: Sequence[Point],
    tried: Tried,
    *,
    accountant: Accountant,
    reference: float | None,
) -> dict[str, Any]:
    """JSON-ready; see `render_sweep` for a reader.

    Args:
        accountant: whose epsilon the points are ordered and drawn by.
        reference: AUC of the same network without privacy; of a stand-in alone.

    Returns:
        `points` in the order they ran; `enough`, the cheapest whose median AUC is within 0.005
        of the reference, or of the best point where there is none; `charged`, what the people
        paid for all of it, or null. Every metric says whether it is private.
    """
    private = tried.kind != "charged"  # a stand-in has no private data
    delta = points[0].plan.delta
    listed = [_point(point, private) for point in points]
    paid = [point.plan.event for point in points for _ in point.runs]
    return {
        "accountant": accountant,
        "adjacency": ADJACENCY,
        "charged": None
        if tried.kind != "charged"
        else {
            "epsilon_pld": epsilon_pld(paid, delta),
            "epsilon_rdp": epsilon_rdp(paid, delta),
            "runs": len(paid),
        },
        "data": {
            "held_out_people": len(set(tried.held_out.tokens.tolist())),
            "held_out_records": len(tried.held_out),
            "kind": tried.kind,
            "people": len(tried.people),
            "private": private,
            "records": tried.people.records,
            "words": tried.words,
        },
        "delta": delta,
        "enough": _enough(listed, reference, f"epsilon_{accountant}"),
        "notes": [_CANNOT[tried.kind]],
        "points": listed,
        "reference": (
            None if reference is None else {"auc": {"private": private, "value": reference}}
        ),
        "sampling": SAMPLING,
        "unit": UNIT,
        "within": WITHIN,
    }


def render_sweep(report: Mapping[str, Any]) -> str:
    """A table by epsilon and clip, which one is enough, and what this can and cannot show."""
    mark = "" if report["data"]["private"] else " (not private)"
    lines = [
        f"On {report['data']['words']}; AUC on {report['data']['held_out_people']:,} held-out "
        f"people{mark}. Epsilon at delta {report['delta']:g} per {report['unit']}.",
        "",
        "      PLD      RDP    noise     clip      AUC  lowest..highest",
    ]
    enough, price = report["enough"], price_field(report)
    for point in sorted(report["points"], key=lambda p: (p[price], p["clip_norm"])):
        row = "  ".join(
            f"{point[name]:>7.{digits}f}"
            for name, digits in (
                ("epsilon_pld", 3),
                ("epsilon_rdp", 3),
                ("noise_multiplier", 2),
                ("clip_norm", 2),
            )
        )
        auc, cells = point["auc"], []
        if auc is not None:
            cells.append(
                f"{auc['value']:>7.4f}  {min(auc['repeats']):.4f}..{max(auc['repeats']):.4f}"
            )
        if point["problem"]:
            cells.append(point["problem"])
        if point["left_out"]:
            cells.append(f"{point['left_out']:,} people left out")
        if point == enough:
            cells.append("<- enough")
        lines.append(f"  {row}  {'  '.join(cells)}")
    lines += ["", _conclusion(report)]
    if report["charged"] is not None:
        paid = report["charged"]
        lines.append(
            f"Charged: {paid['runs']} trainings, together epsilon {paid['epsilon_rdp']:.3f} (RDP), "
            f"{paid['epsilon_pld']:.3f} (PLD) to everybody who was in all of them. No model was "
            "kept."
        )
    return "\n".join([*lines, *report["notes"]])


def price_field(report: Mapping[str, Any]) -> str:
    """By which field of its points a sweep is ordered: the epsilon of its accountant."""
    return f"epsilon_{report['accountant']}"


def sweep_csv(report: Mapping[str, Any]) -> str:
    """The points; the names of columns that no noise protects say so."""
    mark = "" if report["data"]["private"] else "_not_private"
    lines = [
        "epsilon_pld,epsilon_rdp,noise_multiplier,clip_norm,"
        f"auc{mark},auc_lowest{mark},auc_highest{mark},problem"
    ]
    for point in report["points"]:
        auc = point["auc"]
        cells = (
            ["", "", ""]
            if auc is None
            else [f"{x:.6f}" for x in (auc["value"], min(auc["repeats"]), max(auc["repeats"]))]
        )
        numbers = [
            f"{point[name]:.6g}"
            for name in ("epsilon_pld", "epsilon_rdp", "noise_multiplier", "clip_norm")
        ]
        lines.append(",".join([*numbers, *cells, point["problem"] or ""]))
    return "\n".join(lines) + "\n"


def _point(point: Point, private: bool) -> dict[str, Any]:
    plan = point.plan
    middle = (
        {
            "private": private,
            "repeats": list(point.aucs),
            "value": statistics.median(point.aucs),
        }
        if point.aucs
        else None
    )
    return {
        "auc": middle,
        "clip_norm": plan.clip_norm,
        "epsilon_pld": epsilon_pld([plan.event], plan.delta),
        "epsilon_rdp": epsilon_rdp([plan.event], plan.delta),
        "left_out": point.left_out,
        "noise_multiplier": plan.noise_multiplier,
        "problem": point.problem,
        "records_per_person": plan.records_per_person,
        "runs": list(point.runs),
        "sample_rate": plan.sample_rate,
        "steps": plan.steps,
    }


def _enough(points: Sequence[Mapping[str, Any]], reference: float | None, price: str) -> Any:
    """The cheapest point whose median is near enough; of one price, the better one."""
    sound = [point for point in points if point["auc"] is not None and point["problem"] is None]
    if not sound:
        return None
    top = max(point["auc"]["value"] for point in sound) if reference is None else reference
    near = [point for point in sound if point["auc"]["value"] >= top - WITHIN]
    return min(near, key=lambda p: (p[price], -p["auc"]["value"]), default=None)


def _conclusion(report: Mapping[str, Any]) -> str:
    enough, reference = report["enough"], report["reference"]
    words = (
        "the best point"
        if reference is None
        else f"the same network without privacy ({reference['auc']['value']:.4f})"
    )
    if enough is None:
        return f"No point is within {report['within']:g} AUC of {words}."
    return (
        f"epsilon {enough[price_field(report)]:.3g} ({report['accountant'].upper()}) with "
        f"clip_norm {enough['clip_norm']:g} is the least that comes within "
        f"{report['within']:g} AUC of {words}."
    )
