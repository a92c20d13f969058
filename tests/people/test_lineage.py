"""Lineage answers both ways: from a model to its data, from a person to every model."""

import subprocess
from pathlib import Path

import pytest
from pyroaring import BitMap

from lethe.config import workspace
from lethe.config.keys import load_key
from lethe.core.errors import NotFound, ParamsInvalid
from lethe.core.files import write_whole
from lethe.people.lineage import (
    model_lineage,
    parse_model,
    render_model,
    render_subject,
    subject_lineage,
)
from lethe.stores.registry.registry import Registry
from lethe.stores.registry.tags import RUN_ID
from lethe.stores.vault.vault import Vault
from tests.asked import ask
from tests.stages.test_register import PEOPLE, Audited, _md5, audited, here, prepared, write_lock

__all__ = ["audited", "here", "prepared"]


def test_lineage_of_a_model_has_its_people_data_code_and_price(audited: Audited) -> None:
    audited.run()
    found = ask(model_lineage, audited.params, "readmission/1")
    assert found == ask(model_lineage, audited.params, "readmission@champion")
    assert found == ask(model_lineage, audited.params, "readmission")
    metrics = found.pop("metrics")
    assert metrics["auc"] == {"value": 0.65, "private": True, "low": 0.6, "high": 0.7}
    manifest, lock = workspace.MANIFEST.read_bytes(), (audited.root / "dvc.lock").read_bytes()
    assert found == {
        "model": "readmission",
        "version": 1,
        "status": "ready",
        "subjects": 3,
        "records": 5,
        "manifest_md5": _md5(manifest),
        "data_md5": "d" * 32 + ".dir",
        "git_commit": None,
        "dvc_lock_md5": _md5(lock),
        "epsilon_pld": 0.9,
        "epsilon_rdp": 1.04,
        "delta": 1e-5,
        "unit": "person",
    }


def test_a_person_finds_the_models_and_datasets_they_are_in_and_no_others(audited: Audited) -> None:
    audited.run()
    dataset = {
        "data_md5": "d" * 32 + ".dir",
        "subjects_md5": model_subjects(audited),
        "commit": "workspace",
    }
    version = {"model": "readmission", "version": 1, "status": "ready"}
    assert ask(subject_lineage, audited.params, PEOPLE[0]) == {
        "models": [version],
        "datasets": [dataset],
    }
    # Held out: in the data, in no model.
    assert ask(subject_lineage, audited.params, PEOPLE[3]) == {"models": [], "datasets": [dataset]}
    assert ask(subject_lineage, audited.params, "nobody") == {"models": [], "datasets": []}


def model_subjects(audited: Audited) -> str:
    tags = Registry.open(audited.params.stores.registry).find("readmission", "1").tags
    return tags["subjects_md5"]


def test_past_versions_and_committed_datasets_are_found_too(audited: Audited) -> None:
    audited.run()
    _commit(audited.root)
    commit = _git(audited.root, "rev-parse", "HEAD")
    # ana leaves; a new model is trained without her.
    manifest = BitMap.deserialize(workspace.MANIFEST.read_bytes())
    subjects = BitMap.deserialize(workspace.SUBJECTS.read_bytes())
    with Vault.open(audited.params.stores.vault, load_key(audited.params.stores, Path())) as vault:
        ana = int(vault.lookup([PEOPLE[0]])[0])
    remaining = (manifest - BitMap([ana])).serialize()
    write_whole(workspace.MANIFEST, remaining)
    write_whole(workspace.SUBJECTS, (subjects - BitMap([ana])).serialize())
    write_lock(audited.root, "e" * 32 + ".dir")
    registry = Registry.open(audited.params.stores.registry)
    first = registry.find("readmission", "1")
    registry._client.create_model_version(
        "readmission",
        str(audited.root / "model"),
        tags={**first.tags, RUN_ID: "run-2", "manifest_md5": _md5(remaining)},
    )
    ana_in = ask(subject_lineage, audited.params, PEOPLE[0])
    assert [m["version"] for m in ana_in["models"]] == [1]
    assert [d["commit"] for d in ana_in["datasets"]] == [commit]
    ben_in = ask(subject_lineage, audited.params, PEOPLE[1])
    assert [m["version"] for m in ben_in["models"]] == [1, 2]
    assert [d["commit"] for d in ben_in["datasets"]] == [commit, "workspace"]


def _git(root: Path, *words: str) -> str:
    name = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    done = subprocess.run(
        ["git", *name, *words], cwd=root, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _commit(root: Path) -> None:
    _git(root, "init", "--quiet")
    _git(root, "add", "dvc.lock")
    _git(root, "commit", "--quiet", "--message", "What ran")


def test_a_manifest_that_is_not_here_is_said_and_not_guessed(audited: Audited) -> None:
    audited.run()
    md5 = ask(model_lineage, audited.params, "readmission/1")["manifest_md5"]
    (audited.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    for key in (PEOPLE[0], "nobody"):  # and for the unknown in the same way
        with pytest.raises(NotFound, match="dvc pull"):
            ask(subject_lineage, audited.params, key)


def test_models_that_others_keep_in_the_same_registry_are_passed_over(audited: Audited) -> None:
    audited.run()
    client = Registry.open(audited.params.stores.registry)._client
    client.create_registered_model("theirs")
    client.create_model_version("theirs", str(audited.root / "model"))
    found = ask(subject_lineage, audited.params, PEOPLE[0])
    assert [m["model"] for m in found["models"]] == ["readmission"]
    theirs = ask(model_lineage, audited.params, "theirs/1")
    assert theirs["subjects"] is None
    assert theirs["manifest_md5"] is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("readmission/3", ("readmission", "3")),
        ("readmission@champion", ("readmission", "@champion")),
        ("readmission", ("readmission", "@candidate")),
    ],
)
def test_models_are_named_by_version_or_alias(words: str, expected: tuple[str, str]) -> None:
    assert parse_model(words) == expected


@pytest.mark.parametrize("words", ["", "/1", "readmission/one", "readmission@", "@champion"])
def test_words_that_name_no_version_are_refused(words: str) -> None:
    with pytest.raises(ParamsInvalid):
        parse_model(words)


def test_an_absent_version_is_not_found(audited: Audited) -> None:
    with pytest.raises(NotFound):
        ask(model_lineage, audited.params, "readmission/7")


def test_readers_see_price_and_privacy_of_each_number(audited: Audited) -> None:
    audited.run()
    text = render_model(ask(model_lineage, audited.params, "readmission/1"))
    assert "epsilon 0.9 (PLD), 1.04 (RDP) at delta 1e-05, per person" in text
    assert "0.65, 95 % between 0.6 and 0.7 (charged)" in text
    assert "readmission/1" in render_subject(ask(subject_lineage, audited.params, PEOPLE[0]))
    assert render_subject({"models": [], "datasets": []}) == "In no model and no dataset."
    assert "none" in render_subject(ask(subject_lineage, audited.params, PEOPLE[3]))
