"""A function of a compiled cell: called here as any function, pickled with all that another machine needs for it."""

import ctypes
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from concurrent_nb.shipping.compiled.build import Build, load

_READ_ONLY: Final = (
    "arrays that travel to a task are read-only: declare the argument `const`, as in `const double[:] a`, or change a"
    " copy, as in `f(a.copy())`"
)


class CythonFunction:
    """A `def` or `cpdef` of a cell.

    Args:
        build: the cell.
        name: of the function.
        job_name: what jobs of it are called in the cluster's status, if not like the function.
        travelled: it runs as a task, so with OpenMP it takes all cores that its slave may use.

    Raises what `load` raises.
    """

    #: nothing that its pickle is made from can change, so that is made once
    never_changes: Final = True

    def __init__(self, build: Build, name: str, job_name: str = "", travelled: bool = False) -> None:
        self.build = build
        self.__name__ = job_name or name  # jobs take their names from here
        self.__qualname__ = name
        self.__module__ = "__main__"
        module = load(build)
        self.__wrapped__: Callable[..., Any] = getattr(module, name)
        self.__doc__ = self.__wrapped__.__doc__
        self._threads = _Threads(str(module.__file__)) if travelled and build.recipe.openmp else None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the compiled function, in this process."""
        __tracebackhide__ = True  # for IPython
        try:
            if self._threads is None:
                return self.__wrapped__(*args, **kwargs)
            with self._threads.all_cores():
                return self.__wrapped__(*args, **kwargs)
        except ValueError as error:
            if "read-only" in str(error):
                error.add_note(_READ_ONLY)
            raise

    @property
    def nbytes(self) -> int:
        """Return how large its pickle is, about."""
        return len(self.build.c) + len(self.build.binary) + len(self.build.recipe.source)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.__wrapped__)

    def __repr__(self) -> str:
        return f"<compiled function {self.__qualname__}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self.build, self.__qualname__)


def _arrive(build: Build, name: str) -> CythonFunction:
    """Unpickle a CythonFunction, and load it, so that what is missing here is missed at once."""
    return CythonFunction(build, name, travelled=True)


class _Threads:
    """How many threads OpenMP takes in this thread.

    A worker's environment gives it the share of one slot; a cell with --openmp is meant to have the whole machine.

    Args:
        path: of a library that was linked with OpenMP; through it the runtime is found that it uses.
    """

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        self._set, self._get = library.omp_set_num_threads, library.omp_get_max_threads

    @contextmanager
    def all_cores(self) -> Iterator[None]:
        """Take all cores that this process may use, and afterwards as many as before."""
        before = self._get()
        self._set(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        try:
            yield
        finally:
            self._set(before)
