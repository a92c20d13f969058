"""The first tutorial, run as it stands; and what it wrote, held against the reference."""

import json
import re
import shlex
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from docs.generate import fields
from tests.conftest import Workspace, make_workspace

PROJECT = Path(__file__).parents[2]
WORDS = fields.described()


def _commands() -> list[list[str]]:
    page = (PROJECT / "docs" / "tutorial.md").read_text()
    blocks = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert lines
    assert all(line.startswith("$ lethe ") for line in lines)
    return [shlex.split(line)[2:] for line in lines]


# Of a new clinic's people a fifth is held out, by a key that is drawn: the page names two more.
PEOPLE = re.findall(r"P\d{9}", (PROJECT / "docs" / "tutorial.md").read_text())


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[str, str]]:
    """The tutorial's workspace, and what each command said; the clinic is declared smaller."""
    made = make_workspace(tmp_path_factory.mktemp("tutorial") / "workspace")
    said: dict[str, str] = {}
    person = PEOPLE[0]
    for words in _commands():
        if words[:2] == ["lineage", "--subject"] and "erase run" not in said:
            person = _somebody_in_a_model(made)
        asked = [person if word == PEOPLE[0] else word for word in words]
        said[" ".join(words)] = made.lethe(*asked).stdout
    return made, said


def _somebody_in_a_model(made: Workspace) -> str:
    with sqlite3.connect(made.root / "data" / "clinic.db") as clinic:
        rows = clinic.execute("SELECT patient_id FROM patients ORDER BY 1 LIMIT 50").fetchall()
    clinic.close()
    known = [key for (key,) in rows]
    assert set(PEOPLE) <= set(known)  # the same seed makes the same clinic
    for key in [*dict.fromkeys(PEOPLE), *known]:
        answer = json.loads(made.lethe("lineage", "--subject", key, "--json").stdout)
        if answer["models"]:
            return str(key)
    raise AssertionError("nobody is in the model")


def test_the_tutorial_does_what_it_says(done: tuple[Workspace, dict[str, str]]) -> None:
    _, said = done
    assert "sound" in said["check"]
    assert "person" in said["epsilon --sample-rate 0.1 --steps 20 --noise-multiplier 6"]
    assert "readmission/1" in said["run"]
    assert "closed, receipt 1" in said["erase run"]
    assert "readmission/1" in said["lineage --model readmission/1"]
    assert "1" in said["erase receipt --check"]


def _paths(content: Any, place: str = "") -> Iterator[str]:
    if isinstance(content, Mapping) and content:
        for name, each in content.items():
            yield from _paths(each, f"{place}\0{name}" if place else name)
    elif isinstance(content, list) and content and isinstance(content[0], Mapping):
        for each in content:
            yield from _paths(each, f"{place}[]")
    else:
        yield place


def _pattern(documented: str) -> re.Pattern[str]:
    """`missing.COLUMN` matches the path of any column's count; names themselves may have dots."""
    parts = [
        ".+" if re.fullmatch("[A-Z]{2,}", part) else re.escape(part)
        for part in documented.removesuffix("?").split(".")
    ]
    return re.compile("\0".join(parts))


def _compare(found: set[str], words: Mapping[str, str], *, what: str) -> None:
    patterns = {documented: _pattern(documented) for documented in words}
    for path in found:
        if any(documented.startswith((f"{path}.", f"{path}[]")) for documented in words):
            continue  # empty here; what would be in it has a meaning
        assert any(each.fullmatch(path) for each in patterns.values()), (
            f"{what}: {path!r} has no meaning in docs/generate/fields.yaml"
        )
    for documented, each in patterns.items():
        assert documented.endswith("?") or any(each.fullmatch(path) for path in found), (
            f"{what}: {documented} was not written"
        )


REPORTS = [name for name in WORDS["reports"]["sections"] if not name.endswith("?")]


@pytest.mark.parametrize("name", REPORTS)
def test_every_field_of_a_report_has_a_meaning(
    done: tuple[Workspace, dict[str, str]], name: str
) -> None:
    report = json.loads((done[0].root / "reports" / name).read_text())
    _compare(set(_paths(report)), WORDS["reports"]["sections"][name], what=name)


def test_every_report_is_in_the_reference(done: tuple[Workspace, dict[str, str]]) -> None:
    written = {path.name for path in (done[0].root / "reports").glob("*.json")}
    assert written == set(REPORTS)


def test_every_tag_of_a_version_has_a_meaning(done: tuple[Workspace, dict[str, str]]) -> None:
    with sqlite3.connect(done[0].root / "mlflow.db") as registry:
        rows = registry.execute("SELECT key FROM model_version_tags WHERE version = 2").fetchall()
    registry.close()
    sections = WORDS["tags"]["sections"].values()
    words = {name: meaning for section in sections for name, meaning in section.items()}
    _compare({name for (name,) in rows}, words, what="tags")


def test_every_field_of_a_receipt_has_a_meaning(
    done: tuple[Workspace, dict[str, str]], tmp_path: Path
) -> None:
    done[0].lethe("erase", "receipt", "--out", str(tmp_path / "receipts"))
    (file,) = (tmp_path / "receipts").glob("*.json")
    whole = json.loads(file.read_text())
    sections = WORDS["receipts"]["sections"]
    _compare(set(whole), sections["The file"], what="receipt file")
    _compare(set(_paths(whole["receipt"])), sections["receipt"], what="receipt")
