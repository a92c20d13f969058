"""MLflow: model versions, what is known about each, and who may find them.

The only module that knows MLflow's stores. Nothing here is about a person: versions carry
counts, hashes and prices. No input example is logged (MLflow would keep its rows), no data
set, and telemetry is off.
"""

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lethe.core.waiting import CONNECT_S, waiting

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read while MLflow is imported
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# A server that does not answer is given up soon; MLflow's own patience is a quarter of an hour.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(CONNECT_S))
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("PGCONNECT_TIMEOUT", str(CONNECT_S))  # of a registry in PostgreSQL

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of MLflow's own imports
    import mlflow
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from lethe.config.home import home
from lethe.core.errors import NotFound, ParamsInvalid, StoreUnavailable
from lethe.core.files import digests
from lethe.stores.registry.bundle import SERVED, carry_code, own_packages, requirements
from lethe.stores.registry.package import PACKAGE, Meant, digest_of
from lethe.stores.registry.process_wide import ALONE, pointed_at
from lethe.stores.registry.signature import Input, signature
from lethe.stores.registry.tags import RUN_ID, present_names

COMPLETE = "complete"  # tag: everything about the version was written, aliases included
NOT_PRIVATE = "_not_private"  # ends the name of a metric that no noise protects


@dataclass(frozen=True)
class NewVersion:
    """Everything about a model that is to be registered.

    `network` and `hidden`: the model as `params.yaml` declares it, which is what is served.
    `metrics`: name → value; the name of one that is not private must end with `NOT_PRIVATE`.
    `files`: name → content of what is attached to the run (dvc.lock, the model card).
    `root`: of the workspace: a network of the user's own is carried from there, and artifacts lie
    in its HOME's `mlruns/` unless a server keeps them.
    """

    name: str
    folder: Path
    inputs: Sequence[Input]
    outputs: Sequence[str]
    tags: Mapping[str, str]
    network: str
    hidden: tuple[int, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    description: str = ""
    root: Path = Path()


@dataclass(frozen=True)
class Version:
    """One registered version; `status` is its tag of that name, or MLflow's own.

    `tags` have today's names, whichever version of Lethe wrote them.
    """

    model: str
    version: int
    status: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    run: str
    logged_model: str


class Registry:
    """The registry at one URL; open it with `Registry.open`.

    Raises (every method):
        StoreUnavailable: it does not answer.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    @cached_property
    def _client(self) -> MlflowClient:
        with quiet():
            _knock(self._url)
            return MlflowClient(tracking_uri=self._url, registry_uri=self._url)

    @property
    def client(self) -> MlflowClient:
        """MLflow's own client, for the other modules of this store."""
        return self._client

    @property
    def url(self) -> str:
        return self._url

    @classmethod
    def open(cls, url: str) -> "Registry":
        """A SQLAlchemy URL (artifacts then lie in `mlruns/` of HOME) or an MLflow server's.

        Nothing is asked yet: one that does not answer is found out by whoever asks first.
        """
        for name in ("mlflow", "alembic"):  # whose errors quote statements
            logging.getLogger(name).setLevel(logging.CRITICAL)
        return cls(_absolute(url))

    def register(self, release: NewVersion) -> Version:
        """Registers a model version, with everything that is known about it, or nothing.

        The version appears last, with all of its tags at once. What an interrupted attempt for
        the same training left behind is removed first.

        Raises:
            NotFound: the folder has no model.
        """
        if not release.folder.is_dir():
            raise NotFound(f"There is no model in {release.folder}. Run lethe train.")
        with quiet(), pointed_at(self._url):
            experiment = self._experiment(release.name, release.root)
            self._forget_attempts(experiment, release)
            run = self._client.create_run(
                experiment,
                run_name=release.tags[RUN_ID],
                tags={"mlflow.user": "lethe", "mlflow.source.name": "lethe", **release.tags},
            ).info.run_id
            self._client.log_batch(
                run,
                metrics=[Metric(k, v, 0, 0) for k, v in release.metrics.items()],
                params=[Param(k, str(v)) for k, v in release.parameters.items()],
                tags=[
                    RunTag(f"metric.{k}.private", str(not k.endswith(NOT_PRIVATE)).lower())
                    for k in release.metrics
                ],
            )
            with tempfile.TemporaryDirectory() as temporary:
                logged, package = self._log_model(release, run, Path(temporary))
                for name, content in release.files.items():
                    path = Path(temporary) / name
                    path.write_bytes(content)
                    self._client.log_artifact(run, str(path))
            self._client.set_terminated(run)
            self._ensure_model(release.name)
            made = self._client.create_model_version(
                release.name,
                f"models:/{logged}",
                run_id=run,
                tags={**release.tags, PACKAGE: package},
                description=release.description,
                model_id=logged,
            )
            return self.find(release.name, str(made.version))

    def find(self, name: str, version: str) -> Version:
        """A version by its number, or by `@alias`.

        Raises:
            NotFound: there is none.
        """
        try:
            with quiet():
                if version.startswith("@"):
                    number = self._client.get_model_version_by_alias(name, version[1:]).version
                else:
                    number = version
                # Only this call gives the aliases as well.
                return _version(self._client.get_model_version(name, str(number)))
        except MlflowException as error:
            if error.error_code in ABSENT:
                raise NotFound(
                    f"The registry has no version {version!r} of a model {name!r}. `mlflow ui` "
                    "shows what it has."
                ) from None
            raise

    def versions(self, name: str | None = None) -> list[Version]:
        """Every version of a model, or of all; by name, then number."""
        with quiet():
            condition = f"name = '{_quotable(name)}'" if name is not None else None
            found = []
            token: str | None = None
            while True:
                page = self._client.search_model_versions(condition, page_token=token)
                found += [_version(each) for each in page]
                token = page.token
                if not token:
                    break
            aliases = {each.model: self._aliases(each.model) for each in found}
        return sorted(
            (
                Version(**{**vars(each), "aliases": aliases[each.model].get(each.version, ())})
                for each in found
            ),
            key=lambda each: (each.model, each.version),
        )

    def of_run(self, name: str, run_id: str) -> Version | None:
        """The version that came of a training, by the ledger's id."""
        return next((v for v in self.versions(name) if v.tags.get(RUN_ID) == run_id), None)

    def tag(self, version: Version, key: str, value: str) -> None:
        with quiet():
            self._client.set_model_version_tag(version.model, str(version.version), key, value)

    def alias(self, version: Version, alias: str) -> None:
        """Points an alias at a version, and away from any other."""
        with quiet():
            self._client.set_registered_model_alias(version.model, alias, str(version.version))

    def metrics(self, version: Version) -> dict[str, float]:
        """The metrics of the version's run, by the names that say which are not private."""
        with quiet():
            return dict(self._client.get_run(version.run).data.metrics)

    def _experiment(self, name: str, root: Path) -> str:
        found = self._client.get_experiment_by_name(name)
        if found:
            known: str = found.experiment_id
            return known
        place = None  # MLflow's own choice, which for a file is where this process was started
        if not self._url.startswith(("http://", "https://", "databricks")):
            place = str(home(root) / "mlruns" / name)  # what is here ends with the run
        made: str = self._client.create_experiment(name, artifact_location=place)
        return made

    def _ensure_model(self, name: str) -> None:
        try:
            self._client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise
            self._client.create_registered_model(name)

    def _aliases(self, name: str) -> dict[int, tuple[str, ...]]:
        by_version: dict[int, list[str]] = {}
        for alias, number in self._client.get_registered_model(name).aliases.items():
            by_version.setdefault(int(number), []).append(alias)
        return {number: tuple(sorted(names)) for number, names in by_version.items()}

    def _forget_attempts(self, experiment: str, release: NewVersion) -> None:
        condition = f"tags.{RUN_ID} = '{_quotable(release.tags[RUN_ID])}'"
        for run in self._client.search_runs([experiment], condition):
            self._client.delete_run(run.info.run_id)
        for logged in self._client.search_logged_models([experiment], condition):
            self._client.delete_logged_model(logged.model_id)

    def _log_model(self, release: NewVersion, run: str, temporary: Path) -> tuple[str, str]:
        """The logged model's id, and the digest of all its files, compared with what was meant."""
        entry = temporary / "served.py"
        served = SERVED.format(
            model=release.network, hidden=release.hidden, sha256=digests(release.folder)
        )
        entry.write_text(served, encoding="utf-8")
        code = temporary / "code"
        module, own, _ = release.network.partition(":")
        also = own_packages(release.root, module) if own else set()
        carry_code(code, root=release.root, own_module=module if own else None)
        logged = self._client.create_logged_model(
            self._client.get_run(run).info.experiment_id,
            name=release.name,
            source_run_id=run,
            params={name: str(value) for name, value in release.parameters.items()},
            tags={RUN_ID: release.tags[RUN_ID]},
        )
        needed = requirements(own_network=bool(own), also=also)
        promised = signature(release.inputs, release.outputs)
        Model.log(  # with both ids it asks for no active run, of which a notebook may have one
            artifact_path=None,
            flavor=mlflow.pyfunc,
            run_id=run,
            model_id=logged.model_id,
            python_model=str(entry),
            artifacts={"model": str(release.folder.resolve())},
            code_paths=[str(path) for path in sorted(code.iterdir())],
            pip_requirements=needed,
            signature=promised,
        )
        made: str = logged.model_id
        place: str = logged.artifact_location
        meant = Meant(release.folder, code, entry, needed, promised.to_dict(), place, run, made)
        return made, digest_of(place, tracking_uri=self._url, meant=meant)


def _version(found: ModelVersion) -> Version:
    tags = present_names(found.tags)
    return Version(
        model=found.name,
        version=int(found.version),
        status=tags.get("status", found.status.lower()),
        aliases=tuple(sorted(found.aliases or ())),
        tags=tags,
        run=found.run_id,
        logged_model=found.source.removeprefix("models:/"),
    )


def exists(url: str) -> bool:
    """False where there is certainly none: to ask MLflow for a file would make it."""
    absolute = _absolute(url)
    file = absolute.removeprefix("sqlite:///")
    return file == absolute or Path(file).exists()


def _absolute(url: str) -> str:
    """A SQLite file by its whole path: MLflow keeps stores open by URL, wherever it is then."""
    file = url.removeprefix("sqlite:///")
    if file == url or file.startswith("/") or file in ("", ":memory:"):
        return url
    return f"sqlite:///{Path(file).resolve()}"


def _quotable(text: str) -> str:
    """A value that can stand between quotes in MLflow's filters, which cannot escape them."""
    if "'" in text or "\\" in text:
        raise ParamsInvalid(f"{json.dumps(text)} cannot name a model: it has a quote in it.")
    return text


ABSENT = (ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), "INVALID_PARAMETER_VALUE")


