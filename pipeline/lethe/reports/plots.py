"""Pictures of what privacy costs, as PNG: spending by class, and accuracy against epsilon.

Colours are of Okabe and Ito (2008), which colour-blind people can distinguish; shapes and
hatching say the same once more, for print.
"""

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREEN, _RED, _PURPLE, _SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
_GREY = "#666666"
_BARS = 12  # classes with a bar of their own
_DPI = 150


def budget_plot(report: Mapping[str, Any]) -> bytes:
    """One bar a class: spent, what the next run adds, and the budget they are held to.

    Args:
        report: as `lethe.registration.spending.budget_report` gives it.
    """
    classes = list(report["classes"])
    shown, rest = classes[:_BARS], classes[_BARS:]
    limit = float(report["budget_epsilon"])
    figure, axes = _canvas(height=2.0 + 0.42 * max(1, len(shown)))
    spent = [float(each["epsilon_rdp"]) for each in shown]
    after = [float(each.get("epsilon_rdp_after", each["epsilon_rdp"])) for each in shown]
    adds = [high - low for low, high in zip(spent, after, strict=True)]
    places = range(len(shown))
    axes.barh(places, spent, color=_BLUE, label="spent")
    if any(adds):
        axes.barh(
            places,
            adds,
            left=spent,
            color=_ORANGE,
            edgecolor="white",
            hatch="///",
            label="the next run",
        )
    axes.axvline(limit, color=_RED, linestyle="--", linewidth=1.5, label=f"budget, {limit:g}")
    axes.set_yticks(list(places), [_named(each) for each in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08 * max([limit, *after]))
    axes.set_xlabel(f"epsilon (RDP) at delta {report['delta']:g}, per {report['unit']}")
    title = "Privacy budget by people of one history"
    if not shown:
        axes.text(limit / 2, 0, "Nobody has been charged", ha="center", color=_GREY)
    if rest:
        title += f" (the {_BARS} largest of {len(classes)})"
    axes.set_title(title, loc="left", fontsize=11)
    _legend(axes, columns=3)
    return _png(figure)


def sweep_plot(report: Mapping[str, Any]) -> bytes:
    """AUC against epsilon, one line a clip: the median, from the least to the greatest repeat.

    Args:
        report: as `lethe.sweep.report.sweep_report` gives it.
    """
    figure, axes = _canvas(height=4.6)
    trained = [point for point in report["points"] if point["auc"] is not None]
    price = f"epsilon_{report['accountant']}"
    colours = cycle((_BLUE, _ORANGE, _GREEN, _PURPLE, _SKY))
    markers = cycle("osD^v")
    for clip in sorted({point["clip_norm"] for point in trained}):
        line = sorted((p for p in trained if p["clip_norm"] == clip), key=lambda p: float(p[price]))
        middle = [float(point["auc"]["value"]) for point in line]
        low = [m - min(p["auc"]["repeats"]) for m, p in zip(middle, line, strict=True)]
        high = [max(p["auc"]["repeats"]) - m for m, p in zip(middle, line, strict=True)]
        axes.errorbar(
            [float(point[price]) for point in line],
            middle,
            yerr=[low, high],
            color=next(colours),
            marker=next(markers),
            markersize=5,
            capsize=3,
            label=f"clip_norm {clip:g}",
        )
    reference = report["reference"]
    if reference is not None:
        top = float(reference["auc"]["value"])
        label = f"without privacy, {top:.3f}"
        axes.axhline(top, color="black", linestyle="--", linewidth=1.2, label=label)
        near = f"within {report['within']:g} of it"
        axes.axhspan(top - report["within"], top, color=_GREY, alpha=0.18, linewidth=0, label=near)
    enough = report["enough"]
    if enough is not None:
        place = (float(enough[price]), float(enough["auc"]["value"]))
        label = f"enough: epsilon {enough[price]:.3g}"
        axes.plot(*place, "o", markersize=14, fillstyle="none", color=_RED, mew=2, label=label)
    if trained:
        _decimal_log(axes, [float(point[price]) for point in trained])
    axes.set_xlabel(
        f"epsilon ({report['accountant'].upper()}) at delta {report['delta']:g}, per person"
    )
    axes.set_ylabel("AUC on held-out people")
    axes.set_title(f"Accuracy against epsilon: {report['data']['words']}", loc="left", fontsize=10)
    axes.grid(axis="y", alpha=0.3)
    _legend(axes, columns=3)
    return _png(figure)


def _named(each: Mapping[str, Any]) -> str:
    people, runs = int(each["subjects"]), int(each["runs"])
    words = f"{people:,} {'person' if people == 1 else 'people'}, {runs} run{'s' * (runs != 1)}"
    return words if each.get("in_next_run", True) else f"{words}, not in the next"


def _canvas(*, height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure  # half a second that other commands need not wait for

    figure = Figure(figsize=(8.0, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _decimal_log(axes: "Axes", values: Sequence[float]) -> None:
    """A logarithmic axis that is labelled at the points themselves."""
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    ticks: list[float] = []
    for value in sorted(values):
        if not ticks or value > 1.15 * ticks[-1]:
            ticks.append(value)
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _legend(axes: "Axes", *, columns: int) -> None:
    axes.figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def _png(figure: "Figure") -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    return content.getvalue()
