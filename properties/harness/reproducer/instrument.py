"""Functions that tell the tape what they do: their code is replaced while an example is replayed.

Nothing of torch is patched: what a fault, a backend or a user's code has replaced in torch is
called as it is. Each call, attribute, operator and block in the source of a law (and of what it
uses here) becomes a call of the tape; outside of a replay no function differs from its source.
"""

import ast
import builtins
import contextlib
import copy
import functools
import gc
import linecache
from types import CodeType, FunctionType
from typing import Any, Callable, Dict, Iterator, List, Tuple

TAPE = "__frostproof_tape__"
# They look at the frame that calls them, or decide what a name means.
LEFT_ALONE = ("super", "locals", "globals", "vars", "dir")
# They go through all that a generator gives.
CONSUMERS = ("sum", "sorted", "list", "tuple", "set", "dict", "min", "max")
LOAD = ast.Load()


class Instrument(ast.NodeTransformer):
    """Rewrites a module; no function of it gets or loses a free variable or a function inside."""

    def __init__(self) -> None:
        self.number = 0

    def tell(self, node: ast.AST, method: str, *arguments: Any, **more: Any) -> Any:
        """``TAPE.method(arguments)`` in the place of a node; plain values become constants."""
        values: List[Any] = [a if isinstance(a, ast.AST) else ast.Constant(a) for a in arguments]
        function = ast.Attribute(ast.Name(TAPE, ast.Load()), method, ast.Load())
        made = ast.Call(function, [*values, *more.get("rest", [])], more.get("keywords", []))
        return ast.copy_location(made, node)

    def visit_Call(self, node: ast.Call) -> Any:
        function = node.func
        if isinstance(function, ast.Name):
            scoped = function.id not in ("eval", "exec") or len(node.args) > 1
            if function.id in LEFT_ALONE or not scoped:
                return node
        whole = isinstance(function, ast.Name) and function.id in CONSUMERS
        rest = [
            self.comprehension(each)
            if whole and isinstance(each, ast.GeneratorExp)
            else self.visit(each)
            for each in node.args
        ]
        more = {"rest": rest, "keywords": node.keywords}
        for keyword in node.keywords:
            keyword.value = self.visit(keyword.value)
        if isinstance(function, ast.Attribute) and not self.mangled(function.attr):
            return self.tell(node, "method", self.visit(function.value), function.attr, **more)
        return self.tell(node, "call", self.visit(function), **more)

    @staticmethod
    def mangled(name: str) -> bool:
        return name.startswith("__") and not name.endswith("__")

    def expression(self, node: Any) -> Any:
        """An attribute, subscript or operator: a pattern such as ``_1 + _2``, and its operands."""
        self.generic_visit(node)
        read = isinstance(getattr(node, "ctx", LOAD), ast.Load)
        if not read or self.mangled(getattr(node, "attr", "")) or len(getattr(node, "ops", "1")) > 1:
            return node
        pattern, operands = copy.copy(node), []
        for field, value in ast.iter_fields(node):
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, (ast.expr, ast.Slice)):
                    operands.append(self.index(each))
                    hole = ast.Name(f"_{len(operands)}", LOAD)
                    setattr(pattern, field, [hole] if isinstance(value, list) else hole)
        return self.tell(node, "expression", ast.unparse(pattern), *operands)

    visit_Attribute = visit_Subscript = visit_BinOp = visit_UnaryOp = visit_Compare = expression

    def comprehension(self, node: Any) -> Any:
        """A list, set or dict: its source, in which ``_1`` stands for the first name from outside."""
        pattern = copy.deepcopy(node)
        names = [each for each in ast.walk(pattern) if isinstance(each, ast.Name)]
        inside = {each.id for each in names if isinstance(each.ctx, ast.Store)}
        outside = list(dict.fromkeys(each.id for each in names if each.id not in inside))
        for each in names:
            if each.id in outside:
                each.id = f"_{outside.index(each.id) + 1}"
        self.generic_visit(node)
        return self.tell(node, "gathered", ast.unparse(pattern), " ".join(outside), node)

    visit_ListComp = visit_SetComp = visit_DictComp = comprehension

    def index(self, node: Any) -> Any:
        """A subscript as an expression of its own."""
        if isinstance(node, ast.Slice):
            parts = [part or ast.Constant(None) for part in (node.lower, node.upper, node.step)]
            return ast.copy_location(ast.Call(ast.Name("slice", LOAD), parts, []), node)
        if isinstance(node, ast.Tuple):
            node.elts = [self.index(each) for each in node.elts]
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        self.generic_visit(node)
        self.number += 1
        word = "or" if isinstance(node.op, ast.Or) else "and"
        node.values = [
            self.tell(each, "joined", word, self.number, place, place + 1 == len(node.values), each)
            for place, each in enumerate(node.values)
        ]
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> Any:
        return node  # a sentence

    def visit_Expr(self, node: ast.Expr) -> Any:
        self.generic_visit(node)
        if isinstance(node.value, ast.Call):
            node.value = self.tell(node.value, "discarded", node.value)
        return node

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        node.test = self.tell(node.test, "branch", node.test)
        return node

    def visit_Assert(self, node: ast.Assert) -> Any:
        node.test = self.tell(node.test, "asserted", ast.unparse(node), self.visit(node.test))
        return node

    def visit_With(self, node: ast.With) -> Any:
        self.generic_visit(node)
        for item in node.items:
            item.context_expr = self.tell(item.context_expr, "block", item.context_expr)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value is None:
            return node
        return self.visit_Assign(ast.copy_location(ast.Assign([node.target], node.value), node))

    def visit_Assign(self, node: ast.Assign) -> Any:
        node.value = self.visit(node.value)
        if len(node.targets) > 1:
            return node
        target = node.targets[0]
        if isinstance(target, ast.Name):
            node.value = self.tell(node.value, "name", target.id, node.value)
        elif isinstance(target, (ast.Attribute, ast.Subscript)):
            return self.stored(target, node.value, node)
        elif isinstance(target, (ast.Tuple, ast.List)):
            names = [each.id if isinstance(each, ast.Name) else "-" for each in target.elts]
            node.value = self.tell(node.value, "name_each", " ".join(names), node.value)
            later: List[Any] = []
            for place, each in enumerate(target.elts):
                if isinstance(each, (ast.Attribute, ast.Subscript)):
                    self.number += 1
                    kept = f"{TAPE}{self.number}"
                    target.elts[place] = ast.copy_location(ast.Name(kept, ast.Store()), each)
                    later.append(self.stored(each, ast.Name(kept, LOAD), node))
            return [node, *later]
        return node

    def stored(self, target: Any, value: Any, node: ast.AST) -> ast.AST:
        """``owner.name = value`` or ``owner[index] = value`` as a statement that tells."""
        owner = self.visit(target.value)
        if isinstance(target, ast.Attribute):
            if self.mangled(target.attr):
                return ast.copy_location(ast.Assign([target], value), node)
            told = self.tell(node, "set_attribute", value, owner, target.attr)
        else:
            told = self.tell(node, "set_item", value, owner, self.index(self.visit(target.slice)))
        return ast.copy_location(ast.Expr(told), node)

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        target, simple = node.target, isinstance(node.target, ast.Name)
        if not simple and not isinstance(getattr(target, "value", None), ast.Name):
            return self.generic_visit(node)
        old = ast.copy_location(ast.parse(ast.unparse(target), mode="eval").body, node)
        pattern = ast.unparse(ast.AugAssign(ast.Name("_1", LOAD), node.op, ast.Name("_2", LOAD)))
        value = self.tell(node, "augmented", pattern, self.visit(old), self.visit(node.value))
        if simple:
            return ast.copy_location(ast.Assign([target], value), node)
        return self.stored(target, value, node)


