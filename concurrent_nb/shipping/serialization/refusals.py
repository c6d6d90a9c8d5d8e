"""Why an object cannot travel to another process, and where inside a larger one it hides.

Objects say themselves how they are pickled, so the pickler is asked first. It raises `Refused` for what it could
pickle, but wrongly. When it has failed, `find_unpicklable` looks for the part that made it fail, and answers with a
`Culprit`, whose `text` is the middle of an error message.
"""

import concurrent.futures
import dataclasses
import functools
import inspect
import io
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.shipping.serialization.references import ATOMS, is_importable, is_importable_module, references

#: how deep a culprit is looked for
DEPTH: Final = 12

_STAYS: Final = "it belongs to this process"
_SHELL_MODULES: Final = ("IPython.core.interactiveshell", "IPython.core.autocall", "ipykernel.")
_OWN_PACKAGES: Final = tuple(f"concurrent_nb.{room}" for room in ("api", "engines", "nodes", "notebook", "transport"))
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
    ((threading.Thread,), "a thread", _STAYS),
    ((type(threading.local()),), "thread-local data", _STAYS),
    ((types.GeneratorType,), "a generator", "make a list of it first"),
    ((types.CoroutineType, types.AsyncGeneratorType), "a coroutine", "await it first and use its result"),
    ((types.FrameType, types.TracebackType), "a frame of a running program", "send its text"),
    ((concurrent.futures.Future,), "a future", "call its result() first and use that"),
    ((concurrent.futures.Executor,), "an executor", _STAYS),
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
    ("subprocess", "Popen", "a running process", _STAYS),
    ("asyncio", "Future", "a future", "await it first and use its result"),
    ("asyncio", "AbstractEventLoop", "an event loop", _STAYS),
    ("sqlite3", "Connection", "a database connection", "connect in the task"),
    ("multiprocessing.process", "BaseProcess", "a running process", _STAYS),
)

_of_type: "weakref.WeakKeyDictionary[type, tuple[str, str] | None]" = weakref.WeakKeyDictionary()


class Refused(pickle.PicklingError):
    """`thing` could be pickled, but what arrives would be something else."""

    def __init__(self, thing: Any) -> None:
        what, advice = refusal(thing) or (_a(type(thing).__qualname__), _STAYS)
        super().__init__(f"{what} cannot be sent: {advice}")


@dataclass(frozen=True, slots=True)
class Culprit:
    """The part of an object that keeps it from travelling."""

    path: tuple[tuple[str, str], ...]  #: (kind, label) of each step from the object to the part
    what: str  #: "an open file"
    advice: str  #: what to do

    def text(self, name: str, inside: str | None = None) -> str:
        """Write where it is and what: `f uses g, which uses settings['out'], an open file`.

        Args:
            inside: what the object is called where its parts are named.
        """
        first, *clauses = self._clauses(name if inside is None else inside, inside is not None)
        if inside is not None:
            first = name
        if not clauses:
            return f"{first} is {self.what}"
        return f"{first} uses {', which uses '.join(clauses)}, {self.what}"

    def _clauses(self, name: str, is_argument: bool) -> list[str]:
        clauses = [name]
        for kind, label in self.path:
            if kind == "name":
                clauses.append(label)
            elif label == ".__class__":
                clauses.append(f"the class of {clauses.pop()}")
            else:
                clauses[-1] += label
        if clauses[0] != name and (len(clauses) == 1 or is_argument):
            return [name, *clauses]
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
    for base in kind.__mro__ if is_refused_type(kind) else ():
        if base.__module__.startswith(_SHELL_MODULES):
            return "part of the notebook's shell", "a task has none, so leave it out"
        if base.__module__.startswith(_OWN_PACKAGES):
            return f"{_a(base.__name__)} of concurrent_nb", f"{_STAYS}: use it outside of the task"
    return None


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIOUaeiou' else 'a'} {noun}"


def is_refused_type(kind: type) -> bool:
    """Say whether objects of a class are refused without a look at how they pickle, which would send parts of us."""
    if kind is memoryview:
        return True
    if any(getattr(kind, name) is not getattr(object, name) for name in ("__reduce__", "__reduce_ex__")):
        return False
    if dataclasses.is_dataclass(kind) or issubclass(kind, tuple):  # plain data of ours
        return False
    return any(base.__module__.startswith((*_SHELL_MODULES, *_OWN_PACKAGES)) for base in kind.__mro__)


