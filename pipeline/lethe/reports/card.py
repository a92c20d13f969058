"""The model card: what a model is, what it cost whom, and what was checked; for a reader.

It is made from counts, prices and hashes alone, in Markdown and as a page.
"""

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import InvalidOperation
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lethe.core.shown import shown
from lethe.core.values import rounded_down, rounded_up


@dataclass(frozen=True)
class Card:
    """The facts of a card, section by section: title → rows of (what, value)."""

    title: str
    summary: str
    sections: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)

    def markdown(self) -> str:
        return _templates(".md").get_template("card.md.j2").render(card=self)

    def page(self) -> str:
        """A page that needs nothing beside it and holds no script."""
        return _templates(".html").get_template("card.html.j2").render(card=self)


@cache
def _templates(kind: Literal[".html", ".md"]) -> Environment:
    """The templates beside this module; whatever they show is escaped, unless it was before."""
    escape: Callable[[str], str] = page_text if kind == ".html" else markdown_text

    def escaped(value: object) -> Markup:
        return value if isinstance(value, Markup) else Markup(escape(str(value)))  # noqa: S704

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=escaped,  # by Python's spelling of quotes, so that older pages stay as they are
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return made


def model_card(
    facts: Mapping[str, str], metrics: Mapping[str, Mapping[str, Any]], inputs: Sequence[str]
) -> Card:
    """The card of a model version.

    Args:
        facts: the tags of the version, as registered.
        metrics: name → value and whether it is private, as train reports them.
        inputs: the source's columns that the model takes.
    """

    def rows(*names: str) -> list[tuple[str, str]]:
        return [
            (_WORDS.get(name, name), _shown(name, facts[name])) for name in names if facts.get(name)
        ]

    unit, delta = facts.get("unit", "person"), facts.get("delta", "?")
    counted = {
        name: f"about {_number(float(metrics[name]['value']))}"
        for name in ("records", "subjects")
        if name in metrics
    }
    summary = (
        f"Trained for {facts.get('purpose', '?')} on {counted.get('records', 'the')} records of "
        f"{counted.get('subjects', 'the')} people. What the model can reveal about any one {unit} "
        f"is bounded by epsilon {_shown('epsilon_pld', facts.get('epsilon_pld', '?'))} at delta "
        f"{delta} ({facts.get('adjacency', '?')})."
    )
    measured = [
        (
            name,
            _with_interval(entry)
            + (
                " (private: charged to the ledger)"
                if entry.get("private")
                else " (not private: computed from people's records without noise)"
            ),
        )
        for name, entry in sorted(metrics.items())
    ]
    return Card(
        title=facts.get("model", "model"),
        summary=summary,
        sections={
            "What it cost the people in it": rows(
                *("epsilon_pld", "epsilon_rdp", "delta", "unit", "adjacency", "sampling"),
                *("sample_rate", "records_per_person", "mechanism", "noise_multiplier", "noise"),
                *("clip_norm", "steps", "accountant", "engine", "device"),
            ),
            "What it came from": rows(
                *(
                    "purpose",
                    "subjects",
                    "records",
                    "figures",
                    "data_md5",
                    "subjects_md5",
                    "manifest_md5",
                ),
                *("model_md5", "git_commit", "git_dirty", "dvc_lock_md5"),
                *("run_id", "ledger_rows", "ledger_head"),
            ),
            "What was checked": rows(
                *("validation", "audit", "deep_audit", "deep_audit_at", "epsilon_lower_bound"),
                *("epsilon_lower_bound_confidence", "epsilon_shown_95"),
            ),
            "How good it is": measured,
            "What it takes": [
                ("columns", ", ".join(inputs)),
                ("values", "as the source has them; null where not known"),
            ],
        },
    )


_MEASURED = frozenset({"epsilon_pld", "epsilon_rdp", "noise_multiplier"})
_COUNTED = frozenset({"subjects", "records"})  # of people, with noise
_WORDS = {
    "epsilon_pld": "epsilon (PLD)",
    "epsilon_rdp": "epsilon (RDP, what the budget is held to)",
    "deep_audit": "canaries in twins of the plan",
    "deep_audit_at": "when they were trained",
    "epsilon_lower_bound": "epsilon that they show at least",
    "epsilon_lower_bound_confidence": "with confidence",
    "epsilon_shown_95": "epsilon that they show, at 95 %",
    "figures": "what the figures cost each person besides",
    "unit": "unit of privacy",
    "sample_rate": "sample rate (q)",
    "records_per_person": "records per person, at most",
    "noise_multiplier": "noise multiplier (sigma)",
    "noise": "noise (gaussian in floating point, or discrete on a public grid)",
    "data_md5": "data (md5 of the shards, DVC)",
    "subjects_md5": "people in the data (md5, DVC)",
    "manifest_md5": "people in the model (md5 of the manifest, DVC)",
    "model_md5": "model (md5, DVC)",
    "git_commit": "code (git commit)",
    "git_dirty": "code differed from that commit",
    "dvc_lock_md5": "dvc.lock (md5 of the attached file)",
    "run_id": "training (ledger's id)",
    "ledger_rows": "rows of the ledger then",
    "ledger_head": "head of the ledger's chain then",
}


def _shown(name: str, value: str) -> str:
    if name in _COUNTED:
        return f"about {value} (private: charged to the ledger)"
    if name not in _MEASURED:
        return value
    try:
        return rounded_down(value) if name == "noise_multiplier" else rounded_up(value)
    except InvalidOperation:
        return value


# What makes a link, an image, code, emphasis, a cell or a block in any Markdown, bare addresses
# (`https:…`, `www.…`, `a@b`) included. Escaped all of it is read as it stands.
_MEANS = re.compile(r"[\\`*\[\]!~@|]|:(?=\S)|(?<=www)\.|^[#>+=-]", re.IGNORECASE)


def markdown_text(text: str) -> str:
    """A text of data for Markdown: one line, and no link, image or markup."""
    line = html.escape(" ".join(shown(text).split()), quote=False)
    return _MEANS.sub(r"\\\g<0>", line)


def page_text(text: str) -> str:
    return html.escape(shown(text))


def _with_interval(entry: Mapping[str, Any]) -> str:
    """A figure, and between which ends it lies with 95 % confidence."""
    if "low" not in entry:
        return _number(entry["value"])
    low, high = _number(entry["low"]), _number(entry["high"])
    return f"{_number(entry['value'])}, 95 % between {low} and {high}"


def _number(value: float) -> str:
    """A count whole, anything else to four digits."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4g}"
