"""Cells that only define functions: they run in the notebook, and each function becomes a task function.

Used by the magics.
"""

import ast
from collections.abc import Sequence

from IPython.core.interactiveshell import InteractiveShell

from concurrent_nb import TaskFunction
from concurrent_nb.notebook.cell_names import cell_number
from concurrent_nb.notebook.cell_options import CellOptions
from concurrent_nb.shipping.cells.cell_code import Cell


def define(shell: InteractiveShell, cell: Cell, names: Sequence[str], options: CellOptions) -> None:
    """Run the cell in the notebook, and replace each function by a task function.

    Args:
        names: of the functions.

    Raises ConfigurationError for options that apply to tasks only, and what the cell raises.
    """
    options.check_for_definitions(names[0])
    # Tracebacks and the sources that are sent with functions find the lines by this name.
    filename = shell.compile.cache("\n" + cell.source, cell_number(shell), raw_code=f"{cell.header}\n{cell.source}")
    code = compile(ast.parse("\n" + cell.source, filename), filename, "exec", dont_inherit=True)
    exec(code, shell.user_ns)
    for name in names:
        shell.user_ns[name] = TaskFunction(shell.user_ns[name], options.needs)
    first = names[0]
    print(f"{', '.join(names)}: {first}(...) runs here, {first}.submit(...) and {first}.map(...) on the cluster")
