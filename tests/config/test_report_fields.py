"""Reports that decide something have the fields that are declared, and no others."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lethe.config import report_fields as closed
from lethe.core.errors import FileDamaged
from lethe.training.dpsgd import DpSgd

PAGE = yaml.safe_load(
    (Path(__file__).parents[2] / "docs" / "generate" / "fields.yaml").read_text()
)["reports"]["sections"]
CHECK = {"name": "a.b", "passed": True, "false_alarm_rate": None}
AUDIT: dict[str, Any] = {
    "attack": {"attempted": True, "kind": "by loss"},
    "checks": [CHECK, CHECK],
    "failed": [],
    "measured": {"run": {"looked": "now"}},
    "passed": True,
}
ALSO = {"train": DpSgd.facts, "audit": (), "validate": ()}


def test_what_is_declared_is_known() -> None:
    assert closed.unknown_fields(AUDIT, "audit") == []
    assert closed.unknown_fields({**AUDIT, "checks": [], "attack": {}}, "audit") == []
    assert closed.unknown_fields({"plan": {"adaptive": None}}, "train") == []
    assert closed.unknown_fields({"plan": {"adaptive": {"quantile": 0.5}}}, "train") == []
    assert closed.closed(AUDIT, "audit") is AUDIT


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"people": 4711}, "people"),
        ({"people": []}, "people"),
        ({"people": {}}, "people"),
        ({"attack": {"attempted": True, "token": 4711}}, "attack.token"),
        ({"attack": {"attempted": True, "auc": 0.5}}, "attack.auc"),
        ({"checks": [{**CHECK, "statistic": 0.5}]}, "checks.[].statistic"),
        ({"checks": [{**CHECK, "threshold": 0.5}]}, "checks.[].threshold"),
        ({"attack": 4711}, "attack"),
        ({"attack": [4711]}, "attack.[]"),
        ({"attack": {"kind": {"token": 4711}}}, "attack.kind.token"),
        ({"attack": {"kind": []}}, "attack.kind"),
        ({"checks": [CHECK, {**CHECK, "people": [4711]}]}, "checks.[].people.[]"),
        ({"checks": [CHECK, 4711]}, "checks.[]"),
        ({"checks": {"people": 4711}}, "checks.people"),
        ({"failed": {"": 4711}}, "failed"),
        ({"measured": {"run": {"looked": {"token": 4711}}}}, "measured.run.looked.token"),
        ({"measured": {"run": {"looked": [4711]}}}, "measured.run.looked.[]"),
        ({"passed": [True, 4711]}, "passed.[]"),
    ],
)
def test_what_is_not_is_named(change: dict[str, Any], named: str) -> None:
    assert closed.unknown_fields({**AUDIT, **change}, "audit") == [named]
    with pytest.raises(FileDamaged, match=r"audit\.json has fields that no report"):
        closed.closed({**AUDIT, **change}, "audit")


def test_a_trainers_own_fields_are_those_that_it_declares() -> None:
    report = {"metrics": {"auc": {"value": 0.5, "private": True}}, "engine": "x", "steps": 3}
    assert closed.unknown_fields(report, "train", also=DpSgd.facts) == []
    assert closed.unknown_fields(report, "train") == ["engine", "steps"]


def test_where_figures_stand_nothing_else_does() -> None:
    """None are an empty object; a number in their place is a field that nobody declared."""
    assert closed.unknown_fields({"metrics": {}, "figures": "none"}, "train") == []
    assert closed.unknown_fields({"metrics": 4711}, "train") == ["metrics"]
    assert closed.unknown_fields({"metrics": {"auc": 0.5}}, "train") == ["metrics.auc"]


@pytest.mark.parametrize("stage", ["train", "audit", "validate"])
def test_the_page_of_the_fields_and_the_list_are_the_same(stage: str) -> None:
    documented = set()
    for name in PAGE[f"{stage}.json"]:
        parts = name.rstrip("?").replace("[]", ".[]").split(".")
        documented.add(tuple("*" if part.isupper() else part for part in parts))
    allowed = {tuple(f.split(".")) for f in (*closed._FIELDS[stage].split(), *ALSO[stage])}
    for path in documented:
        assert any(closed._is(path, each) or path == each[:-1] for each in allowed), path
    for each in allowed:
        assert any(closed._is(path, each) or path == each[:-1] for path in documented) or (
            each[0] == "plan"
        ), each
