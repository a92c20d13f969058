"""What a registered model carries, so that a machine without Lethe can serve it."""

import ast
import importlib.util
import shutil
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lethe.core.behaviour import Code, read_module
from lethe.core.errors import ParamsInvalid

# mlflow-skinny is MLflow's server of models without its databases, plots and learners.
_REQUIRED = ("mlflow-skinny", "numpy", "pandas", "pydantic", "safetensors")
_OF_OWN_NETWORKS = ("torch",)
# `served.py`, which loads the model. What Python compiles beside registered code would be run
# instead of it. So none is left: of this file Python has written it before its first line.
SERVED = """\
import sys
from contextlib import suppress
from pathlib import Path

sys.dont_write_bytecode = True
with suppress(OSError, AttributeError, TypeError):
    Path(__spec__.cached).unlink()
    Path(__spec__.cached).parent.rmdir()

from mlflow.models import set_model

from lethe.registration.serving import LetheModel

set_model(LetheModel(model={model!r}, hidden={hidden!r}, sha256={sha256!r}))
"""


def requirements(*, own_network: bool = False, also: Iterable[str] = ()) -> list[str]:
    """What a serving machine needs, with all that this needs, in the versions installed here.

    Args:
        also: see `own_packages`.
    """
    wanted = [*_REQUIRED, *(_OF_OWN_NETWORKS if own_network else ()), *also]
    found: dict[str, str] = {}
    waiting = [(name, frozenset[str]()) for name in wanted]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:
            if name in wanted:
                raise
            continue  # of another platform
        found[canonicalize_name(name)] = package.version.split("+")[0]
        for line in package.requires or ():
            need = Requirement(line)
            asked = (need.name, frozenset(need.extras))
            applies = any(
                need.marker is None or need.marker.evaluate({"extra": extra})
                for extra in ("", *extras)
            )
            if applies and asked not in seen:
                seen.add(asked)
                waiting.append(asked)
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def carry_code(target: Path, *, root: Path, own_module: str | None = None) -> None:
    """Copies the modules that serving imports, and no others.

    Args:
        root: of the workspace, where `own_module` is.
        own_module: a module of the user's own that builds the network. If it lies in a package
            beside params.yaml, that travels whole; of others there what it imports.

    Raises:
        ParamsInvalid: that module is not there.
    """
    source_root = Path(__file__).parents[3]  # where the package lies, which the copies keep
    starts = ["lethe.registration.serving"]
    if own_module is not None:
        starts.append("lethe.registration.own_network")
        own, others = _own_code(root, own_module)
        if not own and importlib.util.find_spec(own_module.partition(".")[0]) is None:
            raise ParamsInvalid(
                f"training.model: no module {own_module!r} to carry with the model."
            )
        top = root / own_module.partition(".")[0]
        if own and top.is_dir():  # with the files that its modules may read
            shutil.copytree(top, target / top.name, ignore=shutil.ignore_patterns("__pycache__"))
        _copy(own, root, target)
        starts += [name for name in others if name.partition(".")[0] == "lethe"]
    _copy(_imported(starts, source_root), source_root, target)


def own_packages(root: Path, own_module: str) -> set[str]:
    """The installed packages that a module of the user's own needs, by itself or through others
    beside params.yaml.

    Raises:
        ParamsInvalid: it imports what is neither beside params.yaml nor of an installed package,
            so that no other machine could have it; names each.
    """
    own, others = _own_code(root, own_module)
    names = {name.partition(".")[0] for name in (others if own else [own_module])}
    names -= {"lethe", *sys.stdlib_module_names}
    there = packages_distributions()
    # What is not here at all was tried in vain, as `try: import` does.
    loose = sorted(
        name
        for name in names
        if not any(map(_can_be_pinned, there.get(name, ())))
        and importlib.util.find_spec(name) is not None
    )
    if loose:
        raise ParamsInvalid(
            f"training.model: {own_module!r} imports {loose}, which are neither beside params.yaml "
            "nor of a package that could be installed where the model is served. Put them there, "
            "or install them as a package of a registry."
        )
    return {canonicalize_name(each) for name in names for each in there.get(name, ())}


def _can_be_pinned(name: str) -> bool:
    """An editable package is a folder of this machine, which no version names."""
    return '"editable": true' not in (distribution(name).read_text("direct_url.json") or "")


def _own_code(root: Path, own_module: str) -> tuple[set[str], set[str]]:
    """Modules beside params.yaml that one of them needs, itself included; what else they import.

    None where it is not there: then it is of an installed package, if of any.
    """
    if _module_file(own_module, root) is None:
        return set(), set()
    code = Code(root)
    found: set[str] = set()
    others: set[str] = set()
    waiting = {own_module}
    while waiting:
        found |= code.reached(waiting.pop())
        above = {".".join(n.split(".")[:k]) for n in found for k in range(1, n.count(".") + 1)}
        waiting = {name for name in above - found if _module_file(name, root) is not None}
    tops = {name.partition(".")[0] for name in found}
    for name in found:
        file = _module_file(name, root)
        if file is not None:
            package = name if file.name == "__init__.py" else name.rpartition(".")[0]
            others |= read_module(file, package).imports
    return found, {name for name in others if name.partition(".")[0] not in tops}


def _copy(names: Iterable[str], root: Path, target: Path) -> None:
    for name in sorted(names):
        source = _module_file(name, root)
        if source is not None:
            copy = target / source.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


def _imported(names: list[str], root: Path) -> set[str]:
    """Modules of this package, their parents, and all of the package that they import.

    What a function imports when it is called is not among them: serving has one such import, of
    what only some models need.
    """
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        here = waiting.pop()
        parts = here.split(".")
        path = _module_file(here, root)
        if here in seen or path is None:
            continue
        seen.add(here)
        waiting += [".".join(parts[:length]) for length in range(1, len(parts))]
        for node in at_import(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                waiting += [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                waiting += [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
        waiting = [each for each in waiting if each.split(".")[0] == parts[0]]
    return seen


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Everything that runs when a module is imported: not its functions, nor what types need."""
    for child in ast.iter_child_nodes(node):
        types_only = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not types_only and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from at_import(child)


def _module_file(name: str, root: Path) -> Path | None:
    path = root.joinpath(*name.split("."))
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None
