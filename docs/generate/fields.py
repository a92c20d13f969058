"""Pages of what is written: reports, tags of a registered version, receipts.

`fields.yaml` describes each field; tests compare it with what a run really writes.
"""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from docs.generate.tables import code, table

DESCRIPTIONS = Path(__file__).with_name("fields.yaml")


def described() -> dict[str, Any]:
    """Page → title, introduction, and sections of field → meaning."""
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(DESCRIPTIONS.read_text())
    return found


def page(name: str) -> str:
    """One of the pages of `fields.yaml`."""
    content = described()[name]
    parts = [f"# {content['title']}", content["introduction"]]
    for section, words in content["sections"].items():
        parts.append(f"## {section}")
        parts.append(table(["field", "meaning"], [[code(k), v] for k, v in words.items()]))
    return "\n\n".join(parts) + "\n"
