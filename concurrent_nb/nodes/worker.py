"""The worker process: the composition root that joins `workers` with `shipping`; user code runs nowhere else.

    python -m concurrent_nb.nodes.worker --template FD    a template that forks workers for the slave at the socket FD
    python -m concurrent_nb.nodes.worker --ends FD,...    one worker

Started by a slave's launcher (workers/processes.py). Everything that a task can raise ends here, as an outcome.
"""

import builtins
import importlib.abc
import importlib.machinery
import json
import os
import pickle
import socket
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final

import cloudpickle
import msgspec

from concurrent_nb.errors import ProtocolError, RemoteTraceback
from concurrent_nb.ids import SYS_PATH_VARIABLE
from concurrent_nb.outcome import Hit, Status
from concurrent_nb.shipping import notes, pickles
from concurrent_nb.wire.messages import ErrorReport
from concurrent_nb.workers import child
from concurrent_nb.workers.ends import WorkerEnds
from concurrent_nb.workers.records import Buffer
from concurrent_nb.workers.serving import Serving
from concurrent_nb.workers.template import Template

#: what a message or traceback is cut to, in characters
TEXT_MAX: Final = 64 * 1024
#: what a result's repr is cut to, in characters
REPR_MAX: Final = 200
#: a pickled exception that is larger does not travel
EXCEPTION_BYTES_MAX: Final = 1024 * 1024
#: frames of these folders are ours; a traceback begins after them
_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_OURS: Final = tuple(os.path.join(_PACKAGE, room, "") for room in ("nodes", "workers", "shipping", "tasks"))

# A name in a module is found faster than a member of an enumeration.
_OK: Final = int(Status.OK)
_HIT: Final = int(Status.HIT)
_encode: Final = msgspec.msgpack.Encoder().encode

#: status, body, buffers
Answer = tuple[int, bytes, Sequence[Buffer]]


class TaskRunner:
    """Keep functions by digest; run tasks and turn whatever happens into an answer."""

    def __init__(self) -> None:
        self._pickled: dict[bytes, tuple[Buffer, Sequence[Buffer]]] = {}
        self._functions: dict[bytes, Callable[..., object]] = {}
        self.send_note: Callable[[bytes], None] = lambda data: None  #: takes the bytes of the running task's notes

    def load(self, digest: bytes, body: Buffer, buffers: Sequence[Buffer]) -> None:
        """Keep a function. It is opened by the first task that needs it, which answers for it if that fails."""
        self._pickled[digest] = (body, buffers)

    def drop(self, digests: Sequence[bytes]) -> None:
        """Forget functions."""
        for digest in digests:
            self._pickled.pop(digest, None)
            self._functions.pop(digest, None)

    def run(self, digest: bytes, body: Buffer, buffers: Sequence[Buffer]) -> Answer:
        """Run one task."""
        try:
            function = self._functions.get(digest)
            if function is None:
                function = self._open(digest)
            args, kwargs = pickles.loads(body, buffers)
        except BaseException as error:  # noqa: BLE001  (user code runs while it is unpickled; the answer has the error)
            return _not_loadable(error)
        notes.SINK.open(self.send_note)
        try:
            value = function(*args, **kwargs)
            if "matplotlib.pyplot" in sys.modules:
                _show_figures()
        except BaseException as error:  # noqa: BLE001  (SystemExit and KeyboardInterrupt of a task end the task alone)
            return _failed(error)
        finally:
            notes.SINK.close()
        status = _OK
        if type(value) is Hit:
            status, value = _HIT, value.value
        try:
            pickled, out_of_band = pickles.dumps(value)
        except BaseException as error:  # noqa: BLE001  (user code runs while it is pickled; the answer has the error)
            return _not_picklable(value, error)
        return status, pickled, out_of_band

    def cannot_run(self, error: Exception) -> Answer:
        """Give the answer of a task that this worker cannot run."""
        return _not_loadable(error)

    def _open(self, digest: bytes) -> Callable[..., object]:
        if digest not in self._pickled:
            raise LookupError(f"the function {digest.hex()[:8]} was not sent to this worker")
        function: Callable[..., object] = pickles.loads(*self._pickled[digest])
        if not callable(function):
            raise TypeError(f"a task's function has to be callable, this is a {type(function).__name__}")
        self._functions[digest] = function
        return function


def _show_figures() -> None:
    """Show the figures that a task has left open."""
    from concurrent_nb.shipping import figures  # here, because it needs matplotlib, which the task has

    figures.show_open()


# ------------------------------------------------------------------------------------------------ reports of errors


def _failed(error: BaseException) -> Answer:
    report = ErrorReport(_class_name(error), _text_of(error), _traceback_of(error), _pickled(error))
    return Status.ERROR, _encode(report), ()


def _not_loadable(error: BaseException) -> Answer:
    message = f"the worker cannot load the task's function or arguments: {_one_line(error)}"
    return Status.NOT_LOADABLE, _encode(ErrorReport(_class_name(error), message, _traceback_of(error))), ()


