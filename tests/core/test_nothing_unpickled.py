"""Data is read as data: nothing in the product unpickles, or runs what a file names."""

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("pipeline", "dags", "infra", "benchmarks")
    for path in (PROJECT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)
MODULES = {
    *("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"),
    *("jsonpickle", "pickletools"),
}
CALLS = {
    # torch.load unpickles, and torch.save makes what only it reads; both have safetensors.
    *("torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "torch.package"),
    *("np.load", "numpy.load", "np.fromregex", "pd.read_pickle", "pandas.read_pickle"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.unsafe_load_all"),
    *("mlflow.pyfunc.load_model", "mlflow.pyfunc.load_pyfunc", "eval", "exec", "compile"),
    *("__import__", "runpy.run_path", "runpy.run_module", "dist.broadcast_object_list"),
    *("dist.all_gather_object", "dist.gather_object", "dist.recv_object_list"),
}
# Who may import by a name that is not in its own source, and of where the name is.
IMPORTERS = {
    "pipeline/lethe/__init__.py",  # the names of __all__, where the code says they are
    "pipeline/lethe/training/models.py",  # training.model of params.yaml
    "pipeline/lethe/stages/__init__.py",  # the stages, by the names listed there
}


def unsafe(source: str, name: str) -> list[str]:
    """Every construct in a module that could turn data into code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names if each.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.split(".")[0] in MODULES:
                found.append(module)
            names = [f"{module}.{each.name}" for each in node.names]
            found += [each for each in names if each in CALLS]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            words = {each.arg: ast.unparse(each.value) for each in node.keywords}
            if called in CALLS or words.get("allow_pickle", "False") != "False":
                found.append(called)
            if called == "importlib.import_module" and name not in IMPORTERS:
                found.append(called)
            if called == "yaml.load" and not _safe(source, words.get("Loader", "")):
                found.append(called)
            typ = words.get("typ", ast.unparse(node.args[0]) if node.args else "'rt'")
            if called in ("YAML", "ruamel.yaml.YAML") and typ not in ("'safe'", "'rt'"):
                found.append(f"{called}({typ})")
    return found


def _safe(source: str, loader: str) -> bool:
    """Whether the loader is a safe one, or a name for safe ones alone."""
    values = [
        ast.unparse(node.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == loader
    ] or [loader]
    return bool(loader) and all(
        each.id.endswith("SafeLoader") if isinstance(each, ast.Name) else True
        for value in values
        for each in ast.walk(ast.parse(value.replace("yaml.", "")))
        if not (isinstance(each, ast.Name) and each.id == "__with_libyaml__")
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(PROJECT).as_posix())
def test_nothing_is_unpickled_or_run_from_a_file(path: Path) -> None:
    name = path.relative_to(PROJECT).as_posix()
    assert unsafe(path.read_text(encoding="utf-8"), name) == []


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from joblib import load", "import torch\ntorch.load('m')"),
        *("from torch import load", "import numpy as np\nnp.load('a', allow_pickle=True)"),
        *("read(path, allow_pickle=flag)", "import yaml\nyaml.load(text, Loader=yaml.Loader)"),
        *("import yaml\nyaml.load(text)", "import yaml\nyaml.unsafe_load(text)"),
        *("YAML(typ='unsafe')", "YAML('unsafe')", "from yaml import full_load", "eval(text)"),
        *("import importlib\nimportlib.import_module(described['model'])",),
        *("_LOADER = yaml.Loader\nyaml.load(text, Loader=_LOADER)",),
    ],
)
def test_the_look_finds_what_it_looks_for(source: str) -> None:
    assert unsafe(source, "pipeline/lethe/some.py")


@pytest.mark.parametrize(
    "source",
    [
        *("YAML(typ='safe', pure=True)", "YAML()", "yaml.safe_load(text)", "re.compile(x)"),
        *("_L = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader\n"
          "yaml.load(text, Loader=_L)",),
        *("model.eval()", "safetensors.torch.load(content)"),
    ],
)  # fmt: skip
def test_the_look_leaves_alone_what_is_safe(source: str) -> None:
    assert unsafe(source, "pipeline/lethe/some.py") == []
