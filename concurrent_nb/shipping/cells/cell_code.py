"""Parse and compile a cell and its options, and reject code that a task does not support.

Used by the magics and `cell_task`. A cell is compiled to a function, so that its variables are as fast as a function's.
Names that functions or classes in the cell use as globals stay globals, so that the cell keeps its meaning.
No code of the user runs here, except for the iterable of `--for`.
"""

import __future__ as futures

import ast
import io
import itertools
import re
import tokenize
import types
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from concurrent_nb.errors import CellError, ConfigurationError, TooLarge
from concurrent_nb.shipping.cells.names import CellNames, names_of

#: maximum number of tasks of a cell
MOST_CALLS: Final = 1_000_000
#: names of the options in tracebacks
UNTIL: Final = "<--until>"
FOR: Final = "<--for>"

_FUNCTION: Final = "__cell__"
_PREFIX: Final = f"{_FUNCTION}.<locals>."
#: prefix of the parameters for names of --for that must be globals
_LOOP_PREFIX: Final = "__for__"
_MAGIC: Final = re.compile(r"^\s*(?:[%!?]|\w[\w, ]*=\s*[%!])|\?\s*$")


@dataclass(frozen=True, slots=True)
class Cell:
    """A parsed cell."""

    source: str
    filename: str  #: the cell's name in tracebacks
    header: str | None  #: the magic's line, which is no part of `source` but counts as line 1
    tree: ast.Module
    flags: int  #: the compiler's, from `from __future__ import`
    names: CellNames
    has_value: bool  #: its last statement is an expression without a `;`


@dataclass(frozen=True, slots=True)
class UntilClause:
    """The parsed expression of --until: `result is not None`."""

    text: str
    names: CellNames


def parse_cell(source: str, filename: str = "<cell>", header: str | None = None) -> Cell:
    """Parse a cell.

    Args:
        filename: the cell's name in tracebacks.
        header: the cell's first line, if it is no part of `source` (the magic's), so that line numbers count it.

    Raises SyntaxError as Python does, with the cell's own lines; CellError, with line and text, if the cell is empty
    or contains something that a task does not support.
    """
    first_line = 1 if header is None else 2
    source = _without_indent(source)
    lines = source.splitlines()
    tree = _parse(source, filename, first_line)
    if not tree.body:
        raise CellError(f"{filename} is empty: there is nothing to run in a task")
    for node, what in _unsupported(tree):
        text = lines[node.lineno - first_line].strip()
        raise CellError(f"line {node.lineno}: {what}\n    {text}")
    flags = _future_flags(tree)
    try:
        compile(tree, filename, "exec", flags, True)
    except SyntaxError as error:
        if error.text is None and error.lineno is not None:
            error.text = lines[error.lineno - first_line]
        raise
    has_value = isinstance(tree.body[-1], ast.Expr) and not _ends_in_semicolon(source)
    return Cell(source, filename, header, tree, flags, names_of(tree, flags), has_value)


def _without_indent(source: str) -> str:
    """Remove the indent of the first line from all lines, as IPython does with other cells."""
    first = next((line for line in source.splitlines() if line.strip()), "")
    indent = first[: len(first) - len(first.lstrip(" \t"))]
    if not indent:
        return source
    return "".join(line.removeprefix(indent) for line in source.splitlines(keepends=True))


def _parse(source: str, filename: str, first_line: int) -> ast.Module:
    try:
        return ast.parse("\n" * (first_line - 1) + source, filename)
    except SyntaxError as error:
        text = error.text or ""
        if _MAGIC.search(text):
            raise CellError(
                f"line {error.lineno}: magics, shell commands and `?` do not work in a task:"
                f" run this line in another cell\n    {text.strip()}"
            ) from error
        raise
    except ValueError as error:
        raise CellError(f"{filename} cannot be parsed: {error}") from error
    except (RecursionError, MemoryError) as error:
        raise CellError(f"{filename} is nested too deeply for Python's parser: split the cell") from error


