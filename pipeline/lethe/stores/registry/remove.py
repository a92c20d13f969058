"""Retiring a model version: it serves no more, and only its accountability record remains.

The order: aliases turn to the replacement; what must stay is written down
(`lethe.stores.registry.tombstones`); then the version, its logged model
and its run go, from MLflow's database and its artifacts. Each step may be done again, so a
power cut between two of them is harmless. MLflow's own deletions only mark; what removes is its
garbage collector's, which a server does not offer to its clients.
"""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking._tracking_service.utils import _get_store

from lethe.core.errors import NotFound, RegistrationRefused
from lethe.core.outcomes import Outcome, Result
from lethe.stores.registry.registry import Registry, Version, quiet
from lethe.stores.registry.tags import EXPERIMENT, RUN_ID
from lethe.stores.registry.tombstones import RETIRED, Tombstone, find_tombstone, write_tombstone

STORE = "registry"
_GATE = "gate"  # register's tag: "open", or why a version was not promoted by itself
_CHAMPION = "champion"
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
# The accountability record of a version; none of it is about one person.
ACCOUNTED = (
    *("accountant", "adjacency", "audit", "clip_norm", "data_md5", "delta", "dvc_lock_md5"),
    *("engine", "epsilon_pld", "epsilon_rdp", "git_commit", "git_dirty", "ledger_head"),
    *("ledger_rows", "manifest_md5", "mechanism", "model_md5", "noise", "noise_multiplier"),
    *("purpose", "records"),
    *("records_per_person", RUN_ID, "sample_rate", "sampling", "steps", "subjects"),
    *("subjects_md5", "unit", "validation"),
)


def retire(
    registry: Registry,
    model: str,
    version: int,
    *,
    replaced_by: int | None,
    reason: str | None = None,
    now: dt.datetime,
) -> Outcome:
    """Removes a version.

    The aliases that point at it turn to the one that replaces it first; `champion` only if that
    one's own gate is open, else the model is left without one. Where nothing replaces it, its
    aliases end. Done again, it goes on, or finds nothing.

    Args:
        reason: why nothing replaces it, say for want of budget.

    Raises:
        NotFound: there is no such version, nor its replacement.
        RegistrationRefused: it would replace itself.
    """
    if replaced_by == version:
        raise RegistrationRefused(f"Model {model}/{version} cannot replace itself. Train anew.")
    successor = None if replaced_by is None else registry.find(model, str(replaced_by))
    reason = reason or f"replaced by version {replaced_by}"
    return _remove(registry, model, version, successor=successor, reason=reason, now=now)


def retired_version(registry: Registry, model: str, version: str) -> Version | None:
    """A version that is gone, by its accountability record: its facts, and its status."""
    tombstone = find_tombstone(registry, model, int(version)) if version.isdigit() else None
    if tombstone is None:
        return None
    return Version(
        model, tombstone.version, tombstone.status, (), tombstone.facts, run="", logged_model=""
    )


def _remove(
    registry: Registry,
    model: str,
    version: int,
    *,
    successor: Version | None,
    reason: str,
    now: dt.datetime,
) -> Outcome:
    tombstone = find_tombstone(registry, model, version)
    if tombstone is not None and tombstone.done:
        return Outcome(STORE, Result.ABSENT, reason=f"{model}/{version} was {tombstone.status}")
    try:
        found = registry.find(model, str(version))
    except NotFound:
        if tombstone is None:
            raise
    else:
        _turn_aliases(registry, found, successor)
        if tombstone is None:
            tombstone = _describe(registry, found, successor, reason, now)
            write_tombstone(registry, tombstone)
        _delete_version(registry, found)
    if tombstone is None:  # unreachable: either there is a version or a tombstone
        raise NotFound(f"Model {model} has no version {version}.")
    left = _collect(registry, tombstone)
    places = (f"{model}/{version}", *tombstone.runs, *tombstone.logged_models)
    if left:
        return Outcome(STORE, Result.PRESENT, 0, places, left)
    write_tombstone(registry, replace(tombstone, done=True))
    return Outcome(STORE, Result.ERASED, len(places), places)


def _turn_aliases(registry: Registry, old: Version, successor: Version | None) -> None:
    """What an alias named is in the successor; it is in use only if its gate is open, and an
    experiment's is never offered for use."""
    for alias in old.aliases:
        tags = successor.tags if successor else {}
        offered = tags.get(EXPERIMENT) != "true"
        if successor is not None and offered and (alias != _CHAMPION or _opened(tags)):
            registry.alias(successor, alias)
        else:
            with quiet():
                registry.client.delete_registered_model_alias(old.model, alias)


def _opened(tags: Mapping[str, str]) -> bool:
    return tags.get(_GATE) == "open"


