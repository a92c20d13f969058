"""Two modules of one digest do the same: what may be said otherwise, and what never."""

import ast
from pathlib import Path
from textwrap import dedent

import pytest

from lethe.core.behaviour import Code, differing
from lethe.core.errors import ParamsInvalid
from lethe.core.syntax import written_out

WRITTEN = '''
    """What it does."""
    from typing import TYPE_CHECKING
    RATE = 0.5

    def step(grads, clip=1.0, *rest, scale=2):
        """Sums."""
        total = 0
        for grad in grads:
            total += min(grad, clip) * scale
        return [each + RATE for each in (total, *rest)]

    class Plan:
        steps: int = 3

        def price(self):
            return self.steps
'''

SAME = {
    "comment": ("RATE = 0.5", "RATE = 0.5  # a half"),
    "docstring": ('"""Sums."""', '"""Adds up.\n\n        At length.\n        """'),
    "no docstring": ('"""Sums."""\n', "\n"),
    "module docstring": ('"""What it does."""', '"""Something else."""'),
    "attribute docstring": ("steps: int = 3", 'steps: int = 3\n        """How many."""'),
    "quotes": ('"""Sums."""', "'Sums.'"),
    "layout": (
        "(grads, clip=1.0, *rest, scale=2)",
        "(\n        grads, clip=1.0, *rest, scale=2\n    )",
    ),
    "brackets": ("total += min(grad, clip) * scale", "total += (min(grad, clip)) * scale"),
    "number": ("clip=1.0", "clip=1.00"),
    "variable": ("total", "summed"),
    "loop variable": (
        "for grad in grads:\n            total += min(grad,",
        "for g in grads:\n            total += min(g,",
    ),
    "comprehension": ("each + RATE for each", "e + RATE for e"),
    "argument's annotation": ("grads, clip=1.0", "grads: list[float], clip: float = 1.0"),
    "result's annotation": ("scale=2):", "scale=2) -> list[float]:"),
    "variable's annotation": ("total = 0\n", "total: float = 0\n"),
    "pass": ("return self.steps", "pass\n            return self.steps"),
    "for type checkers": ("RATE = 0.5", "if TYPE_CHECKING:\n        import torch\n    RATE = 0.5"),
}

OTHER = {
    "constant": ("RATE = 0.5", "RATE = 0.25"),
    "kind of a number": ("total = 0\n", "total = 0.0\n"),
    "truth for one": ("scale=2", "scale=True"),
    "default": ("clip=1.0", "clip=2.0"),
    "operator": ("* scale", "/ scale"),
    "swapped variables": ("min(grad, clip)", "min(clip, grad)"),
    "another variable": ("each + RATE for each in (total,", "each + RATE for each in (RATE,"),
    "argument's name": ("scale", "factor"),
    "function's name": ("def step", "def stepped"),
    "field's type": ("steps: int", "steps: float"),
    "field's name": ("steps", "rounds"),
    "order": ("total = 0\n        for", "for"),
    "decorator": ("def price", "@property\n        def price"),
    "annotation that a decorator reads": (
        "def price(self)",
        "@register\n        def price(self) -> int",
    ),
    "text": ("RATE = 0.5", 'RATE = "0.5"'),
    "indent": ("        return [each", "            return [each"),
    "names are looked up": ("total = 0\n", "total = len(locals())\n"),
    "import": ("RATE = 0.5", "import torch\n    RATE = 0.5"),
}


def _digest(text: str) -> str:
    return written_out(ast.parse(dedent(text)))[0]


def _edited(old: str, new: str) -> str:
    assert old in WRITTEN
    return WRITTEN.replace(old, new)


@pytest.mark.parametrize("what", SAME)
def test_what_is_only_said_otherwise_is_the_same(what: str) -> None:
    assert _edited(*SAME[what]) != WRITTEN
    assert _digest(_edited(*SAME[what])) == _digest(WRITTEN)


@pytest.mark.parametrize("what", OTHER)
def test_what_may_do_something_else_differs(what: str) -> None:
    assert _digest(_edited(*OTHER[what])) != _digest(WRITTEN)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # A name that is a variable here and somebody else's there.
        ("def f():\n a = [b for b in c]\n return b", "def f():\n a = [d for d in c]\n return d"),
        ("def f(b):\n a = b\n return a", "def f(b):\n b = b\n return b"),
        ("def f():\n global a\n a = 1", "def f():\n global b\n b = 1"),
        ("def f():\n a = 1\n def g(a): return a\n", "def f():\n b = 1\n def g(a): return b\n"),
        (
            "def f():\n a = 1\n def g():\n  nonlocal a\n  a = 2\n return a",
            "def f():\n a = 1\n def g():\n  a = 2\n return a",
        ),
        ("def f():\n a = 1\n return eval('a')", "def f():\n b = 1\n return eval('a')"),
        ("def f():\n import a\n return a", "def f():\n import b\n return b"),
        ("def f():\n a = 1\n class C:\n  a = a\n", "def f():\n b = 1\n class C:\n  a = b\n"),
        ("def f():\n a = b = 1\n return a", "def f():\n b = a = 1\n return a"),
        ("def f():\n a, b = c\n return a", "def f():\n a, b = c\n return b"),
        ("def f():\n a = [x for x in x]", "def f():\n a = [x for x in y]"),
        ("def f():\n a: int", "def f():\n pass"),
    ],
)
def test_variables_are_renamed_only_where_nothing_else_has_the_name(one: str, other: str) -> None:
    assert _digest(one) != _digest(other)


