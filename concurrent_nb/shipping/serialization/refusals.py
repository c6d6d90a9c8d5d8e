"""Kinds of objects that may not travel: what they are, and what to do instead.

Objects define how they are pickled, so the pickler is asked first. It raises `Refused` for what it could pickle, but
wrongly. `pickling_failures` finds the part of a larger object that cannot travel.
"""

import concurrent.futures
import contextvars
import dataclasses
import io
import pickle
import sys
import threading
import types
import weakref
from typing import Any, Final

from concurrent_nb.shipping.serialization import task_inputs
from concurrent_nb.shipping.serialization.references import is_importable_module

_STAYS: Final = "it belongs to this process"
_MANAGED: Final = f"{_STAYS}: use one of a multiprocessing.Manager, which can be sent, or return values"
_SHELL_MODULES: Final = ("IPython.core.interactiveshell", "IPython.core.autocall", "ipykernel.")
_OWN_PACKAGES: Final = tuple(f"concurrent_nb.{package}" for package in ("api", "nodes", "notebook", "transport"))
_LOCKS: Final = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Semaphore,
    threading.Event,
    threading.Barrier,
)
#: (types, description, advice)
_TABLE: Final[tuple[tuple[tuple[type, ...], str, str], ...]] = (
    ((io.IOBase,), "an open file", "open it in the task, or send its path or its contents"),
    (_LOCKS, "a lock", "it guards nothing in another process: make one in the task, if the task needs it"),
    ((threading.Thread,), "a thread", _STAYS),
    ((type(threading.local()),), "thread-local data", _STAYS),
    ((types.GeneratorType,), "a generator", "make a list of it first"),
    ((types.CoroutineType, types.AsyncGeneratorType), "a coroutine", "await it first and use its result"),
    ((types.FrameType, types.TracebackType), "a frame of a running program", "send its text"),
    ((concurrent.futures.Future,), "a future", "call its result() first and use that"),
    ((concurrent.futures.Executor,), "an executor", _STAYS),
    ((contextvars.ContextVar,), "a context variable", f"{_STAYS}: pass its value to the task"),
    ((memoryview,), "a memoryview", "use bytes() of it"),
    (
        (weakref.ReferenceType, weakref.ProxyType, weakref.CallableProxyType),
        "a weak reference",
        "use the object itself",
    ),
)
#: the same for types of modules that may not be imported: (module, type, description, advice)
_LAZY: Final = (
    ("socket", "socket", "a socket", "connect in the task"),
    ("subprocess", "Popen", "a running process", _STAYS),
    ("asyncio", "Future", "a future", "await it first and use its result"),
    ("asyncio", "AbstractEventLoop", "an event loop", _STAYS),
    ("sqlite3", "Connection", "a database connection", "connect in the task"),
    ("multiprocessing.process", "BaseProcess", "a running process", _STAYS),
    ("multiprocessing.connection", "_ConnectionBase", "an end of a pipe", _MANAGED),
    ("multiprocessing.synchronize", "SemLock", "a lock of multiprocessing", _MANAGED),
    ("multiprocessing.queues", "Queue", "a queue of multiprocessing", _MANAGED),
    ("multiprocessing.queues", "SimpleQueue", "a queue of multiprocessing", _MANAGED),
    ("queue", "Queue", "a queue", _MANAGED),
    ("queue", "SimpleQueue", "a queue", _MANAGED),
    ("multiprocessing.sharedctypes", "SynchronizedBase", "a value that processes share", _MANAGED),
)

_of_type: "weakref.WeakKeyDictionary[type, tuple[str, str] | None]" = weakref.WeakKeyDictionary()


class Refused(pickle.PicklingError):
    """`thing` can be pickled, but would be unpickled as something else."""

    def __init__(self, thing: Any) -> None:
        what, advice = refusal(thing) or (a_or_an(type(thing).__qualname__), _STAYS)
        super().__init__(f"{what} cannot be sent: {advice}")


def refusal(thing: Any) -> tuple[str, str] | None:
    """Return a description of `thing` and advice, if it is of a kind that cannot travel; else None."""
    if isinstance(thing, types.ModuleType):
        if is_importable_module(thing):
            return None
        return "a module that exists in this process only", "put it into a file that workers can import"
    if isinstance(thing, io.IOBase) and _is_harmless(thing):
        return None
    kind = type(thing.__self__ if isinstance(thing, types.MethodType) else thing)
    if getattr(kind, "leaves_references", False) is True and task_inputs.collector() is not None:
        return None
    if kind not in _of_type:
        _of_type[kind] = _refusal_of_type(kind)
    return _of_type[kind]


def _is_harmless(thing: io.IOBase) -> bool:
    """Return whether a file is in memory, or a standard stream, which travels by name."""
    if isinstance(thing, (io.BytesIO, io.StringIO)):
        return True
    return type(thing) is io.TextIOWrapper and any(thing is stream for stream in (sys.stdout, sys.stderr))


def _refusal_of_type(kind: type) -> tuple[str, str] | None:
    for kinds, what, advice in _TABLE:
        if issubclass(kind, kinds):
            return what, advice
    for module, name, what, advice in _LAZY:
        base = getattr(sys.modules.get(module), name, None)
        if isinstance(base, type) and issubclass(kind, base):
            return what, advice
    for base in kind.__mro__ if is_refused_type(kind) else ():
        if base.__module__.startswith(_SHELL_MODULES):
            return "part of the notebook's shell", "a task has none, so leave it out"
        if base.__module__.startswith(_OWN_PACKAGES):
            return f"{a_or_an(base.__name__)} of concurrent_nb", f"{_STAYS}: use it outside of the task"
    return None


def a_or_an(noun: str) -> str:
    """Return a noun behind its article."""
    return f"{'an' if noun[0] in 'AEIOUaeiou' else 'a'} {noun}"


def is_refused_type(kind: type) -> bool:
    """Return whether objects of a class are refused before they are pickled: they are parts of this process."""
    if kind is memoryview:
        return True
    pipes = sys.modules.get("multiprocessing.connection")
    if pipes is not None and issubclass(kind, pipes._ConnectionBase):
        return True  # the number of its descriptor would be pickled, which is another file there
    if any(getattr(kind, name) is not getattr(object, name) for name in ("__reduce__", "__reduce_ex__")):
        return False
    if dataclasses.is_dataclass(kind) or issubclass(kind, tuple):  # plain data of this package
        return False
    return any(base.__module__.startswith((*_SHELL_MODULES, *_OWN_PACKAGES)) for base in kind.__mro__)
