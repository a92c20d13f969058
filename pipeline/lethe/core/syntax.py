"""What a module's code does, written out; what is only said about it is left out.

Left out are comments, layout, docstrings, blocks for a type checker, annotations that nothing can
read while the code runs, and the names of a function's own variables. What remains may still say
too much (a renamed function counts as another one), never too little: two modules that are written
out alike do the same.

The rules are this module's own, since what `ast.dump` says of the same code differs between
versions of Python.
"""

import ast
from collections.abc import Sequence

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_INNER = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)
_UNSAID = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
_NAME_READERS = frozenset({"locals", "vars", "dir", "eval", "exec"})  # of a function's variables


def written_out(tree: ast.Module) -> tuple[str, list[ast.Import | ast.ImportFrom]]:
    """The code of a module, in a form of which each difference may matter, and what it imports."""
    writer = _Writer()
    writer.write(tree)
    return " ".join(writer.said), writer.imports


class _Writer:
    """Writes nodes one after the other; knows which variables are a function's own."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.imports: list[ast.Import | ast.ImportFrom] = []
        self._scopes: list[dict[str, str | None]] = []
        self._numbered = 0
        self._annotated = True  # whether annotations are kept where it is

    def write(self, node: ast.AST) -> None:
        match node:
            case ast.Name(id=name):
                self.said.append(f"(Name {self._name(name)})")
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._function(node)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self._comprehension(node)
            case ast.ClassDef():
                kept, self._annotated = self._annotated, True  # they declare fields
                self._fields(node, node._fields)
                self._annotated = kept
            case ast.AnnAssign(target=target, value=value) if not self._annotated:
                if value is None:
                    self._fields(node, ("target",))
                else:
                    self.write(ast.Assign(targets=[target], value=value))
            case ast.arg() if not self._annotated:
                self._fields(node, ("arg",))
            case ast.Import() | ast.ImportFrom():
                self.imports.append(node)
                self._fields(node, node._fields)
            case _:
                self._fields(node, node._fields)

    def _fields(self, node: ast.AST, names: Sequence[str]) -> None:
        self.said.append(f"({type(node).__name__}")
        for name in names:
            self._field(name, getattr(node, name, None))
        self.said.append(")")

    def _field(self, name: str, value: object) -> None:
        """Absent and empty ones are passed over: newer versions of Python have more of them."""
        if name in ("body", "orelse", "finalbody") and isinstance(value, list):
            value = _statements(value)
        if value is None or value == [] or name in _UNSAID:
            return
        self.said.append(name)
        if isinstance(value, ast.AST):
            self.write(value)
        elif isinstance(value, list):
            self.said.append("[")
            for each in value:
                self.write(each) if isinstance(each, ast.AST) else self.said.append(ascii(each))
            self.said.append("]")
        else:
            self.said.append(ascii(value))

    def _function(self, node: _Function) -> None:
        """A decorator may read annotations, and nothing else of a function's head is a guess."""
        kept, self._annotated = self._annotated, bool(node.decorator_list)
        self.said.append(f"({type(node).__name__} {node.name}")
        for name in ("decorator_list", "args", "type_params"):
            self._field(name, getattr(node, name, None))
        if self._annotated:
            self._field("returns", node.returns)
        self._annotated = False
        self._scopes.append(dict.fromkeys(_variables(node)))
        self._field("body", node.body)
        self._scopes.pop()
        self.said.append(")")
        self._annotated = kept

    def _comprehension(self, node: _Comprehension) -> None:
        """What it runs through first is looked up outside of it."""
        self.said.append(f"({type(node).__name__}")
        first = node.generators[0]
        self.write(first.iter)
        self._scopes.append(dict.fromkeys(_targets(node)))
        for at, generator in enumerate(node.generators):
            names = [name for name in generator._fields if at or name != "iter"]
            self._fields(generator, names)
        for name in ("key", "value", "elt"):
            self._field(name, getattr(node, name, None))
        self._scopes.pop()
        self.said.append(")")

    def _name(self, name: str) -> str:
        for scope in reversed(self._scopes):
            if name in scope:
                number = scope[name]
                if number is None:
                    number = scope[name] = f"%{self._numbered}"
                    self._numbered += 1
                return number
        return name


def _statements(body: list[ast.stmt]) -> list[ast.stmt]:
    """Those that do something: no docstring, no `pass`, nothing for a type checker."""
    kept: list[ast.stmt] = []
    for each in body:
        if isinstance(each, ast.If) and _for_type_checkers(each):
            kept += _statements(each.orelse)
        elif not isinstance(each, ast.Pass) and not (
            isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
        ):
            kept.append(each)
    return kept


def _for_type_checkers(block: ast.If) -> bool:
    """Whether it never runs: `if TYPE_CHECKING`."""
    test = block.test
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def _variables(function: _Function) -> set[str]:
    """The names that are the function's own and may be called anything.

    Each is assigned to in the function itself, so that whatever has the name within it is this
    variable or an inner function's own.
    """
    own: set[str] = set()
    left: list[ast.AST] = list(function.body)
    while left:
        node = left.pop()
        if isinstance(node, _INNER):
            continue
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            own.add(node.id)
        left += _children(node)
    return own - _fixed(function, own)


def _targets(comprehension: _Comprehension) -> set[str]:
    own = {
        node.id
        for generator in comprehension.generators
        for node in ast.walk(generator.target)
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
    }
    return own - _fixed(comprehension, own)


def _fixed(scope: ast.AST, own: set[str]) -> set[str]:
    """Names that mean more than a variable somewhere in a function; all of its own if in doubt."""
    fixed: set[str] = set()
    left: list[ast.AST] = [scope] if own else []
    while left:
        node = left.pop()
        left += _children(node)
        match node:
            case ast.Name(id=name):
                if name in _NAME_READERS:
                    return own
            case ast.ClassDef():  # its names follow rules of their own
                return own
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                fixed.add(name)
            case ast.alias(name=name, asname=known):
                fixed.add(known or name.partition(".")[0])
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                fixed |= set(names)
            case ast.ExceptHandler(name=str(name)) | ast.MatchMapping(rest=str(name)):
                fixed.add(name)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                fixed.add(name)
    return fixed


def _children(node: ast.AST) -> list[ast.AST]:
    found: list[ast.AST] = []
    for value in vars(node).values():
        if isinstance(value, list):
            found += [each for each in value if isinstance(each, ast.AST)]
        elif isinstance(value, ast.AST) and not isinstance(value, ast.expr_context):
            found.append(value)
    return found
