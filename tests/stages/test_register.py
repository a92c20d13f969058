"""The registration gate: it opens when everything holds, and says each thing that does not."""

import datetime as dt
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyroaring import BitMap

from lethe.config import workspace
from lethe.config.keys import create_key_file, load_key
from lethe.config.params import Params, load_params
from lethe.config.sections import Registration
from lethe.core.errors import (
    ApprovalRefused,
    FileDamaged,
    LedgerInvalid,
    NotFound,
    RegistrationRefused,
)
from lethe.core.files import read_json, write_json, write_whole
from lethe.ledger.ledger import Ledger
from lethe.people import suppression, withdrawn
from lethe.people.consents import Decisions
from lethe.people.references import Reference
from lethe.privacy.figures import figures_plan
from lethe.privacy.plan import ADJACENCY, MECHANISM, SAMPLING, UNIT
from lethe.registration import approval, facts
from lethe.registration.gate import LOOKS, Evidence, closed_gate, objections
from lethe.rights.intake import receive
from lethe.stages import register
from lethe.stages.behaviour import audit_digest
from lethe.stores.dvc.inputs import content_md5
from lethe.stores.registry.registry import Registry
from lethe.stores.vault.vault import Vault
from tests.plans import SMALL as PLAN
from tests.stores.registry.test_registry import PROJECT, here, prepared

__all__ = ["here", "prepared"]

NOW = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
PRICE = {"delta": 1e-5, "epsilon_pld": 0.25, "epsilon_rdp": 0.3, "noise_multiplier": 13.3}
FIGURES = {**PRICE, "run_id": "figures-1"}
# ana, ben and cem train; dia is held out. All four agreed when the shards were made.
PEOPLE = ["ana@example.org", "ben-4711", "cem-4712", "dia-4713"]


@dataclass
class FakeRun:
    state: str = "settled"
    plan_digest: str = PLAN.digest
    manifest_md5: str = ""
    mechanism: str = MECHANISM


@dataclass
class FakeClass:
    epsilon_rdp: float


class FakeLedger:
    """What the gate asks of the ledger."""

    def __init__(self) -> None:
        self.record = FakeRun()
        self.figures = FakeRun(mechanism="figures")
        self.spent = 1.04

    def __enter__(self) -> "FakeLedger":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, run_id: str) -> FakeRun:
        if run_id not in ("run-1", "figures-1"):
            raise NotFound("No such run.")
        return self.record if run_id == "run-1" else self.figures

    def classes(self, tokens: BitMap, *, delta: float) -> list[FakeClass]:
        return [FakeClass(self.spent)]

    def head(self) -> tuple[int, str]:
        return 2, "abcdef"

    def check_contains_all(self, records: Iterable[tuple[str, int, str]]) -> None:
        assert all((rows, head) == (2, "abcdef") for _, rows, head in records)


@dataclass
class Audited:
    """A workspace as audit leaves it, and what a test may turn in it."""

    root: Path
    params: Params
    ledger: FakeLedger
    willing: set[str]

    def run(self) -> dict[str, Any]:
        return register.run(self.params, now=NOW)

    def versions(self) -> list[int]:
        return [v.version for v in Registry.open(self.params.stores.registry).versions()]

    def edit(self, stage: str, **facts: Any) -> None:
        path = workspace.report_path(stage)
        write_json(path, read_json(path) | facts)


def _md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def _store(root: Path, content: bytes, suffix: str = "") -> str:
    """Puts an object where DVC's cache has it."""
    md5 = _md5(content) + suffix
    path = root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return md5


def write_lock(root: Path, data_md5: str) -> None:
    """`dvc.lock` and the cache as `dvc repro` leaves them, without waiting for it."""
    model = [
        {"md5": _store(root, path.read_bytes()), "relpath": path.name}
        for path in sorted((root / workspace.MODEL).iterdir())
    ]
    manifest = _store(root, (root / workspace.MANIFEST).read_bytes())
    subjects = _store(root, (root / workspace.SUBJECTS).read_bytes())
    shards = {"path": "data/shards", "md5": data_md5}
    lock = {
        "schema": "2.0",
        "stages": {
            "pseudonymize": {"outs": [shards, {"path": "data/subjects.roaring", "md5": subjects}]},
            "validate": {"deps": [shards]},
            "train": {
                "deps": [shards],
                "outs": [
                    {"path": "data/manifest.roaring", "md5": manifest},
                    {"path": "model", "md5": _store(root, json.dumps(model).encode(), ".dir")},
                ],
            },
        },
    }
    (root / "dvc.lock").write_text(json.dumps(lock))


