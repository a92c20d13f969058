"""What a registered model carries, so that a machine without Lethe can serve it."""

import ast
import importlib.metadata
import importlib.util
import shutil
from pathlib import Path

from lethe.core.errors import ParamsInvalid

_REQUIRED = ("mlflow", "numpy", "pandas", "pydantic", "ruamel.yaml", "safetensors", "torch")


def requirements() -> list[str]:
    """What a serving machine needs, as installed here."""
    return [f"{n}=={importlib.metadata.version(n).split('+')[0]}" for n in _REQUIRED]


def carry_code(target: Path, *, root: Path, own_module: str | None = None) -> None:
    """Copies the modules that serving imports, and no others.

    Args:
        root: of the workspace, where `own_module` is.
        own_module: a module of the user's own, beside params.yaml, that builds the network.

    Raises:
        ParamsInvalid: that module is not there.
    """
    source_root = Path(__file__).parents[3]  # where the package lies, which the copies keep
    for name in sorted(_imported("lethe.registration.serving", source_root)):
        source = _module_file(name, source_root)
        if source is not None:
            copy = target / source.relative_to(source_root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    if own_module is None:
        return
    top = root / own_module.split(".")[0]
    if top.is_dir():
        shutil.copytree(top, target / top.name, ignore=shutil.ignore_patterns("__pycache__"))
    elif top.with_suffix(".py").is_file():
        shutil.copyfile(top.with_suffix(".py"), target / f"{top.name}.py")
    elif importlib.util.find_spec(own_module.split(".")[0]) is None:
        raise ParamsInvalid(f"training.model: no module {own_module!r} to carry with the model.")


def _imported(name: str, root: Path) -> set[str]:
    """A module of this package, its parents, and all of the package that they import."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        here = waiting.pop()
        parts = here.split(".")
        path = _module_file(here, root)
        if here in seen or path is None:
            continue
        seen.add(here)
        waiting += [".".join(parts[:length]) for length in range(1, len(parts))]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                waiting += [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                waiting += [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
        waiting = [each for each in waiting if each.split(".")[0] == parts[0]]
    return seen


def _module_file(name: str, root: Path) -> Path | None:
    path = root.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None
