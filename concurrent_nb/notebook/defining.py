"""Cells that only define functions: they run here, and what they define becomes task functions.

Used by the magics.
"""

import ast
from collections.abc import Sequence
from typing import Any, Final

from IPython.core.interactiveshell import InteractiveShell

from concurrent_nb import TaskFunction
from concurrent_nb.errors import ConfigurationError

#: options that say how tasks run, and so have nothing to say in such a cell
_FOR_TASKS: Final = {
    "loop": "--for",
    "until": "--until",
    "out": "--out",
    "no_block": "--no-block",
    "local": "--local",
    "timeout": "--timeout",
    "retries": "--retries",
    "shared": "--shared",
    "view": "--view",
    "strategy": "--strategy",
    "batch": "--batch",
}


def define(shell: InteractiveShell, number: int, header: str, cell: str, names: Sequence[str], options: Any) -> None:
    """Run the cell in the notebook, and put a task function in the place of each function.

    Args:
        number: of the cell.
        header: the cell's first line.
        names: of the functions.
        chosen: the options.

    Raises ConfigurationError for options that only tasks can have, and what the cell raises.
    """
    for name, option in _FOR_TASKS.items():
        if getattr(options, name, None):
            raise ConfigurationError(
                f"{option}: the cell only defines functions, so there is nothing to run yet: give this to a cell that"
                f" calls {names[0]}"
            )
    source = f"{header}\n{cell}"
    # Tracebacks and the sources that travel with functions find the lines by this name.
    filename = shell.compile.cache("\n" + cell, number, raw_code=source)
    code = compile(ast.parse("\n" + cell, filename), filename, "exec", dont_inherit=True)
    exec(code, shell.user_ns)
    for name in names:
        shell.user_ns[name] = TaskFunction(shell.user_ns[name], options.needs)
    first = names[0]
    print(f"{', '.join(names)}: {first}(...) runs here, {first}.submit(...) and {first}.map(...) on the cluster")
