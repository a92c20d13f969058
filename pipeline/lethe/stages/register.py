"""register: the only way into the registry.

Opens for a model that is validated, settled, audited and within budget, whose people have
all agreed to this day, and whose every hash agrees with what ran. Otherwise it says each
reason. Run again for the same training, it registers nothing, but looks anew at
who has withdrawn. What still has subject keys ends here.
"""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.config import workspace
from lethe.config.params import Params
from lethe.config.report_fields import closed
from lethe.core.errors import NotFound, RegistrationRefused
from lethe.core.files import md5, parse_json, parse_people, read_json, write_json
from lethe.core.shown import about
from lethe.data.shards import read_people
from lethe.people.withdrawn import count_withdrawn
from lethe.privacy.figures import MECHANISM
from lethe.registration import lower_bound
from lethe.registration.gate import (
    CANDIDATE,
    CHAMPION,
    GATE,
    NO_GATE,
    WITHDRAWN,
    Evidence,
    Gate,
    objections,
)
from lethe.stages.behaviour import audit_digest
from lethe.stores.dvc.inputs import content_md5
from lethe.stores.dvc.repro import History
from lethe.stores.registry.registry import COMPLETE, Registry, Version
from lethe.stores.registry.tags import EXPERIMENT, RUN_ID
from lethe.stores.registry.unchanged import refuse_changed

if TYPE_CHECKING:
    from lethe.ledger.ledger import Ledger


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
        # However it ends: the next run reads the source again anyway.
        workspace.remove_scratch(params.root)


def _register(params: Params, now: dt.datetime) -> dict[str, Any]:
    training = _report(params, "train")
    manifest = _read(params, workspace.MANIFEST)
    people = read_people(params.at(workspace.MANIFEST))
    if not people:
        raise NotFound("The model went in an erasure. Train again without the person: lethe run.")
    withdrawn = count_withdrawn(params, people, now)
    registry = Registry.open(params.address(params.stores.registry))
    name = params.registration.name
    _refuse_rolled_back(params, registry)
    version = registry.of_run(name, str(training.get("run_id")))
    if version is not None and (withdrawn or version.tags.get(WITHDRAWN)):
        registry.tag(version, WITHDRAWN, "true" if withdrawn else "false")
    if version is not None and withdrawn:
        raise RegistrationRefused(
            f"Model {name}/{version.version} is registered, but "
            f"{about(withdrawn, params.reporting.granularity)} people in it have "
            "withdrawn or were erased since. Train again without them: lethe run."
        )
    if version is not None:
        refuse_changed(registry, version)
    else:
        version = _first_time(params, registry, training, manifest, withdrawn)
    if version.tags.get(COMPLETE) != "true":
        if version.tags.get(EXPERIMENT) != "true":  # it would take the place of one that waits
            registry.alias(version, CANDIDATE)
        if GATE in version.tags and Gate.from_tag(version.tags[GATE]).open:
            registry.alias(version, CHAMPION)
        registry.tag(version, COMPLETE, "true")
    version = registry.find(name, str(version.version))
    report: dict[str, Any] = {
        "aliases": list(version.aliases),
        "model": name,
        "reasons": Gate.from_tag(version.tags.get(GATE, NO_GATE)).sentences,
        "run_id": version.tags[RUN_ID],
        "status": version.status,
        "version": version.version,
    }
    summed = summed_up(training, version=version.version)
    write_json(params.at(workspace.report_path("metrics")), summed)
    write_json(params.at(workspace.report_path("register")), report)
    return report


def summed_up(training: Mapping[str, Any], *, version: int) -> dict[str, Any]:
    """The numbers to compare runs by, which `dvc metrics show` and `dvc exp show` list.

    What is said of people is charged, and stands between the ends of its interval.
    """
    measured = training.get("metrics", {})
    names = ("auc", "accuracy", "base_rate", "records", "subjects")
    charged = {
        f"{name}{end and f'_{end}'}": measured[name][end or "value"]
        for name in names
        if name in measured
        for end in (("", "low", "high") if name in ("auc", "accuracy") else ("",))
        if (end or "value") in measured[name]
    }
    prices = {name: training[name] for name in ("epsilon_pld", "epsilon_rdp")}
    return {"charged": charged, **prices, "version": version}


