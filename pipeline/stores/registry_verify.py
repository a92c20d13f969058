"""A fresh look into MLflow: its tables by SQL of our own, and the folders of its artifacts.

Asks no client of MLflow's, which shows what is marked as deleted to nobody.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import sqlalchemy as sa

from pipeline.records import Outcome, Traces
from pipeline.stores.registry import Registry
from pipeline.stores.registry_retire import STORE, Tombstone, local_folder
from pipeline.stores.searching import Needles, needles

_STONES = "registered_model_tags"  # where tombstones are; they name what is gone


def verify_registry(
    registry: Registry, gone: Iterable[Tombstone] = (), *, traces: Traces | None = None
) -> Outcome:
    """Looks for versions that are to be gone, and for a person's key and identifiers.

    "nothing found" is what an erasure waits for. Anything found, or a place that cannot be
    looked into from here, is "not attempted", with the reason.

    Args:
        gone: the tombstones of the versions that must have left nothing.
        traces: the person; MLflow has no tokens, so only bytes are sought.
    """
    stones = list(gone)
    sought = needles(traces)
    try:
        url = sa.make_url(registry.url)
        if url.get_backend_name() not in ("sqlite", "postgresql"):
            raise sa.exc.ArgumentError
    except sa.exc.ArgumentError:
        return Outcome(
            STORE,
            "not attempted",
            reason="the registry is behind a server; verify where its database and files are",
        )
    engine = sa.create_engine(_driver(url), poolclass=sa.NullPool, hide_parameters=True)
    try:
        found = list(_rows(engine, stones, sought))
        folders = _artifact_folders(engine)
    except sa.exc.DBAPIError as error:
        kind = type(error.orig).__name__
        return Outcome(STORE, "not attempted", reason=f"its database does not answer ({kind})")
    finally:
        engine.dispose()
    away = [place for place in folders if local_folder(place) is None]
    if url.get_backend_name() == "sqlite" and url.database and sought:
        found += _free_pages(Path(url.database), sought)
    for stone in stones:
        found += [place for place in stone.artifacts if _exists(place)]
        away += [place for place in stone.artifacts if local_folder(place) is None]
    if sought:
        for place in folders:
            if (folder := local_folder(place)) is not None:
                found += _files(folder, sought)
    if found:
        places = tuple(sorted(set(found)))
        reason = f"something is still in {len(places)} places"
        return Outcome(STORE, "not attempted", len(places), places, reason)
    if away:
        reason = f"{len(set(away))} artifact locations are on no disk of this machine"
        return Outcome(STORE, "not attempted", reason=reason)
    return Outcome(STORE, "nothing found")


def _driver(url: sa.URL) -> sa.URL:
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _rows(engine: sa.Engine, stones: list[Tombstone], sought: Needles) -> Iterator[str]:
    """Tables and columns with a gone version's id, or a trace of the person."""
    ids = {each for stone in stones for each in (*stone.runs, *stone.logged_models)}
    metadata = sa.MetaData()
    metadata.reflect(engine)
    with engine.connect() as connection:
        for table in metadata.sorted_tables:
            for column in table.columns:
                if not isinstance(column.type, sa.String | sa.JSON):
                    continue
                text = sa.cast(column, sa.Text)
                where = f"{table.name}.{column.name}"
                if table.name != _STONES:
                    for name in ids:
                        asked = sa.select(sa.func.count()).where(text.contains(name))
                        if connection.execute(asked.select_from(table)).scalar_one():
                            yield where
                if sought and any(
                    sought.in_text(str(value))
                    for (value,) in connection.execute(sa.select(text).where(column.isnot(None)))
                ):
                    yield where
        versions = metadata.tables.get("model_versions")
        if versions is not None:
            yield from _versions(connection, versions, stones)


def _versions(
    connection: sa.Connection, versions: sa.Table, stones: list[Tombstone]
) -> Iterator[str]:
    for stone in stones:
        row = connection.execute(
            sa.select(versions.c.current_stage).where(
                versions.c.name == stone.model, versions.c.version == stone.version
            )
        ).scalar_one_or_none()
        if row not in (None, "Deleted_Internal"):  # MLflow keeps the number, marked
            yield f"model_versions {stone.model}/{stone.version}"


def _artifact_folders(engine: sa.Engine) -> list[str]:
    experiments = sa.table("experiments", sa.column("artifact_location"))
    with engine.connect() as connection:
        return [
            str(place)
            for (place,) in connection.execute(sa.select(experiments.c.artifact_location))
            if place
        ]


def _exists(place: str) -> bool:
    folder = local_folder(place)
    return folder is not None and folder.exists()


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
