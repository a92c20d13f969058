"""A retired version serves no more and leaves nothing; looked at with SQL and in the folders."""

import datetime as dt
import json
import shutil
import sqlite3
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from docs.generate.fields import described
from lethe.core.errors import NotFound, RegistrationRefused, StoreUnavailable
from lethe.core.outcomes import Traces
from lethe.privacy.claim import Claim
from lethe.stores.registry import remove
from lethe.stores.registry.registry import Registry
from lethe.stores.registry.remove import ACCOUNTED, retire
from lethe.stores.registry.tags import RUN_ID
from lethe.stores.registry.tombstones import find_tombstone, find_tombstones
from lethe.stores.registry.verify import Wanted, verify_registries, verify_registry
from tests.plans import SMALL
from tests.stores.registry.retired import ADA, FACTS, NOW, here, prepared, register, registry
from tests.stores.registry.test_registry import URL

__all__ = ["here", "prepared", "registry"]


def rows(root: Path, needle: str) -> set[str]:
    """Tables that have a text anywhere, read with no client of MLflow's."""
    found = set()
    with sqlite3.connect(root / "mlflow.db") as store:
        for (table,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            for row in store.execute(f'SELECT * FROM "{table}"'):
                if any(needle in str(value) for value in row):
                    found.add(table)
    return found


def test_a_retired_version_leaves_nothing_but_its_tombstone(here: Path, registry: Registry) -> None:
    old = registry.find("readmission", "1")
    assert len(rows(here, old.run)) > 4
    assert [p for p in (here / "mlruns").rglob("*") if old.logged_model in p.name]
    outcome = retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    assert outcome.result == "erased"
    for ours in (old.run, old.logged_model):
        assert rows(here, ours) == set()
        assert [path for path in (here / "mlruns").rglob("*") if ours in path.as_posix()] == []
    assert rows(here, "run-1") == set()
    with pytest.raises(NotFound):
        registry.find("readmission", "1")
    assert [each.version for each in registry.versions("readmission")] == [2]
    with sqlite3.connect(here / "mlflow.db") as store:
        kept = store.execute("SELECT current_stage, run_id FROM model_versions WHERE version = 1")
        assert kept.fetchall() == [("Deleted_Internal", "REDACTED-RUN-ID")]
    new = registry.find("readmission", "2")
    assert rows(here, new.run)
    assert [path for path in (here / "mlruns").rglob("*.safetensors")]


NOT_KEPT = {  # tag → why a version that is gone is accounted for without it
    "model": "the record is the model's own",
    "device": "decides no price",
    "metrics": "measured on people, the erased one among them",
    "not_private": "of the metrics",
    "package_sha256": "of files that are gone",
    **dict.fromkeys(("gate", "complete", "experiment", "withdrawn"), "how it stood when it served"),
    **dict.fromkeys(
        ("deep_audit", "deep_audit_at", "epsilon_shown_95"), "how its plan was looked at meanwhile"
    ),
    **dict.fromkeys(
        ("epsilon_lower_bound", "epsilon_lower_bound_confidence"), "the claim is what it owes"
    ),
    **dict.fromkeys(("approved_by", "approved_at"), "of its time as champion"),
}


def test_of_every_tag_it_was_decided_whether_the_accountability_record_has_it() -> None:
    sections = described()["tags"]["sections"].values()  # which a test holds against a real version
    tags = {name.rstrip("?") for section in sections for name in section}
    assert set(ACCOUNTED) | set(NOT_KEPT) == tags
    assert not set(ACCOUNTED) & set(NOT_KEPT)
    claimed = {each.name for each in fields(Claim)} | set(SMALL.settings()) | {"mechanism"}
    assert claimed <= set(ACCOUNTED), "what it claimed is what it answers for"


def test_its_accountability_record_remains_and_says_what_replaced_it_and_when(
    registry: Registry,
) -> None:
    retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    tombstone = find_tombstone(registry, "readmission", 1)
    assert tombstone is not None
    assert (tombstone.status, tombstone.replaced_by, tombstone.done) == ("retired", 2, True)
    assert tombstone.retired_at == "2026-11-24T09:30:00+00:00"
    kept = {name: value for name, value in FACTS.items() if name not in ("gate", "not_private")}
    assert tombstone.facts == kept
    assert dt.datetime.fromisoformat(tombstone.registered_at).tzinfo is not None
    assert find_tombstones(registry, "readmission") == [tombstone]
    assert find_tombstone(registry, "readmission", 2) is None
    assert find_tombstones(registry, "another") == []


def test_people_read_one_sentence_and_no_tag_has_a_path(here: Path, registry: Registry) -> None:
    retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    retire(registry, "readmission", 2, replaced_by=None, reason="no budget", now=NOW)
    assert registry.client.get_registered_model("readmission").tags == {
        "retired.1": "Retired on 2026-11-24; replaced by version 2.",
        "retired.2": "Retired on 2026-11-24; nothing took its place.",
    }
    assert {table for table in rows(here, str(here)) if "tags" in table} == set()
    assert rows(here, "{") & {"registered_model_tags", "model_version_tags"} == set()


def test_records_in_tags_of_the_version_before_are_read_and_put_where_they_belong(
    registry: Registry,
) -> None:
    retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    record = find_tombstone(registry, "readmission", 1)
    assert record is not None
    before = json.dumps(asdict(record), sort_keys=True)
    registry.client.set_registered_model_tag("readmission", "retired.1", before)
    (experiment,) = registry.client.search_experiments(filter_string="name LIKE '%.retired'")
    (run,) = registry.client.search_runs([experiment.experiment_id])
    registry.client.delete_run(run.info.run_id)
    assert find_tombstone(registry, "readmission", 1) == record
    retire(registry, "readmission", 2, replaced_by=None, reason="no budget", now=NOW)
    tags = registry.client.get_registered_model("readmission").tags
    assert tags["retired.1"] == record.sentence
    assert [each.version for each in find_tombstones(registry, "readmission")] == [1, 2]
    assert find_tombstone(registry, "readmission", 1) == record


def test_a_record_that_is_lost_is_not_taken_for_none(here: Path, registry: Registry) -> None:
    retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    for path in (here / "mlruns").rglob("1.json"):
        path.unlink()
    with pytest.raises(StoreUnavailable, match="has lost its record of readmission/1"):
        find_tombstone(registry, "readmission", 1)


def test_aliases_turn_to_the_replacement_before_anything_goes(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(remove, "_delete_version", cut)
    with pytest.raises(KeyboardInterrupt):
        retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    assert registry.find("readmission", "@champion").version == 2
    assert registry.find("readmission", "@candidate").version == 2
    assert registry.find("readmission", "1").run


def test_an_experiments_version_is_not_offered_in_place_of_a_retired_one(
    registry: Registry,
) -> None:
    register(registry, run_id="run-3", gate="it is an experiment's", experiment="true")
    retire(registry, "readmission", 1, replaced_by=3, now=NOW)
    assert registry.find("readmission", "3").aliases == ()
    for alias in ("@champion", "@candidate"):
        with pytest.raises(NotFound):
            registry.find("readmission", alias)


def test_a_replacement_with_a_closed_gate_does_not_become_champion(registry: Registry) -> None:
    register(registry, run_id="run-3", gate="auc 0.51 is below 0.55")
    retire(registry, "readmission", 1, replaced_by=3, now=NOW)
    assert registry.find("readmission", "3").aliases == ("candidate",)
    with pytest.raises(NotFound):
        registry.find("readmission", "@champion")


@pytest.mark.parametrize("step", ["_describe", "_delete_version", "_collect", "_remove_artifacts"])
def test_cut_at_any_step_it_ends_the_same_when_done_again(
    here: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    old = registry.find("readmission", "1")
    with monkeypatch.context() as patch:
        whole = getattr(remove, step)

        def cut(*words: object) -> None:
            whole(*words)  # the step is done, its successor not begun
            raise KeyboardInterrupt

        patch.setattr(remove, step, cut)
        with pytest.raises(KeyboardInterrupt):
            retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    again = Registry.open(URL)
    retire(again, "readmission", 1, replaced_by=2, now=NOW + dt.timedelta(days=1))
    tombstone = find_tombstone(again, "readmission", 1)
    assert tombstone is not None
    assert tombstone.done
    for ours in (old.run, old.logged_model):
        assert rows(here, ours) == set()
        assert [path for path in (here / "mlruns").rglob("*") if ours in path.as_posix()] == []


def test_retired_twice_changes_nothing(here: Path, registry: Registry) -> None:
    retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    tombstone = find_tombstone(registry, "readmission", 1)
    again = retire(registry, "readmission", 1, replaced_by=2, now=NOW + dt.timedelta(days=9))
    assert again.result == "absent"
    assert find_tombstone(registry, "readmission", 1) == tombstone


def test_a_model_retired_for_none_is_replaced_by_nothing_and_says_why(
    here: Path, registry: Registry
) -> None:
    old = registry.find("readmission", "1")
    retire(
        registry,
        "readmission",
        1,
        replaced_by=None,
        reason="the budget allows no training",
        now=NOW,
    )
    tombstone = find_tombstone(registry, "readmission", 1)
    assert tombstone is not None
    assert (tombstone.status, tombstone.replaced_by) == ("retired", None)
    assert tombstone.reason == "the budget allows no training"
    assert rows(here, old.run) == set()
    for alias in ("@champion", "@candidate"):
        with pytest.raises(NotFound):
            registry.find("readmission", alias)


def test_its_number_is_never_given_again(registry: Registry) -> None:
    retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    retire(registry, "readmission", 2, replaced_by=None, reason="another reason", now=NOW)
    assert register(registry, run_id="run-4").version == 3


def test_attempts_that_mlflow_only_marked_go_too(here: Path, registry: Registry) -> None:
    client = registry.client
    old = registry.find("readmission", "1")
    experiment = client.get_experiment_by_name("readmission").experiment_id
    attempt = client.create_run(experiment, tags={RUN_ID: "run-1"}).info.run_id
    client.log_text(attempt, "weights", "left.txt")
    client.delete_run(attempt)
    client.delete_logged_model(old.logged_model)
    retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    for ours in (attempt, old.logged_model):
        assert rows(here, ours) == set()
    assert [path for path in (here / "mlruns").rglob("left.txt")] == []


def test_unknown_versions_and_self_replacement_are_refused(registry: Registry) -> None:
    with pytest.raises(RegistrationRefused, match="itself"):
        retire(registry, "readmission", 1, replaced_by=1, now=NOW)
    for version, other in ((1, 9), (9, 2)):
        with pytest.raises(NotFound):
            retire(registry, "readmission", version, replaced_by=other, now=NOW)
    assert registry.find("readmission", "1").aliases == ("candidate", "champion")


def test_the_fresh_look_sees_what_is_left_in_tables_and_folders(
    here: Path, registry: Registry
) -> None:
    shutil.copytree(here / "mlruns", here / "kept")
    with sqlite3.connect(here / "mlflow.db") as store:
        before = store.execute("SELECT * FROM tags").fetchall()
    old = registry.find("readmission", "1")
    retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    tombstone = find_tombstone(registry, "readmission", 1)
    assert tombstone is not None
    assert verify_registry(registry, [tombstone]).result == "absent"
    shutil.copytree(here / "kept", here / "mlruns", dirs_exist_ok=True)
    seen = verify_registry(registry, [tombstone])
    assert seen.result == "present"
    assert set(seen.places) == set(tombstone.artifacts)
    for place in tombstone.artifacts:
        folder = remove.local_folder(place)
        assert folder is not None
        shutil.rmtree(folder)
    row = next(each for each in before if old.run in each)
    with sqlite3.connect(here / "mlflow.db") as store:
        store.execute(f"INSERT INTO tags VALUES ({','.join('?' * len(row))})", row)
    assert verify_registry(registry, [tombstone]).places == ("tags.run_uuid",)


def test_the_fresh_look_sees_a_version_that_still_serves(registry: Registry) -> None:
    retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    tombstone = find_tombstone(registry, "readmission", 1)
    assert tombstone is not None
    seen = verify_registry(registry, [replace(tombstone, version=2)])
    assert seen.places == ("model_versions readmission/2",)


@pytest.mark.parametrize("where", ["tag", "artifact", "free page"])
def test_the_fresh_look_sees_a_person(here: Path, registry: Registry, where: str) -> None:
    assert verify_registry(registry, traces=ADA).result == "absent"
    version = registry.find("readmission", "2")
    if where == "artifact":
        registry.client.log_text(version.run, "asked by Ada Quill", "note.txt")
    else:
        registry.tag(version, "asked_by", "Ada Quill")
    if where == "free page":
        with sqlite3.connect(here / "mlflow.db") as store:
            store.execute("PRAGMA secure_delete = OFF")
            store.execute("DELETE FROM model_version_tags WHERE key = 'asked_by'")
        assert rows(here, "Ada") == set()
    seen = verify_registry(registry, traces=ADA)
    assert seen.result == "present"
    assert seen.count >= 1
    assert "Ada" not in f"{seen}"


def test_several_people_are_distinguished_and_what_stands_there_by_chance_is_nobody(
    registry: Registry,
) -> None:
    registry.tag(registry.find("readmission", "2"), "asked_by", "Ada Quill")
    chance = Traces(key="20", token=13, identifiers=("1999", "run-1"))  # steps, records, a run
    bo = Traces(key="P-0004712", token=14, identifiers=("Bo Lindqvist",))
    looked = verify_registries(registry, [Wanted((), each) for each in (bo, ADA, chance)])
    assert [outcome.count > 0 for outcome in looked] == [False, True, False]
    assert verify_registries(registry, []) == []
