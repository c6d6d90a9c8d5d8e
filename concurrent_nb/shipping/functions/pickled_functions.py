"""Pickles of functions: each function is pickled once and named by the digest of its pickle.

Used by an application, from many threads. A function that travels by value (a closure, a lambda, anything of
`__main__`) may change while it stays the same object, because a cell of its closure or a global that it uses is
assigned. So its pickle is kept together with everything that it was made from, which is compared at each call. If a
mutable object is involved (a list, for example), the function is pickled again each time.

Never loads a pickle, never calls a function.
"""

import contextlib
import pickle
import threading
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from concurrent_nb.errors import NotPicklable
from concurrent_nb.ids import Digest
from concurrent_nb.shipping.environment.envelope import NO_ENVIRONMENT, Environment, EnvironmentSource, in_envelope
from concurrent_nb.shipping.environment.modules import names_imported
from concurrent_nb.shipping.serialization import pickles, restoring
from concurrent_nb.shipping.serialization.pickling_failures import describe_failure
from concurrent_nb.shipping.serialization.references import (
    MISSING,
    attribute_of,
    contents,
    global_names,
    is_by_value,
    is_constant,
    is_importable,
    location_of,
    never_changes,
    text_attribute_of,
)
from concurrent_nb.shipping.serialization.source_lines import codes_in
from concurrent_nb.shipping.serialization.task_inputs import Collector, ForeignFuture, collecting
from concurrent_nb.wire.codec import function_digest
from concurrent_nb.wire.messages import Slice

#: how many functions of each sort are kept, the last ones
KEPT: Final = 512
#: larger pickles are not kept
KEPT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class PickledFunction:
    """A pickled function, ready to be sent."""

    digest: Digest  #: its name in the cluster
    body: bytes  #: its pickle; empty if it is the first buffer
    buffers: Sequence[pickles.Buffer | Slice]  #: large ones that are not in the pickle: a snapshot
    name: str  #: for people
    lease: object = None  #: keeps the parts in shared memory
    inputs: tuple[Any, ...] = ()  #: futures to which it refers: each of its tasks needs their values


#: (pickle, buffers, which are the memory of live objects) --> (pickle, snapshots of them, lease that keeps those)
StoreBuffers = Callable[[bytes, Sequence[memoryview]], tuple[bytes, Sequence[pickles.Buffer | Slice], object]]


def copy_buffers(body: bytes, buffers: Sequence[memoryview]) -> tuple[bytes, Sequence[pickles.Buffer | Slice], object]:
    """Copy buffers into this process's own memory."""
    return body, [bytes(buffer) for buffer in buffers], None


@dataclass(slots=True)
class _Snapshot:
    """Everything that a function's pickle was made from, compared by identity. Keeps it alive, so ids stay valid."""

    functions: list[tuple[types.FunctionType, types.CodeType, Any, Any]] = field(default_factory=list)
    cells: list[tuple[types.CellType, Any]] = field(default_factory=list)
    entries: list[tuple[dict[str, Any], str, Any]] = field(default_factory=list)
    sizes: list[tuple[dict[str, Any], int]] = field(default_factory=list)

    def holds(self) -> bool:
        """Return whether all of it is unchanged."""
        for function, code, defaults, kwdefaults in self.functions:
            if (
                function.__code__ is not code
                or function.__defaults__ is not defaults
                or function.__kwdefaults__ is not kwdefaults
            ):
                return False
        for cell, value in self.cells:
            if contents(cell) is not value:
                return False
        for mapping, name, value in self.entries:
            if mapping.get(name, MISSING) is not value:
                return False
        return all(len(mapping) == size for mapping, size in self.sizes)


