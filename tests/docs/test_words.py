"""The words that this project gave up do not come back, in a name or in a sentence."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
RETIRED = {
    "door": "gate; the only way",
    "doors": "gates; the only ways",
    "lapse": "expire",
    "lapsed": "expired",
    "lapses": "expires",
    "road": "pipeline",
    "roads": "pipelines",
    "seal": "encrypt",
    "sealed": "encrypted",
    "shelf": "store survey",
    "shelves": "store surveys",
    "stone": "tombstone",
    "stones": "tombstones",
    "tell": "say, report, show, reveal, distinguish",
    "telling": "saying, reporting, revealing",
    "tells": "says, reports, shows, reveals, distinguishes",
    "told": "said, reported, recorded, distinguished",
    "unseal": "decrypt",
    "walk": "run, worktree, trace, sweep: each its own",
    "walked": "run, traced",
    "walking": "running",
    "walks": "runs, worktrees",
}
ALLOWED = {  # what has such a word in it, and why that stays
    r"\b(os|ast)\.walk\(|pkgutil\.walk_packages|--walk-reflogs": "Python's and git's own",
    r"(\.lethe|refs/lethe)[\"/ ]+walks\b": "a folder and refs of workspaces that are there",
    r"walk\.json|lethe\.walks|walks in pods": "a file and a setting of workspaces that are there",
    r"road\.json": "a file of the version before, which is still read",
    r'Column\("sealed"': "a column of tables that are there",
    r"small stone\b|(street|st)\|road\|rd|walker": "words of people's names and addresses",
}
SAYS_WHAT_WAS_RENAMED = ("CHANGELOG.md", "docs/glossary.md", "tests/docs/test_words.py")
TEXT = (".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".txt", ".sample", "Makefile", "Dockerfile")


def words(text: str) -> Iterator[str]:
    """Every word, also of names: `_told_lock` and `ToldLock` have two."""
    for each in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text):
        yield each.lower()


def retired(text: str) -> set[str]:
    """The retired words of a text, but for what is allowed."""
    for pattern in ALLOWED:
        text = re.sub(pattern, " ", text, flags=re.MULTILINE)
    return RETIRED.keys() & set(words(text))


def files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=PROJECT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    return [
        each
        for each in listed
        if each.endswith(TEXT) and each not in SAYS_WHAT_WAS_RENAMED and (PROJECT / each).is_file()
    ]


def test_no_file_has_a_retired_word() -> None:
    found = {
        name: {word: RETIRED[word] for word in sorted(used)}
        for name in files()
        if (used := retired(f"{name}\n{(PROJECT / name).read_text(encoding='utf-8')}"))
    }
    assert not found


@pytest.mark.parametrize(
    ("text", "used"),
    [
        ("def test_what_is_told_is_kept():", {"told"}),
        ("class LapsedModels:", {"lapsed"}),
        ("Walk the road.", {"walk", "road"}),
        ("self._walk_on()  # doorbell, tombstone, broad", {"walk"}),
        ("`.lethe/walks`, `lethe.walks`, os.walk(root)", set()),
    ],
)
def test_a_retired_word_is_seen_in_names_and_sentences(text: str, used: set[str]) -> None:
    assert retired(text) == used


def test_what_is_allowed_is_needed() -> None:
    whole = "\n".join((PROJECT / name).read_text(encoding="utf-8") for name in files())
    assert not [each for each in ALLOWED if not re.search(each, whole, flags=re.MULTILINE)]
