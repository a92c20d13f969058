"""What makes a network reads code alone; what reads something else is refused by name."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lethe.core.errors import ParamsInvalid
from lethe.training.description import Architecture
from lethe.training.models import build_model
from lethe.training.reading import ReadsElsewhere, code_alone

START = """
import os, sqlite3, subprocess
from pathlib import Path
import numpy as np
import torch
"""
BUILD = """
def build(features, outputs):
    layer = torch.nn.Linear(features, outputs)
    {body}
    return layer
"""


def _build(root: Path, name: str, body: str, *, before: str = "") -> None:
    (root / f"{name}.py").write_text(START + before + BUILD.format(body=body))
    build_model(Architecture(f"{name}:build", (), 3, 1), root=root)


READS = {
    "open": "open({path!r})",
    "bytes": "Path({path!r}).read_bytes()",
    "numpy": "np.fromfile({path!r})",
    "torch": "torch.load({path!r})",
    "a descriptor": "os.open({path!r}, os.O_RDONLY)",
    "by another name": "os.symlink({path!r}, {path!r} + '.py'); open({path!r} + '.py')",
    "a database": "sqlite3.connect({path!r})",
    "a process": "subprocess.run(['cat', {path!r}])",
    "and nobody hears": """
    try:
        open({path!r})
    except BaseException:
        pass""",
}


@pytest.mark.parametrize("inside", [True, False], ids=["in the workspace", "elsewhere"])
@pytest.mark.parametrize("name", READS)
def test_a_network_that_reads_is_refused(
    name: str, inside: bool, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path if inside else tmp_path_factory.mktemp("elsewhere")
    path = folder / "people.csv"
    path.write_bytes(bytes(64))
    own = f"reads_{list(READS).index(name)}_{inside}"
    with pytest.raises(ParamsInvalid, match="may know nothing of people"):
        _build(tmp_path, own, READS[name].format(path=str(path)))


def test_so_is_one_that_reads_as_it_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_bytes(b"1")
    with pytest.raises(ParamsInvalid, match=r"'people\.csv' while it makes"):
        _build(tmp_path, "reads_early", "pass", before=f"KNOWN = open({str(path)!r}).read()\n")


def test_code_may_be_read(tmp_path: Path) -> None:
    (tmp_path / "helps.py").write_text("VALUE = 3.0\n")
    _build(tmp_path, "helped", "layer.bias.data.fill_(helps.VALUE)", before="import helps\n")


def _in_package(root: Path, name: str, body: str) -> None:
    package = root / name
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text("from .numbers import VALUE\n")
    (package / "numbers.py").write_text("VALUE = 0.5\n")
    (package / "net.py").write_text(START + "from . import VALUE\n" + BUILD.format(body=body))
    build_model(Architecture(f"{name}.net:build", (), 3, 1), root=root)


def test_a_package_may_be_of_several_modules(tmp_path: Path) -> None:
    _in_package(tmp_path, "packaged", "layer.bias.data.fill_(VALUE)")


@pytest.mark.parametrize("place", ["elsewhere", "beside params.yaml", "in its own package"])
@pytest.mark.parametrize("ending", ["pth", "pt", "npy", "safetensors", "json", "csv", "bin", "h5"])
def test_first_weights_are_read_from_no_file(
    ending: str, place: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No digest has such a file, which somebody may have trained on people."""
    name = f"loads_{ending}_{place[:2]}"
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    folder = {"e": elsewhere, "b": tmp_path, "i": tmp_path / name}[place[0]]
    folder.mkdir(exist_ok=True)
    path = folder / f"first.{ending}"
    values = np.full(3, 0.25, dtype=np.float32)
    torch.save(torch.from_numpy(values), path)
    loads = f"torch.load({str(path)!r})"
    if ending == "npy":
        np.save(path, values)
        loads = f"torch.from_numpy(np.load({str(path)!r}))"
    elif ending in ("json", "csv", "safetensors"):
        path.write_text("[0.25, 0.25, 0.25]")
        loads = f"torch.tensor(eval(Path({str(path)!r}).read_text()))"
    with pytest.raises(ParamsInvalid, match=rf"'first\.{ending}' while it makes"):
        _in_package(tmp_path, name, f"layer.weight.data[:] = {loads}")


def test_afterwards_everything_is_as_before(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("1")
    with pytest.raises(ReadsElsewhere), code_alone(tmp_path):
        path.read_text()
    assert path.read_text() == "1"
    with code_alone(tmp_path):
        os.urandom(2)
        Path("/dev/null").read_bytes()
