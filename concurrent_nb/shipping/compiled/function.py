"""A function of a compiled cell: callable here, and pickled with everything that another machine needs for it."""

import inspect
from collections.abc import Callable
from typing import Any, Final

from concurrent_nb.shipping.compiled.build import Build, load
from concurrent_nb.wire.messages import Needs


class CythonFunction:
    """A `def` or `cpdef` of a cell.

    Args:
        build: the cell.
        name: of the function.
        job_name: name of its jobs in the cluster's status; "": that of the function.
        needs: of its tasks; None: with OpenMP all cores of a slave, else a slot.

    Raises what `load` raises.
    """

    #: its pickle cannot change, so it is made once
    never_changes: Final = True

    def __init__(self, build: Build, name: str, job_name: str = "", needs: Needs | None = None) -> None:
        self.build = build
        self.__name__ = job_name or name  # jobs take their names from here
        self.__qualname__ = name
        self.__module__ = "__main__"
        self.__wrapped__: Callable[..., Any] = getattr(load(build), name)
        self.__doc__ = self.__wrapped__.__doc__
        self.task_needs = needs or (Needs(cores=0) if build.recipe.openmp else None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the compiled function, in this process."""
        __tracebackhide__ = True  # for IPython
        return self.__wrapped__(*args, **kwargs)

    @property
    def nbytes(self) -> int:
        """Return the approximate size of its pickle, in bytes."""
        return len(self.build.c) + len(self.build.binary) + len(self.build.recipe.source)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.__wrapped__)

    def __repr__(self) -> str:
        return f"<compiled function {self.__qualname__}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_function, (self.build, self.__qualname__)


def _load_function(build: Build, name: str) -> CythonFunction:
    """Unpickle a CythonFunction, and load it, so that errors are raised immediately."""
    return CythonFunction(build, name)