def decided(willing: set[str]) -> Decisions:
    """Everybody's yes, given long ago."""
    people = pd.Index(sorted(willing), dtype="str")
    asked = pd.Series(pd.Timestamp("2026-01-01", tz="UTC"), index=people)
    return Decisions(pd.Series("yes", index=people), people, asked)


@pytest.fixture
def audited(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Audited]:
    monkeypatch.delenv("LETHE_KEY", raising=False)
    params = load_params(PROJECT / "params.yaml", root=Path())
    create_key_file(Path(params.stores.key_file))
    (here / ".dvc").mkdir()
    (here / ".lethe").mkdir()
    with Vault.open(params.stores.vault, load_key(params.stores, params.root)) as vault:
        tokens = [int(token) for token in vault.tokens(PEOPLE)]
    manifest = BitMap(tokens[:3]).serialize()
    write_whole(workspace.MANIFEST, manifest)
    write_whole(workspace.SUBJECTS, BitMap(tokens).serialize())
    write_json(workspace.PLAN, PLAN.to_data())
    write_json(workspace.report_path("validate"), {"passed": True})
    write_json(
        workspace.report_path("audit"),
        {
            "passed": True,
            "run_id": "run-1",
            "checks": [{"name": n, "passed": True} for n in (*LOOKS[MECHANISM], "noise.scale")],
            "measured": {"run": {"code": audit_digest(params), "looked": "now"}},
            "model_md5": content_md5(here / workspace.MODEL),
            "attack": {"attempted": True, "kind": "loss threshold, per person"},
        },
    )
    train = {
        "run_id": "run-1",
        "plan": PLAN.to_data(),
        "figures": FIGURES,
        "epsilon_pld": 0.9,
        "epsilon_rdp": 1.04,
        "delta": 1e-5,
        "unit": UNIT,
        "adjacency": ADJACENCY,
        "sampling": SAMPLING,
        "metrics": {
            "auc": {"value": 0.65, "private": True, "low": 0.6, "high": 0.7},
            "records": {"value": 5, "private": True, "low": 0, "high": 90},
            "subjects": {"value": 3, "private": True, "low": 0, "high": 60},
        },
        "device": "cpu",
        "engine": "bookkeeping",
        "manifest_md5": _md5(manifest),
    }
    write_json(workspace.report_path("train"), train)
    write_lock(here, "d" * 32 + ".dir")
    for scratch in (workspace.MINIMIZED, workspace.CONSENTED):
        (here / scratch).mkdir()
        (here / scratch / "shard-0000.parquet").write_text(PEOPLE[0])
    ledger = FakeLedger()
    ledger.record.manifest_md5 = _md5(manifest)
    made = Audited(here, params, ledger, set(PEOPLE))
    monkeypatch.setattr(withdrawn, "decisions_now", lambda params, now: decided(made.willing))
    # There is no source here that could say how a key is spelled.
    monkeypatch.setattr(suppression, "keys_spelled", lambda _, keys: {key: [key] for key in keys})
    Ledger.open(params.stores.ledger).close()  # so that the workspace has one
    monkeypatch.setattr(Ledger, "open", lambda url, create: made.ledger)
    yield made


def test_what_canaries_contradict_is_not_registered(audited: Audited) -> None:
    write_json(Path("behaviour.json"), {"train": "code-1"})
    known = {
        "at": "2026-03-01T00:00:00+00:00",
        "checks": [{}],
        "confidence": 0.99,
        "epsilon_lower_bound": 9.0,
        "failed": ["canaries.steps.one_record.tradeoff"],
        "interval_95": {"high": 9.5, "low": 9.0},
        "plan_digest": PLAN.digest,
        "training_code": "code-1",
    }
    write_json(workspace.report_path("deep_audit"), known)
    with pytest.raises(RegistrationRefused, match="canaries contradict the claim"):
        audited.run()
    # Of other code, it says nothing about this one.
    write_json(workspace.report_path("deep_audit"), known | {"training_code": "code-0"})
    audited.run()
    assert audited.versions() == [1]


