"""Setups in a worker: each runs once, before the first task that needs it.

A worker records which setups it has run, by id. A setup that has failed is not run again in that worker, and all tasks
that need it fail. The names that a setup cell binds are added to the globals of functions that travel by value, where
these have none of that name. `shipping.functions.setups` is the application's side.
"""

import os
import socket
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from concurrent_nb.errors import SetupFailed
from concurrent_nb.shipping.runtime import notes
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.shipping.serialization.restoring import Restoring
from concurrent_nb.shipping.serialization.source_lines import unwrapped

#: limit of a setup's value that is sent to the application
VALUE_BYTES_MAX: Final = 4 << 20

#: a pickle, then its buffers
Parts = tuple[Any, ...]
#: the folder of the code that runs setups: this module, and that of cells
_SHIPPING: Final = os.path.dirname(os.path.dirname(__file__)) + os.sep
#: id, slot (a later setup of the same slot replaces it), name, why it must not be run any more, pickle of (function,
#: args)
EnclosedSetup = tuple[bytes, bytes, str, str, Parts]


class SetupNames(dict[str, Any]):
    """The names that a setup cell has bound."""


class NotLoaded(Exception):
    """The function behind setups cannot be unpickled; its cause is the error."""


@dataclass(slots=True)
class _RanSetup:
    slot: bytes
    failure: str  #: traceback
    names: SetupNames
    note: notes.SetupRan


_ran: Final[dict[bytes, _RanSetup]] = {}  # by id


def _load_on_copies(parts: Parts) -> Any:
    # On copies, because changes of a setup stay.
    return pickles.loads(parts[0], [bytearray(buffer) for buffer in parts[1:]])


_running: Final = threading.RLock()  # where tasks share a process, one thread runs a setup and the others wait


class FunctionWithSetups:
    """A function with the setups that must run before it."""

    def __init__(self, setups: tuple[EnclosedSetup, ...], function: Parts | None) -> None:
        self._setups = setups
        self._function = function

    def __reduce__(self) -> tuple[Any, ...]:
        return FunctionWithSetups, (self._setups, self._function)

    def open(self, load: Callable[..., Any] = pickles.loads) -> Callable[..., Any]:
        """Run the setups that have not run here, and return the function, which `load` unpickles.

        Raises SetupFailed for a setup that fails, or has failed here, and NotLoaded if the function cannot be
        unpickled.
        """
        bound_names: dict[str, Any] = {}
        with _running:
            if self._function is None:
                return self._report()
            for setup in self._setups:
                bound_names.update(_names_of(setup, bound_names))
        try:
            function: Callable[..., Any] = load(self._function[0], self._function[1:])
        except BaseException as error:
            raise NotLoaded from error
        bind_names(function, bound_names)
        return function

    def _report(self) -> Callable[[float], None]:
        """Run the setups and send the result of each, also of those that had run before.

        The function then only waits.
        """
        bound_names: dict[str, Any] = {}
        are_new = True
        for setup in self._setups:
            had_run = setup[0] in _ran
            are_new = are_new and not had_run
            try:
                bound_names.update(_names_of(setup, bound_names))
            except SetupFailed:
                break  # its result is sent in any case
            finally:
                if had_run:
                    notes.sink().put_progress(_ran[setup[0]].note)
        return _SetupsOnly(are_new)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Unpickle and call the function."""
        return self.open()(*args, **kwargs)


class _SetupsOnly:
    """The function of a task that only runs setups.

    Where they had run before, it sleeps, so that other workers get such tasks.
    """

    def __init__(self, is_new: bool) -> None:
        self._is_new = is_new

    def __call__(self, seconds: float) -> None:
        if self._is_new:
            self._is_new = False
        else:
            time.sleep(seconds)


def _names_of(setup: EnclosedSetup, bound_names: Mapping[str, Any]) -> SetupNames:
    """Run a setup, unless it has run here; return the names that it has bound. Raises SetupFailed."""
    id, _, name, broken, _ = setup
    if broken:
        raise SetupFailed(f"setup {name!r} is not run any more. Correct it and run it again. The reason:\n{broken}")
    ran = _ran.get(id) or _run(setup, bound_names)
    if ran.failure:
        raise SetupFailed(
            f"setup {name!r} has failed in this worker, so no task that needs it can run here. Correct it and run it"
            f" again. It raised\n{ran.failure}"
        )
    return ran.names


def _run(setup: EnclosedSetup, bound_names: Mapping[str, Any]) -> _RanSetup:
    id, slot, _, _, call = setup
    for old in [other for other, ran in _ran.items() if ran.slot == slot]:
        del _ran[old]  # before, so that memory is not needed twice
    began = time.monotonic()
    failure, names = "", SetupNames()
    value: Any = None
    try:
        function, args = _load_on_copies(call)
        bind_names(function, bound_names)
        value = function(*args)
        if type(value) is SetupNames:
            names, value = value, None
    except (Exception, SystemExit) as error:  # noqa: BLE001  (user code; each task that needs it reports what it raised)
        failure = _traceback_of(error)
    note = _note_of(id, failure, value, time.monotonic() - began)
    _ran[id] = ran = _RanSetup(slot, failure, names, note)
    notes.sink().put_progress(note)
    return ran


def _note_of(id: bytes, failure: str, value: Any, elapsed_s: float) -> notes.SetupRan:
    worker = f"{socket.gethostname()}:{os.getpid()}"
    body, buffers, text = b"", [], failure
    if not failure:
        try:
            body, large = pickles.dumps(value)
            buffers = [bytes(buffer) for buffer in large]
            if len(body) + sum(map(len, buffers)) > VALUE_BYTES_MAX:
                body, buffers, text = b"", [], f"<a {type(value).__name__} too large to be sent>"
        except Exception as error:  # noqa: BLE001  (user code; the value stays in the worker)
            text = f"<a {type(value).__name__} that cannot be pickled: {type(error).__name__}>"
    return notes.SetupRan(id, worker, not failure, text, body, buffers, elapsed_s)


def _traceback_of(error: BaseException) -> str:
    """Return the traceback from the setup's own first line on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_SHIPPING):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()


def bind_names(function: Any, names: Mapping[str, Any]) -> None:
    """Add names to the globals of a function that has travelled by value, where it has none of that name."""
    if not names:
        return
    while isinstance(function, Restoring):
        function = function.function
    if callable(use := getattr(type(function), "use_names", None)):
        use(function, names)
        return
    bare = unwrapped(function)
    bare = getattr(bare, "__func__", bare)
    if isinstance(bare, types.FunctionType):
        own = bare.__globals__
        module = sys.modules.get(str(own.get("__name__")))
        if own.get("__name__") == "__main__" or module is None or module.__dict__ is not own:
            for name, value in names.items():
                own.setdefault(name, value)
