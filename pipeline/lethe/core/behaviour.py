"""What Python code does, as a digest: the same for the same behaviour, whatever is said about it.

Modules are taken as `lethe.core.syntax` writes them out: a comment, a docstring, another layout or
the renaming of a function's own variable changes no digest. Two modules of one digest do the same;
two that do the same may differ, since a moved file or a renamed function counts as a change.
"""

import ast
import gc
import hashlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lethe.core.errors import ParamsInvalid
from lethe.core.syntax import written_out

OWN = Path(__file__).resolve().parents[1]  # this package


@dataclass(frozen=True)
class Module:
    """One module: what it does, and the names of what it may import."""

    digest: bytes
    imports: frozenset[str]


class Code:
    """The modules below a folder that Python imports from; each is read once, when asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, Module | None] = {}

    def reached(self, start: str, *, leave_out: Collection[str] = ()) -> frozenset[str]:
        """A module and everything below the folder that it imports, by itself or through others.

        Imports within functions count; the `__init__` of a package in which a module lies counts
        as imported, but for the outermost's, which names what others use.

        Args:
            start: the dotted name of a module.
            leave_out: what is not followed: modules, packages with all that is in them, or the
                `__init__` of a package alone.

        Raises:
            ParamsInvalid: there is no such module, or one of them is no Python.
        """
        if self._module(start) is None:
            raise ParamsInvalid(f"There is no module {start} in {self._folder}.")
        outermost = start.partition(".")[0] if "." in start else None
        found: set[str] = set()
        seen = {outermost}
        left = [start]
        while left:
            name = left.pop()
            if name in seen or _lies_in(name, leave_out):
                continue
            seen.add(name)
            if (module := self._module(name)) is not None:
                found.add(name)
                left += [*module.imports, *_packages(name)]
        return frozenset(found)

    def below(self, *packages: str) -> frozenset[str]:
        """Every module of some packages, those of packages in them included."""
        names = set()
        for package in packages:
            folder = self._folder.joinpath(*package.split("."))
            inside = [path.relative_to(self._folder) for path in folder.rglob("*.py")]
            if not inside:
                raise ParamsInvalid(f"There is no package {package} in {self._folder}.")
            names |= {".".join(path.with_suffix("").parts) for path in inside}
        return frozenset(name.removesuffix(".__init__") for name in names)

    def digest(self, names: Iterable[str]) -> str:
        """SHA-256 over modules by name, and what each does."""
        whole = hashlib.sha256()
        for name in sorted(names):
            module = self._module(name)
            if module is None:
                raise ParamsInvalid(f"There is no module {name} in {self._folder}.")
            whole.update(f"{name} ".encode() + module.digest)
        return whole.hexdigest()

    def _module(self, name: str) -> Module | None:
        if name not in self._read:
            self._read[name] = self._load(name)
        return self._read[name]

    def _load(self, name: str) -> Module | None:
        path = self._folder.joinpath(*name.split("."))
        for file, package in ((path / "__init__.py", name), (path.with_suffix(".py"), "")):
            if file.is_file():
                return read_module(file, package or name.rpartition(".")[0])
        return None


def read_module(file: Path, package: str = "") -> Module:
    """One module.

    Args:
        package: in which it lies; relative imports start there.

    Raises:
        ParamsInvalid: it is no Python.
    """
    with _unwatched():
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            raise ParamsInvalid(f"{file.name} is not Python. Correct it.") from None
        done, imports = written_out(tree)
    names = frozenset(name for each in imports for name in _imported(each, package))
    return Module(hashlib.sha256(done.encode()).digest(), names)


def differing(one: Path, other: Path) -> list[Path]:
    """The files of two packages that do not do the same, or that one of them lacks.

    Modules do the same as their digests say. Whatever else lies in a package, such as a template,
    does the same if its bytes are the same.
    """
    ours, theirs = _files(one), _files(other)
    return sorted(
        path for path in ours | theirs if path not in ours & theirs or not _alike(path, one, other)
    )


def _files(package: Path) -> set[Path]:
    found = (path.relative_to(package) for path in package.rglob("*") if path.is_file())
    return {path for path in found if "__pycache__" not in path.parts}


def _alike(path: Path, one: Path, other: Path) -> bool:
    if (one / path).read_bytes() == (other / path).read_bytes():
        return True
    modules = path.suffix == ".py"
    return modules and read_module(one / path).digest == read_module(other / path).digest


@cache
def own_code() -> Code:
    """The code that runs, this package's; it does not change while it does."""
    return Code(OWN.parent)


@contextmanager
def _unwatched() -> Iterator[None]:
    """Without the search for circles in memory, which takes half of the time of a parser."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _lies_in(name: str, packages: Collection[str]) -> bool:
    inside = any(name == each or name.startswith(f"{each}.") for each in packages)
    return inside or f"{name}.__init__" in packages


def _packages(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(2, len(parts))]


def _imported(node: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    """Names that may be modules: `from a import b` may mean the module `a.b`."""
    names = [alias.name for alias in node.names]
    if isinstance(node, ast.Import):
        return names
    parts = package.split(".")
    above = parts[: len(parts) - node.level + 1] if node.level else []
    base = ".".join([*above, *([node.module] if node.module else [])])
    return [base, *(f"{base}.{name}" for name in names)]