def test_a_sound_model_is_registered_as_candidate_and_champion(audited: Audited) -> None:
    report = audited.run()
    assert report == {
        "model": "readmission",
        "version": 1,
        "aliases": ["candidate", "champion"],
        "status": "ready",
        "reasons": [],
        "run_id": "run-1",
    }
    assert read_json(workspace.report_path("register")) == report


def test_the_ledgers_own_record_opens_the_gate(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(audited.root)
    monkeypatch.setattr(withdrawn, "decisions_now", lambda params, now: decided(audited.willing))
    people = BitMap.deserialize(workspace.MANIFEST.read_bytes())
    figures = figures_plan(audited.params, records_per_person=4, outputs=1)
    assert figures is not None
    with Ledger.open(audited.params.stores.ledger) as ledger:
        reservation, said = (
            ledger.reserve(release, budget=audited.params.budget, request=name, now=NOW)
            for name, release in (
                ("asked", PLAN.release(people)),
                ("figures", figures.release(people)),
            )
        )
        audited.edit("train", figures=FIGURES | {"run_id": said.run_id})
        described = workspace.MODEL / "model.json"
        run_id = reservation.run_id
        write_json(described, read_json(described) | {"run_id": run_id})
        write_lock(audited.root, "d" * 32 + ".dir")
        for stage in ("train", "audit"):
            audited.edit(stage, run_id=run_id)
        audited.edit("audit", model_md5=content_md5(workspace.MODEL))
        with pytest.raises(RegistrationRefused, match="is reserved, not settled"):
            audited.run()
        ledger.settle(run_id)
        with pytest.raises(RegistrationRefused, match="figures is reserved, not settled"):
            audited.run()
        ledger.settle(said.run_id)
        assert audited.run()["run_id"] == run_id
        tags = Registry.open(audited.params.stores.registry).find("readmission", "1").tags
        ledger.check_contains_all([(run_id, int(tags["ledger_rows"]), tags["ledger_head"])])


def test_a_rolled_back_ledger_is_refused_by_every_run(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited.run()  # records a ledger of two entries that ends in abcdef
    assert audited.run()["version"] == 1
    monkeypatch.undo()
    monkeypatch.chdir(audited.root)
    monkeypatch.setattr(withdrawn, "decisions_now", lambda params, now: decided(audited.willing))
    with pytest.raises(LedgerInvalid, match="has 0 entries and no longer contains run run-1"):
        audited.run()


def test_the_version_names_people_data_code_parameters_and_price(audited: Audited) -> None:
    audited.run()
    tags = dict(Registry.open(audited.params.stores.registry).find("readmission", "1").tags)
    lock = (audited.root / "dvc.lock").read_bytes()
    expected = {
        "purpose": "readmission_model",
        "subjects": "3",
        "records": "5",
        "epsilon_pld": "0.9",
        "epsilon_rdp": "1.04",
        "delta": "1e-05",
        "unit": "person",
        "adjacency": "add or remove one person",
        "sampling": "Poisson over persons",
        "records_per_person": "4",
        "sample_rate": "0.1",
        "noise_multiplier": "3.0",
        "noise": "gaussian",
        "steps": "20",
        "data_md5": "d" * 32 + ".dir",
        "subjects_md5": _md5(workspace.SUBJECTS.read_bytes()),
        "manifest_md5": _md5(workspace.MANIFEST.read_bytes()),
        "git_commit": "none",
        "git_dirty": "true",
        "dvc_lock_md5": _md5(lock),
        "validation": "passed",
        "audit": "passed: 6 checks (draws_of_run 1, noise 1, noise_of_run 1, run 3)",
        "run_id": "run-1",
        "ledger_rows": "2",
        "ledger_head": "abcdef",
        "figures": json.dumps(FIGURES, sort_keys=True),
    }
    assert {name: tags.get(name) for name in expected} == expected
    assert "RDP" in tags["accountant"]
    assert "PLD" in tags["accountant"]
    attached = [p for p in (audited.root / "mlruns").rglob("*") if p.name == "dvc.lock"]
    assert [p.read_bytes() for p in attached] == [lock]


def test_registered_twice_is_registered_once_and_reports_the_same(audited: Audited) -> None:
    audited.run()
    first = workspace.report_path("register").read_bytes()
    audited.run()
    assert workspace.report_path("register").read_bytes() == first
    assert audited.versions() == [1]


def test_a_later_run_does_not_take_back_what_a_person_promoted(audited: Audited) -> None:
    audited.run()
    registry = Registry.open(audited.params.stores.registry)
    registry._client.delete_registered_model_alias("readmission", "champion")
    assert audited.run()["aliases"] == ["candidate"]


def test_aliases_that_a_crash_prevented_are_set_by_the_next_run(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(Exception):
        pass

    def cut(*_: object) -> None:
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "alias", cut)
        with pytest.raises(PowerCut):
            audited.run()
    assert audited.run()["aliases"] == ["candidate", "champion"]
    assert audited.versions() == [1]


def test_nothing_with_subject_keys_is_left_however_it_ends(audited: Audited) -> None:
    audited.edit("audit", passed=False)
    with pytest.raises(RegistrationRefused):
        audited.run()
    assert not (audited.root / workspace.MINIMIZED).exists()
    assert not (audited.root / workspace.CONSENTED).exists()


def _withdraws(audited: Audited) -> None:
    audited.willing.discard(PEOPLE[0])


def _suppressed(audited: Audited) -> None:
    with Vault.open(audited.params.stores.vault, load_key(audited.params.stores, Path())) as vault:
        vault.suppress([PEOPLE[1]], now=NOW)


def _asked(audited: Audited) -> None:
    """The training was under way when the request came in."""
    receive(audited.params, [Reference(None, PEOPLE[0])], kind="erase", now=NOW)


def _suppressed_for_the_purpose(audited: Audited) -> None:
    with Vault.open(audited.params.stores.vault, load_key(audited.params.stores, Path())) as vault:
        vault.suppress([PEOPLE[1]], now=NOW, purpose=audited.params.purpose)


def _forgotten(audited: Audited) -> None:
    with Vault.open(audited.params.stores.vault, load_key(audited.params.stores, Path())) as vault:
        vault.forget([PEOPLE[2]])


def _other_lock_data(audited: Audited) -> None:
    lock = json.loads((audited.root / "dvc.lock").read_text())
    lock["stages"]["pseudonymize"]["outs"][0]["md5"] = "e" * 32 + ".dir"
    (audited.root / "dvc.lock").write_text(json.dumps(lock))


def _looked(*, but: str = "", failed: str = "") -> list[dict[str, Any]]:
    """The looks at the run in an audit's report."""
    return [{"name": n, "passed": n != failed} for n in LOOKS[MECHANISM] if n != but]


def _fine_tuned_and_committed(audited: Audited) -> None:
    """As by `dvc commit train`, which takes a changed model over."""
    (audited.root / workspace.MODEL / "weights.safetensors").write_bytes(b"fine-tuned")
    write_lock(audited.root, "d" * 32 + ".dir")


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (lambda d: d.edit("validate", passed=False), "validation did not pass"),
        (lambda d: d.edit("audit", passed=False), "the audit did not pass"),
        (lambda d: d.edit("audit", run_id="run-0"), "the audit is of another training"),
        (lambda d: d.edit("audit", model_md5="0" * 32 + ".dir"), "the audit is of other weights"),
        (lambda d: d.edit("audit", model_md5=None), "the audit is of other weights"),
        (lambda d: d.edit("audit", checks=[]), "did not look at the run that made the model"),
        (lambda d: d.edit("audit", checks=_looked(but="run.weights")), "did not look at the run"),
        (lambda d: d.edit("audit", checks=_looked(failed="run.recorded")), "did not look at the"),
        (lambda d: d.edit("audit", measured={}), "by another version of the audit"),
        (lambda d: d.edit("audit", measured={"run": {"code": None}}), "by another version of the"),
        (lambda d: d.edit("audit", measured={"run": {"code": "0" * 64}}), "by another version of"),
        (_fine_tuned_and_committed, "the audit is of other weights"),
        (lambda d: setattr(d.ledger.record, "state", "reserved"), "is reserved, not settled"),
        (lambda d: setattr(d.ledger.record, "state", "void"), "is void, not settled"),
        (lambda d: setattr(d.ledger.record, "plan_digest", "x"), "charged for another plan"),
        (lambda d: setattr(d.ledger.record, "manifest_md5", "x"), "charged for other people"),
        (lambda d: setattr(d.ledger, "spent", 4.2), "spent epsilon 4.2 of 4"),
        (lambda d: setattr(d.ledger, "spent", float("nan")), "spent epsilon nan of 4"),
        (lambda d: d.edit("train", manifest_md5="0" * 32), "not the one that was trained on"),
        (
            lambda d: d.edit("train", metrics={"auc": {"value": 0.65, "private": False}}),
            "is not charged",
        ),
        (lambda d: d.edit("train", figures="none"), "figures is none, not settled"),
        (lambda d: d.edit("train", figures={"delta": 1e-5}), "figures is none, not settled"),
        (
            lambda d: d.edit("train", figures=FIGURES | {"run_id": "run-1"}),
            "figures is none, not settled",
        ),
        (
            lambda d: d.edit("train", figures=FIGURES | {"run_id": "run-9"}),
            "figures is none, not settled",
        ),
        (
            lambda d: setattr(d.ledger.figures, "state", "reserved"),
            "figures is reserved, not settl",
        ),
        (lambda d: setattr(d.ledger.figures, "state", "void"), "figures is void, not settled"),
        (lambda d: d.edit("train", plan=replace(PLAN, steps=19).to_data()), "another plan"),
        (_withdraws, "registered: people in it have withdrawn"),
        (_suppressed, "registered: people in it have withdrawn"),
        (_asked, "registered: people in it have withdrawn"),
        (_suppressed_for_the_purpose, "registered: people in it have withdrawn"),
        (_forgotten, "registered: people in it have withdrawn"),
        (_other_lock_data, "the data changed after the training"),
        (lambda d: (d.root / "dvc.lock").unlink(), "dvc.lock does not name all"),
        (
            lambda d: (d.root / "model" / "weights.safetensors").write_bytes(b"swapped"),
            "not those that dvc.lock names",
        ),
    ],
)
def test_the_gate_stays_closed_and_says_why(audited: Audited, turn: Any, reason: str) -> None:
    turn(audited)
    with pytest.raises(RegistrationRefused, match=reason) as caught:
        audited.run()
    assert audited.versions() == []
    assert not any(person in str(caught.value) for person in PEOPLE)