def find_unpicklable(thing: Any, error: BaseException) -> Culprit:
    """Find the part that makes `thing` fail to pickle, by pickling its parts; `error` is what pickling it raised."""
    path: list[tuple[str, str]] = []
    by_value: type | None = None  # a class on the way
    seen = {id(thing)}
    while len(path) < DEPTH and refusal(thing) is None:
        for kind, label, child in _parts(thing):
            if type(child) in ATOMS or id(child) in seen or is_importable(child):
                continue
            seen.add(id(child))
            if (failure := _failure(child)) is not None:
                thing, error = child, failure
                by_value = child if isinstance(child, type) else by_value
                path.append((kind, label))
                break
        else:
            break
    found = refusal(thing)
    if found is not None and by_value is not None:
        # Classes of libraries with a register of their own, say, travel in no other way.
        what, advice = found
        found = what, f"{advice}; or put the class {by_value.__qualname__} into a module that workers can import"
    if found is not None:
        return Culprit(tuple(path), *found)
    kind_of = type(thing)
    what = _a(f"{kind_of.__module__}.{kind_of.__qualname__}".removeprefix("builtins."))
    return Culprit(tuple(path), what, f"it cannot be pickled ({_one_line(error)})")


_AS_REFERRED: Final = (
    dict,
    list,
    tuple,
    set,
    frozenset,
    type,
    types.FunctionType,
    types.MethodType,
    types.BuiltinMethodType,
    types.ModuleType,
    functools.partial,
    staticmethod,
    classmethod,
    property,
)


def _parts(thing: Any) -> Iterator[tuple[str, str, Any]]:
    """Give what pickling looks at, one level deep, as `references` does."""
    if isinstance(thing, _AS_REFERRED):
        yield from references(thing)
        return
    if isinstance(wrapped := getattr(thing, "__wrapped__", None), types.FunctionType):
        yield "part", "", wrapped
    try:
        reduced = thing.__reduce_ex__(5)
    except Exception:  # noqa: BLE001  (an object's own pickling may raise anything: then it is the culprit itself)
        return
    if not isinstance(reduced, tuple):
        return
    _, args, state, listed, keyed = (*reduced, None, None, None)[:5]
    names = {id(value): f".{name}" for name, value in getattr(thing, "__dict__", {}).items()}
    attributes, slots = state if type(state) is tuple and len(state) == 2 else (state, None)
    for part in (attributes, slots):
        if isinstance(part, dict):
            yield from (("part", f".{name}", value) for name, value in part.items())
        elif part is not None:
            yield "part", names.get(id(part), ""), part
    for arg in args:
        yield "part", ".__class__" if arg is type(thing) else names.get(id(arg), ""), arg
    yield from (("item", f"[{number}]", item) for number, item in enumerate(listed or ()))
    yield from (("item", f"[{key!r:.40}]", value) for key, value in keyed or ())


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


def describe_arguments(
    fn: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: BaseException
) -> str:
    """Write which argument of a call could not be pickled, and why: `argument 2 (log) is an open file: ...`."""
    try:
        parameters = inspect.signature(fn).parameters.values() if fn is not None else ()
        names = [it.name for it in parameters if it.kind in (it.POSITIONAL_ONLY, it.POSITIONAL_OR_KEYWORD)]
    except (TypeError, ValueError):  # compiled code often has none
        names = []
    for number, arg in enumerate(args):
        if (failure := _failure(arg)) is not None:
            culprit = find_unpicklable(arg, failure)
            inside = names[number] if number < len(names) else None
            label = f"argument {number + 1}" + (f" ({inside})" if inside else "")
            return f"{culprit.text(label, inside)}: {culprit.advice}"
    for name, arg in kwargs.items():
        if (failure := _failure(arg)) is not None:
            culprit = find_unpicklable(arg, failure)
            return f"{culprit.text(f'argument {name}', name)}: {culprit.advice}"
    return _one_line(error)
