"""What a worker does with a pushed task: an object that is the work and its arguments at once.

It is here, and not in `tasks`, because frames of this room are left out of tracebacks: they begin with the task's own
lines. Used for `push_task(s)` and for the tasks of task systems.
"""

from collections.abc import Callable
from typing import Any, Final

from concurrent_nb.shipping.references import is_importable
from concurrent_nb.tasks.system import Task

#: methods by which a class has a say in its pickles
_PICKLING: Final = (
    "__new__",
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__setstate__",
    "__getnewargs__",
    "__getnewargs_ex__",
)


def run_task(task: Task) -> Any:
    """Call the task, and have it tidy up before its result travels, also after an error.

    Raises what the task raises; if `clean_up` raises too, that is told in a note. If only `clean_up` raises, the task
    has failed: what it was to tidy up is still there, and nobody else would say so.
    """
    try:
        result = task()
    except BaseException as error:
        try:
            task.clean_up()
        except BaseException as second:  # noqa: BLE001  (the first error is the one that explains; this one is told with it)
            error.add_note(f"its clean_up raised too: {type(second).__name__}: {second}")
        raise
    task.clean_up()
    return result


class RunAs:
    """Calls tasks of a class that travels by value: the class goes along once, as part of the function."""

    def __init__(self, cls: type[Task]) -> None:
        self._cls = cls
        self.__name__ = self.__qualname__ = cls.__qualname__

    def __call__(self, state: dict[str, Any]) -> Any:
        task = self._cls.__new__(self._cls)
        task.__dict__.update(state)
        return run_task(task)


def call_of(task: Task) -> tuple[object, Callable[..., Any], tuple[Any, ...]]:
    """Give (key, function, arguments) of the call that runs a task; where the key is the same, so is the function."""
    cls = type(task)
    if is_importable(cls) or not _is_its_dictionary(cls):
        return run_task, run_task, (task,)
    return cls, RunAs(cls), (vars(task),)


def _is_its_dictionary(cls: type) -> bool:
    """Say whether an object of this class is made of its class and its dictionary, and of nothing else."""
    return all(getattr(cls, name, None) is getattr(object, name, None) for name in _PICKLING) and not any(
        "__slots__" in vars(base) for base in cls.__mro__[:-1]
    )