def test_another_version_of_python_writes_the_same() -> None:
    """What an older file says must be comparable for years; a change here trains everybody anew."""
    text = "def f(a: int, *, b=None) -> int:\n c = f'{a!r:>{b}}' 'd'\n return {**a, 'k': c}[1:]\n"
    assert _digest(text) == (
        "(Module body [ (FunctionDef f args (arguments args [ (arg arg 'a' ) ] kwonlyargs [ "
        "(arg arg 'b' ) ] kw_defaults [ (Constant ) ] ) body [ (Assign targets [ (Name %0) ] "
        "value (JoinedStr values [ (FormattedValue value (Name a) conversion 114 format_spec "
        "(JoinedStr values [ (Constant value '>' ) (FormattedValue value (Name b) conversion -1 "
        ") ] ) ) (Constant value 'd' ) ] ) ) (Return value (Subscript value (Dict keys [ None "
        "(Constant value 'k' ) ] values [ (Name a) (Name %0) ] ) slice (Slice lower (Constant "
        "value 1 ) ) ) ) ] ) ] )"
    )


def _lay(root: Path, **files: str) -> Code:
    for name, text in files.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Code(root)


def test_a_module_reaches_what_it_imports_anywhere_and_through_others(tmp_path: Path) -> None:
    code = _lay(
        tmp_path,
        pack__start="from pack.deep import one\nimport torch\ndef f():\n from pack import lazy\n",
        pack__init="",
        pack__deep__one="from . import two\nfrom ..beside import x\n",
        pack__deep__two="import pack.deep.three as t\n",
        pack__deep__three="from pack.start import f\n",
        pack__beside="x = 1\n",
        pack__lazy="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n import pack.unseen\n",
        pack__unseen="",
    )
    (tmp_path / "pack" / "deep" / "__init__.py").write_text("import pack.shown\n")
    (tmp_path / "pack" / "shown.py").touch()
    reached = code.reached("pack.start")
    names = ("start", "deep", "deep.one", "deep.two", "deep.three", "beside", "lazy", "shown")
    assert reached == {f"pack.{name}" for name in names}
    assert code.reached("pack.start", leave_out={"pack.deep": "", "pack.lazy": ""}) == {
        "pack.start"
    }
    without = code.reached("pack.start", leave_out={"pack.deep.__init__": ""})
    assert without == reached - {"pack.deep", "pack.shown"}


def test_the_digest_of_a_package_has_its_folders_and_its_names(tmp_path: Path) -> None:
    def digest(root: Path, **files: str) -> str:
        code = _lay(root, **files)
        return code.digest(code.below("pack"))

    first = digest(tmp_path / "a", pack__x="A = 1", pack__deep__y="B = 1")
    assert digest(tmp_path / "b", pack__x="A = 1 # one", pack__deep__y="B = 1") == first
    assert digest(tmp_path / "c", pack__x="A = 1", pack__deep__y="B = 2") != first
    assert digest(tmp_path / "d", pack__x="A = 1", pack__deep__z="B = 1") != first
    assert digest(tmp_path / "e", pack__x="A = 1", pack__deep__y="B = 1", pack__z="") != first


def test_what_is_absent_or_no_python_is_said(tmp_path: Path) -> None:
    code = _lay(tmp_path, broken="def f(:\n", fine="import broken\n")
    with pytest.raises(ParamsInvalid, match="no module absent"):
        code.reached("absent")
    with pytest.raises(ParamsInvalid, match="no module absent"):
        code.digest(["absent"])
    with pytest.raises(ParamsInvalid, match="no package absent"):
        code.below("absent")
    with pytest.raises(ParamsInvalid, match=r"broken\.py is not Python"):
        code.reached("fine")


def test_packages_differ_in_what_their_files_do(tmp_path: Path) -> None:
    for package, module, template in (
        ("one", "x = 1\n", "a"),
        ("same", '"""Prose."""\nx = 1  # one\n', "a"),
        ("other", "x = 2\n", "b"),
    ):
        (tmp_path / package).mkdir()
        (tmp_path / package / "made.py").write_text(module)
        (tmp_path / package / "page.j2").write_text(template)
    (tmp_path / "other" / "more.py").write_text("")
    assert differing(tmp_path / "one", tmp_path / "same") == []
    found = differing(tmp_path / "one", tmp_path / "other")
    assert [each.name for each in found] == ["made.py", "more.py", "page.j2"]
