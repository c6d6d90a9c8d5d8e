"""How many threads libraries use while a task of several cores runs in a worker, and how many afterwards.

A worker's environment (`processes.environment`) gives its libraries the share of one slot, which each reads when it is
loaded. For a task of N cores those that are loaded already are told N, and the environment says N to those that the
task loads. Libraries that cannot be told (numexpr, numba, polars) keep what they have read.
"""

import os
import re
from importlib import import_module
from typing import Any, Final

from concurrent_nb.workers.protocol.thread_variables import THREADS

#: what a library reads, by the name that threadpoolctl has for its kind; all others read the first of THREADS
_VARIABLES: Final = {"openblas": "OPENBLAS_NUM_THREADS", "mkl": "MKL_NUM_THREADS", "blis": "BLIS_NUM_THREADS"}


class LibraryThreads:
    """So many threads for the libraries of this process, from now on until `undo`. Takes some milliseconds.

    Raises ImportError without threadpoolctl.
    """

    def __init__(self, threads: int) -> None:
        self._numbers: dict[str, int] = {}  # of the libraries that are loaded, by their paths
        for library in _libraries():
            self._numbers[library.filepath] = library.get_num_threads()
            library.set_num_threads(threads)
        self._environment = {name: os.environ.get(name) for name in THREADS}
        os.environ.update(dict.fromkeys(THREADS, str(threads)))

    def undo(self) -> None:
        """Let them use as many as before; those that were loaded meanwhile, as many as if they had been loaded now."""
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for library in _libraries():
            known = self._numbers.get(library.filepath)
            library.set_num_threads(_configured_threads(library.internal_api) if known is None else known)


def _libraries() -> list[Any]:
    # Here, because most workers never need it. By name, because it says nothing of its types.
    controllers: list[Any] = import_module("threadpoolctl").ThreadpoolController().lib_controllers
    return controllers


def _configured_threads(kind: str) -> int:
    """Give how many threads the environment means for a kind of library."""
    text = os.environ.get(_VARIABLES.get(kind, THREADS[0])) or os.environ.get(THREADS[0], "")
    number = re.match(r"\s*(\d+)", text)  # OpenMP allows "4,2", too
    return max(1, int(number[1])) if number else 1
