"""Analyse which names a cell needs from outside, and which it binds itself. Uses the syntax tree; runs nothing.

Used by `cell_code`. A name is *needed* if it may be read before the cell has bound it: `n` in `n += 1`, but not `x` in
`x = 1; print(x)`. A cell that was run in the notebook before has left all of its names there, and sending
these would be slow, or for an open file impossible.

The cell and class bodies run from top to bottom, so the set of certainly bound names is computed for each statement.
The names that a function reads are looked up when it is called, so they count as read where the function's name is
read. The names that lambdas and comprehensions read count as read at their position.
"""

import ast
import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from concurrent_nb.shipping.cells.scopes import Function, Inner

_Read = tuple[str, int, bool]  # name, line, whether only an annotation reads it


@dataclass(frozen=True, slots=True)
class CellNames:
    """The names of a piece of code."""

    needed: dict[str, int]  #: read while possibly not bound: name -> line of the first read
    bound: frozenset[str]  #: bound at the top level, or as a global by a function in it
    global_names: frozenset[str]  #: used as globals by functions or classes in it, so they must be globals
    hinted: frozenset[str]  #: needed only by annotations, which Python may never evaluate


def names_of(tree: ast.Module | ast.Expression, flags: int = 0) -> CellNames:
    """Analyse a cell, or the expression of an option. `flags`: compiler flags of `from __future__ import`."""
    flow = _Flow(flags)
    flow.visit(tree)
    for reads in flow.later.values():
        flow.read_all(reads)
    declared = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    for name in sorted(declared):
        flow.read(name, 0, hint=True)
    return CellNames(
        needed=flow.needed,
        bound=frozenset(flow.bound | declared),
        global_names=frozenset(flow.global_names | declared),
        hinted=frozenset(flow.hinted),
    )


