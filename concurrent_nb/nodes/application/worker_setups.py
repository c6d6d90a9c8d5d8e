"""An application's setups: what each worker does before its first task of this application.

    run_everywhere, %%concurrent_setup --> WorkerSetups.add --> contained in every function that is sent from then on
                                                            --> rounds of tasks that do nothing else, one for each slot
    notes of workers (SetupRan) --> EverywhereCall: which workers have run it, and with what result

A setup certainly runs before a task, because it travels with the task's function. The rounds only let workers that
exist now run it soon: where a task of a round comes to a worker that has run the setup, it waits for a moment, so that
the others come to other workers.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from concurrent_nb.errors import SetupFailed, WorkerDied
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.shipping.environment.envelope import Environment
from concurrent_nb.shipping.environment.tracker import TRACKER
from concurrent_nb.shipping.functions.pickled_functions import PickledFunction
from concurrent_nb.shipping.functions.setups import Setup, with_setups
from concurrent_nb.shipping.runtime.notes import SetupRan

#: rounds of tasks that are sent for a setup; other workers run it before their first task
ROUNDS_MAX: Final = 10
#: seconds that a task of a round waits in a worker that has run the setup: in the first round, and at most
HOLD_S: Final = 0.05
HOLD_MAX_S: Final = 0.5
#: how many functions with setups are kept: the ones that were used last
CACHED_FUNCTIONS: Final = 128

#: called with (function, name, count, hold_s): sends tasks that run setups, or wait where they had run
Send = Callable[[PickledFunction, str, int, float], list[TaskFuture]]


class EverywhereCall:
    """The results of a setup, by worker: what `ApplicationNode.run_everywhere` returns. Later workers are added.

    >>> setup = app.run_everywhere(len, [1, 2, 3])
    >>> set(setup.result().values()), len(setup.workers)
    ({3}, 2)
    >>> setup.remove()

    Workers are named by host and process id, such as "node7:4711". May be used from many threads.
    """

    def __init__(self, name: str, remove: Callable[[], None]) -> None:
        self.name = name
        self.expected = 0  #: workers that existed at the last count; 0 until that is known
        self._remove = remove
        self._changed = threading.Condition()
        self._runs: dict[str, SetupRan] = {}
        self._failure: BaseException | None = None  # why no worker runs it any more
        self._is_settled = False

    @property
    def results(self) -> dict[str, Any]:
        """What it has returned, by worker, so far."""
        return {worker: run.value for worker, run in self._snapshot() if run.ok}

    @property
    def errors(self) -> dict[str, SetupFailed]:
        """How it has failed, by worker, so far. Tasks that come to these workers end with SetupFailed."""
        return {
            worker: SetupFailed(f"setup {self.name!r} has failed in worker {worker}:\n{run.text}")
            for worker, run in self._snapshot()
            if not run.ok
        }

    @property
    def workers(self) -> list[str]:
        """The workers that have run it, in the order in which they reported it."""
        return [worker for worker, _ in self._snapshot()]

    @property
    def slowest_s(self) -> float:
        """The longest time that it has taken in a worker, in seconds."""
        return max((run.elapsed_s for _, run in self._snapshot()), default=0.0)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until all workers that exist have run it, or one has failed. False after `timeout_s` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_settled, timeout_s)

    def result(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Wait until all workers that exist have run it; return what it has returned, by worker.

        Args:
            timeout_s: seconds to wait; None: without a limit.

        Raises:
            SetupFailed: it has failed in a worker, or killed workers.
            TimeoutError: after `timeout_s` seconds.
            MasterLost: the cluster is gone.
        """
        if not self.wait(timeout_s):
            raise TimeoutError(f"setup {self.name!r} has not run in all workers within {timeout_s:g} s")
        if self._failure is not None:
            raise self._failure
        for error in self.errors.values():
            raise error
        return self.results

    def remove(self) -> None:
        """Do not run it in more workers. Its effects in workers stay."""
        self._remove()

    def _snapshot(self) -> list[tuple[str, SetupRan]]:
        with self._changed:
            return list(self._runs.items())

    def __repr__(self) -> str:
        failed = len(self.errors)
        failures = f", failed in {failed}" if failed else ""
        there = f" of {self.expected}" if self.expected > len(self._runs) else ""
        return f"<setup {self.name}: run by {len(self._runs)}{there} workers{failures}>"

    # ------------------------------------------------------------------------------------ for the application's threads

    def ran(self, run: SetupRan) -> None:
        """Add the result of a worker."""
        with self._changed:
            self._runs[run.worker] = run
            if not run.ok:
                self._is_settled = True
            self._changed.notify_all()

    def settle(self, failure: BaseException | None = None) -> None:
        """Let waiting threads continue; with a `failure`, `result` raises it."""
        with self._changed:
            self._failure = failure
            self._is_settled = True
            self._changed.notify_all()


