"""Numbers and lists of the pages that the code has too: each is read from both."""

import re
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import pytest
import typer.main
from pyroaring import BitMap
from ruamel.yaml import YAML

from docs.generate.fields import described
from docs.picture import PICTURE
from lethe.cli.main import app
from lethe.cli.progress import _terms
from lethe.config.params import load_params
from lethe.config.sections import Erasure
from lethe.config.tables import Role
from lethe.core.version import VERSION
from lethe.core.waiting import CONNECT_S, PATIENCE_S, SILENCE_S
from lethe.ledger.ledger import Ledger
from lethe.privacy.claim import Claim
from lethe.privacy.noise.discrete import SUM_MARGIN
from lethe.privacy.planning import plan_from
from lethe.registration.spending import budget_report
from lethe.rights.erasure import ASKED
from lethe.runs.service import WORKTREE_DAYS
from lethe.stages import STAGES
from lethe.stages.register import summed_up
from lethe.stores.registry.store import _REST_S
from lethe.stores.source.connect import WAIT_SECONDS
from lethe.stores.source.mentions import _DIGITS_OF_A_NUMBER
from lethe.sweep.report import WITHIN
from lethe.training.loop import Execution
from lethe.training.trainers import TRAINERS
from lethe.training.wire import PATIENCE
from tests import trained_run
from tests.docs.test_readme import _NUMBERS, PAGES, PROJECT, README

WORDS = {**_NUMBERS, 1: "a"}


def page(name: str) -> str:
    return " ".join((PROJECT / name).read_text().split())


def _default(command: str, option: str) -> Any:
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    return next(each.default for each in found.params if each.name == option)


SAID = [
    ("README.md", f"{_default('sample', 'patients'):,} patients"),
    ("README.md", f"version {VERSION.rpartition('.')[0]}"),
    ("README.md", f"{WORDS[len(STAGES)]} stages"),
    ("docs/glossary.md", f"the {WORDS[len(STAGES)]} stages"),
    ("docs/training.md", f"every {Execution(device='cpu').checkpoint_every} steps"),
    ("docs/training.md", f"hangs after {WORDS[int(PATIENCE.total_seconds() // 60)]} minutes"),
    ("docs/training.md", f"a margin of {100 * SUM_MARGIN:.2f} % covers it"),
    ("docs/training.md", f"`{next(iter(TRAINERS))}`, person-level DP-SGD, is the only one"),
    ("docs/choosing-epsilon.md", f"within {WITHIN:g} of the same network"),
    ("docs/requests.md", f"after {WORDS[int(SILENCE_S)]} seconds a line"),
    ("docs/requests.md", f"an MLflow server: each answer, asked twice | {CONNECT_S} |"),
    ("docs/requests.md", f"a PostgreSQL server, to connect | {CONNECT_S} |"),
    ("docs/requests.md", f"the ledger, the requests or the vault | {PATIENCE_S} |"),
    ("docs/requests.md", f"the source or its rows | {WAIT_SECONDS} |"),
    ("docs/requests.md", f"left alone for {WORDS[int(_REST_S // 60)]} minute"),
    ("docs/erase-source.md", f"numbers of {WORDS[_DIGITS_OF_A_NUMBER]} digits and more"),
    ("docs/airflow.md", f"in it for {WORDS[WORKTREE_DAYS]} days"),
]


@pytest.mark.parametrize(("name", "words"), SAID, ids=[f"{n}: {w[:40]}" for n, w in SAID])
def test_a_page_says_the_number_that_the_code_has(name: str, words: str) -> None:
    assert words in page(name)


def test_there_is_one_kind_of_training_as_the_page_says() -> None:
    assert list(TRAINERS) == ["dpsgd"], "then docs/training.md says what the others are"


def test_requests_are_gathered_for_as_many_days_as_the_page_says() -> None:
    said = re.search(r"delay_days: 0 .*?at most (\d+)", page("docs/requests.md"))
    assert said is not None
    Erasure(delay_days=int(said[1]))
    with pytest.raises(ValueError, match="delay_days"):
        Erasure(delay_days=int(said[1]) + 1)


def test_the_numbers_that_dvc_compares_are_as_many_as_the_page_says() -> None:
    names = ("auc", "accuracy", "base_rate", "records", "subjects", "held_out_subjects")
    measured = {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in names}
    trained = {"metrics": measured, "epsilon_pld": 1, "epsilon_rdp": 1}
    summed = summed_up(trained, version=1)
    count = len(summed) - 1 + len(summed["charged"])
    assert f"{WORDS[count]} numbers of the last registered" in page("docs/experiments.md")


