"""What lies in MLflow for a version: exactly the files that registration meant to write.

Guarantee: a version appears only if every file of it is the model's, the code's or MLflow's own,
    byte by byte where Lethe wrote it and canonical where MLflow did; one digest of all of them
    becomes a tag of the version, so that what changes later is seen.
"""

import hashlib
import importlib.metadata
import platform
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import yaml

from lethe.core.errors import RegistrationRefused
from lethe.core.files import digests

PACKAGE = "package_sha256"  # tag: one digest of every file of the version
_MODEL, _CONDA, _PYTHON, _REQUIREMENTS = (
    "MLmodel",
    "conda.yaml",
    "python_env.yaml",
    "requirements.txt",
)
_NOTE = "registered_model_meta"
_LOADER = "mlflow.pyfunc.loaders.code_model"
_CREATED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?")
_TOOL = re.compile(r"(python|pip|setuptools|wheel)([<=]=?[0-9.]+)?")
_KEYS = frozenset(
    {
        *("artifact_path", "flavors", "is_signature_from_type_hint", "mlflow_version", "model_id"),
        *("model_size_bytes", "model_uuid", "prompts", "run_id", "signature"),
        *("type_hint_from_example", "utc_time_created"),
    }
)


@dataclass(frozen=True)
class Meant:
    """What registration means to write.

    Attributes:
        model: the model's folder. code: the folder of code. entry: `served.py`.
        requirements: lines of `requirements.txt`.
        signature: as MLflow writes it.
        location: of the version's files, as MLflow has it. run, logged: MLflow's ids.
    """

    model: Path
    code: Path
    entry: Path
    requirements: Sequence[str]
    signature: Mapping[str, Any]
    location: str
    run: str
    logged: str

    def files(self) -> dict[str, str]:
        """SHA-256 of each of Lethe's own, by its path in the version."""
        found = {f"artifacts/model/{name}": each for name, each in digests(self.model).items()}
        found |= {f"code/{name}": each for name, each in digests(self.code).items()}
        lines = "\n".join(self.requirements).encode()
        return found | {
            self.entry.name: hashlib.sha256(self.entry.read_bytes()).hexdigest(),
            _REQUIREMENTS: hashlib.sha256(lines).hexdigest(),
        }


def digest_of(
    location: str, *, tracking_uri: str, meant: Meant | None = None, version: str = ""
) -> str:
    """SHA-256 over the names and contents of all files of a logged model.

    MLflow leaves a note of the version's name where it loads it, which is no file of it. What
    Python compiles is one: it would be run in the place of the code beside it. Nothing that
    loading makes: a version removes it itself (`served.py`).

    Args:
        location: of its artifacts, as MLflow has it.
        meant: what it must be; else nothing is compared.
        version: `MODEL/VERSION`, once it has that name.

    Raises:
        RegistrationRefused: a file is absent, further or another; names each.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=location, dst_path=temporary, tracking_uri=tracking_uri
            )
        )
        found = digests(place)
        if version and _canonical(place / _NOTE) in _notes(version):
            del found[_NOTE]
        others = [] if meant is None else _others(place, found, meant)
    if others:
        raise RegistrationRefused(
            f"Nothing was registered: MLflow has other files than were meant ({', '.join(others)})."
            " Find out who can write to its artifacts, then run lethe register again."
        )
    lines = "".join(f"{each}  {name}\n" for name, each in sorted(found.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _notes(version: str) -> list[dict[str, Any]]:
    """MLflow's note of a version that was loaded by its number, or by an alias."""
    model, _, number = version.rpartition("/")
    return [{"model_name": model, "model_version": each} for each in (number, int(number))]


def _others(place: Path, found: Mapping[str, str], meant: Meant) -> list[str]:
    expected = meant.files()
    of_mlflow = {_MODEL, _CONDA, _PYTHON}
    apart = {name for name in expected.keys() | found.keys() if name not in of_mlflow}
    others = {name for name in apart if expected.get(name) != found.get(name)}
    checks: dict[str, Callable[[dict[str, Any]], bool]] = {
        _MODEL: lambda data: _is_model(data, meant),
        _CONDA: lambda data: _is_conda(data, meant),
        _PYTHON: _is_python,
    }
    for name, holds in checks.items():
        data = _canonical(place / name)
        if data is None or not holds(data):
            others.add(name)
    return sorted(others)


def _canonical(path: Path) -> dict[str, Any] | None:
    """A file of MLflow's, if it is what MLflow would write of the same data and nothing more."""
    try:
        text = path.read_text(encoding="utf-8")
        data = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(data, dict):
        return None
    written = (
        yaml.safe_dump(data, default_flow_style=False, allow_unicode=True, sort_keys=order)
        for order in (True, False)
    )
    return data if text in written else None


def _is_model(data: Mapping[str, Any], meant: Meant) -> bool:
    """Every value is the one that was meant, or says nothing but when and how large."""
    loaded = {
        "artifacts": {"model": {"path": "artifacts/model", "uri": str(meant.model.resolve())}},
        "cloudpickle_version": importlib.metadata.version("cloudpickle"),
        "code": "code",
        "env": {"conda": _CONDA, "virtualenv": _PYTHON},
        "loader_module": _LOADER,
        "model_code_path": str(meant.entry),
        "python_version": platform.python_version(),
        "streamable": False,
    }
    expected = {
        "flavors": {"python_function": loaded},
        "is_signature_from_type_hint": False,
        "mlflow_version": mlflow.__version__,
        "model_id": meant.logged,
        "model_uuid": meant.logged,
        "prompts": None,
        "run_id": meant.run,
        "signature": dict(meant.signature),
        "type_hint_from_example": False,
    }
    written = {name: data.get(name) for name in expected}
    return (
        data.keys() == _KEYS
        # As bytes: `False` is equal to 0, and 1 to 1.0.
        and yaml.safe_dump(written) == yaml.safe_dump(expected)
        and str(data["artifact_path"]) in (meant.location, meant.location.removeprefix("file://"))
        and type(data["model_size_bytes"]) is int
        and _CREATED.fullmatch(str(data["utc_time_created"])) is not None
    )


def _is_conda(data: Mapping[str, Any], meant: Meant) -> bool:
    listed: Sequence[Any] = data.get("dependencies") or ()
    return (
        data.keys() == {"channels", "dependencies", "name"}
        and (data["channels"], data["name"]) == (["conda-forge"], "mlflow-env")
        and len(listed) == 3
        and all(_TOOL.fullmatch(str(each)) for each in listed[:2])
        and listed[2] == {"pip": list(meant.requirements)}
    )


def _is_python(data: Mapping[str, Any]) -> bool:
    tools: Sequence[Any] = data.get("build_dependencies") or ()
    return (
        data.keys() == {"python", "build_dependencies", "dependencies"}
        and data["python"] == platform.python_version()
        and data["dependencies"] == [f"-r {_REQUIREMENTS}"]
        and len(tools) <= 3
        and all(_TOOL.fullmatch(str(each)) for each in tools)
    )