@pytest.mark.parametrize("stage", ["train", "audit", "validate"])
def test_a_report_with_a_field_that_nobody_declared_registers_nothing(
    stage: str, audited: Audited
) -> None:
    audited.edit(stage, people=[4711])
    with pytest.raises(FileDamaged, match=rf"{stage}\.json has fields .*\(people\.\[\]\)"):
        audited.run()
    assert audited.versions() == []


def test_a_version_says_where_a_report_alone_was_believed(audited: Audited) -> None:
    look = {"code": audit_digest(audited.params), "looked": "before, as the committed report says"}
    audited.edit("audit", measured={"run": look})
    audited.run()
    version = Registry.open(audited.params.stores.registry).find("readmission", "1")
    assert version.tags["audit"].endswith("looked at: before, as the committed report says")


def test_every_reason_is_said_at_once(audited: Audited) -> None:
    audited.edit("validate", passed=False)
    audited.edit("audit", passed=False)
    audited.willing.clear()
    with pytest.raises(
        RegistrationRefused, match=r"validation.*audit.*people in it have withdrawn"
    ):
        audited.run()


def test_a_report_that_says_nothing_is_no_evidence() -> None:
    evidence = Evidence(
        validation={},
        audit={},
        training={"run_id": "run-1", "plan": PLAN.to_data(), "manifest_md5": "m", "subjects": 1},
        plan=PLAN,
        described_run="run-1",
        run_state="settled",
        run_plan_digest=PLAN.digest,
        run_manifest_md5="m",
        largest_spend=1.0,
        budget_epsilon=4.0,
        manifest_md5="m",
        subjects=1,
        withdrawn=0,
        recorded={"data": "d", "manifest": "m", "model": "w"},
        used={"train": "d", "validate": "d"},
        model_is_recorded=True,
        audit_code="c",
    )
    assert len(objections(evidence)) == 6
    passed = {"passed": True, "run_id": "run-1", "model_md5": "w", "checks": _looked()}
    passed["measured"] = {"run": {"code": "c"}}
    assert objections(replace(evidence, validation=passed, audit=passed)) == []
    contradicted = replace(
        evidence, validation=passed, audit=passed, deep_audit="contradicted: canaries.steps"
    )
    assert len(objections(contradicted)) == 1