def _not_picklable(value: object, error: BaseException) -> Answer:
    kind = type(value).__name__
    hint = "return plain data, or something that pickle can take apart"
    if kind in ("generator", "async_generator", "map", "filter", "zip"):
        hint = "return a list of its items instead"
    elif kind == "coroutine":
        hint = "run it in the task, and return what it gives"
    elif isinstance(error, RecursionError) or "recursion" in str(error):  # cloudpickle raises one of its own
        hint = "it is nested too deeply: return something flatter"
    message = f"the task returned a {kind} that cannot be pickled, {_repr_of(value)} ({_one_line(error)}): {hint}"
    return Status.NOT_PICKLABLE, _encode(ErrorReport(_class_name(error), message, "")), ()


def _class_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text_of(thing: object) -> str:
    try:
        return str(thing)[:TEXT_MAX]
    except BaseException as error:  # noqa: BLE001  (user code; the text says what it raised)
        return f"<str() of this {type(thing).__name__} raised {type(error).__name__}>"


def _cut(text: str) -> str:
    """Leave out the middle of a text that is too long: what happened is at its beginning, and where, at its end."""
    if len(text) <= TEXT_MAX:
        return text
    half = TEXT_MAX // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters are left out ...]\n{text[-half:]}"


def _one_line(error: BaseException) -> str:
    text = _text_of(error)
    return f"{_class_name(error)}: {text}" if text else _class_name(error)


def _repr_of(value: object) -> str:
    try:
        text = repr(value)
    except BaseException as error:  # noqa: BLE001  (user code; the text says what it raised)
        return f"whose repr() raised {type(error).__name__}"
    return text if len(text) <= REPR_MAX else text[: REPR_MAX - 3] + "..."


def _traceback_of(error: BaseException) -> str:
    """Format as Python does, beginning with the task's own lines."""
    try:
        own, cause = _without_ours(error.__traceback__), error.__cause__
        if own is None and isinstance(cause, RemoteTraceback):
            # A task system passes on what a task has raised, elsewhere.
            return _cut("\n".join([cause.text.rstrip(), *map(_text_of, getattr(error, "__notes__", ()))]))
        lines = traceback.format_exception(type(error), error, own)
        return _cut("".join(lines))
    except BaseException as broken:  # noqa: BLE001  (user code formats exceptions; the text says what it raised)
        return f"{_class_name(error)}: <formatting the traceback raised {type(broken).__name__}>\n"


def _without_ours(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
        trace = trace.tb_next
    return trace


def _pickled(error: BaseException) -> bytes:
    """Pickle an exception, if it can be unpickled again."""
    try:
        body: bytes = cloudpickle.dumps(error, 5)
        if len(body) <= EXCEPTION_BYTES_MAX and isinstance(pickle.loads(body), BaseException):
            return body
    except BaseException:  # noqa: BLE001  (user code; that it cannot travel is said by the empty bytes)
        return b""
    return b""


# ---------------------------------------------------------------------------------------------------- the process


class _Displays(importlib.abc.MetaPathFinder):
    """Give IPython's `display` to tasks that import it: theirs comes to the cell that waits for them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "IPython.core.display_functions":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_replace(module: types.ModuleType) -> None:
                execute(module)
                module.display = notes.display  # type: ignore[attr-defined]

            spec.loader.exec_module = execute_and_replace  # type: ignore[method-assign]
        return spec


def work(ends: WorkerEnds) -> None:
    """Be a worker until the slave wants no more."""
    child.close_all_but(frozenset(ends))
    child.enter_own_group()
    child.hang_on(ends.lifeline)
    child.take_standard_streams(ends)
    child.forget_main()
    try:
        runner = TaskRunner()
        serving = Serving(ends, runner)
        runner.send_note = serving.send_note
        serving.serve()
    except (OSError, ProtocolError) as error:
        print(f"worker ends: {error}", file=sys.stderr)  # noqa: T201  (goes to the slave's log)
        sys.exit(1)


def main(option: str, fds: str) -> None:
    """Be a template, and in its children a worker; or be one worker."""
    if paths := os.environ.get(SYS_PATH_VARIABLE):
        sys.path[:] = json.loads(paths)  # what the owner can import, its workers can
    # A notebook's processes have its backend, which tasks cannot use. By name, because it needs matplotlib.
    os.environ["MPLBACKEND"] = "module://concurrent_nb.shipping.figures"
    builtins.display = notes.display  # type: ignore[attr-defined]  # as notebooks have it
    sys.meta_path.insert(0, _Displays())
    if option == "--template":
        ends = Template(socket.socket(fileno=int(fds))).serve()
    else:
        ends = WorkerEnds(*map(int, fds.split(",")))
    if ends is not None:
        work(ends)


if __name__ == "__main__":
    if sys.argv[1:2] not in (["--template"], ["--ends"]) or len(sys.argv) != 3:
        sys.exit(__doc__)  # no argparse: a cold start pays for each import
    main(*sys.argv[1:])
