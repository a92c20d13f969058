"""Every output of a run and an erasure, number by number: charged, rounded, declared, or absent.

It is a list of what may be there: a number at a place that nobody has judged fails. What
`docs/what-leaves.md` says of each place is what is allowed here.
"""

import csv
import json
import re
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Workspace

PRIVATE = Path(".lethe/private/reports")
_END = r"(_low|_high)?"
_CHARGED = rf"(accuracy|auc|base_rate|held_out_subjects|records|subjects){_END}"
_PRICE = r"(epsilon_pld|epsilon_rdp|delta|noise_multiplier)"
_PLAN = (
    r"plan\.(clip_norm|delta|expected_batch_size|initial_seed|noise_multiplier|"
    r"records_per_person|sample_rate|steps)"
)
# Numbers in reports: dotted path, lists as []. Charged, or a public number of the plan.
REPORTS = {
    "minimize": r"shards",
    "consent": r"(?!)",
    "pseudonymize": r"shards",
    "validate": r"(?!)",
    "budget": rf"budget_epsilon|{_PRICE}|figures\.{_PRICE}|{_PLAN}",
    "train": (
        rf"metrics\.{_CHARGED}\.(value|low|high)|{_PRICE}|figures\.{_PRICE}|{_PLAN}|"
        r"clip_norm|features|processes|steps"
    ),
    "audit": r"(checks\[\]\.)?false_alarm_rate",
    "register": r"version",
    "metrics": rf"charged\.{_CHARGED}|epsilon_pld|epsilon_rdp|version",
}
METRICS = re.compile(rf"{_CHARGED}|epsilon_pld|epsilon_rdp")
TAGS_WITH_NUMBERS = re.compile(
    r"epsilon_pld|epsilon_rdp|delta|records_per_person|sample_rate|noise_multiplier|clip_norm|steps|"
    r"ledger_rows|records|subjects|metrics|figures|audit|accountant|.*md5|.*sha256|git_commit|run_id|"
    r"ledger_head|mlflow\..*|gate|metric\..*\.private|.*_at|lethe\..*|unit|sampling|adjacency|device"
)
LINES = "|".join(
    (
        r"about [\d,]+ people, [\d,]+ records \(charged\)",
        r"(about|fewer than) [\d,]+ (people|records)",
        r"\d+ columns",
        r"\d+\.\d s\b",
        r"(auc|accuracy|base rate) [\d.]+ \([\d.]+ to [\d.]+\)",
        r"\d+ checks held",
        r"readmission/\d+",
        r"(epsilon|delta|budget|sample rate|noise multiplier) [\de.-]+",
        r"[\d.]+ \(RDP\)",
        r"\d+ steps",
        r"at most \d+ records a person",
    )
)


def numbers(data: Any, path: str = "") -> Iterator[str]:
    """The places of all numbers in JSON."""
    if isinstance(data, dict):
        for name, value in data.items():
            yield from numbers(value, f"{path}.{name}" if path else name)
    elif isinstance(data, list):
        for value in data:
            yield from numbers(value, f"{path}[]")
    elif isinstance(data, int | float) and not isinstance(data, bool):
        yield path


def check_reports(root: Path) -> None:
    found = {path.stem for path in (root / "reports").glob("*.json")}
    assert found == set(REPORTS), "a report that nobody has judged"
    for name, allowed in REPORTS.items():
        report = json.loads((root / "reports" / f"{name}.json").read_text())
        bad = [place for place in numbers(report) if not re.fullmatch(allowed, place)]
        assert bad == [], name
    metrics = json.loads((root / "reports" / "train.json").read_text())["metrics"]
    assert metrics and all(metric["private"] is True for metric in metrics.values())
    plots = sorted((root / "reports" / "plots").iterdir())
    assert [path.name for path in plots] == ["calibration.csv", "roc.csv"]
    for path in plots:
        with path.open() as file:
            assert all(row["private"] == "True" for row in csv.DictReader(file)), path.name