def test_held_out_people_may_withdraw_without_closing_the_gate(audited: Audited) -> None:
    audited.willing.discard(PEOPLE[3])
    assert audited.run()["version"] == 1


def test_a_withdrawal_after_registration_is_refused_and_marked_on_the_version(
    audited: Audited,
) -> None:
    audited.run()
    audited.willing.discard(PEOPLE[0])
    with pytest.raises(
        RegistrationRefused, match=r"readmission/1 is registered, but fewer than 100 people"
    ):
        audited.run()
    registry = Registry.open(audited.params.stores.registry)
    assert registry.find("readmission", "1").tags["withdrawn"] == "true"
    audited.willing.add(PEOPLE[0])
    audited.run()
    assert registry.find("readmission", "1").tags["withdrawn"] == "false"


def test_an_earlier_stage_that_did_not_run_is_named(audited: Audited) -> None:
    workspace.report_path("audit").unlink()
    with pytest.raises(NotFound, match=r"reports/audit\.json"):
        audited.run()


@pytest.mark.parametrize(
    ("promote", "auc", "reasons"),
    [
        ("automatic", 0.55, []),
        ("automatic", 0.549, ["auc 0.5490 is below min_auc 0.55"]),
        ("automatic", float("nan"), ["auc nan is below min_auc 0.55"]),
        ("automatic", None, ["no auc was measured"]),
        ("manual", 0.9, ["registration.promote is manual"]),
    ],
)
def test_the_gate_promotes_only_what_is_declared(
    promote: Any, auc: float | None, reasons: list[str]
) -> None:
    metrics = {} if auc is None else {"auc": {"value": auc, "private": True}}
    declared = Registration(name="m", promote=promote, min_auc=0.55)
    gate = closed_gate(metrics, declared, experiment=False)
    assert (list(gate.reasons), gate.waits_for, gate.open) == (reasons, (), not reasons)
    gate = closed_gate(metrics, declared, experiment=True)
    assert list(gate.reasons) == ["it is an experiment's", *reasons]