class _Flow(ast.NodeVisitor):
    """Visits statements in the order in which they run, and computes which names are certainly bound at each point.

    `certain` is None at unreachable points: after `raise`, `break`, `continue`. There every name counts as bound.
    """

    def __init__(self, flags: int, class_name: str | None = None) -> None:
        self.flags = flags
        self.class_name = class_name
        self.certain: set[str] | None = set()
        self.needed: dict[str, int] = {}
        self.bound: set[str] = set()
        self.global_names: set[str] = set()
        self.hinted: set[str] = set()
        self.later: dict[str, list[_Read]] = {}  #: function or class -> names that it reads when it is used
        self._using: set[str] = set()
        self._breaks: list[list[set[str] | None]] = []

    # ---------------------------------------------------------------------------------------------------- the state

    def read(self, name: str, line: int, hint: bool = False, inner: bool = False) -> None:
        # Functions and comprehensions in a class do not see its names.
        bound = self.certain is None or (name in self.certain and not (inner and self.class_name is not None))
        if not bound:
            if not hint:
                self.hinted.discard(name)
            elif name not in self.needed:
                self.hinted.add(name)
            self.needed.setdefault(name, line)
        if name in self.later and name not in self._using:
            self._using.add(name)
            self.read_all(self.later[name])
            self._using.discard(name)

    def read_all(self, reads: Iterable[_Read]) -> None:
        for name, line, hint in reads:
            self.read(name, line, hint, inner=True)

    def bind(self, name: str | None) -> None:
        if name is not None:
            self.bound.add(name)
            if self.certain is not None:
                self.certain.add(name)

    def _visit_all(self, nodes: Iterable[ast.AST | None]) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node)

    def _branch(self, start: set[str] | None, nodes: Iterable[ast.AST | None]) -> set[str] | None:
        """Visit `nodes` with the initial state `start`; return the state after them."""
        self.certain = None if start is None else set(start)
        self._visit_all(nodes)
        return self.certain

    def _copy(self) -> set[str] | None:
        return None if self.certain is None else set(self.certain)

    # -------------------------------------------------------------------------------------------------- expressions

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.read(node.id, node.lineno)
        elif isinstance(node.ctx, ast.Store):
            self.bind(node.id)
        else:
            # `del` reads the name, and the notebook's value is gone afterwards.
            self.read(node.id, node.lineno)
            self.bind(node.id)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self.bind(node.target.id)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.visit(node.values[0])
        start = self._copy()
        self._visit_all(node.values[1:])
        self.certain = start

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit(node.test)
        start = self._copy()
        self.certain = _both(self._branch(start, [node.body]), self._branch(start, [node.orelse]))

    def visit_Lambda(self, node: ast.Lambda) -> None:
        # It may be called in the same expression, so its names count as read here.
        self._visit_all([*node.args.defaults, *node.args.kw_defaults])
        self.read_all(self._inner(node))

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        first = node.generators[0]
        self.visit(first.iter)
        # The first iterable is evaluated outside of the comprehension, so the rest is analysed without it.
        rest = copy.copy(node)
        rest.generators = [ast.comprehension(first.target, ast.Constant(None), first.ifs, 0), *node.generators[1:]]
        self.read_all(self._inner(ast.fix_missing_locations(rest)))

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def _inner(self, node: ast.expr | Function) -> list[_Read]:
        """Return the names that a function or comprehension reads from the enclosing code; record those it binds."""
        inner = Inner(node, self.class_name, self.flags)
        self.bound |= inner.stores  # by `global`, or by `:=` in a comprehension, if it runs
        self.global_names |= inner.global_names
        return [(name, line, False) for name, line in inner.reads.items()]

    def _use_later(self, name: str, reads: list[_Read], immediately: bool) -> None:
        """Bind a function or class that reads these names when it is used; `immediately` if a decorator may use it."""
        if immediately:
            self.read_all(reads)
        else:
            self.later.setdefault(name, []).extend(reads)
        self.bind(name)

    def _hint(self, annotation: ast.AST | None, hidden: frozenset[str] = frozenset()) -> None:
        for name, line in _loaded(annotation):
            if name not in hidden:
                self.read(name, line, hint=True)

    # --------------------------------------------------------------------------------------------------- statements

    def visit_Assign(self, node: ast.Assign) -> None:
        self._visit_all([node.value, *node.targets])

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.read(node.target.id, node.lineno)
        self._visit_all([node.value, node.target])

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        # Annotations of local variables are not evaluated, and a cell is a function.
        if self.class_name is not None:
            self._hint(node.annotation)
        if node.value is not None:
            self._visit_all([node.value, node.target])
        elif isinstance(node.target, ast.Name):
            self.bound.add(node.target.id)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.bind(alias.asname or alias.name.partition(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level == 1 and node.module is not None:  # in a package, this binds the submodule too
            self.bind(node.module.partition(".")[0])
        for alias in node.names:
            self.bind(alias.asname or alias.name)

    def _function(self, node: Function) -> None:
        self._visit_all([*node.decorator_list, *node.args.defaults, *node.args.kw_defaults])
        for annotation in _annotations(node):
            self._hint(annotation, _type_parameters(node))
        self._use_later(node.name, self._inner(node), bool(node.decorator_list))

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_all([*node.decorator_list, *node.bases, *node.keywords])
        inner = _Flow(self.flags, node.name)
        for name in ("__module__", "__qualname__", *_type_parameters(node)):
            inner.bind(name)
        inner._visit_all(node.body)
        # A name that a class reads before it binds it is looked up as a global, not in the enclosing function
        # (`class A: x = x`). So such a name must be a global.
        self.global_names |= inner.global_names | (inner.bound & inner.needed.keys())
        # If it is not a global either, Python raises NameError.
        left = inner.hinted | inner.bound
        self.read_all((name, line, name in left) for name, line in inner.needed.items())
        reads = [read for reads in inner.later.values() for read in reads]
        self._use_later(node.name, reads, bool(node.decorator_list or node.bases or node.keywords))

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        start = self._copy()
        self.certain = _both(self._branch(start, node.body), self._branch(start, node.orelse))

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        start = self._copy()
        self._loop([node.target, *node.body])
        # The body may not have run at all.
        self.certain = _both(start, self._branch(start, node.orelse))

    visit_AsyncFor = visit_For

    def visit_While(self, node: ast.While) -> None:
        self.visit(node.test)
        start = self._copy()
        breaks = self._loop(node.body)
        if isinstance(node.test, ast.Constant) and node.test.value:
            self.certain = None
        else:
            self._branch(start, node.orelse)
        for state in breaks:
            self.certain = _both(self.certain, state)

    def _loop(self, body: Iterable[ast.AST]) -> list[set[str] | None]:
        self._breaks.append([])
        self._visit_all(body)
        return self._breaks.pop()

    def visit_Break(self, node: ast.Break) -> None:
        self._breaks[-1].append(self._copy())
        self.certain = None

    def visit_Continue(self, node: ast.Continue) -> None:
        self.certain = None

    def visit_Raise(self, node: ast.Raise) -> None:
        self._visit_all([node.exc, node.cause])
        self.certain = None

    def _try(self, node: "ast.Try | ast.TryStar") -> None:
        start = self._copy()
        end = self._branch(start, [*node.body, *node.orelse])
        for handler in node.handlers:
            self.certain = None if start is None else set(start)
            self._visit_all([handler.type])
            self.bind(handler.name)
            self._visit_all(handler.body)
            end = _both(end, self.certain)
        # `finally` also runs when the other parts fail, so only names that were bound before are certain.
        last = self._branch(start, node.finalbody)
        self.certain = None if end is None or last is None else end | (last - (start or set()))

    visit_Try = visit_TryStar = _try

    def _with(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            self._visit_all([item.context_expr, item.optional_vars])
        self._visit_all(node.body)

    visit_With = visit_AsyncWith = _with

    def visit_Match(self, node: ast.Match) -> None:
        self.visit(node.subject)
        start = self._copy()
        end: set[str] | None = None
        for case in node.cases:
            end = _both(end, self._branch(start, [case.pattern, case.guard, *case.body]))
        self.certain = end if _catches_all(node.cases[-1]) else _both(end, start)

    def _capture(self, node: ast.MatchAs | ast.MatchStar) -> None:
        self.generic_visit(node)
        self.bind(node.name)

    visit_MatchAs = visit_MatchStar = _capture

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self.generic_visit(node)
        self.bind(node.rest)

    def visit_TypeAlias(self, node: ast.AST) -> None:
        # `type X = ...` of Python 3.12: the value is evaluated lazily.
        for child in ast.iter_child_nodes(node):
            self._hint(child, _type_parameters(node))
        self.bind(next(_loaded(node))[0])


def _annotations(node: Function) -> Iterator[ast.AST]:
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    for annotation in (*(argument.annotation for argument in every if argument is not None), node.returns):
        if annotation is not None:
            yield annotation


def _loaded(node: ast.AST | None) -> Iterator[tuple[str, int]]:
    for part in ast.walk(node) if node is not None else ():
        if isinstance(part, ast.Name):
            yield part.id, part.lineno


def _type_parameters(node: ast.AST) -> frozenset[str]:
    """Return the names in `def f[T]` and `class C[T]` of Python 3.12 and later."""
    return frozenset(parameter.name for parameter in getattr(node, "type_params", ()))


def _both(one: set[str] | None, other: set[str] | None) -> set[str] | None:
    """Return the names that are bound on both paths to a point."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _catches_all(case: ast.match_case) -> bool:
    pattern = case.pattern
    return case.guard is None and isinstance(pattern, ast.MatchAs) and pattern.pattern is None
