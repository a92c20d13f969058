"""Promotion by a named person: who may, of what, and what is looked at once more."""

from dataclasses import replace
from typing import Any

import pytest
from pyroaring import BitMap

from lethe.config import workspace
from lethe.config.params import load_params
from lethe.core.errors import ApprovalRefused, NotFound, ParamsInvalid
from lethe.core.files import read_json, write_json
from lethe.registration import approval
from lethe.stores.dvc.inputs import content_md5
from lethe.stores.registry.registry import Registry
from lethe.stores.registry.remove import retire
from tests.stages.test_register import NOW, PEOPLE, Audited, audited, here, prepared, write_lock

__all__ = ["audited", "here", "prepared"]


@pytest.fixture
def asked(audited: Audited) -> Audited:
    """A version that the gate let in and that waits for Kim or Lou."""
    registration = replace(
        audited.params.registration, promote="approval", approvers=("kim", "lou")
    )
    audited.params = replace(audited.params, registration=registration)
    report = audited.run()
    assert report["aliases"] == ["candidate"]
    assert report["reasons"] == ["waits for approval by kim or lou"]
    return audited


def _version(audited: Audited, number: int = 1) -> Any:
    return Registry.open(audited.params.stores.registry).find("readmission", str(number))


def _approve(audited: Audited, name: str = "readmission/1", by: str = "kim") -> str:
    return approval.approve(audited.params, name, by=by, reason="Read the card.", now=NOW)


def _another_training(audited: Audited) -> None:
    for stage in ("train", "audit"):
        audited.edit(stage, run_id="run-2")
    model = workspace.MODEL / "model.json"
    write_json(model, read_json(model) | {"run_id": "run-2"})
    write_lock(audited.root, "d" * 32 + ".dir")
    audited.edit("audit", model_md5=content_md5(audited.root / workspace.MODEL))
    ledger = audited.ledger
    ledger.run = lambda run_id: (  # type: ignore[method-assign]
        ledger.figures if run_id == "figures-1" else ledger.record
    )


def test_what_waits_is_said_with_its_price_and_names_nobody(asked: Audited) -> None:
    waits = approval.waiting(asked.params)
    assert waits is not None
    assert waits.name == "readmission/1"
    assert "epsilon 0.9 (PLD), 1.04 (RDP) at delta 1e-05 per person" in waits.facts
    assert "auc 0.65, auc high 0.7, auc low 0.6, records 5" in waits.facts
    assert "\n" not in waits.facts
    assert not any(person in waits.facts for person in PEOPLE)


def test_an_approver_makes_it_champion_and_is_named_there(asked: Audited) -> None:
    assert _approve(asked) == "readmission/1 is champion now, approved by kim."
    version = _version(asked)
    assert set(version.aliases) == {"candidate", "champion"}
    assert version.tags["approved_by"] == "kim"
    assert version.tags["approved_at"] == "2026-11-01T00:00:00+00:00"
    assert version.tags["approval_reason"] == "Read the card."
    assert approval.waiting(asked.params) is None
    assert asked.run()["aliases"] == ["candidate", "champion"], "a later run leaves it"
    assert _approve(asked, by="lou") == "readmission/1 is champion; kim approved it."


def test_nobody_else_does(asked: Audited) -> None:
    with pytest.raises(ApprovalRefused, match=r"'eve' is not one of .* \(kim, lou\)"):
        _approve(asked, by="eve")
    assert _version(asked).aliases == ("candidate",)


def test_a_version_with_somebody_who_has_withdrawn_since_is_not_promoted(asked: Audited) -> None:
    asked.willing.remove(PEOPLE[0])
    with pytest.raises(
        ApprovalRefused, match="fewer than 100 people in readmission/1 have withdrawn"
    ):
        _approve(asked)
    assert _version(asked).aliases == ("candidate",)
    assert "approved_by" not in _version(asked).tags


def test_an_approval_does_not_stand_in_for_a_missing_measure(audited: Audited) -> None:
    registration = replace(audited.params.registration, promote="approval", approvers=("kim",))
    audited.params = replace(audited.params, registration=registration)
    audited.edit("train", metrics={"auc": {"value": 0.5, "private": True}})
    audited.run()
    assert approval.waiting(audited.params) is None
    with pytest.raises(ApprovalRefused, match=r"auc 0\.5000 is below min_auc 0\.55"):
        _approve(audited)


