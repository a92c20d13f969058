"""Markdown tables and words, as every generated page needs them."""

from collections.abc import Iterable, Sequence


def cell(text: str) -> str:
    """A text that keeps its place in a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)


def code(text: object) -> str:
    """A word as code."""
    return f"`{text}`"
