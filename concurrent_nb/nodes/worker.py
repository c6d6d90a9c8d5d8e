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
import socket
import sys
import types
from collections.abc import Callable, Sequence
from typing import Final

from concurrent_nb.errors import ProtocolError
from concurrent_nb.ids import SYS_PATH_VARIABLE
from concurrent_nb.outcome import Hit, Status
from concurrent_nb.shipping import chunks, notes, pickles
from concurrent_nb.shipping.reports import Answer, failed, not_loadable, not_picklable
from concurrent_nb.workers import child
from concurrent_nb.workers.ends import WorkerEnds
from concurrent_nb.workers.records import Buffer
from concurrent_nb.workers.serving import Serving
from concurrent_nb.workers.template import Template

# A name in a module is found faster than a member of an enumeration.
_OK: Final = int(Status.OK)
_HIT: Final = int(Status.HIT)


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
            return not_loadable(error)
        notes.SINK.open(self.send_note)
        try:
            value = chunks.run(function, args) if kwargs is None else function(*args, **kwargs)
            if "matplotlib.pyplot" in sys.modules:
                _show_figures()
        except BaseException as error:  # noqa: BLE001  (SystemExit and KeyboardInterrupt of a task end the task alone)
            return failed(error)
        finally:
            notes.SINK.close()
        status = _OK
        if type(value) is Hit:
            status, value = _HIT, value.value
        try:
            pickled, out_of_band = pickles.dumps(value)
        except BaseException as error:  # noqa: BLE001  (user code runs while it is pickled; the answer has the error)
            return not_picklable(value, error)
        return status, pickled, out_of_band

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