def _snapshot(function: types.FunctionType) -> _Snapshot | None:
    """Return the snapshot of a function and all functions that travel with it; None if an object in it is mutable."""
    taken = _Snapshot()
    seen: set[int] = set()
    todo = [function]
    while todo:
        current = todo.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        for value in _add_function(current, taken):
            if type(value) is types.FunctionType and not is_importable(value):
                todo.append(value)
            elif value is not MISSING and not is_constant(value):
                return None
    return taken


def _add_function(function: types.FunctionType, taken: _Snapshot) -> list[Any]:
    """Add one function to a snapshot; return what it refers to."""
    taken.functions.append((function, function.__code__, function.__defaults__, function.__kwdefaults__))
    cells = [(cell, contents(cell)) for cell in function.__closure__ or ()]
    taken.cells += cells
    entries = [
        (function.__globals__, name, function.__globals__.get(name, MISSING))
        for name in global_names(function.__code__)[0]
    ]
    for mapping in (function.__kwdefaults__, function.__dict__):
        if mapping is not None:
            entries += [(mapping, name, value) for name, value in mapping.items()]
            taken.sizes.append((mapping, len(mapping)))
    taken.entries += entries
    return [*(value for _, value in cells), *(value for _, _, value in entries), *(function.__defaults__ or ())]


class Functions:
    """Pickles functions, each as rarely as is safe. Safe to use from many threads.

    >>> functions = Functions()
    >>> functions.pickle(pow) is functions.pickle(pow)
    True
    """

    def __init__(
        self,
        kept: int = KEPT,
        store_buffers: StoreBuffers = copy_buffers,
        environment_source: EnvironmentSource = NO_ENVIRONMENT,
        new_collector: Callable[[], Collector] | None = None,
    ) -> None:
        self._kept = kept
        self._new_collector = new_collector
        self._store_buffers = store_buffers
        self._environment_source = environment_source
        self._lock = threading.Lock()
        # By id, because comparing functions may run user code. The entry keeps the function alive, so its id is valid.
        self._by_name: dict[int, tuple[Any, PickledFunction, tuple[Any, str], Environment | None]] = {}
        self._by_value: dict[int, tuple[Any, PickledFunction, _Snapshot, Environment | None]] = {}

    def pickle(self, fn: Callable[..., Any], *, spawns: bool = False) -> PickledFunction:
        """Return the pickle of `fn` in its present state.

        Args:
            spawns: for a job, which takes a child of each generator of random numbers that the function uses.

        Raises NotPicklable, which names the function and the part of it that cannot travel.
        """
        environment = self._environment_source.current()
        named = self._by_name.get(id(fn))
        if named is not None:
            _, pickled, (home, name), known_environment = named
            if known_environment is environment and getattr(home, name, None) is fn and not is_by_value(fn.__module__):
                return pickled
        valued = self._by_value.get(id(fn))
        if valued is not None and valued[0] is fn and valued[3] is environment and valued[2].holds():
            return valued[1]
        return self._pickle_anew(fn, environment, spawns)

    def _pickle_anew(self, fn: Callable[..., Any], environment: Environment | None, spawns: bool) -> PickledFunction:
        if is_importable(fn):
            body, buffers = in_envelope(environment, pickle.dumps(fn, 5), ())
            pickled = _named(fn, *self._store_buffers(body, buffers))
            if (home := location_of(fn)) is not None:
                self._keep(self._by_name, (fn, pickled, home, environment))
            return pickled
        # The snapshot comes first, so that the next comparison finds what another thread changes after it.
        snapshot = _Snapshot() if never_changes(fn) else None
        if type(fn) is types.FunctionType:
            snapshot = _snapshot(fn)
        found = None if self._new_collector is None else self._new_collector()
        with contextlib.nullcontext() if found is None else collecting(found):
            pickled, environment = _pickled_by_value(fn, fn, self._store_buffers, self._environment_source, spawns)
        inputs = (*attribute_of(fn, "inputs", ()), *(() if found is None else found.futures))
        if inputs:
            pickled = replace(pickled, inputs=inputs)
        is_small = environment is not None or not pickled.buffers  # those of an environment are kept in any case
        if snapshot is not None and len(pickled.body) <= KEPT_BYTES and is_small:
            self._keep(self._by_value, (fn, pickled, snapshot, environment))
        return pickled

    def _keep(self, kept: dict[int, Any], entry: tuple[Any, ...]) -> None:
        with self._lock:
            kept.pop(id(entry[0]), None)
            kept[id(entry[0])] = entry
            while len(kept) > self._kept:
                del kept[next(iter(kept))]


