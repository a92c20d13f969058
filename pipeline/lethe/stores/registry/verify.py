"""A fresh look into MLflow: its tables by SQL of our own, and the folders of its artifacts.

Asks no client of MLflow's, which shows what is marked as deleted to nobody; only where MLflow is
a server is it asked, and that is said.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from mlflow.entities import ViewType
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from lethe.core.errors import StoreUnavailable
from lethe.core.outcomes import Outcome, Result, Traces
from lethe.stores.registry.registry import Registry, database_url, quiet
from lethe.stores.registry.remove import STORE, is_there, local_folder
from lethe.stores.registry.tombstones import Tombstone
from lethe.stores.search.needles import Needles, needles

_TOMBSTONES = "registered_model_tags"  # where tombstones are; they name what is gone


@dataclass(frozen=True)
class Wanted:
    """What must be gone for one person: versions by their tombstones, and who it is.

    `traces` is None where the person stays and only versions go. MLflow has no tokens, so only
    what leads to the person is sought.
    """

    gone: tuple[Tombstone, ...] = ()
    traces: Traces | None = None

    @property
    def needles(self) -> Needles:
        """Whole names, addresses and long keys. What is short or made of digits alone stands
        among MLflow's numbers, hashes and ids by chance."""
        if self.traces is None:
            return needles(None)
        reason = (self.traces.key, *self.traces.identifiers)
        words = tuple(value for value in reason if not value.strip().isdigit())
        return Needles(needles(Traces("", None, words)).anywhere, ())


def verify_registries(registry: Registry, people: Sequence[Wanted]) -> list[Outcome]:
    """Looks afresh for versions that are to be gone, and for people's keys and identifiers.

    `absent` is what an erasure waits for. Anything found is `present`, and a place that cannot
    be looked into from here is `unreachable`, with the reason. One look serves all as long as
    it finds nothing; where it does, each person gets one of their own.
    """
    tombstones = tuple({(s.model, s.version): s for each in people for s in each.gone}.values())
    values = {value for each in people for value in each.needles.anywhere}
    together = _look(registry, tombstones, Needles(tuple(sorted(values)), ()))
    if len(people) < 2 or together.result == Result.ABSENT:
        return [together] * len(people)
    return [_look(registry, each.gone, each.needles) for each in people]


def verify_registry(
    registry: Registry, gone: Iterable[Tombstone] = (), *, traces: Traces | None = None
) -> Outcome:
    """`verify_registries` for one person."""
    (outcome,) = verify_registries(registry, [Wanted(tuple(gone), traces)])
    return outcome


def _look(registry: Registry, tombstones: Sequence[Tombstone], sought: Needles) -> Outcome:
    url = _database(registry.url)
    if url is None:
        return _through_server(registry, tombstones, sought)
    engine = sa.create_engine(
        database_url(registry.url), poolclass=sa.NullPool, hide_parameters=True
    )
    try:
        found = list(_rows(engine, tombstones, sought))
        folders = _artifact_folders(engine)
    except sa.exc.DBAPIError as error:
        kind = type(error.orig).__name__
        return Outcome(STORE, Result.UNREACHABLE, reason=f"its database does not answer ({kind})")
    finally:
        engine.dispose()
    if url.get_backend_name() == "sqlite" and url.database and sought:
        found += _free_pages(Path(url.database), sought)
    try:
        artifacts = dict.fromkeys(
            place for tombstone in tombstones for place in tombstone.artifacts
        )
        found += [place for place in artifacts if _exists(place, registry.url)]
    except Exception as error:  # noqa: BLE001 - whatever a storage raises, it is no answer
        reason = f"where artifacts are kept does not answer ({type(error).__name__})"
        return Outcome(STORE, Result.UNREACHABLE, reason=reason)
    away = [place for place in folders if local_folder(place) is None]
    if sought:
        for place in folders:
            if (folder := local_folder(place)) is not None:
                found += _files(folder, sought)
    note = "files of models that stay are beyond this machine and were not opened" if away else None
    return _outcome(found, note)


def _outcome(found: Sequence[str], reason: str | None = None) -> Outcome:
    if not found:
        return Outcome(STORE, Result.ABSENT, reason=reason)
    places = tuple(sorted(set(found)))
    reason = f"something is still in {len(places)} places"
    return Outcome(STORE, Result.PRESENT, len(places), places, reason)


def _database(url: str) -> sa.URL | None:
    try:
        made = sa.make_url(url)
    except sa.exc.ArgumentError:
        return None
    return made if made.get_backend_name() in ("sqlite", "postgresql") else None


