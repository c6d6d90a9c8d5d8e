"""Find the cells that only define functions: they make task functions instead of a task.

Used by the notebook's magics. Runs nothing.
"""

import ast

from concurrent_nb.errors import CellError
from concurrent_nb.shipping.cells.cell_code import Cell

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def functions_defined(cell: Cell) -> list[str]:
    """Return the names of the functions of a cell that contains only functions, classes and imports.

    The list is empty for any other cell, and for one without functions. Raises CellError for an async function.

    >>> from concurrent_nb.shipping.cells.cell_code import parse_cell
    >>> functions_defined(parse_cell("import math\\ndef area(r): return math.pi * r**2"))
    ['area']
    >>> functions_defined(parse_cell("def area(r): return 3 * r**2\\narea(2)"))
    []
    """
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
