"""Which cells only define: they become task functions, and no task.

Used by the notebook's magics. Runs nothing.
"""

import ast

from concurrent_nb.errors import CellError
from concurrent_nb.shipping.cells.cell_code import parse_cell

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def functions_defined(source: str, filename: str = "<cell>", first_line: int = 1) -> list[str]:
    """Give the names of the functions of a cell that only defines functions, with classes and imports beside them.

    Empty for any other cell: that one has something to run, or nothing at all.

    >>> functions_defined("import math\\ndef area(r): return math.pi * r**2")
    ['area']
    >>> functions_defined("def area(r): return 3 * r**2\\narea(2)")
    []

    Raises as `parse_cell` does, and CellError for an async function.
    """
    cell = parse_cell(source, filename, first_line)
    body = cell.tree.body
    statements = body[1:] if _is_text(body[0]) else body
    if not all(isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Import, ast.ImportFrom)) for node in statements):
        return []
    for node in statements:
        if isinstance(node, ast.AsyncFunctionDef):
            raise CellError(
                f"line {node.lineno}: `async def {node.name}` cannot be a task function, because a task has no event"
                " loop: write a function that calls asyncio.run(...)"
            )
    return list(dict.fromkeys(node.name for node in statements if isinstance(node, ast.FunctionDef)))


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