def _through_server(
    registry: Registry, tombstones: Sequence[Tombstone], sought: Needles
) -> Outcome:
    """What a server shows of its database. Files of artifacts are behind it: those of retired
    versions it had to remove, and others are not opened."""
    client = registry.client
    try:
        with quiet():
            client.search_experiments(max_results=1)  # else it may be asked for nothing, and away
            found = [
                f"model_versions {tombstone.model}/{tombstone.version}"
                for tombstone in tombstones
                if is_there(client.get_model_version, tombstone.model, str(tombstone.version))
            ]
            found += [
                r for tombstone in tombstones for r in tombstone.runs if is_there(client.get_run, r)
            ]
            if sought:
                found += [place for place, text in _texts(registry) if sought.in_text(text)]
    except StoreUnavailable as error:
        return Outcome(STORE, Result.UNREACHABLE, reason=str(error))
    return _outcome(found, "as MLflow's server says; its files were not opened")


def _texts(registry: Registry) -> Iterator[tuple[str, str]]:
    """Every text that people can have written into MLflow: (where, text)."""
    client = registry.client
    for version in registry.versions():
        where = f"{version.model}/{version.version}"
        for name, value in version.tags.items():
            yield f"{where} tag {name}", f"{name} {value}"
        described = client.get_model_version(version.model, str(version.version)).description
        yield f"{where} description", str(described or "")
    for model in client.search_registered_models():
        yield f"{model.name} description", str(model.description or "")
        for name, value in model.tags.items():
            yield f"{model.name} tag {name}", f"{name} {value}"
    experiments = [each.experiment_id for each in client.search_experiments(ViewType.ALL)]
    token: str | None = None
    while True:
        page = client.search_runs(experiments, "", ViewType.ALL, page_token=token)
        for run in page:
            for name, value in {**run.data.tags, **run.data.params}.items():
                yield f"run {run.info.run_id} {name}", f"{name} {value}"
        token = page.token
        if not token:
            return


def _rows(engine: sa.Engine, tombstones: Sequence[Tombstone], sought: Needles) -> Iterator[str]:
    """Tables and columns with a gone version's id, or a trace of the person."""
    ids = {each for tombstone in tombstones for each in (*tombstone.runs, *tombstone.logged_models)}
    metadata = sa.MetaData()
    metadata.reflect(engine)
    with engine.connect() as connection:
        for column in (each for table in metadata.sorted_tables for each in table.columns):
            if isinstance(column.type, sa.String | sa.JSON):
                kept = (
                    column.table.name == _TOMBSTONES
                )  # what is to be kept of the versions that went
                yield from _in_column(connection, column, set() if kept else ids, sought)
        versions = metadata.tables.get("model_versions")
        if versions is not None:
            yield from _versions(connection, versions, tombstones)


def _in_column(
    connection: sa.Connection, column: sa.Column[Any], ids: set[str], sought: Needles
) -> Iterator[str]:
    """The column's name for each id in it, and if there is a trace of the person."""
    text = sa.cast(column, sa.Text)
    where = f"{column.table.name}.{column.name}"
    for name in ids:
        asked = sa.select(sa.func.count()).where(text.contains(name)).select_from(column.table)
        if connection.execute(asked).scalar_one():
            yield where
    if sought:
        texts = connection.execute(sa.select(text).where(column.isnot(None)))
        if any(sought.in_text(str(value)) for (value,) in texts):
            yield where


def _versions(
    connection: sa.Connection, versions: sa.Table, tombstones: Sequence[Tombstone]
) -> Iterator[str]:
    for tombstone in tombstones:
        row = connection.execute(
            sa.select(versions.c.current_stage).where(
                versions.c.name == tombstone.model, versions.c.version == tombstone.version
            )
        ).scalar_one_or_none()
        if row not in (None, "Deleted_Internal"):  # MLflow keeps the number, marked
            yield f"model_versions {tombstone.model}/{tombstone.version}"


def _artifact_folders(engine: sa.Engine) -> list[str]:
    experiments = sa.table("experiments", sa.column("artifact_location"))
    with engine.connect() as connection:
        return [
            str(place)
            for (place,) in connection.execute(sa.select(experiments.c.artifact_location))
            if place
        ]


def _exists(place: str, url: str) -> bool:
    folder = local_folder(place)
    if folder is None:
        return bool(get_artifact_repository(place, tracking_uri=url).list_artifacts())
    return folder.exists()


def _free_pages(database: Path, sought: Needles) -> list[str]:
    """What deleted rows left in the file, which no query shows."""
    return [
        f"{path.name} (its bytes)"
        for path in (database, *(Path(f"{database}{end}") for end in ("-wal", "-journal")))
        if path.is_file() and sought.in_bytes(path.read_bytes())
    ]


def _files(folder: Path, sought: Needles) -> list[str]:
    return [
        path.relative_to(folder).as_posix()
        for below, _, names in os.walk(folder)
        for name in names
        if (path := Path(below) / name).is_file() and sought.in_bytes(path.read_bytes())
    ]