@contextmanager
def quiet() -> Iterator[None]:
    """Whatever is asked of MLflow: its advice (log an example of your data!) stays unsaid.

    Raises:
        StoreUnavailable: it does not answer; its own words quote statements and addresses.
        MlflowException: it answers that something is not there.
    """
    with waiting("the model registry (stores.registry)"), ALONE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except MlflowException as error:
            if error.error_code in (*ABSENT, *_UNKNOWN):
                raise
            raise _away(error.error_code) from None
        except (sa.exc.SQLAlchemyError, OSError, json.JSONDecodeError) as error:
            raise _away(type(error).__name__) from None


_UNKNOWN = ("NOT_FOUND", "INVALID_STATE")


def _away(why: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"The model registry does not answer ({why}). Check stores.registry and that it is up; "
        "the next run goes on."
    )


def _knock(url: str) -> None:
    """Connects once, where MLflow would try for minutes to connect to a database."""
    if url.startswith("postgres"):
        engine = sa.create_engine(database_url(url), poolclass=sa.NullPool, hide_parameters=True)
        with engine.connect():
            pass


def database_url(url: str) -> sa.URL:
    """With the driver that is installed here, where none is named."""
    parsed = sa.make_url(url)
    bare = parsed.drivername == "postgresql"
    return parsed.set(drivername="postgresql+psycopg") if bare else parsed
