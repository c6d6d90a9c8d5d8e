"""The number of threads that libraries use while a task of several cores runs in a worker, and afterwards.

The environment variables of a worker (`workers.protocol.thread_variables`) set the share of one slot, which each
library reads when it is loaded. For a task of N cores, loaded libraries are set to N by their APIs, and the variables
to N for those that the task loads. Libraries without such an API (numexpr, numba, polars) keep the number that they
have read.
"""

import os
import re
from importlib import import_module
from typing import Any, Final

from concurrent_nb.workers.protocol.thread_variables import THREADS

#: the variable that a library reads, by threadpoolctl's name of its kind; all others read the first of THREADS
_VARIABLES: Final = {"openblas": "OPENBLAS_NUM_THREADS", "mkl": "MKL_NUM_THREADS", "blis": "BLIS_NUM_THREADS"}


class LibraryThreads:
    """Set the number of threads of this process's libraries until `undo` is called. Takes some milliseconds.

    Raises ImportError without threadpoolctl.
    """

    def __init__(self, threads: int) -> None:
        self._numbers: dict[str, int] = {}  # of the loaded libraries, by path
        for library in _libraries():
            self._numbers[library.filepath] = library.get_num_threads()
            library.set_num_threads(threads)
        self._environment = {name: os.environ.get(name) for name in THREADS}
        os.environ.update(dict.fromkeys(THREADS, str(threads)))

    def undo(self) -> None:
        """Restore the numbers. Libraries that were loaded meanwhile get the number that the environment sets."""
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for library in _libraries():
            known = self._numbers.get(library.filepath)
            library.set_num_threads(_configured_threads(library.internal_api) if known is None else known)


def _libraries() -> list[Any]:
    # Here, because most workers never need it. By name, because it has no type annotations.
    controllers: list[Any] = import_module("threadpoolctl").ThreadpoolController().lib_controllers
    return controllers


def _configured_threads(kind: str) -> int:
    """Return the number of threads that the environment sets for a kind of library."""
    text = os.environ.get(_VARIABLES.get(kind, THREADS[0])) or os.environ.get(THREADS[0], "")
    number = re.match(r"\s*(\d+)", text)  # OpenMP also allows "4,2"
    return max(1, int(number[1])) if number else 1