def _parts(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _parts(constant)


@functools.lru_cache(None)
def _codes(path: str) -> Dict[Tuple[str, int], List[Tuple[CodeType, CodeType]]]:
    """(plain, telling) code of each function of a file, by name and first line."""
    source = "".join(linecache.getlines(path))
    plain = compile(ast.parse(source), path, "exec")
    tree = ast.fix_missing_locations(Instrument().visit(ast.parse(source)))
    found: Dict[Tuple[str, int], List[Tuple[CodeType, CodeType]]] = {}
    for one, two in zip(_parts(plain), _parts(compile(tree, path, "exec"))):
        found.setdefault((one.co_name, one.co_firstlineno), []).append((one, two))
    return found


def telling(code: str, mode: str) -> CodeType:
    """Code for ``eval`` or ``exec``, compiled so that it tells the tape."""
    tree: Any = ast.parse(code.strip(), mode=mode)
    return compile(ast.fix_missing_locations(Instrument().visit(tree)), "<code>", mode)


@contextlib.contextmanager
def instrumented(wanted: Callable[[FunctionType], bool], tape: Any) -> Iterator[None]:
    """Every function that is wanted tells the tape inside the block."""
    changed: List[Tuple[FunctionType, CodeType]] = []
    try:
        functions = [each for each in gc.get_objects() if type(each) is FunctionType and wanted(each)]
        for function in functions:
            code = function.__code__
            pairs = _codes(code.co_filename).get((code.co_name, code.co_firstlineno), [])
            same = [two for one, two in pairs if len(pairs) == 1 or _facts(one) == _facts(code)]
            if same and same[0].co_freevars == code.co_freevars:
                changed.append((function, code))
                function.__code__ = same[0]
        setattr(builtins, TAPE, tape)
        yield
    finally:
        for function, code in changed:
            function.__code__ = code
        vars(builtins).pop(TAPE, None)


def _facts(code: CodeType) -> Any:
    """What tells functions of one name and line apart."""
    plain = [each for each in code.co_consts if not isinstance(each, CodeType)]
    return code.co_code, code.co_names, repr(plain)
