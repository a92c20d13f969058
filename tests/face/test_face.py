"""`import lethe`: what is public, what it costs to import, and that it is typed and shown."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import lethe

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "pipeline" / "lethe"


def test_every_public_name_is_there_and_typed() -> None:
    typed = ast.parse((PACKAGE / "__init__.pyi").read_text())
    places = {
        alias.asname: node.module
        for node in typed.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert places == lethe._PLACES
    assert list(places) != [] and sorted(places) == lethe.__all__
    listed = next(each for each in typed.body if isinstance(each, ast.Assign))
    assert ast.literal_eval(listed.value) == lethe.__all__
    assert set(lethe.__all__) <= set(dir(lethe))
    for name in lethe.__all__:
        assert getattr(lethe, name).__module__ == places[name]


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(lethe, "Wrokspace")


def test_the_marks_of_a_typed_package_are_packaged() -> None:
    assert (PACKAGE / "py.typed").exists()
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {"py.typed", "*.pyi"} <= set(declared["package-data"]["lethe"])


def test_to_import_it_and_to_open_a_workspace_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, lethe, pathlib\n"
        f"lethe.Workspace({str(PROJECT)!r}).plan(); lethe.epsilon\n"
        "print(sorted({'torch', 'mlflow', 'dvc', 'sqlalchemy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