def _unsupported(tree: ast.Module) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    """Yield code outside of functions and classes that a task does not support, with an explanation."""
    todo: list[ast.AST] = list(reversed(tree.body))
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.Await, ast.AsyncFor, ast.AsyncWith)):
            yield node, "`await` outside of a function: a task has no event loop; use asyncio.run(...)"
        elif isinstance(node, ast.Return):
            yield node, "`return` outside of a function: the value of a cell is its last expression"
        elif isinstance(node, (ast.Yield, ast.YieldFrom)):
            yield node, "`yield` outside of a function: collect the values in a list, or use --for"
        elif isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            yield node, f"`import *` hides the names that the cell uses: import them by name from {node.module}"
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)) and any(
            part.is_async for part in node.generators
        ):
            yield node, "`async for` outside of a function: a task has no event loop; use asyncio.run(...)"
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            todo += [*node.decorator_list, *node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
        elif not isinstance(node, ast.Lambda):
            todo += reversed(list(ast.iter_child_nodes(node)))


def _future_flags(tree: ast.Module) -> int:
    flags = 0
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            for alias in node.names:
                feature = getattr(futures, alias.name, None)
                flags |= getattr(feature, "compiler_flag", 0)
    return flags


def _ends_in_semicolon(source: str) -> bool:
    last = ""
    idle = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in idle:
            last = token.string
    return last == ";"


# ------------------------------------------------------------------------------------------------- the cell's function


def compile_cell(cell: Cell, loop_names: tuple[str, ...], assigned: tuple[str, ...]) -> types.CodeType:
    """Compile a cell to the code of a function.

    Args:
        loop_names: names of --for: its first parameters.
        assigned: captured names that the cell also binds: its other parameters.
    """
    global_names = cell.names.global_names
    parameters = [f"{_LOOP_PREFIX}{name}" if name in global_names else name for name in loop_names]
    parameters += [name for name in assigned if name not in global_names]
    body = _without_futures(cell.tree)
    if cell.has_value:
        last = body[-1]
        assert isinstance(last, ast.Expr)
        body[-1] = ast.copy_location(ast.Return(last.value), last)
    prologue: list[ast.stmt] = []
    if global_names:
        prologue.append(ast.Global(sorted(global_names)))
        prologue += ast.parse("".join(f"{n} = {_LOOP_PREFIX}{n}\n" for n in loop_names if n in global_names)).body
        body = [_Unannotated(global_names).visit(statement) for statement in body]
    return _compile_function("<cell>", parameters, prologue + body, cell.filename, cell.flags)


def compile_until(until: UntilClause, loop_names: tuple[str, ...]) -> types.CodeType:
    """Compile the expression of --until to the code of a function of `result` and the names of --for."""
    tree = ast.parse(until.text.strip(), UNTIL, "eval")
    return _compile_function("<until>", ["result", *loop_names], [ast.Return(tree.body)], UNTIL, 0)


def _compile_function(
    name: str, parameters: list[str], body: list[ast.stmt], filename: str, flags: int
) -> types.CodeType:
    module = ast.parse(f"def {_FUNCTION}(): pass")
    function = module.body[0]
    assert isinstance(function, ast.FunctionDef)
    function.args.args = [ast.arg(parameter) for parameter in parameters]
    function.body = body or [ast.Pass()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were shown when the cell was parsed
        code = compile(ast.fix_missing_locations(module), filename, "exec", flags, True)
    made = next(constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return _renamed(made).replace(co_name=name, co_qualname=name)


def _without_futures(tree: ast.Module) -> list[ast.stmt]:
    return [node for node in tree.body if not (isinstance(node, ast.ImportFrom) and node.module == "__future__")]


class _Unannotated(ast.NodeTransformer):
    """Replaces `x: int = 1` by `x = 1` if x is global, because Python allows no annotation there."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if not isinstance(node.target, ast.Name) or node.target.id not in self._names:
            return node
        plain = ast.Pass() if node.value is None else ast.Assign([node.target], node.value)
        return ast.copy_location(plain, node)

    def _leave(self, node: ast.AST) -> ast.AST:
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = visit_Lambda = _leave


def _renamed(code: types.CodeType) -> types.CodeType:
    """Give the functions and classes of the cell their names in the notebook: `f`, not `__cell__.<locals>.f`."""
    constants = tuple(
        _renamed(constant)
        if isinstance(constant, types.CodeType)
        else constant.removeprefix(_PREFIX)
        if isinstance(constant, str)
        else constant
        for constant in code.co_consts
    )
    return code.replace(co_consts=constants, co_qualname=code.co_qualname.removeprefix(_PREFIX))


# ---------------------------------------------------------------------------------------------------------- the options


@dataclass(frozen=True, slots=True)
class ForClause:
    """The parsed text of --for: `n in range(128)`."""

    text: str
    targets: tuple[str, ...]  #: the names that it binds
    names: CellNames
    code: types.CodeType

    def calls(self, namespace: Mapping[str, Any], most: int = MOST_CALLS) -> list[tuple[Any, ...]]:
        """Evaluate it with the notebook's names; return the arguments of each task.

        Raises TooLarge for more than `most` tasks, and what the iterable raises.
        """
        # A comprehension sees only the globals of an eval.
        try:
            produced: Iterator[tuple[Any, ...]] = eval(self.code, dict(namespace))
            calls = list(itertools.islice(produced, most + 1))
        except Exception as error:
            error.add_note(f'raised by --for "{self.text}"')
            raise
        if len(calls) > most:
            raise TooLarge(f'--for "{self.text}" makes more than {most:,} tasks: let each task do more of the work')
        return calls


def parse_for(text: str) -> ForClause:
    """Parse the text of --for. Raises ConfigurationError."""
    tree = _parse_option(f"(0 for {text}\n)", "--for", text, 'write it as in a comprehension: --for "n in range(10)"')
    made = tree.body
    if not isinstance(made, ast.GeneratorExp) or not isinstance(made.elt, ast.Constant):
        raise ConfigurationError(f'--for "{text}" is not a clause of a comprehension: write --for "n in range(10)"')
    for node in ast.walk(made):
        if isinstance(node, (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)):
            raise ConfigurationError(f'--for "{text}": `:=`, `await` and `yield` are not allowed here')
        if isinstance(node, ast.comprehension) and node.is_async:
            raise ConfigurationError(f'--for "{text}": `async for` is not allowed here')
    targets = tuple(dict.fromkeys(name for part in made.generators for name in _target_names(part.target, text)))
    made.elt = ast.Tuple([ast.Name(name, ast.Load()) for name in targets], ast.Load())
    ast.fix_missing_locations(tree)
    return ForClause(text, targets, names_of(tree), compile(tree, FOR, "eval", 0, True))


def _target_names(target: ast.expr, text: str) -> Iterator[str]:
    for node in ast.walk(target):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, (ast.Attribute, ast.Subscript)):
            raise ConfigurationError(f'--for "{text}": only names are allowed before `in`, not {ast.unparse(node)}')


def parse_until(text: str) -> UntilClause:
    """Parse the expression of --until. Raises ConfigurationError."""
    advice = 'write an expression over `result`: --until "result is not None"'
    tree = _parse_option(text.strip(), "--until", text, advice)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Await, ast.Yield, ast.YieldFrom)):
            raise ConfigurationError(f'--until "{text}": `await` and `yield` are not allowed here')
    return UntilClause(text, names_of(tree))


def _parse_option(source: str, option: str, text: str, advice: str) -> ast.Expression:
    try:
        tree = ast.parse(source, option, "eval")
        compile(tree, option, "eval", 0, True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ConfigurationError(f'{option} "{text}" is not valid Python ({reason}): {advice}') from error
    return tree
