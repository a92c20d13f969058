"""What a version says of itself in the registry: tags, metrics, files, card."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lethe.config import workspace
from lethe.config.home import in_experiment
from lethe.config.params import Params
from lethe.core.files import md5
from lethe.registration.gate import GATE, Evidence, closed_gate
from lethe.registration.serving import Predictor, input_columns, output_columns
from lethe.reports.card import model_card
from lethe.stores.dvc.repro import History
from lethe.stores.registry.registry import NOT_PRIVATE, RUN_ID, Release


def release_of(
    params: Params, evidence: Evidence, history: History, *, ledger_rows: int, ledger_head: str
) -> Release:
    training, plan = evidence.training, evidence.plan
    metrics: Mapping[str, Mapping[str, Any]] = training.get("metrics", {})
    attack = _attack_metrics(evidence.audit.get("attack", {}))
    measured = {**metrics, **attack}
    lock = history.lock_bytes() or b""
    state = history.git_state()
    experiment = in_experiment() or training.get("experiment") is True
    reasons = closed_gate(metrics, params.registration, experiment=experiment)
    facts: dict[str, Any] = {
        RUN_ID: training["run_id"],
        "K": plan.records_per_person,
        "accountant": (
            "RDP (what the budget is held to) and PLD (reported beside it); noise solved by "
            f"{params.training.mechanism.accountant.upper()}"
            if params.training.mechanism.epsilon is not None
            else "RDP (what the budget is held to) and PLD (reported beside it)"
        ),
        "adjacency": training["adjacency"],
        "audit": _audited(evidence.audit.get("checks", ())),
        "clip_norm": plan.clip_norm,
        "data_md5": evidence.recorded["data"],
        "delta": plan.delta,
        "device": training.get("device", ""),
        "dvc_lock_md5": md5(lock),
        "engine": training.get("engine", ""),
        "epsilon": _epsilon_pld(training),
        "epsilon_rdp": training["epsilon_rdp"],
        GATE: "; ".join(reasons) or "open",
        "git_commit": state.commit or "none",
        "git_dirty": str(state.dirty).lower(),
        "ledger_head": ledger_head,
        "ledger_rows": ledger_rows,
        "manifest_md5": evidence.manifest_md5,
        "metrics": json.dumps(
            {n: {"private": m["private"], "value": m["value"]} for n, m in measured.items()},
            sort_keys=True,
        ),
        "model": params.registration.name,
        "model_md5": evidence.recorded["model"],
        "noise": plan.noise,
        "not_private": ", ".join(
            sorted({"records", "subjects"} | {n for n, m in measured.items() if not m["private"]})
        ),
        "purpose": params.purpose,
        "q": plan.sample_rate,
        "records": training["records"],
        "sampling": training["sampling"],
        "sigma": plan.noise_multiplier,
        "steps": plan.steps,
        "subjects": training["subjects"],
        "subjects_md5": evidence.recorded["subjects"],
        "unit": training["unit"],
        "validation": "passed",
    }
    tags = {name: str(value) for name, value in facts.items()}
    encoder = Predictor.load(workspace.MODEL).encoder
    card = model_card(tags, measured, input_columns(encoder))
    own = params.training.model.partition(":")
    return Release(
        name=params.registration.name,
        folder=workspace.MODEL,
        inputs=input_columns(encoder),
        outputs=output_columns(encoder),
        tags=tags,
        parameters={**plan.to_data(), "model": params.training.model},
        metrics={
            "epsilon": _epsilon_pld(training),
            "epsilon_rdp": training["epsilon_rdp"],
            **{
                (name if m["private"] else f"{name}{NOT_PRIVATE}"): m["value"]
                for name, m in measured.items()
            },
        },
        files={
            "dvc.lock": lock,
            "card.md": card.markdown().encode(),
            "card.html": card.page().encode(),
        },
        description=card.markdown(),
        own_module=own[0] if own[1] else None,
    )


def _audited(checks: Sequence[Mapping[str, Any]]) -> str:
    """How many checks held, by the part of the mechanism that they look at."""
    parts = Counter(str(check["name"]).partition(".")[0] for check in checks)
    counted = ", ".join(f"{part} {count}" for part, count in sorted(parts.items()))
    return f"passed: {len(checks)} checks ({counted})"


def _attack_metrics(attack: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """How well the model's people could be told from others; computed without noise."""
    found = {name: attack.get(name) for name in ("auc", "epsilon_lower_bound")}
    for level, reached in attack.get("tpr_at_fpr", {}).items():
        found[f"tpr_at_fpr_{level}"] = reached
    return {
        f"attack_{name}": {"value": float(value), "private": False}
        for name, value in found.items()
        if value is not None
    }


def _epsilon_pld(training: Mapping[str, Any]) -> float:
    """A report of the version before calls it `epsilon`, as the tags of every version do."""
    return float(training["epsilon_pld"] if "epsilon_pld" in training else training["epsilon"])
