"""A job whose calls come one by one, and whose results are taken as they come: that of a `joblib.Parallel`.

Unlike a `Job` it keeps no future, so what was taken is freed. A limit holds back calls while as many are unanswered.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from concurrent_nb.errors import ClusterError
from concurrent_nb.nodes.application.client_tasks import ClientJob, Payload, TaskEntry
from concurrent_nb.nodes.application.client_thread import ClientThread
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.payload import with_inputs_of
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.nodes.application.task_options import TaskOptions
from concurrent_nb.nodes.application.task_packer import TaskPacker
from concurrent_nb.object_store.store import Lease

#: the last calls with large arguments of which these stay where they are, because the next calls may have the same
HELD_MAX: Final = 8

#: called with each future that has ended
Ended = Callable[[TaskFuture], object]


class CallStream:
    """One job without an end, until it is closed. May be used from any thread.

    Args:
        record: the job.
        options: of each call.
        unanswered_max: calls that may be at the cluster at the same time; None: any number.
    """

    def __init__(
        self,
        packer: TaskPacker,
        client_thread: ClientThread,
        record: ClientJob[TaskHandle],
        options: TaskOptions,
        unanswered_max: int | None = None,
    ) -> None:
        self._packer = packer
        self._client_thread = client_thread
        self._record = record
        self._options = options
        self._unanswered_max = unanswered_max
        self._lock = threading.Lock()  # guards what follows
        self._index = 0
        self._unanswered = 0
        self._held: deque[TaskEntry[TaskHandle]] = deque()
        self._leases: deque[Lease] = deque()  # of the last calls
        self._is_cancelled = False

    def pack(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Payload:
        """Pickle the arguments of a call. Raises NotPicklable."""
        return self._packer.call_payload(function, args, {})

    def send(self, function: Callable[..., Any], payload: Payload, ended: Ended) -> TaskFuture[Any]:
        """Send a call; return its future, which ends with the reason if it cannot be sent.

        Args:
            ended: called with the future when it has ended: in the client thread, or in this one if that is now.

        Raises NotPicklable if the function cannot be sent.
        """
        packed = self._packer.function_payload(function)
        with self._lock:
            index, self._index = self._index, self._index + 1
            if payload.lease is not None:
                self._leases.append(payload.lease.again())
            surplus = self._leases.popleft() if len(self._leases) > HELD_MAX else None
        if surplus is not None:
            surplus.end(clean=True)  # the call's own lease knows whether a worker still refers to it
        future: TaskFuture[Any] = TaskFuture(self._record.id, index, self._client_thread.cancel)
        future.add_done_callback(ended)
        needs = self._options.needs_with(packed)
        payload = with_inputs_of(packed, payload, self._record)
        entry: TaskEntry[TaskHandle] = TaskEntry(
            self._record, index, packed, payload, future, self._options.limits, needs
        )
        with self._lock:
            is_cancelled = self._is_cancelled
            is_held = self._unanswered == self._unanswered_max
            if is_held and not is_cancelled:
                self._held.append(entry)
            elif not is_cancelled:
                self._unanswered += 1
        if is_cancelled:
            future.end_cancelled()
        elif not is_held:
            self._post(entry)
        return future

    def cancel(self) -> None:
        """Cancel all calls, and stop running ones. Later ones end as cancelled."""
        with self._lock:
            self._is_cancelled = True
        self._client_thread.cancel(self._record.id, None)
        for handle in self._take_held():
            handle.end_cancelled()

    def close(self) -> None:
        """Note that no more calls come."""
        self._client_thread.close_job(self._record)
        with self._lock:
            leases, self._leases = self._leases, deque()
        for lease in leases:
            lease.end(clean=True)

    def _post(self, entry: TaskEntry[TaskHandle]) -> None:
        handle = entry.handle
        assert isinstance(handle, TaskFuture)
        handle.add_done_callback(self._answered)
        try:
            self._client_thread.post((entry,))
        except (RuntimeError, ClusterError) as error:
            for unsent in (*self._take_held(), handle):
                unsent.end(None, error)

    def _answered(self, future: TaskFuture) -> None:
        """Send the next call that was held back; none if the job was cancelled, here or elsewhere."""
        if future.cancelled():
            self.cancel()
        with self._lock:
            entry = self._held.popleft() if self._held else None
            if entry is None:
                self._unanswered -= 1
        if entry is not None:
            self._post(entry)

    def _take_held(self) -> list[TaskHandle]:
        with self._lock:
            held, self._held = self._held, deque()
        return [entry.handle for entry in held]
