"""params.yaml is refused by name before anything runs."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from lethe.config.params import load_params, parse_params, resolve_secret
from lethe.config.tables import Column, Generalization
from lethe.core.errors import ParamsInvalid
from tests.conftest import PROJECT

RAW = YAML(typ="safe", pure=True).load((PROJECT / "params.yaml").read_text())


def changed(edit: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    raw = copy.deepcopy(RAW)
    edit(raw)
    return raw


def _columns(raw: dict[str, Any], table: str = "encounters") -> dict[str, Any]:
    return raw["tables"][table]["columns"]


def test_the_projects_own_declarations_are_sound() -> None:
    params = load_params(PROJECT / "params.yaml")
    assert params.label == ("encounters", "readmitted")
    assert [link.columns for link in params.paths("notes", "patients")[0]] == [("patient_id",)]


def test_declarations_cannot_be_changed_after_they_were_checked() -> None:
    params = parse_params(RAW)
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.training.mechanism.noise_multiplier = 0.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda r: r.update(purposes="x"), "unknown key 'purposes'; did you mean 'purpose'"),
        (
            lambda r: r["training"]["mechanism"].update(smaple_rate=0.1),
            "'training.mechanism.smaple_rate'; did you mean 'sample_rate'",
        ),
        (
            lambda r: _columns(r)["insulin"].update(domian=["a"]),
            "insulin.domian'; did you mean 'domain'",
        ),
        (lambda r: r.pop("purpose"), "key 'purpose' is missing"),
        (lambda r: r["budget"].update(delta=1e-4), "must be below 1/expected_subjects"),
        (lambda r: r["budget"].update(epsilon=0), "budget.epsilon"),
        (lambda r: r["budget"].update(epsilon=0.5), "above the whole budget.epsilon=0.5"),
        (lambda r: r["training"]["mechanism"].update(records_per_person=0), "records_per_person"),
        (lambda r: r["training"]["mechanism"].update(sample_rate=1.5), "sample_rate"),
        (lambda r: r["training"]["mechanism"].update(noise_multiplier=1), "exactly one of"),
        (lambda r: r["training"]["mechanism"].update(clip_norm=float("nan")), "clip_norm"),
        (lambda r: r["training"].update(model="logistc"), "did you mean 'logistic'"),
        (lambda r: _columns(r)["insulin"].pop("domain"), "insulin: a feature needs a declared"),
        (lambda r: _columns(r)["insulin"].pop("why"), "needs `why`"),
        (lambda r: _columns(r)["age"].pop("generalize"), "quasi_identifier needs `generalize`"),
        (lambda r: _columns(r)["time_in_hospital"].update(bounds=[3, 1]), "rising numbers"),
        (lambda r: _columns(r)["readmitted"].update(positive=["maybe"]), "positive names"),
        (lambda r: _columns(r)["insulin"].update(role="label"), "exactly one column"),
        (lambda r: r["tables"]["invoices"].pop("links"), "no chain of links leads to 'patients'"),
        (lambda r: r.update(erasure={"code": ["reports/x"]}), "what is made of people lies there"),
        (lambda r: r.update(erasure={"code": ["./data"]}), "what is made of people lies there"),
        (lambda r: r.update(erasure={"code": ["."]}), "names folders below params.yaml"),
        (lambda r: r.update(erasure={"code": ["../other"]}), "names folders below params.yaml"),
        (lambda r: r.update(erasure={"code": ["/srv"]}), "names folders below params.yaml"),
        (lambda r: r["tables"]["invoices"].pop("erase"), "say what an erasure does"),
        (
            lambda r: r["tables"]["notes"].update(about="shared", erase=None),
            "say what an erasure does",
        ),
        (
            lambda r: r["tables"]["invoices"]["erase"].update(replace={"amount_cents": 0}),
            "replace names ['amount_cents'], which columns does not",
        ),
        (
            lambda r: r["tables"]["invoices"]["erase"].update(by="amount_cents"),
            "erase.by='amount_cents' must be a column with role timestamp",
        ),
        (
            lambda r: r["tables"]["notes"]["erase"].update(columns=["text"]),
            "columns is for anonymize and retain",
        ),
        (
            lambda r: r["tables"]["notes"].update(not_links=["patientid"]),
            "not_links names column 'patientid'",
        ),
        (
            lambda r: _columns(r)["insulin"].update(mentions="redact"),
            "mentions belongs to role text or identifier, not feature",
        ),
        (lambda r: r["tables"]["invoices"]["erase"].pop("basis"), "legal basis"),
        (
            lambda r: r["tables"]["notes"]["links"].update(encounter_id="encounter.encounter_id"),
            "unknown table 'encounter'; did you mean 'encounters'",
        ),
        (
            lambda r: r["tables"]["notes"]["columns"]["text"].update(scrub="presidio"),
            "no chain of links leads from 'encounters' to 'notes'",
        ),
        (lambda r: r["subject"].update(table="patient"), "did you mean 'patients'"),
        (lambda r: r["subject"].update(key="email"), "role subject_key"),
        (lambda r: r["consent"].update(answer="answr"), "did you mean 'answer'"),
        (lambda r: r["consent"].update(no=["yes"]), "both have ['yes']"),
        (lambda r: r["tables"]["encounters"]["retention"].update(by="age"), "role timestamp"),
        (lambda r: r["tables"]["encounters"]["unused"].append("age"), "listed as unused"),
        (lambda r: r.update(shards=0), "shards"),
    ],
)
def test_an_impossible_declaration_is_refused_by_name(
    edit: Callable[[dict[str, Any]], object], said: str
) -> None:
    with pytest.raises(ParamsInvalid) as refused:
        parse_params(changed(edit))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("purpose: a\nsource: [b\n")
    with pytest.raises(ParamsInvalid, match=r"not YAML at line 3"):
        load_params(path)


def test_a_key_written_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("purpose: a\npurpose: b\n")
    with pytest.raises(ParamsInvalid, match="not YAML"):
        load_params(path)


@pytest.mark.parametrize("content", ["", "- a\n", "just words\n"])
def test_a_file_without_sections_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(content)
    with pytest.raises(ParamsInvalid, match="must be a mapping"):
        load_params(path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsInvalid, match="does not exist"):
        load_params(tmp_path / "params.yaml")


def test_yes_and_no_stay_words() -> None:
    consent = parse_params(RAW).consent
    assert (consent.yes, consent.no) == (("yes",), ("no", "withdrawn"))


def test_names_shared_by_two_tables_are_written_with_their_table() -> None:
    def share(raw: dict[str, Any]) -> None:
        column = {"role": "feature", "type": "category", "domain": ["a"], "why": "a test"}
        raw["tables"]["patients"]["columns"]["insulin"] = column

    taken = parse_params(changed(share)).taken_columns()
    assert "insulin" not in taken
    assert {"encounters.insulin", "patients.insulin"} <= set(taken)


def test_a_column_named_like_one_of_the_shards_own_is_written_with_its_table() -> None:
    def name_it_rank(raw: dict[str, Any]) -> None:
        _columns(raw)["rank"] = _columns(raw).pop("insulin")

    assert "encounters.rank" in parse_params(changed(name_it_rank)).taken_columns()


def test_bins_name_half_open_intervals() -> None:
    column = Column(role="feature", type="integer", why="w", generalize={"bins": [0, 1, 2.5]})
    assert column.categories == ("[0,1)", "[1,2.5)")
    assert column.limits is None


def test_coding_at_top_and_bottom_bounds_a_number() -> None:
    column = Column(
        role="feature", type="real", why="w", generalize=Generalization(bottom=0, top=9)
    )
    assert column.limits == (0, 9)


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_TEST_URL", "sqlite:///x.db")
    assert resolve_secret("env:LETHE_TEST_URL") == "sqlite:///x.db"
    monkeypatch.delenv("LETHE_TEST_URL")
    with pytest.raises(ParamsInvalid, match="LETHE_TEST_URL"):
        resolve_secret("env:LETHE_TEST_URL")


# ---------------------------------------------------------------------- the workspace's root


def test_the_root_is_the_folder_of_the_file_and_no_key_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    loaded = load_params(Path(tmp_path.name) / "params.yaml")
    assert loaded.root == tmp_path
    for given in ("root", "rooot"):
        with pytest.raises(ParamsInvalid, match=rf"unknown key '{given}'") as refused:
            parse_params(RAW | {given: "/"})
        assert "did you mean 'root'" not in str(refused.value)


def test_two_folders_of_one_declaration_are_declared_alike(tmp_path: Path) -> None:
    one, other = (parse_params(RAW, root=tmp_path / name) for name in ("a", "b"))
    assert one == other
    assert str(tmp_path) not in repr(one)
    assert dataclasses.replace(one, shards=3).root == tmp_path / "a"


def test_what_is_declared_is_meant_from_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = parse_params(RAW, root=tmp_path)
    monkeypatch.chdir("/")
    monkeypatch.setenv("LETHE_TEST_URL", "sqlite:///x.db")
    assert params.address("env:LETHE_TEST_URL") == f"sqlite:///{tmp_path}/x.db"
    assert params.address("csv:clinic") == f"csv:{tmp_path}/clinic"
    assert params.at(Path("model")) == params.at_home(Path("model")) == tmp_path / "model"
    assert params.home == tmp_path
