"""Futures whose results stay in the cluster until `result` fetches them.

receipt --> done, value is KEPT_VALUE      result --fetch--> client thread --> master --> value
garbage --> freed: the master drops the result when no task needs it
"""

import threading
import time
import weakref
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from concurrent_nb.errors import KeptResultLost
from concurrent_nb.nodes.application.client_tasks import ClientJob
from concurrent_nb.nodes.application.futures import T, TaskFuture
from concurrent_nb.nodes.application.results import KEPT_VALUE
from concurrent_nb.nodes.application.task_handle import TaskHandle

if TYPE_CHECKING:
    from concurrent_nb.nodes.application.client_thread import ClientThread
    from concurrent_nb.nodes.application.job import Job


class KeptFuture(TaskFuture[T]):
    """The result of a task that stays in the cluster, where other tasks get it.

    >>> table = app.options(keep=True).submit(list, range(1000))
    >>> total = app.submit(sum, table)
    >>> total.result()
    499500
    >>> len(table.result())                                  # fetched now
    1000

    Otherwise it is a `TaskFuture`. `done` means that the result is in the cluster. `result` fetches it once,
    and returns the same object each time. The cluster drops the result when this object is garbage and no task needs it
    any more, or after `free`.
    """

    def __init__(
        self, record: ClientJob[TaskHandle], index: int, client_thread: "ClientThread", job: "Job | None" = None
    ) -> None:
        super().__init__(record.id, index, client_thread.cancel, job)
        self._record = record
        self._client_thread = client_thread
        self._lost: BaseException | None = None  # why its result is not in the cluster any more
        self._has_value = threading.Event()  # it is here, or lost
        self._fetch_lock = threading.Lock()
        self._is_asked = self._is_freed = False
        self._finalizer: weakref.finalize[Any, Any] | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the task has ended and its result stays in the cluster."""
        return self._finalizer is not None and self._finalizer.alive and self._lost is None

    def result(self, timeout: float | None = None) -> T:
        """Wait for the task's value, and fetch it if it is not here; see `TaskFuture.result`.

        Raises KeptResultLost if the cluster has lost it, and RuntimeError in the client thread, where a callback of a
        future runs, if it is not here yet.
        """
        until_s = None if timeout is None else time.monotonic() + timeout
        value = super().result(timeout)
        if value is not KEPT_VALUE:
            return value
        if not self.has_come:
            if self._is_freed:
                raise KeptResultLost(f"the result of task {self.task} was freed", task=self.task)
            self._client_thread.check_may_wait()
            self.fetch()
        if not self._has_value.wait(None if until_s is None else max(0.0, until_s - time.monotonic())):
            raise TimeoutError
        if self._lost is not None:
            raise self._lost
        return self._result  # type: ignore[return-value]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the task's end; return its exception, KeptResultLost if the cluster has lost its result, or None."""
        return super().exception(timeout) or self._lost

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the result in a coroutine."""
        import asyncio  # here, as in `TaskFuture`

        return asyncio.get_running_loop().run_in_executor(None, self.result).__await__()

    def free(self) -> None:
        """Have the cluster drop the result when no task needs it any more. A value that is here stays.

        Tasks that were submitted before still get it. `result` raises KeptResultLost if it is not here.
        """
        self._is_freed = True
        self._client_thread.kept_results.free(self)

    def end_keeping(self) -> None:
        """Note that the cluster does not have the result any more. For the client thread."""
        if not self.has_come:
            self._lost = KeptResultLost(f"the result of task {self.task} was freed", task=self.task)
            self._has_value.set()
        if self._finalizer is not None:
            self._finalizer()

    def __repr__(self) -> str:
        if self._result is not KEPT_VALUE or self._lost is not None:
            return super().__repr__()
        return f"<KeptFuture of task {self.task}, whose result is in the cluster>"

    def note_kept(self) -> None:
        """Note that the cluster has the result. For the client thread, before it ends the future."""
        self._finalizer = weakref.finalize(self, self._client_thread.kept_results.free_later, self._record, self.index)
        self._finalizer.atexit = False
        if self._lost is not None:  # it was freed before it was there
            self._finalizer()

    def fetch(self) -> None:
        """Ask for the value, unless it is here or was asked for."""
        if not self.is_kept:
            return
        with self._fetch_lock:
            if self._is_asked:
                return
            self._is_asked = True
        self._client_thread.kept_results.fetch(self._record, self)

    def fetched(self, value: Any, error: BaseException | None) -> None:
        """Take the value, or why it is lost. For the client thread."""
        if self._has_value.is_set():  # it was freed meanwhile
            return
        if error is None:
            self._result = value
        else:
            self._lost = error
        self._has_value.set()

    @property
    def has_come(self) -> bool:
        """Whether the value is here, or is known to be lost."""
        return self._has_value.is_set()
