"""register: the only door to the registry.

Opens for a model that is validated, settled, audited and within budget, whose people have
all agreed to this day, and whose every hash agrees with what ran. Otherwise it says each
reason. Walked through again for the same training, it registers nothing, but looks anew at
who has withdrawn. What still has subject keys ends here.
"""

import datetime as dt
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pyroaring import BitMap

from pipeline import workspace
from pipeline.card import model_card
from pipeline.consents import decisions_now
from pipeline.errors import NotFound, RegistrationRefused
from pipeline.evidence import Evidence, closed_gate, objections
from pipeline.keys import load_key
from pipeline.params import Params, resolve_secret
from pipeline.stores.history import History
from pipeline.stores.registry import COMPLETE, NOT_PRIVATE, RUN_ID, Registry, Release, Version
from pipeline.stores.vault import Vault
from pipeline.suppression import standing

CANDIDATE = "candidate"
CHAMPION = "champion"
GATE = "gate"  # tag: "open", or why the version was not promoted by itself
WITHDRAWN = "withdrawn"  # tag: how many people of the version have withdrawn since


def run(params: Params, *, now: dt.datetime) -> dict[str, Any]:
    """Registers the model of the last training, once.

    Raises:
        RegistrationRefused: a condition does not hold; names each. Nothing is registered.
        LedgerInvalid: the ledger lacks the training of a version: it was rolled back.
        NotFound: an earlier stage has not run.
    """
    try:
        return _register(params, now)
    finally:
        # However it ends: the next walk reads the source again anyway.
        workspace.remove_scratch()


def _register(params: Params, now: dt.datetime) -> dict[str, Any]:
    training = _report("train")
    manifest = _read(workspace.MANIFEST)
    if not BitMap.deserialize(manifest):
        raise NotFound("The model went in an erasure. Train again without the person: lethe run.")
    withdrawn = count_withdrawn(params, BitMap.deserialize(manifest), now)
    registry = Registry.open(resolve_secret(params.stores.registry))
    name = params.registration.name
    _refuse_rolled_back(params, registry)
    version = registry.of_run(name, str(training.get("run_id")))
    if version is not None and (withdrawn or version.tags.get(WITHDRAWN)):
        registry.tag(version, WITHDRAWN, str(withdrawn))
    if version is not None and withdrawn:
        raise RegistrationRefused(
            f"Model {name}/{version.version} is registered, but {withdrawn} people in it have "
            "withdrawn or were erased since. Train again without them: lethe run."
        )
    if version is None:
        version = _first_time(params, registry, training, manifest, withdrawn)
    if version.tags.get(COMPLETE) != "true":
        registry.alias(version, CANDIDATE)
        if version.tags.get(GATE) == "open":
            registry.alias(version, CHAMPION)
        registry.tag(version, COMPLETE, "true")
    version = registry.find(name, str(version.version))
    gate = version.tags.get(GATE, "open")
    report: dict[str, Any] = {
        "aliases": list(version.aliases),
        "model": name,
        "reasons": [] if gate == "open" else gate.split("; "),
        "run_id": version.tags[RUN_ID],
        "status": version.status,
        "version": version.version,
    }
    workspace.write_json(workspace.report_path("register"), report)
    return report


def _refuse_rolled_back(params: Params, registry: Registry) -> None:
    """Also where nothing is registered: it is what every walk comes by."""
    from pipeline.rollback import refuse_rolled_back
    from pipeline.stores.ledger import Ledger

    with Ledger.open(resolve_secret(params.stores.ledger)) as ledger:
        refuse_rolled_back(params, ledger, registry)


def count_withdrawn(params: Params, manifest: BitMap, now: dt.datetime) -> int:
    """How many people of a manifest do not agree now, may not be used, or are in no vault."""
    allowed = standing(params, decisions_now(params, now)).allowed.tolist()
    with Vault.open(
        resolve_secret(params.stores.vault), load_key(params.stores), create=False
    ) as vault:
        tokens = vault.lookup(allowed)
        free = ~vault.suppressed(allowed, purpose=params.purpose)
    return len(manifest - BitMap(tokens[(tokens >= 0) & free].astype(np.uint32)))


def _first_time(
    params: Params,
    registry: Registry,
    training: Mapping[str, Any],
    manifest: bytes,
    withdrawn: int,
) -> Version:
    # Not at the top: a walk that registers nothing needs no torch.
    from pipeline.stores.ledger import Ledger
    from pipeline.training.plan import Plan

    history = History(Path.cwd())
    described = workspace.read_json(workspace.MODEL / "model.json")
    audit, validation = _report("audit"), _report("validate")
    plan = Plan.from_data(workspace.read_json(workspace.PLAN))
    tokens = BitMap.deserialize(manifest)
    recorded = {
        "data": history.out_md5(workspace.SHARDS),
        "subjects": history.out_md5(workspace.SUBJECTS),
        "manifest": history.out_md5(workspace.MANIFEST),
        "model": history.out_md5(workspace.MODEL),
    }
    with Ledger.open(resolve_secret(params.stores.ledger)) as ledger:
        run_id = str(training.get("run_id"))
        record = ledger.run(run_id)
        classes = ledger.classes(tokens, delta=params.budget.delta)
        spent = max((each.epsilon_rdp for each in classes), default=0.0)
        rows, head = ledger.head()
    evidence = Evidence(
        validation=validation,
        audit=audit,
        training=training,
        plan=plan,
        described_run=str(described.get("run_id")),
        run_state=record.state,
        run_plan_digest=record.plan_digest,
        run_manifest_md5=record.manifest_md5,
        largest_spend=spent,
        budget=params.budget.epsilon,
        manifest_md5=_md5(manifest),
        subjects=len(tokens),
        withdrawn=withdrawn,
        recorded=recorded,
        used={s: history.used_md5(s, workspace.SHARDS) for s in ("train", "validate")},
        model_is_recorded=bool(recorded["model"])
        and history.holds(workspace.MODEL, str(recorded["model"])),
    )
    reasons = objections(evidence)
    if reasons:
        raise RegistrationRefused(f"Nothing was registered: {'; '.join(reasons)}.")
    return registry.register(
        _release(params, evidence, history, ledger_rows=rows, ledger_head=head)
    )


def _release(
    params: Params, evidence: Evidence, history: History, *, ledger_rows: int, ledger_head: str
) -> Release:
    from pipeline.serve import Predictor, input_columns, output_columns

    training, plan = evidence.training, evidence.plan
    metrics: Mapping[str, Mapping[str, Any]] = training.get("metrics", {})
    attack = _attack_metrics(evidence.audit.get("attack", {}))
    measured = {**metrics, **attack}
    lock = history.lock_bytes() or b""
    state = history.git_state()
    reasons = closed_gate(metrics, params.registration)
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
        "dvc_lock_md5": _md5(lock),
        "engine": training.get("engine", ""),
        "epsilon": training["epsilon"],
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
            "epsilon": training["epsilon"],
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


def _report(stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_read(workspace.report_path(stage)))
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist. Walk the road up to here: lethe run.") from None


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