class WorkerSetups:
    """All setups of an application, in order.

    Args:
        send: see `Send`.
        count_workers: returns the number of workers now.
        call_later: calls a function in a thread where that may take a moment.
    """

    def __init__(self, send: Send, count_workers: Callable[[], int], call_later: Callable[..., None]) -> None:
        self.are_there = False  #: whether there are any; an attribute, because it is read for each task
        self.names: dict[bytes, frozenset[str]] = {}  #: that they bind in workers, by place
        self._send = send
        self._count_workers = count_workers
        self._call_later = call_later
        self._lock = threading.Lock()
        self._setups: dict[bytes, tuple[Setup, EverywhereCall]] = {}  # by place
        self._cached: OrderedDict[tuple[bytes, ...], PickledFunction] = OrderedDict()
        self._key: tuple[bytes, ...] = ()  # of the setups in a function that is sent now

    def add(self, setup: Setup, names: frozenset[str] = frozenset()) -> EverywhereCall:
        """Have all workers run a setup: soon, and later ones before their first task. It replaces that of its place."""
        handle = EverywhereCall(setup.name, partial(self._remove, setup))
        with self._lock:
            self._setups[setup.place] = setup, handle
            self.names[setup.place] = names
            self._renew()
        self._call_later(self._round, setup, handle, 0)
        return handle

    def prepared(self, function: PickledFunction, environment: Environment | None) -> PickledFunction:
        """Return a function with the setups that it needs, in the environment in which both are to run."""
        with self._lock:
            key = (function.digest, *self._key, environment.digest if environment is not None else b"")
            found = self._cached.get(key)
            if found is None:
                found = with_setups(function, [setup for setup, _ in self._setups.values()], environment)
                if function.lease is None:  # what is large is not kept for a call that may never come
                    self._cached[key] = found
                    if len(self._cached) > CACHED_FUNCTIONS:
                        self._cached.popitem(last=False)
            return found

    def ran(self, run: SetupRan) -> None:
        """Add the result of a worker to the setup that it has run."""
        for setup, handle in list(self._setups.values()):
            if setup.id == run.setup:
                handle.ran(run)

    def _remove(self, setup: Setup) -> None:
        with self._lock:
            current, _ = self._setups.get(setup.place, (None, None))
            if current is not None and current.id == setup.id:
                del self._setups[setup.place], self.names[setup.place]
                self._renew()

    def _break(self, setup: Setup, why: str) -> None:
        """Mark a setup that kills its workers: no worker runs it again, and tasks that need it fail."""
        with self._lock:
            current, handle = self._setups.get(setup.place, (None, None))
            if current is not None and handle is not None and current.id == setup.id:
                self._setups[setup.place] = replace(current, broken=why), handle
                self._renew()

    def _renew(self) -> None:
        self.are_there = bool(self._setups)
        self._cached.clear()
        self._key = tuple(setup.id for setup, _ in self._setups.values())

    # ----------------------------------------------------------------------------------------------------- the rounds

    def _round(self, setup: Setup, handle: EverywhereCall, number: int) -> None:
        """Send tasks for the workers that exist, unless all have run it."""
        handle.expected = self._count_workers()
        enough = 0 < handle.expected <= len(handle.workers)
        if enough or number >= ROUNDS_MAX or setup.place not in self._setups or handle.errors:
            handle.settle()
            return
        with self._lock:
            until = [each for each, _ in self._setups.values()]
            if setup.id in self._key:
                until = until[: self._key.index(setup.id) + 1]
        hold_s = min(HOLD_S * 2**number, HOLD_MAX_S)
        try:
            futures = self._send(
                with_setups(None, until, TRACKER.current()), setup.name, max(1, handle.expected), hold_s
            )
        except Exception as error:  # noqa: BLE001  (the application is closed, or its cluster is gone: `result` raises it)
            handle.settle(error)
            return
        left = len(futures)

        def ended(future: TaskFuture) -> None:
            nonlocal left
            left -= 1  # all end in the client thread
            if not left:
                self._call_later(self._round_ended, setup, handle, number, futures)

        for future in futures:
            future.add_done_callback(ended)

    def _round_ended(self, setup: Setup, handle: EverywhereCall, number: int, futures: list[TaskFuture]) -> None:
        errors = [future.exception() for future in futures if not future.cancelled()]
        died = next((error for error in errors if isinstance(error, WorkerDied)), None)
        if died is not None:
            self._break(setup, str(died))
            failure = SetupFailed(f"setup {setup.name!r} kills its workers, and is not run any more: {died}")
            handle.settle(failure)
        elif any(future.cancelled() for future in futures):
            handle.settle()
        elif (error := next((error for error in errors if error is not None), None)) is not None:
            handle.settle(error)
        else:
            self._round(setup, handle, number + 1)
