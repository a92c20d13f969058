"""What the end of a run names is there: in this project, and in a workspace of `lethe init`."""

from pathlib import Path

import pytest

from lethe.cli.progress import _headline, _look
from lethe.config.workspace import report_path
from lethe.core.errors import FileDamaged
from tests.library import declare


@pytest.mark.parametrize(
    ("makefile", "registry", "expected"),
    [
        ("a:\n\nmlflow: ready ## browse\n\t@x\n", "sqlite:///mlflow.db", "make mlflow"),
        ("a:\n\tmlflow: x\n", "sqlite:///mlflow.db", "mlflow ui --backend-store-uri sqlite:///m"),
        (None, "sqlite:///mlflow.db", "mlflow ui --backend-store-uri sqlite:///mlflow.db"),
        (None, "env:LETHE_REGISTRY", 'mlflow ui --backend-store-uri "$LETHE_REGISTRY"'),
        (None, "https://registry.example:5000", "https://registry.example:5000"),
    ],
)
def test_the_registrys_page_is_opened_by_what_is_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    makefile: str | None,
    registry: str,
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if makefile is not None:
        Path("Makefile").write_text(makefile)
    assert _look(declare("sqlite:///x.db", stores__registry=registry)).startswith(expected)


@pytest.mark.parametrize("stage", ["minimize", "consent", "budget", "train", "audit", "register"])
@pytest.mark.parametrize(
    "content", ["{}", '{"records": "x", "subjects": null}', "[]", '{"attack": 1}']
)
def test_a_damaged_report_is_named_as_damage(tmp_path: Path, stage: str, content: str) -> None:
    path = tmp_path / report_path(stage)
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(FileDamaged):
        _headline(tmp_path, stage)