def _refuse_rolled_back(params: Params, registry: Registry) -> None:
    """Also where nothing is registered, since every run comes to this place."""
    from lethe.registration.rollback import refuse_rolled_back
    from lethe.stores.opening import open_ledger

    with open_ledger(params) as ledger:
        refuse_rolled_back(params, ledger, registry)


def _first_time(
    params: Params,
    registry: Registry,
    training: Mapping[str, Any],
    manifest: bytes,
    withdrawn: int,
) -> Version:
    # Not at the top: a run that registers nothing needs no torch.
    from lethe.registration.facts import release_of
    from lethe.stores.opening import open_ledger
    from lethe.training.description import Description
    from lethe.training.trainers import trainer_of

    history, trainer = History(params.root), trainer_of(params.training)
    described = Description.read(params.at(workspace.MODEL))
    closed(training, "train", also=trainer.facts)
    audit = closed(_report(params, "audit"), "audit")
    validation = closed(_report(params, "validate"), "validate")
    plan = trainer.read_plan(read_json(params.at(workspace.PLAN)))
    tokens = parse_people(manifest, of=str(workspace.MANIFEST))
    recorded = {
        "data": history.out_md5(workspace.SHARDS),
        "subjects": history.out_md5(workspace.SUBJECTS),
        "manifest": history.out_md5(workspace.MANIFEST),
        "model": history.out_md5(workspace.MODEL),
    }
    with open_ledger(params) as ledger:
        run_id = str(training.get("run_id"))
        record = ledger.run(run_id)
        figures_state = _state_of_figures(ledger, training)
        classes = ledger.classes(tokens, delta=params.budget.delta)
        spent = max((each.epsilon_rdp for each in classes), default=0.0)
        rows, head = ledger.head()
    evidence = Evidence(
        validation=validation,
        audit=audit,
        training=training,
        plan=plan,
        described_run=described.run_id,
        run_state=record.state,
        run_plan_digest=record.plan_digest,
        run_manifest_md5=record.manifest_md5,
        largest_spend=spent,
        budget_epsilon=params.budget.epsilon,
        manifest_md5=md5(manifest),
        subjects=len(tokens),
        withdrawn=withdrawn,
        recorded=recorded,
        used={s: history.used_md5(s, workspace.SHARDS) for s in ("train", "validate")},
        model_is_recorded=bool(recorded["model"])
        and content_md5(params.at(workspace.MODEL)) == recorded["model"],
        audit_code=audit_digest(params),
        figures_state=figures_state,
        deep_audit=lower_bound.known(params, record.plan_digest).get("deep_audit", ""),
    )
    reasons = objections(evidence)
    if reasons:
        raise RegistrationRefused(f"Nothing was registered: {'; '.join(reasons)}.")
    return registry.register(
        release_of(params, evidence, history, ledger_rows=rows, ledger_head=head)
    )


def _state_of_figures(ledger: "Ledger", training: Mapping[str, Any]) -> str:
    """Of the run that they were charged as; `none` where there is no such run of figures."""
    figures = training.get("figures")
    try:
        run = ledger.run(str(figures["run_id"] if isinstance(figures, dict) else None))
    except (KeyError, NotFound):
        return "none"
    return run.state if run.mechanism == MECHANISM else "none"


def _report(params: Params, stage: str) -> dict[str, Any]:
    path = workspace.report_path(stage)
    return parse_json(_read(params, path), of=str(path))


def _read(params: Params, path: Path) -> bytes:
    try:
        return params.at(path).read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist. Run the pipeline up to here: lethe run.") from None
