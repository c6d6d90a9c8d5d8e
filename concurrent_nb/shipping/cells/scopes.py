"""Find the global names that a function, lambda or comprehension uses, by compiling it, so Python's own rules apply.

Used by `names`. Compiles code, never runs it.
"""

import ast
import dis
import inspect
import types
import warnings
from collections.abc import Iterator
from typing import Final

Function = ast.FunctionDef | ast.AsyncFunctionDef

_LOADS: Final = frozenset({"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"})
_STORES: Final = frozenset({"STORE_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"})
#: names that Python itself binds for functions and classes
_IMPLIED: Final = frozenset({"__name__", "__class__", "__classdict__", "__conditional_annotations__"})


class Inner:
    """The global names that a function, lambda or comprehension in a cell uses.

    Args:
        node: a function, a lambda or a comprehension.
        class_name: the class that contains it, if any.
        flags: compiler flags of `from __future__ import`.
    """

    def __init__(self, node: ast.expr | Function, class_name: str | None, flags: int) -> None:
        self.reads: dict[str, int] = {}  #: name -> line
        self.stores: set[str] = set()
        self.global_names: set[str] = set()  #: those that a class in it reads as globals
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they were shown when the cell was compiled
            for code in _codes_of(node, class_name, flags):
                self._inspect(code)

    def _inspect(self, code: types.CodeType) -> None:
        instructions = list(dis.get_instructions(code))
        is_class = not code.co_flags & inspect.CO_NEWLOCALS and "__qualname__" in code.co_names
        bound = {i.argval for i in instructions if i.opname == "STORE_NAME"} if is_class else set()
        so_far: set[str] = set()
        for instruction in instructions:
            name = instruction.argval
            if instruction.opname in _LOADS and name not in so_far and name not in _IMPLIED:
                line = instruction.positions.lineno if instruction.positions is not None else None
                self.reads.setdefault(name, line or code.co_firstlineno)
                if name in bound:
                    self.global_names.add(name)
            elif instruction.opname == "STORE_NAME" and is_class:
                so_far.add(name)
            elif instruction.opname in _STORES:
                self.stores.add(name)


def _codes_of(node: ast.expr | Function, class_name: str | None, flags: int) -> Iterator[types.CodeType]:
    if not isinstance(node, Function):
        code = compile(ast.Expression(node), "<cell>", "eval", flags, True)
        # In newer Pythons, comprehensions have no code object of their own.
        return _functions_in(code) if isinstance(node, ast.Lambda) else _with_inner(code)
    body: list[ast.stmt] = [node]
    if class_name is not None:  # for the mangling of private names
        shell = ast.parse(f"class {class_name}: pass").body[0]
        assert isinstance(shell, ast.ClassDef)
        shell.body = body
        body = [shell]
    return _functions_in(compile(ast.Module(body, []), "<cell>", "exec", flags, True))


def _functions_in(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield the code objects of the functions that a module (or its only class) defines, and those nested in them."""
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _with_inner(inner) if inner.co_flags & inspect.CO_NEWLOCALS else _functions_in(inner)


def _with_inner(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _with_inner(inner)