def check_registry(root: Path) -> None:
    with sqlite3.connect(root / "mlflow.db") as registry:

        def all_of(query: str) -> list[tuple[Any, ...]]:
            return list(registry.execute(query))

        keys = {
            key for (key,) in all_of("SELECT key FROM metrics UNION SELECT key FROM latest_metrics")
        }
        keys |= {key for (key,) in all_of("SELECT metric_name FROM logged_model_metrics")}
        params = {key for (key,) in all_of("SELECT key FROM params")}
        tags = [
            row
            for table in (
                "tags",
                "model_version_tags",
                "logged_model_tags",
                "registered_model_tags",
            )
            for row in all_of(
                f"SELECT {_name(registry, table)}, {_value(registry, table)} FROM {table}"
            )
        ]
    registry.close()
    assert [key for key in keys if not METRICS.fullmatch(key)] == []
    plan = set(json.loads((root / "reports" / "train.json").read_text())["plan"])
    assert params <= plan | {"model"}
    unknown = {
        key
        for key, value in tags
        if re.search(r"\d", str(value)) and not TAGS_WITH_NUMBERS.fullmatch(key)
    }
    assert unknown == set(), "a tag with a number that nobody has judged"
    for key, value in tags:
        if key == "metrics":
            assert all(metric["private"] is True for metric in json.loads(value).values())


def _name(registry: sqlite3.Connection, table: str) -> str:
    columns = [row[1] for row in registry.execute(f"PRAGMA table_info({table})")]
    return next(name for name in columns if name in ("key", "tag_key"))


def _value(registry: sqlite3.Connection, table: str) -> str:
    columns = [row[1] for row in registry.execute(f"PRAGMA table_info({table})")]
    return next(name for name in columns if name in ("value", "tag_value"))


def check_private(root: Path) -> None:
    files = list((root / PRIVATE).iterdir())
    assert {path.stem for path in files} >= {"minimize", "consent", "train", "audit", "budget"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
    assert stat.S_IMODE((root / PRIVATE).stat().st_mode) == 0o700
    ignored = subprocess.run(
        ["git", "check-ignore", "--quiet", str(PRIVATE / "train.json")], cwd=root, check=False
    )
    assert ignored.returncode == 0
    assert "private" not in (root / "dvc.lock").read_text()


def check_lines(said: str) -> None:
    """No number in what stages and the summary say, but at places of the list."""
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", said).split())
    rest = re.sub(LINES, "", words)
    rest = re.sub(r"\S*[/\\:]\S*", "", rest)  # paths and addresses
    assert re.findall(r"\d+", rest) == [], rest


def test_every_number_that_leaves_a_run_is_on_the_list(finished: Workspace) -> None:
    check_reports(finished.root)
    check_registry(finished.root)
    check_private(finished.root)


def test_what_the_end_of_a_run_says_is_charged_or_rounded(finished_copy: Workspace) -> None:
    check_lines(finished_copy.lethe("run").stdout)


def test_every_number_that_leaves_an_erasure_is_on_the_list(finished_copy: Workspace) -> None:
    with sqlite3.connect(finished_copy.root / "data" / "clinic.db") as clinic:
        ((key,),) = clinic.execute(
            "SELECT patient_id FROM consents WHERE answer = 'yes' ORDER BY patient_id LIMIT 1"
        )
    clinic.close()
    finished_copy.lethe("erase", "request", "--subject", str(key))
    finished_copy.lethe("erase", "run")
    check_reports(finished_copy.root)
    check_registry(finished_copy.root)
    check_private(finished_copy.root)


@pytest.mark.parametrize(
    "said",
    [
        "train  4.1 s  4,009 people",
        "asked 5,917 people with records",
        "measured accuracy 0.887 on held-out people",
        "some people (17) lack budget",
    ],
)
def test_an_exact_number_in_a_line_is_found(said: str) -> None:
    with pytest.raises(AssertionError):
        check_lines(said)


def test_a_number_that_nobody_has_judged_is_found() -> None:
    assert list(numbers({"a": [{"b": 1, "c": True}], "d": "7"})) == ["a[].b"]
