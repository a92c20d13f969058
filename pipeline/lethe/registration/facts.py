"""What a version says of itself in the registry: tags, metrics, files, card."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pyroaring import BitMap

from lethe.config import workspace
from lethe.config.home import in_experiment
from lethe.config.params import Params
from lethe.core.files import md5
from lethe.core.values import number_of
from lethe.data.encoding import Encoder
from lethe.privacy.claim import Claim
from lethe.registration import lower_bound
from lethe.registration.gate import GATE, Evidence, closed_gate
from lethe.registration.predicting import input_columns, may_be_absent, output_columns
from lethe.reports.card import model_card
from lethe.stores.dvc.repro import GitState, History
from lethe.stores.registry.registry import NewVersion
from lethe.stores.registry.signature import Input
from lethe.stores.registry.tags import EXPERIMENT, RUN_ID
from lethe.training.description import Description


def release_of(
    params: Params, evidence: Evidence, history: History, *, ledger_rows: int, ledger_head: str
) -> NewVersion:
    """What is registered of a model that the gate let in.

    Raises:
        NotFound, FileDamaged: its description is not there, or not that of the declared model.
    """
    training = evidence.training
    claim = Claim.from_data(training)
    reported: Mapping[str, Mapping[str, Any]] = training.get("metrics", {})
    lock = history.lock_bytes() or b""
    experiment = in_experiment(params.root) or training.get("experiment") is True
    tags = {
        **{name: str(value) for name, value in claim.to_data().items()},
        **_declared_facts(params, evidence),
        **_run_facts(evidence, history.git_state(), lock),
        **_measured_facts(reported, training),
        **lower_bound.known(params, str(evidence.plan.release(BitMap()).digest)),
        GATE: closed_gate(reported, params.registration, experiment=experiment).to_tag(),
        EXPERIMENT: str(experiment).lower(),
        "ledger_head": ledger_head,
        "ledger_rows": str(ledger_rows),
    }
    described = Description.read(params.at(workspace.MODEL))
    described.require(params.training.model, params.training.hidden)
    card = model_card(tags, reported, input_columns(described.encoder))
    return NewVersion(
        name=params.registration.name,
        folder=params.at(workspace.MODEL),
        root=params.root,
        inputs=inputs_of(described.encoder),
        outputs=output_columns(described.encoder),
        tags=tags,
        network=params.training.model,
        hidden=tuple(params.training.hidden),
        parameters={**evidence.plan.to_data(), "model": params.training.model},
        metrics={
            "epsilon_pld": claim.epsilon_pld,
            "epsilon_rdp": claim.epsilon_rdp,
            **{
                f"{name}{end and f'_{end}'}": float(m[end or "value"])
                for name, m in reported.items()
                for end in ("", "low", "high")
                if (end or "value") in m
            },
        },
        files={
            "dvc.lock": lock,
            "card.md": card.markdown().encode(),
            "card.html": card.page().encode(),
        },
        description=card.markdown(),
    )


def inputs_of(encoder: Encoder) -> tuple[Input, ...]:
    """What the registered model takes, by the types that it is declared to have.

    A column whose gaps are declared as words (`missing: ["?"]`) is text, even where it has numbers.
    """
    columns = {name: encoder.features.get(name) for name in input_columns(encoder)}
    return tuple(
        Input(
            name,
            numeric=column is not None
            and column.type in ("integer", "real")
            and all(number_of(word) is not None for word in column.missing),
            required=not may_be_absent(column),
        )
        for name, column in columns.items()
    )


def _declared_facts(params: Params, evidence: Evidence) -> dict[str, str]:
    """What was asked for: the purpose, and the mechanism of the plan."""
    plan, mechanism = evidence.plan, params.training.mechanism
    settings = plan.settings()
    both = "RDP (what the budget is held to) and PLD (reported beside it)"
    solved = mechanism.epsilon is not None and "noise_multiplier" in settings
    return {
        **{name: str(value) for name, value in settings.items()},
        "accountant": f"{both}; noise solved by {mechanism.accountant.upper()}" if solved else both,
        "mechanism": plan.release(BitMap()).mechanism,
        "model": params.registration.name,
        "records_per_person": str(plan.records_per_person),
        "purpose": params.purpose,
    }


def _run_facts(evidence: Evidence, code: GitState, lock: bytes) -> dict[str, str]:
    """What ran on what, by ids and hashes."""
    training, recorded = evidence.training, evidence.recorded
    return {
        RUN_ID: str(training["run_id"]),
        "audit": _audited(evidence.audit),
        "data_md5": str(recorded["data"]),
        "device": str(training.get("device", "")),
        "dvc_lock_md5": md5(lock),
        "engine": str(training.get("engine", "")),
        "git_commit": code.commit or "none",
        "git_dirty": str(code.dirty).lower(),
        "manifest_md5": evidence.manifest_md5,
        "model_md5": str(recorded["model"]),
        "subjects_md5": str(recorded["subjects"]),
        "validation": "passed",
    }


def _measured_facts(
    measured: Mapping[str, Mapping[str, Any]], training: Mapping[str, Any]
) -> dict[str, str]:
    """The figures, which are charged, and what they cost besides."""
    price = training.get("figures")
    counted = {
        name: measured[name]["value"] for name in ("records", "subjects") if name in measured
    }
    return {
        **{name: str(value) for name, value in counted.items()},
        "figures": price if isinstance(price, str) else json.dumps(price, sort_keys=True),
        "metrics": json.dumps(measured, sort_keys=True),
    }


def _audited(audit: Mapping[str, Any]) -> str:
    """How many checks held, by the part of the mechanism that they look at.

    It says where nobody looked at the run itself, as of a mechanism that no attack can recompute,
    and where only a committed report says that somebody did.
    """
    checks: Sequence[Mapping[str, Any]] = audit.get("checks", ())
    parts = Counter(str(check["name"]).partition(".")[0] for check in checks)
    counted = ", ".join(f"{part} {count}" for part, count in sorted(parts.items()))
    look = audit.get("measured", {}).get("run", {}).get("looked", "not")
    run = "" if look in ("now", "before") else f"; the run's own steps were looked at: {look}"
    return f"passed: {len(checks)} checks ({counted}){run}"
