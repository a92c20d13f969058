"""What is kept of a model version that was retired: its accountability record.

The record, with MLflow's ids and places of what went, is a JSON file among the artifacts of an
experiment of its own, `MODEL.retired`. People see one sentence, in the tag `retired.VERSION` of the
registered model. Version 0.1 kept the record in that tag: it is read from there, and is put where
it belongs when the next version of the model is retired.
"""

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mlflow.exceptions import MlflowException

from lethe.core.errors import FileDamaged, StoreUnavailable
from lethe.core.files import parse_json
from lethe.core.reading import damage
from lethe.stores.registry.registry import ABSENT, Registry, quiet
from lethe.stores.registry.tags import present_names

RETIRED = "retired"  # before, "withdrawn" where nothing took its place
_PREFIX = "retired."
_RUN = "records of retired versions"


@dataclass(frozen=True)
class Tombstone:
    """The accountability record of a version that is gone.

    `replaced_by` is none where nothing took its place; `reason` says why; `facts` are its tags in
    `ACCOUNTED`; `runs` and `logged_models` are MLflow's ids and `artifacts` its places, by which
    to see that they are gone. `done` is false while it goes.
    """

    model: str
    version: int
    status: str
    registered_at: str
    retired_at: str
    replaced_by: int | None
    reason: str
    facts: Mapping[str, str]
    runs: tuple[str, ...] = ()
    logged_models: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = field(default=())
    done: bool = False

    @property
    def sentence(self) -> str:
        """For the page of the model."""
        instead = "nothing took its place"
        if self.replaced_by is not None:
            instead = f"replaced by version {self.replaced_by}"
        return f"Retired on {self.retired_at[:10]}; {instead}."


def find_tombstone(registry: Registry, model: str, version: int) -> Tombstone | None:
    """The record of a version that was retired; None if it was not.

    Raises:
        StoreUnavailable: the registry does not answer, or has lost the record.
    """
    said = _said(registry, model).get(version)
    return None if said is None else _read(registry, model, version, said)


def find_tombstones(registry: Registry, model: str) -> list[Tombstone]:
    """Every version of a model that is gone, by number; see `find_tombstone`."""
    said = _said(registry, model)
    return [_read(registry, model, version, said[version]) for version in sorted(said)]


def write_tombstone(registry: Registry, tombstone: Tombstone) -> None:
    """Keeps a record, and then says in the model's page that there is one."""
    said = _said(registry, tombstone.model)
    old = [_from_json(text) for number, text in said.items() if _is_record(text)]
    with quiet():
        run = next(iter(_runs(registry, tombstone.model)), None) or _make_run(
            registry, tombstone.model
        )
        for each in (tombstone, *(o for o in old if o.version != tombstone.version)):
            text = json.dumps(asdict(each), sort_keys=True)
            registry.client.log_text(run, text, _file(each.version))
            registry.client.set_registered_model_tag(
                each.model, f"{_PREFIX}{each.version}", each.sentence
            )


def _said(registry: Registry, model: str) -> dict[int, str]:
    """What the model's page says of versions that were retired."""
    with quiet():
        try:
            tags = registry.client.get_registered_model(model).tags
        except MlflowException as error:
            if error.error_code in ABSENT:
                return {}
            raise  # who is away is not taken for one that has none
    return {
        int(number): text
        for name, text in tags.items()
        if name.startswith(_PREFIX) and (number := name.removeprefix(_PREFIX)).isdigit()
    }


def _read(registry: Registry, model: str, version: int, said: str) -> Tombstone:
    if _is_record(said):
        return _from_json(said)
    name = _file(version)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        for run in _runs(registry, model):
            if any(each.path == name for each in registry.client.list_artifacts(run)):
                path = Path(registry.client.download_artifacts(run, name, folder))
                return _from_json(path.read_bytes())
    raise StoreUnavailable(
        f"The model registry has lost its record of {model}/{version}, which was retired: restore "
        f"the artifacts of its experiment {_experiment(model)}."
    )


def _runs(registry: Registry, model: str) -> list[str]:
    """The run whose artifacts are the records; two if two processes began at once."""
    experiment = registry.client.get_experiment_by_name(_experiment(model))
    if experiment is None:
        return []
    found = registry.client.search_runs([experiment.experiment_id])
    return [each.info.run_id for each in found]


def _make_run(registry: Registry, model: str) -> str:
    name = _experiment(model)
    client = registry.client
    made = client.get_experiment_by_name(name)
    if made is not None:
        number = made.experiment_id
    else:
        beside = client.get_experiment_by_name(model)
        place = f"{beside.artifact_location.rstrip('/')}/retired" if beside else None
        number = client.create_experiment(name, artifact_location=place)
    run = client.create_run(number, run_name=_RUN, tags={"mlflow.user": "lethe"}).info.run_id
    client.set_terminated(run)
    return str(run)


def _experiment(model: str) -> str:
    return f"{model}.retired"


def _file(version: int) -> str:
    return f"{version}.json"


def _is_record(said: str) -> bool:
    return said.startswith("{")


def _from_json(content: str | bytes) -> Tombstone:
    of = "A record of a retired version in the registry"
    read = parse_json(content, of=of)
    tuples: Iterable[str] = ("runs", "logged_models", "artifacts")
    with damage(lambda: FileDamaged(f"{of} is not as Lethe writes it. Restore it from a copy.")):
        read |= {name: tuple(read[name]) for name in tuples}
        return Tombstone(**{**read, "status": RETIRED, "facts": present_names(read["facts"])})
