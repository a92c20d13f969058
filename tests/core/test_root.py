"""Nothing depends on the working directory but the command line, which says which root it is."""

import ast
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "pipeline" / "lethe"
ENTRIES = ("cli/",)  # where a person, DVC or a scheduler starts a process in a workspace's root
ASKS = {"cwd", "getcwd", "chdir", "fchdir", "getcwdb"}
STARTS = {"load_params", "of"}  # what a process is started beside; what is joined to a root
# What takes a name of the workspace alone, and opens nothing by it.
OPENS = {
    *("open", "read_bytes", "read_text", "write_bytes", "write_text", "glob", "rglob", "iterdir"),
    *("exists", "is_file", "is_dir", "unlink", "mkdir", "rmdir", "stat", "rename", "replace"),
    *("read_json", "write_json", "write_whole", "shard_paths", "read_people", "load_model", "read"),
    *(
        "read_table",
        "read_parquet",
        "rmtree",
        "copyfile",
        "mkstemp",
        "mkdtemp",
        "TemporaryDirectory",
        "held",
        "absolute",
        "resolve",
    ),
}


def _parts(node: ast.expr, places: set[str]) -> bool:
    """A relative path of the workspace: `workspace.X`, a name of such a one, or below one."""
    match node:
        case ast.Attribute(value=ast.Name(id="workspace" | "places"), attr=name):
            return name.isupper()
        case ast.Name(id=name):
            return name in places
        case ast.Call(func=function) if _last(function) == "report_path":
            return True
        case ast.Call(func=ast.Name(id="Path"), args=[ast.Constant(value=str(written))]):
            return not written.startswith("/")
        case ast.BinOp(left=left, op=ast.Div()):
            return _parts(left, places)
    return False


def _names(tree: ast.Module, known: dict[str, set[str]]) -> set[str]:
    """The names of a module that stand for places: its own, and those it imports."""
    places: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in known:
            inside = known[node.module]
            places |= {each.asname or each.name for each in node.names if each.name in inside}
    for node in tree.body:
        if isinstance(node, ast.Assign) and _parts(node.value, places):
            places |= {each.id for each in node.targets if isinstance(each, ast.Name)}
    return places


@cache
def _known() -> dict[str, set[str]]:
    """Module → the names in it that are places of a workspace."""
    known: dict[str, set[str]] = {}
    trees = {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts): ast.parse(path.read_text())
        for path in SOURCE.rglob("*.py")
    }
    while True:
        found = {module: _names(tree, known) for module, tree in trees.items()}
        if found == known:
            return known
        known = found


def wrong(text: str) -> list[str]:
    """Where a module asks for the working directory, or opens a place without a root."""
    tree = ast.parse(text)
    places = _names(tree, _known())

    def place(node: ast.expr) -> bool:
        return _parts(node, places)

    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if name in ASKS and not _of_a_process(node):
                found.append(f"{node.lineno}: {name}")
            case ast.ImportFrom(names=names) if {each.name for each in names} & ASKS:
                found.append(f"{node.lineno}: {[each.name for each in names]}")
            case ast.FunctionDef(name=name, args=declared) if name not in STARTS:
                if any(each is not None and place(each) for each in _defaults(declared)):
                    found.append(f"{node.lineno}: {name} has a place by default")
            case ast.Call(func=function, args=arguments, keywords=keywords):
                given = [*arguments[:1], *(each.value for each in keywords)]
                owner = [function.value] if isinstance(function, ast.Attribute) else []
                if _last(function) in OPENS and any(map(place, [*given, *owner])):
                    found.append(f"{node.lineno}: {_last(function)} without a root")
    return found


def _defaults(declared: ast.arguments) -> list[ast.expr | None]:
    return [*declared.defaults, *declared.kw_defaults]


def _last(function: ast.expr) -> str:
    return getattr(function, "attr", getattr(function, "id", ""))


def _of_a_process(node: ast.Attribute) -> bool:
    """psutil's `process.cwd()` is that of another one."""
    return isinstance(node.value, ast.Name) and node.value.id == "process"


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).as_posix()
)
def test_a_module_takes_its_root_from_whoever_calls_it(path: Path) -> None:
    if path.relative_to(SOURCE).as_posix().startswith(ENTRIES):
        return
    assert wrong(path.read_text()) == []


IMPORTS = "from lethe.config.workspace import PLAN\nfrom lethe.config import workspace\n"


@pytest.mark.parametrize(
    "line",
    [
        "Path.cwd()",
        "os.getcwd()",
        "os.chdir(root)",
        "from contextlib import chdir",
        "workspace.PLAN.read_bytes()",
        "PLAN.exists()",
        "read_json(PLAN)",
        "write_json(workspace.report_path('train'), {})",
        "(workspace.PLOTS / 'a.csv').unlink()",
        "shard_paths(workspace.SHARDS)",
        "BitMap.deserialize(workspace.MANIFEST.read_bytes())",
        "tempfile.mkstemp(dir=workspace.TEMPORARY)",
        "MARKS = workspace.STATE / 'marks.json'\nread_json(MARKS)",
        "def read(path: Path = workspace.PLAN) -> None: ...",
        "FILE = Path('params.yaml')\nFILE.read_text()",
    ],
)
def test_each_way_to_depend_on_the_working_directory_is_seen(line: str) -> None:
    assert wrong(IMPORTS + line)


@pytest.mark.parametrize(
    "line",
    [
        "read_json(params.at(PLAN))",
        "(root / workspace.PLAN).read_bytes()",
        "params.at(workspace.PLOTS / 'a.csv').unlink()",
        "history.out_md5(workspace.MODEL)",
        "workspace.SHARDS.as_posix()",
        "Path(process.cwd())",
    ],
)
def test_a_root_or_a_name_alone_is_right(line: str) -> None:
    assert wrong(IMPORTS + line) == []