def test_what_was_looked_at_is_what_is_approved(asked: Audited) -> None:
    first = _version(asked)
    _another_training(asked)
    assert asked.run()["version"] == 2
    assert _version(asked, first.version).aliases == ()
    with pytest.raises(ApprovalRefused, match="readmission/1 is not the candidate any more"):
        _approve(asked)
    assert approval.waiting(asked.params) is not None


def test_an_experiment_does_not_take_the_place_of_what_waits(
    asked: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = approval.waiting(asked.params)
    _another_training(asked)
    monkeypatch.setenv("DVC_EXP_NAME", "tried")
    asked.run()
    assert (_version(asked).aliases, _version(asked, 2).aliases) == (("candidate",), ())
    assert approval.waiting(asked.params) == waits
    assert "is champion now" in _approve(asked)


def test_a_replacement_after_an_erasure_waits_too_and_nothing_serves_meanwhile(
    asked: Audited,
) -> None:
    _approve(asked)
    _another_training(asked)
    asked.run()
    registry = Registry.open(asked.params.stores.registry)
    retire(registry, "readmission", 1, replaced_by=2, now=NOW)
    with pytest.raises(NotFound):
        registry.find("readmission", "@champion")
    waits = approval.waiting(asked.params)
    assert waits is not None
    _approve(asked, waits.name)
    assert registry.find("readmission", "@champion").version == 2


def test_with_its_manifest_gone_nothing_is_promoted(asked: Audited) -> None:
    manifest = asked.root / workspace.MANIFEST
    assert len(BitMap.deserialize(manifest.read_bytes())) == 3
    md5 = _version(asked).tags["manifest_md5"]
    (asked.root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]).unlink()
    with pytest.raises(NotFound):
        _approve(asked)
    assert _version(asked).aliases == ("candidate",)


@pytest.mark.parametrize("name", ["readmission", "readmission/x", "other/1", "readmission/9"])
def test_a_version_that_is_none_is_not_found(asked: Audited, name: str) -> None:
    with pytest.raises(NotFound):
        _approve(asked, name)


def test_nothing_waits_where_nothing_was_registered(audited: Audited) -> None:
    assert approval.waiting(audited.params) is None


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"promote": "approval"}, "approvers are named where promote is approval"),
        ({"promote": "automatic", "approvers": ["kim"]}, "approvers are named where"),
        ({"promote": "approval", "approvers": ["kim; rm"]}, "an approver is a user name"),
    ],
)
def test_approvers_are_declared_where_they_decide(
    here: Any,
    declared: dict[str, Any],
    said: str,
) -> None:
    from ruamel.yaml import YAML

    from tests.stores.registry.test_registry import PROJECT

    raw = YAML(typ="safe", pure=True).load((PROJECT / "params.yaml").read_text())
    raw["registration"] = {"name": "readmission", **declared}
    with (here / "params.yaml").open("w") as file:
        YAML().dump(raw, file)
    with pytest.raises(ParamsInvalid, match=said):
        load_params(here / "params.yaml")


@pytest.mark.parametrize(
    ("tag", "why"),
    [("package_sha256", "no tag package_sha256"), ("gate", "it has no tag gate")],
)
def test_a_version_that_lost_what_its_promotion_rests_on_is_not_promoted(
    tag: str, why: str, asked: Audited
) -> None:
    registry = Registry.open(asked.params.stores.registry)
    registry.client.delete_model_version_tag("readmission", "1", tag)
    with pytest.raises(ApprovalRefused, match=why):
        _approve(asked)
    assert _version(asked).aliases == ("candidate",)


def test_a_version_whose_files_were_changed_since_is_not_promoted(asked: Audited) -> None:
    (served,) = asked.root.glob("mlruns/*/models/*/artifacts/served.py")
    served.write_text("# other code\n")
    with pytest.raises(ApprovalRefused, match="are not those that were registered"):
        _approve(asked)
    assert _version(asked).aliases == ("candidate",)
