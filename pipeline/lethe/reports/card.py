"""The model card: what a model is, what it cost whom, and what was checked; for a reader.

It is made from counts, prices and hashes alone, in Markdown and as a page.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import InvalidOperation
from typing import Any

from lethe.core.values import rounded_down, rounded_up


@dataclass(frozen=True)
class Card:
    """The facts of a card, section by section: title → rows of (what, value)."""

    title: str
    summary: str
    sections: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)

    def markdown(self) -> str:
        parts = [f"# {_plain(self.title)}", _plain(self.summary)]
        for title, rows in self.sections.items():
            lines = [f"## {_plain(title)}", "", "| | |", "|---|---|"]
            lines += [f"| {_cell(what)} | {_cell(value)} |" for what, value in rows]
            parts.append("\n".join(lines))
        return "\n\n".join(parts) + "\n"

    def page(self) -> str:
        """A page that needs nothing beside it and holds no script."""
        body = [f"<h1>{html.escape(self.title)}</h1>", f"<p>{html.escape(self.summary)}</p>"]
        for title, rows in self.sections.items():
            body.append(f"<h2>{html.escape(title)}</h2><table>")
            body += [
                f"<tr><th scope='row'>{html.escape(what)}</th><td>{html.escape(value)}</td></tr>"
                for what, value in rows
            ]
            body.append("</table>")
        return (
            "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style></head>"
            f"<body>{''.join(body)}</body></html>\n"
        )


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;"
    "color:#1b1b1b;background:#fff}h2{margin-top:2rem;font-size:1.15rem}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;"
    "padding:.35rem .6rem;border-bottom:1px solid #ddd}th{font-weight:500;width:40%}"
    "td{overflow-wrap:anywhere}"
)


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
    summary = (
        f"Trained for {facts.get('purpose', '?')} on {facts.get('records', '?')} records of "
        f"{facts.get('subjects', '?')} people. What the model can reveal about any one {unit} is "
        f"bounded by epsilon {_shown('epsilon_pld', facts.get('epsilon_pld', '?'))} at delta "
        f"{delta} ({facts.get('adjacency', '?')})."
    )
    measured = [
        (
            name,
            f"{_number(entry['value'])} "
            + (
                "(private: charged to the ledger)"
                if entry.get("private")
                else "(not private: computed from people's records without noise)"
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
                *("sample_rate", "records_per_person", "noise_multiplier", "noise", "clip_norm"),
                *("steps", "accountant", "engine", "device"),
            ),
            "What it came from": rows(
                *("purpose", "subjects", "records", "data_md5", "subjects_md5", "manifest_md5"),
                *("model_md5", "git_commit", "git_dirty", "dvc_lock_md5"),
                *("run_id", "ledger_rows", "ledger_head"),
            ),
            "What was checked": rows("validation", "audit"),
            "How good it is": measured,
            "What it takes": [
                ("columns", ", ".join(inputs)),
                ("values", "as the source has them; null where not known"),
            ],
        },
    )


_MEASURED = frozenset({"epsilon_pld", "epsilon_rdp", "noise_multiplier"})
_COUNTED = frozenset({"subjects", "records"})  # of people, and no noise was added
_WORDS = {
    "epsilon_pld": "epsilon (PLD)",
    "epsilon_rdp": "epsilon (RDP, what the budget is held to)",
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
        return f"{value} (not private)"
    if name not in _MEASURED:
        return value
    try:
        return rounded_down(value) if name == "noise_multiplier" else rounded_up(value)
    except InvalidOperation:
        return value


def _plain(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False)


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _number(value: float) -> str:
    """A count whole, anything else to four digits."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4g}"