def _describe(
    registry: Registry,
    found: Version,
    successor: Version | None,
    reason: str,
    now: dt.datetime,
) -> Tombstone:
    """The tombstone, before anything goes; with every attempt that MLflow keeps of the training."""
    with quiet():
        client = registry.client
        made = client.get_model_version(found.model, str(found.version)).creation_timestamp
        experiment = client.get_experiment_by_name(found.model)
        runs, logged, artifacts = {found.run}, {found.logged_model}, set()
        if experiment is not None and (training := found.tags.get(RUN_ID)):
            condition = f"tags.{RUN_ID} = '{training}'"
            within = [experiment.experiment_id]
            every = client.search_runs(within, condition, run_view_type=ViewType.ALL)
            runs |= {each.info.run_id for each in every}
            logged |= {
                each.model_id for each in client.search_logged_models(within, condition)
            } | _marked(registry, training)
        for run in runs:
            artifacts.add(client.get_run(run).info.artifact_uri)
        for each in logged:
            artifacts.add(_logged_model(registry, each).artifact_location)
    return Tombstone(
        model=found.model,
        version=found.version,
        status=RETIRED,
        registered_at=dt.datetime.fromtimestamp(made / 1000, dt.UTC).isoformat(timespec="seconds"),
        retired_at=now.astimezone(dt.UTC).isoformat(timespec="seconds"),
        replaced_by=successor.version if successor else None,
        reason=reason,
        facts={name: found.tags[name] for name in ACCOUNTED if name in found.tags},
        runs=tuple(sorted(runs)),
        logged_models=tuple(sorted(logged)),
        artifacts=tuple(sorted(artifacts)),
    )


def _marked(registry: Registry, training: str) -> set[str]:
    """Logged models of a training that are marked as deleted; searching does not show them."""
    store = _get_store(registry.url)
    if not hasattr(store, "_get_deleted_logged_models"):
        return set()
    return {
        each
        for each in store._get_deleted_logged_models()
        if _logged_model(registry, each).tags.get(RUN_ID) == training
    }


def _logged_model(registry: Registry, model_id: str) -> Any:
    store = _get_store(registry.url)
    if hasattr(store, "_hard_delete_logged_model"):
        return store.get_logged_model(model_id, allow_deleted=True)
    return store.get_logged_model(model_id)


def _delete_version(registry: Registry, found: Version) -> None:
    """MLflow marks the row and keeps its number from being given again, but not its tags."""
    with quiet():
        version = str(found.version)
        for name in registry.client.get_model_version(found.model, version).tags:  # as stored
            registry.client.delete_model_version_tag(found.model, version, name)
        registry.client.delete_model_version(found.model, version)


def _collect(registry: Registry, tombstone: Tombstone) -> str | None:
    """Removes artifacts and rows; why not, where MLflow does not let a client."""
    with quiet():
        store = _get_store(registry.url)
        for place in tombstone.artifacts:
            _remove_artifacts(place, registry.url)
        for model in tombstone.logged_models:
            _ignoring_absent(store.delete_logged_model, model)
        for run in tombstone.runs:
            _ignoring_absent(store.delete_run, run)
        if not hasattr(store, "_hard_delete_run"):
            if not any(is_there(store.get_run, run) for run in tombstone.runs):
                return None
            return (
                "MLflow's server marks deletions and does not remove on a client's word. On it, "
                f"run: mlflow gc --run-ids {','.join(tombstone.runs)} "
                f"--logged-model-ids {','.join(tombstone.logged_models)}"
            )
        for model in tombstone.logged_models:
            _ignoring_absent(store._hard_delete_logged_model, model)
        for run in tombstone.runs:
            _ignoring_absent(store._hard_delete_run, run)
        _remove_rest(store.engine, tombstone)
    return None


def _remove_rest(engine: sa.Engine, tombstone: Tombstone) -> None:
    """What even the collector leaves: links of runs to models, and where a version's files lay."""
    metadata = sa.MetaData()
    metadata.reflect(engine, only=["inputs", "input_tags", "model_versions"])
    inputs, tags = metadata.tables["inputs"], metadata.tables["input_tags"]
    versions = metadata.tables["model_versions"]
    ids = [*tombstone.runs, *tombstone.logged_models]
    links = inputs.c.source_id.in_(ids) | inputs.c.destination_id.in_(ids)
    with engine.begin() as connection:
        linked = sa.select(inputs.c.input_uuid).where(links)
        connection.execute(tags.delete().where(tags.c.input_uuid.in_(linked)))
        connection.execute(inputs.delete().where(links))
        connection.execute(
            versions.update()
            .where(versions.c.name == tombstone.model, versions.c.version == tombstone.version)
            .values(storage_location=None)
        )
    if engine.dialect.name == "sqlite":  # else deleted rows stay in free pages
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM")


def is_there(get: Callable[..., object], *names: str) -> bool:
    """Whether MLflow knows something by that name, marked as deleted or not."""
    try:
        get(*names)
    except MlflowException as error:
        if error.error_code not in _ABSENT:
            raise
        return False
    return True


def _ignoring_absent(delete: Callable[[str], object], name: str) -> None:
    try:
        delete(name)
    except MlflowException as error:
        if error.error_code not in (*_ABSENT, "INVALID_STATE"):
            raise


def _remove_artifacts(place: str, url: str) -> None:
    folder = local_folder(place)
    if folder is not None and not folder.exists():
        return
    get_artifact_repository(place, tracking_uri=url).delete_artifacts()
    if folder is not None:  # the folder that is named by the id
        for each in (folder, folder.parent):
            if each.is_dir() and not any(each.iterdir()):
                each.rmdir()


def local_folder(place: str) -> Path | None:
    """The folder that an artifact location names, if it is on this machine."""
    parts = urlsplit(place)
    if parts.scheme in ("", "file"):
        return Path(unquote(parts.path))
    return None
