"""A task function as a task gets it: the plain function.

Its `submit`, `map` and `options` use the application that the task belongs to. They are attributes of the function, not
methods of a wrapper, so that calls of it take no longer and recursion goes as deep as ever.
"""

import contextlib
import sys
from importlib import import_module
from typing import Any, Final

#: the module of task functions: a name, because it is in a higher layer, and tasks that only call them need no cluster
_MODULE: Final = "concurrent_nb.task_functions"
#: the methods of a task function
METHODS: Final = ("submit", "map", "options")


class MethodInTask:
    """`submit`, `map` or `options` of a task function, in a task."""

    __slots__ = ("_function", "_name", "_task_function")

    def __init__(self, function: Any, name: str) -> None:
        self._function = function
        self._name = name
        self._task_function: Any = None  # when it is first called

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._task_function is None:
            self._task_function = import_module(_MODULE).TaskFunction(self._function)
        return getattr(self._task_function, self._name)(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return MethodInTask, (self._function, self._name)


def restored(function: Any) -> Any:
    """Return the function of a task function in the process of a task."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    is_of_module = module is not None and module.__name__ != "__main__"
    if not (is_of_module and getattr(module, getattr(function, "__name__", ""), None) is function):
        with contextlib.suppress(AttributeError, TypeError):  # some callables have no room for attributes
            for name in METHODS:
                setattr(function, name, MethodInTask(function, name))
    return function
