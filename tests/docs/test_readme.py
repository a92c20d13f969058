"""What the README and the pages say can be looked up: names, paths, lists and figures."""

import ast
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from lethe.config.params import Params, parse_params
from lethe.privacy.accounting import epsilon_pld, epsilon_rdp
from lethe.privacy.figures import figures_plan
from lethe.privacy.planning import plan_from

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text()
PAGES = [
    *(PROJECT / n for n in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((PROJECT / "docs").rglob("*.md")),
]
_PATH = re.compile(r"`((?:pipeline|tests|docs|dags|infra|benchmarks)/[\w./*-]+)`")


@pytest.fixture(scope="module")
def tests_there() -> set[str]:
    return {
        node.name
        for path in (PROJECT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_every_path_and_test_that_a_page_names_is_there(page: Path, tests_there: set[str]) -> None:
    text = page.read_text()
    for path in _PATH.findall(text):
        assert list(PROJECT.glob(path.rstrip("/"))), path
    for name in re.findall(r"`(test_\w+)`", text):
        assert name in tests_there, name


def test_every_promise_names_code_and_what_shows_it(tests_there: set[str]) -> None:
    rows = re.findall(r"^\| (\d) \| (.+) \| (.+) \| (.+) \|$", README, re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, 10))
    for number, _, code, shown in rows:
        assert _PATH.findall(code), number
        named = re.findall(r"`([\w/.]+)`", shown)
        assert named, number
        for each in named:
            assert each in tests_there or (PROJECT / each).is_file(), each


def test_the_readme_fits_a_screen_and_a_half_and_its_file_map_one() -> None:
    assert len(README.splitlines()) <= 110
    assert max(map(len, (line for line in README.splitlines() if line[:1] != "|"))) <= 120
    map_ = README.partition("| where | what |")[2].strip().splitlines()
    assert len(map_) <= 12


def _declared(text: str) -> Params:
    return parse_params(YAML(typ="safe", pure=True).load(text))


def _trainings_that_fit(params: Params) -> int:
    plan, count = plan_from(params), 0
    figures = figures_plan(params, records_per_person=plan.records_per_person, outputs=1)
    assert figures is not None
    events = [plan.event, figures.event]
    while epsilon_rdp(events * (count + 1), params.budget.delta) <= params.budget.epsilon:
        count += 1
    return count


_NUMBERS = dict(
    enumerate(
        (
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
        ),
        2,
    )
)


def test_the_budget_of_the_page_on_own_databases_holds_as_many_runs_as_it_says() -> None:
    page = (PROJECT / "docs" / "own-database.md").read_text()
    yaml = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert yaml is not None
    params = _declared(yaml[1])
    said = re.search(
        r"costs ([\d.]+) by PLD\s+and ([\d.]+) by RDP.*?budget of ([\d.]+) holds (\w+) ",
        page,
        re.DOTALL,
    )
    assert said is not None
    event, delta = plan_from(params).event, params.budget.delta
    assert said[1] == f"{epsilon_pld([event], delta):.1f}"
    assert said[2] == f"{epsilon_rdp([event], delta):.1f}"
    assert float(said[3]) == params.budget.epsilon
    assert said[4] == _NUMBERS[_trainings_that_fit(params)]


def test_the_page_on_retention_says_how_many_trainings_the_budget_holds() -> None:
    page = " ".join((PROJECT / "docs" / "retention.md").read_text().split())
    said = re.search(
        r"epsilon ([\d.]+) a training and a budget of ([\d.]+).*?after (\w+) trainings", page
    )
    assert said is not None
    params = _declared((PROJECT / "params.yaml").read_text())
    assert float(said[1]) == params.training.mechanism.epsilon
    assert float(said[2]) == params.budget.epsilon
    assert said[3] == _NUMBERS[_trainings_that_fit(params)]


def test_the_epsilons_among_the_figures_are_what_the_declarations_cost() -> None:
    params = _declared((PROJECT / "params.yaml").read_text())
    event, delta = plan_from(params).event, params.budget.delta
    expected = f"{epsilon_pld([event], delta):.3f} by PLD, {epsilon_rdp([event], delta):.3f} by RDP"
    for page in (README, (PROJECT / "docs" / "figures.md").read_text()):
        assert expected in page


def test_a_figure_of_the_readme_stands_among_all_the_figures_too() -> None:
    table = README.partition("## Figures")[2].partition("## ")[0]
    all_ = (PROJECT / "docs" / "figures.md").read_text()
    rows = re.findall(r"^\| (.+) \| (.+) \|$", table, re.MULTILINE)[1:]
    assert len(rows) >= 5
    for row in rows:
        for number in re.findall(r"\d[\d.,]*\d", row[1]):
            assert number in all_, row


def test_airflows_page_names_every_dag_and_no_other() -> None:
    page = (PROJECT / "docs" / "airflow.md").read_text()
    table = page.partition("| DAG |")[2].partition("\n\n")[0]
    named = {
        node.args[0].value
        for path in (PROJECT / "dags").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "DAG"
        and isinstance(node.args[0], ast.Constant)
    }
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == named
