"""Pickles of task objects: their class travels once, as a function; their state as arguments.

    pushing side: TaskObjectPacker.pack(task) -> (pickled function, pickled arguments) -> a task like any other
    worker:       TaskObjectCaller(*args): makes the object; run_task: calls it, cleans up

Used where `Task`s are pushed, from an application or from a task system. `run_task` is here, and not in `tasks`,
because frames of this package are left out of tracebacks, which begin with the task's own lines.
"""

import copyreg
from functools import cached_property
from typing import Any, Final, cast

from concurrent_nb.errors import NotPicklable
from concurrent_nb.shipping.environment.envelope import NO_ENVIRONMENT, EnvironmentSource
from concurrent_nb.shipping.functions.pickled_functions import (
    PickledFunction,
    StoreBuffers,
    copy_buffers,
    pickled_by_value,
)
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.shipping.serialization.pickling_failures import describe_failure
from concurrent_nb.shipping.serialization.references import is_importable
from concurrent_nb.tasks.system import Task

_NEWOBJ: Final = copyreg.__newobj__  # type: ignore[attr-defined]


def run_task(task: Task) -> Any:
    """Call the task, and its `clean_up` before its result travels, also after an error.

    Raises what the task raises; if `clean_up` raises too, that is added as a note. If only `clean_up` raises, the
    task has failed: what it had to clean up is still there, and would not be reported otherwise.
    """
    try:
        result = task()
    except BaseException as error:
        try:
            task.clean_up()
        except BaseException as second:  # noqa: BLE001  (the first error is the cause; this one is added to it)
            error.add_note(f"its clean_up raised too: {type(second).__name__}: {second}")
        raise
    task.clean_up()
    return result


class TaskObjectCaller:
    """The function that a worker calls for the tasks of one class."""

    def __init__(self, kind: type[Task]) -> None:
        self._kind = kind
        self.__name__ = self.__qualname__ = kind.__qualname__

    def __call__(self, args: tuple[Any, ...], state: Any) -> Any:
        """Make the object as unpickling would make it, and run it."""
        task = self._kind.__new__(self._kind, *args)
        if state is not None and hasattr(task, "__setstate__"):
            task.__setstate__(state)
        elif state is not None:
            attributes, slots = state if type(state) is tuple else (state, None)
            if attributes:
                task.__dict__.update(attributes)
            for name, value in (slots or {}).items():
                setattr(task, name, value)
        return run_task(task)


class TaskObjectPacker:
    """Pickles tasks. Keeps the pickle of each class, which is sent as it was when its first task was packed.

    Args:
        store_buffers: takes snapshots of buffers that belong to a class.
        environment_source: of the environment of each class when its first task is packed.
    """

    def __init__(
        self, store_buffers: StoreBuffers = copy_buffers, environment_source: EnvironmentSource = NO_ENVIRONMENT
    ) -> None:
        self._store_buffers = store_buffers
        self._environment_source = environment_source
        #: by class: its function, None where the objects travel whole; and whether the class travels by name
        self._functions: dict[type, tuple[PickledFunction | None, bool]] = {}

    def pack(self, task: Task) -> tuple[PickledFunction, bytes, list[memoryview]]:
        """Return a function, and its arguments for this task: pickle and buffers. Raises NotPicklable."""
        kind = type(task)
        try:
            function, by_name = self._functions[kind]
        except KeyError:
            function, by_name = self._functions[kind] = self._of_class(kind), is_importable(kind)
        try:
            if function is not None:
                make, made, *rest = cast(tuple[Any, ...], task.__reduce_ex__(4))
                if make is _NEWOBJ and made[0] is kind and not any(rest[1:]):
                    # What is not plain may refer to the task itself, and only the whole object keeps that true.
                    state = rest[0] if rest else None
                    packed = pickles.dumps_attributes(made[1:], state, only_plain=by_name)
                    if packed is not None:
                        return function, *packed
            return self._run, *pickles.dumps_call((task,), {})
        except Exception as error:  # the task's own pickling may raise anything
            culprit = describe_failure(kind.__qualname__, task, error)
            raise NotPicklable(f"task {task.task_id} cannot be sent: {culprit}") from error

    @cached_property
    def _run(self) -> PickledFunction:
        return pickled_by_value(run_task, run_task, self._store_buffers, self._environment_source)

    def _of_class(self, kind: type[Task]) -> PickledFunction | None:
        if kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__:
            return None  # it defines its own pickling
        return pickled_by_value(TaskObjectCaller(kind), kind, self._store_buffers, self._environment_source)
