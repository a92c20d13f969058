"""The drawing of the packages is what the code does."""

import ast
import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "pipeline" / "lethe"
PAGE = (PROJECT / "ARCHITECTURE.md").read_text()
DRAWN = {
    name: int(y)
    for name, y in re.findall(
        r'data-package="(\w+)" x="\d+" y="(\d+)"',
        (PROJECT / "docs" / "pictures" / "architecture.svg").read_text(),
    )
}


def _imports() -> dict[tuple[str, str], str]:
    """(package, package that it imports from) → a file where it does."""
    found: dict[tuple[str, str], str] = {}
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE)
        if len(place.parts) == 1:
            continue  # the face of the whole package
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            for name in names:
                parts = name.split(".")
                if parts[0] == "lethe" and len(parts) > 1 and parts[1] != place.parts[0]:
                    found[place.parts[0], parts[1]] = place.as_posix()
    return found


def test_every_package_is_drawn_and_described_and_no_other() -> None:
    there = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(DRAWN) == there
    assert set(re.findall(r"`lethe\.(\w+)`", PAGE)) == there


def test_imports_go_down_as_drawn() -> None:
    for (above, below), where in _imports().items():
        if below in DRAWN:  # `from lethe import __version__` names no package
            assert DRAWN[above] < DRAWN[below], f"{where}: {above} imports from {below}"


def test_the_page_is_one_page() -> None:
    assert len(PAGE.splitlines()) <= 100