def pickled_by_value(
    fn: Callable[..., Any], of: Any, store_buffers: StoreBuffers, environment_source: EnvironmentSource = NO_ENVIRONMENT
) -> PickledFunction:
    """Pickle a function in its present state, in its environment.

    Args:
        of: the user's part of it: the function itself, or the class that it stands for.
        spawns: as of `Functions.pickle`.

    Raises NotPicklable, which names `of` and the part of it that cannot travel.
    """
    return _pickled_by_value(fn, of, store_buffers, environment_source, False)[0]


def _pickled_by_value(
    fn: Callable[..., Any], of: Any, store_buffers: StoreBuffers, environment_source: EnvironmentSource, spawns: bool
) -> tuple[PickledFunction, Environment | None]:
    try:
        body, buffers = restoring.dumps(fn, "spawn" if spawns else "share")
    except ForeignFuture as error:
        raise NotPicklable(f"{name_of(of)} uses {error}") from error
    except Exception as error:  # an object's own pickling may raise anything
        raise NotPicklable(describe_failure(name_of(of), of, error)) from error
    environment_source.add_modules(_imported_by(fn, of))
    environment = environment_source.current()
    # The buffers are the memory of live arrays. What is sent, perhaps again after the master was lost, is a snapshot.
    return _named(fn, *store_buffers(*in_envelope(environment, body, buffers))), environment


def _imported_by(fn: Any, of: Any) -> Iterable[str]:
    """Name the modules that the code of a function imports, and that of what it uses."""
    imported = attribute_of(fn, "imported_modules")  # of a cell
    return imported if isinstance(imported, frozenset) else names_imported(codes_in([of]))


def pickled_call(fn: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    """Pickle `(fn, args)` in their present state, with all buffers. Raises NotPicklable."""
    from concurrent_nb.shipping.serialization import pickler  # here, because it takes 60 ms

    try:
        return pickler.dumps((fn, args))
    except Exception as error:  # an object's own pickling may raise anything
        raise NotPicklable(describe_failure(name_of(fn), (fn, args), error)) from error


def pickled_with_arguments(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    store_buffers: StoreBuffers,
    environment_source: EnvironmentSource = NO_ENVIRONMENT,
) -> PickledFunction:
    """Pickle `(fn, args)` in their present state. Raises NotPicklable."""
    try:
        body, buffers = pickles.dumps((fn, args), "share")
    except Exception as error:  # an object's own pickling may raise anything
        raise NotPicklable(describe_failure(name_of(fn), (fn, args), error)) from error
    environment_source.add_modules(_imported_by(fn, fn))
    return _named(fn, *store_buffers(body, buffers))


def load_function(pickled: PickledFunction) -> Any:
    """Unpickle a function whose buffers were `copy_buffers`, as a worker would."""
    return restoring.loads_on_copies(pickled.body, [it for it in pickled.buffers if not isinstance(it, Slice)])


def _named(
    fn: Callable[..., Any], body: bytes, buffers: Sequence[pickles.Buffer | Slice] = (), lease: object = None
) -> PickledFunction:
    return PickledFunction(function_digest([body, *buffers]), body, buffers, name_of(fn), lease)


def name_of(fn: Callable[..., Any]) -> str:
    """Return a function's name for people."""
    return text_attribute_of(fn, "__qualname__") or text_attribute_of(fn, "__name__") or f"a {type(fn).__qualname__}"