def test_every_place_that_lists_the_stages_has_all_in_their_order() -> None:
    listed = ", ".join(STAGES)
    assert f"![{listed}]" in README
    assert f"![{listed}]" in page("docs/index.md")
    table = (PROJECT / "ARCHITECTURE.md").read_text().partition("| stage | reads |")[2]
    rows = re.findall(r"^\| `(\w+)` \|", table.partition("\n\n")[0], re.MULTILINE)
    assert rows == list(STAGES)
    declared = re.findall(r"^  (\w+):$", (PROJECT / "dvc.yaml").read_text(), re.MULTILINE)
    assert declared == list(STAGES)


def test_the_page_on_the_budget_lists_every_field_and_no_other() -> None:
    params = trained_run.params()
    plan = plan_from(params)
    release = plan.release(BitMap(range(300)))
    with Ledger.open("sqlite://") as ledger:
        ledger.reserve(release, budget=params.budget, request="a", now=trained_run.NOW)
        report = budget_report(ledger, params.budget, plan=plan, drawn=release.subjects)
    block = (PROJECT / "docs" / "choosing-epsilon.md").read_text().partition('    {"classes"')[2]
    said = set(re.findall(r'"(\w+)"', block.partition("\n\n")[0]))
    has = set(report) | set(report["classes"][0]) | set(report["next"])
    assert said == has - {"classes"}


def test_every_role_of_a_column_has_a_meaning() -> None:
    meanings = (PROJECT / "docs" / "generate" / "parameters.yaml").read_text()
    said = YAML(typ="safe", pure=True).load(meanings)["Column"]["role"]
    assert [role for role in get_args(Role) if f"`{role}`" not in said] == []


def test_every_kind_of_request_is_named_where_a_reader_looks() -> None:
    kinds = described()["receipts"]["sections"]["receipt"]["kind"]
    (row,) = re.findall(
        r"^\| request \| (.+) \|$", (PROJECT / "docs/glossary.md").read_text(), re.M
    )
    help_ = typer.main.get_command(app).commands["erase"].commands["request"]  # type: ignore[attr-defined]
    option = next(each.help for each in help_.params if each.name == "kind")
    for kind in ASKED:
        assert f"`{kind}`" in kinds
        assert kind in row
        assert kind in option


def test_the_picture_of_a_run_says_what_a_run_says_today() -> None:
    root = ElementTree.fromstring(PICTURE.read_text())
    said = " ".join(each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}text"))
    said = " ".join(said.replace("│", " ").split())
    params = load_params(PROJECT / "params.yaml")
    plan = plan_from(params)
    claim = Claim.of(plan.release(BitMap()), noise=plan.noise)
    labels = ("asked", "agreed", "trained on", "costs each", "on terms", "measured", "attacked")
    assert [said.find(each) for each in labels] == sorted(said.find(each) for each in labels)
    assert -1 not in [said.find(each) for each in labels]
    assert f"{claim}; budget {params.budget.epsilon:g}" in said
    for words in _terms(plan.to_data()):
        assert words in said
    assert f"registered {params.registration.name}/1" in said
    assert "http" not in PICTURE.read_text().replace("http://www.w3.org/2000/svg", "")


def _commands(group: Any, words: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found = set()
    for name, command in group.commands.items():
        found.add((*words, name))
        if hasattr(command, "commands"):
            found |= _commands(command, (*words, name))
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda each: each.relative_to(PROJECT).as_posix())
def test_every_command_that_a_page_names_is_one(path: Path) -> None:
    known = _commands(typer.main.get_command(app))
    text = path.read_text()
    blocks = "\n".join(re.findall(r"```(?:console|sh)?\n(.*?)```", text, re.DOTALL))
    said = re.findall(r"`lethe ([a-z][a-z -]*)", text)
    said += re.findall(r"^(?:\$ )?lethe ([a-z][a-z -]*)", blocks, re.MULTILINE)
    for line in said:
        words = tuple(line.split())
        assert words[:1] in known or words[:2] in known, line
        if any(each[:1] == words[:1] and len(each) == 2 for each in known) and len(words) > 1:
            assert words[:2] in known or words[1].startswith("-"), line


@pytest.mark.parametrize("path", PAGES, ids=lambda each: each.relative_to(PROJECT).as_posix())
def test_every_target_of_make_that_a_page_names_is_one(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (PROJECT / "Makefile").read_text(), re.M))
    text = path.read_text()
    said = set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", text, re.MULTILINE))
    assert said <= targets
