"""Tasks that are objects, on their way to a slave: their class travels once, as a function; their state as arguments.

    pushing side: Packer.pack(task) -> (pickled function, pickled arguments) -> a task like any other
    worker:       Caller(*args): makes the object, calls it, cleans up

Used by whoever pushes `Task`s. A class travels as it is when the first of its tasks is pushed.
"""

import copyreg
from collections.abc import Callable
from typing import Any, Final, cast

from concurrent_nb.errors import NotPicklable
from concurrent_nb.shipping import pickles
from concurrent_nb.shipping.functions import PickledFunction, Sourced
from concurrent_nb.shipping.pushed import run_task
from concurrent_nb.shipping.refusals import describe_failure, find_refused
from concurrent_nb.shipping.sources import sources_of
from concurrent_nb.tasks.system import Task
from concurrent_nb.wire.codec import function_digest

_NEWOBJ: Final = copyreg.__newobj__  # type: ignore[attr-defined]


class Caller:
    """What a worker calls for the tasks of one class."""

    def __init__(self, kind: type[Task]) -> None:
        self._kind = kind
        self.__name__ = self.__qualname__ = kind.__qualname__

    def __call__(self, args: tuple[Any, ...], state: Any) -> Any:
        """Make the object as unpickling would have made it, and do its work."""
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


class Packer:
    """Pickle tasks. Keeps what it has made of their classes."""

    def __init__(self) -> None:
        self._functions: dict[type, PickledFunction | None] = {}  # None: the objects travel whole
        self._run = _function(run_task, "run_task")

    def pack(self, task: Task) -> tuple[PickledFunction, bytes, list[memoryview]]:
        """Give a function, and its arguments for this task: pickle and buffers. Raises NotPicklable."""
        kind = type(task)
        try:
            function = self._functions[kind]
        except KeyError:
            function = self._functions[kind] = self._of_class(kind)
        try:
            if function is not None:
                make, made, *rest = cast(tuple[Any, ...], task.__reduce_ex__(4))
                if make is _NEWOBJ and made[0] is kind and not any(rest[1:]):
                    return function, *pickles.dumps_attributes(made[1:], rest[0] if rest else None)
            return self._run, *pickles.dumps_call((task,), {})
        except Exception as error:  # whatever the task's own pickling raises is its owner's to see
            raise NotPicklable(f"task {task.task_id} cannot be sent: {type(error).__name__}: {error}") from error

    def _of_class(self, kind: type[Task]) -> PickledFunction | None:
        if kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__:
            return None  # it knows how to travel
        name = kind.__qualname__
        if (culprit := find_refused(kind)) is not None:
            raise NotPicklable(f"{culprit.text(name)}: {culprit.advice}")
        return _function(Caller(kind), name)


def travelling(thing: Any) -> Any:
    """Give an object as it travels, with the notebook's lines that its class was made from. Raises NotPicklable."""
    kind = type(thing)
    if (culprit := find_refused(thing)) is not None:
        raise NotPicklable(f"{culprit.text(kind.__qualname__)}: {culprit.advice}")
    sources = sources_of([kind])
    return Sourced(thing, sources) if sources else thing


def _function(call: Callable[..., Any], name: str) -> PickledFunction:
    kind = getattr(call, "_kind", call)
    sources = sources_of([kind])
    try:
        body, live = pickles.dumps(Sourced(call, sources) if sources else call)
    except Exception as error:  # an object's own pickling may raise anything
        raise NotPicklable(describe_failure(name, kind, error)) from error
    buffers = [bytes(buffer) for buffer in live]
    return PickledFunction(function_digest([body, *buffers]), body, buffers, name)