@pytest.mark.parametrize("how", ["DVC says so", "the folder", "it was trained in one"])
def test_an_experiments_model_is_not_offered_for_use_whoever_approves(
    audited: Audited, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "DVC says so":
        monkeypatch.setenv("DVC_EXP_NAME", "tried")
    elif how == "the folder":
        monkeypatch.setattr(facts, "in_experiment", lambda root: True)
    else:
        audited.edit("train", experiment=True)
    report = audited.run()
    assert report["aliases"] == []
    assert report["reasons"] == ["it is an experiment's"]
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    assert audited.run()["aliases"] == [], "applied, and looked at again"
    asked = replace(audited.params.registration, promote="approval", approvers=("ruth",))
    params = replace(audited.params, registration=asked)
    assert approval.waiting(params) is None
    with pytest.raises(ApprovalRefused, match="it is an experiment's"):
        approval.approve(params, "readmission/1", by="ruth", reason=None, now=NOW)


def test_a_model_below_the_gate_is_candidate_alone_and_says_why(audited: Audited) -> None:
    audited.edit("train", metrics={"auc": {"value": 0.5, "private": True}})
    report = audited.run()
    assert report["aliases"] == ["candidate"]
    assert report["reasons"] == ["auc 0.5000 is below min_auc 0.55"]


def test_no_key_or_mail_is_in_the_registry_or_its_files(audited: Audited) -> None:
    audited.run()
    with sqlite3.connect(audited.root / "mlflow.db") as store:
        assert store.execute("SELECT count(*) FROM model_versions").fetchone() == (1,)
    looked = [audited.root / "mlflow.db", *(audited.root / "mlruns").rglob("*")]
    files = [path for path in looked if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        assert not [p for p in PEOPLE if p.encode() in content], path
    assert workspace.report_path("register").read_bytes().find(b"ben") == -1
