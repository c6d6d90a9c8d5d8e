"""Why an object cannot travel to another process, and where inside a larger one it hides.

Two questions: `find_refused` looks *before* anything is pickled for what must not travel (some of it pickles without a
complaint: cloudpickle sends an open file as its contents). `find_unpicklable` looks *after* pickling has failed for the
part that made it fail. Both answer with a `Culprit`, whose `text` is the middle of an error message.
"""

import concurrent.futures
import io
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from concurrent_nb.shipping import pickles
from concurrent_nb.shipping.references import ATOMS, is_importable, is_importable_module, references

#: how many objects `find_refused` looks at, and how deep
LOOKS: Final = 20_000
DEPTH: Final = 12

_HERE: Final = "it belongs to this process"
_SHELL: Final = ("IPython.core.interactiveshell", "IPython.core.autocall", "ipykernel.")
_OURS: Final = tuple(f"concurrent_nb.{room}" for room in ("api", "engines", "nodes", "notebook", "transport"))
_LOCKS: Final = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Semaphore,
    threading.Event,
    threading.Barrier,
)
#: (types, what it is called, what to do)
_TABLE: Final[tuple[tuple[tuple[type, ...], str, str], ...]] = (
    ((io.IOBase,), "an open file", "open it in the task, or send its path or its contents"),
    (_LOCKS, "a lock", "it guards nothing in another process: make one in the task, if the task needs it"),
    ((threading.Thread,), "a thread", _HERE),
    ((type(threading.local()),), "thread-local data", _HERE),
    ((types.GeneratorType,), "a generator", "make a list of it first"),
    ((types.CoroutineType, types.AsyncGeneratorType), "a coroutine", "await it first and use its result"),
    ((types.FrameType, types.TracebackType), "a frame of a running program", "send its text"),
    ((concurrent.futures.Future,), "a future", "call its result() first and use that"),
    ((concurrent.futures.Executor,), "an executor", _HERE),
    ((memoryview,), "a memoryview", "use bytes() of it"),
    (
        (weakref.ReferenceType, weakref.ProxyType, weakref.CallableProxyType),
        "a weak reference",
        "use the object itself",
    ),
)
#: the same for types of modules that may not be imported: (module, type, what it is called, what to do)
_LAZY: Final = (
    ("socket", "socket", "a socket", "connect in the task"),
    ("subprocess", "Popen", "a running process", _HERE),
    ("asyncio", "Future", "a future", "await it first and use its result"),
    ("asyncio", "AbstractEventLoop", "an event loop", _HERE),
    ("sqlite3", "Connection", "a database connection", "connect in the task"),
    ("multiprocessing.process", "BaseProcess", "a running process", _HERE),
)

_of_type: "weakref.WeakKeyDictionary[type, tuple[str, str] | None]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Culprit:
    """The part of an object that keeps it from travelling."""

    path: tuple[tuple[str, str], ...]  #: (kind, label) of each step from the object to the part
    what: str  #: "an open file"
    advice: str  #: what to do

    def text(self, name: str) -> str:
        """Write where it is and what: `f uses g, which uses settings['out'], an open file`."""
        first, *clauses = self._clauses(name)
        if not clauses:
            return f"{first} is {self.what}"
        return f"{first} uses {', which uses '.join(clauses)}, {self.what}"

    def _clauses(self, name: str) -> list[str]:
        clauses = [name]
        for kind, label in self.path:
            if kind == "name":
                clauses.append(label)
            elif label == ".__class__":
                clauses.append(f"the class of {clauses.pop()}")
            else:
                clauses[-1] += label
        if len(clauses) == 1 and self.path:
            return [name, clauses[0]]
        return clauses


def refusal(thing: Any) -> tuple[str, str] | None:
    """Say what `thing` is and what to do, if it is of a kind that cannot travel."""
    if isinstance(thing, types.ModuleType):
        if is_importable_module(thing):
            return None
        return "a module that exists in this process only", "put it into a file that workers can import"
    if isinstance(thing, io.IOBase) and _is_harmless(thing):
        return None
    kind = type(thing.__self__ if isinstance(thing, types.MethodType) else thing)
    if kind not in _of_type:
        _of_type[kind] = _refusal_of_type(kind)
    return _of_type[kind]


def _is_harmless(thing: io.IOBase) -> bool:
    """Files in memory travel, and the standard streams by name: a worker has its own."""
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
    for base in kind.__mro__:
        if base.__module__.startswith(_SHELL):
            return "part of the notebook's shell", "a task has none, so leave it out"
        if base.__module__.startswith(_OURS):
            return f"{_a(base.__name__)} of concurrent_nb", f"{_HERE}: use it outside of the task"
    return None


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIOUaeiou' else 'a'} {noun}"


def find_refused(thing: Any) -> Culprit | None:
    """Look through `thing` for what cannot travel. Bounded: what hides very deep shows up when it is pickled."""
    left = LOOKS
    for path, part in _walk(thing):
        if (left := left - 1) < 0:
            return None
        if (found := refusal(part)) is not None:
            return Culprit(path, *found)
    return None


def _walk(thing: Any) -> Iterator[tuple[tuple[tuple[str, str], ...], Any]]:
    seen = {id(thing)}
    keep = [thing]  # what is made on the way keeps its id for the whole walk
    stack: list[tuple[tuple[tuple[str, str], ...], Any]] = [((), thing)]
    while stack:
        path, part = stack.pop()
        yield path, part
        if len(path) >= DEPTH or refusal(part) is not None:
            continue
        below = []
        for kind, label, child in references(part):
            if type(child) not in ATOMS and id(child) not in seen:
                seen.add(id(child))
                keep.append(child)
                below.append(((*path, (kind, label)), child))
        stack.extend(reversed(below))


def find_unpicklable(thing: Any, error: BaseException) -> Culprit:
    """Find the part that makes `thing` fail to pickle, by pickling its parts; `error` is what pickling it raised."""
    path: list[tuple[str, str]] = []
    seen = {id(thing)}
    while len(path) < DEPTH:
        for kind, label, child in references(thing):
            if type(child) in ATOMS or id(child) in seen or is_importable(child):
                continue
            seen.add(id(child))
            if (failure := _failure(child)) is not None:
                thing, error = child, failure
                path.append((kind, label))
                break
        else:
            break
    found = refusal(thing)
    if found is not None:
        return Culprit(tuple(path), *found)
    kind_of = type(thing)
    what = _a(f"{kind_of.__module__}.{kind_of.__qualname__}".removeprefix("builtins."))
    return Culprit(tuple(path), what, f"it cannot be pickled ({_one_line(error)})")


def _failure(thing: Any) -> Exception | None:
    try:
        pickles.dumps(thing)
    except Exception as error:  # noqa: BLE001  (an object's own pickling may raise anything, and that is the answer)
        return error
    return None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    name = "" if isinstance(error, pickle.PicklingError) else f"{type(error).__name__}: "
    return f"{name}{text}"[:300]


def describe_failure(name: str, thing: Any, error: BaseException) -> str:
    """Write the error message for `thing`, called `name`, that could not be pickled."""
    culprit = find_unpicklable(thing, error)
    return f"{culprit.text(name)}: {culprit.advice}"
