"""The backend that runs each `joblib.Parallel` on a cluster.

    Parallel: dispatch --batches of calls--> ClusterBackend.submit --> ParallelCall --tasks--> CallStream --> cluster
    Parallel: callback <-- thread that waits for the Parallel, or one of the call <-- client thread: a task has ended

One `Parallel` has a backend of its own (`configure` makes it), and each of its calls a job (`ParallelCall`).

joblib calls the user's iterable when a batch has ended. That may take long, so it never happens in the client thread:
the thread that waits for the list of results makes these calls, so it also knows immediately when all results are
there. joblib itself checks every 10 ms. A `Parallel` that returns a generator, or has a timeout, needs another thread.

The size of batches follows the run times that workers measure. joblib's own follows the time from dispatch to end, and
doubles from one, until batches take 0.2 s.

Imports joblib, so it is imported only where joblib is used.
"""

import concurrent.futures
import copy
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import joblib
from joblib.parallel import FallbackToBackend, ParallelBackendBase, SequentialBackend

from concurrent_nb import foreign
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.application.call_stream import CallStream
from concurrent_nb.nodes.application.chunking import TIMED_STATUSES
from concurrent_nb.nodes.application.client_tasks import NO_LIMITS, Payload
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.progress_bar import Progress
from concurrent_nb.nodes.application.task_options import TaskOptions, options_of
from concurrent_nb.shipping.runtime.joblib_calls import BackendInTask, Calls, Item, arranged, joined, task_of
from concurrent_nb.shipping.serialization.references import text_attribute_of
from concurrent_nb.tasks.chunk_size import CHUNKS_LEFT, AdaptiveSize
from concurrent_nb.tasks.stream_batch_size import StreamBatchSize
from concurrent_nb.wire.codec import size_of
from concurrent_nb.wire.messages import Needs

if TYPE_CHECKING:
    from concurrent_nb.nodes.application.node import ApplicationNode

log = foreign.Log(__name__)

#: what `Parallel` passes to each backend: about its own processes and their memory maps, which are not used here
_OF_JOBLIB: Final = frozenset({"context", "max_nbytes", "mmap_mode", "prefer", "require", "temp_folder", "verbose"})
#: seconds after which the thread that waits looks whether it was interrupted, where only that makes it notice
LOOK_EVERY_S: Final = 1.0
#: seconds for which the user's input is read at a time, as far as is known
READ_S: Final = 0.002
#: ... and most calls: as many tuples as the garbage collector does not notice
READ_MAX: Final = 512
#: calls that were read go to an idle slot, without reading more, if they take so many seconds, or reading has taken
#: READ_MAX_S seconds
WORTH_S: Final = 0.005
READ_MAX_S: Final = 0.01


class ClusterBackend(ParallelBackendBase):  # type: ignore[misc]  # joblib ships no types
    """Runs the calls of a `Parallel` as tasks of an application. The options are those of `ApplicationNode.joblib`.

    Args:
        application: returns the application; called when a `Parallel` begins.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1

    def __init__(
        self,
        application: "Callable[[], ApplicationNode]",
        *,
        timeout_s: float | None = None,
        retries: int = 0,
        needs: Needs | None = None,
        name: str = "",
        strategy: str | None = None,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self.parallel: Any = None  #: the Parallel that it is the backend of
        self._application = application
        self._options = options_of(timeout_s, retries, needs, name, strategy)
        self._n_jobs = 1
        self._call: ParallelCall | None = None

    # ----------------------------------------------------------------------------------------------- called by joblib

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many calls can run at the same time.

        -1 means as many as the cluster has room for, but at least 2, because joblib would run a `Parallel` with one job
        in this process. Raises ValueError for 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None or n_jobs > 0:
            return n_jobs or 1
        return max(self._count_places() + 1 + n_jobs, 2)

    def configure(self, n_jobs: int | None = 1, parallel: Any = None, **options: Any) -> int:
        """Prepare for the calls of a `Parallel`; return how many run at the same time.

        Raises:
            FallbackToBackend: the `Parallel` is to use the backend in it: one of its own, or joblib's for one job.
            TypeError: for options that there are not.
        """
        if unknown := options.keys() - _OF_JOBLIB:
            raise TypeError(
                f"Parallel has no option {', '.join(sorted(unknown))} with the backend concurrent_nb: give timeout_s,"
                " retries, needs, name and strategy to parallel_config(backend='concurrent_nb', ...) or app.joblib(...)"
            )
        jobs = self.effective_n_jobs(n_jobs)
        if jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if self.parallel is not parallel:
            own = copy.copy(self)
            own.parallel, own._call = parallel, None
            raise FallbackToBackend(own)
        self._n_jobs = jobs
        return jobs

    def start_call(self) -> None:
        """Begin a call of the `Parallel`."""
        # joblib keeps the batches that a call which failed has not sent, and would send them now.
        while (left := getattr(self.parallel, "_ready_batches", None)) is not None and not left.empty():
            left.get()
        # A batch that the user has sized, and a limit for each batch, mean just that.
        merges = self.parallel.batch_size == "auto" and self._options.limits == NO_LIMITS
        level = (self.nesting_level or 0) + 1
        self._call = ParallelCall(self.parallel, self._open_stream, self._n_jobs, merges, level)

    def stop_call(self) -> None:
        """End the job of a call."""
        if self._call is not None:
            self._call.close()

    def compute_batch_size(self) -> int:
        """Return how many calls the next batch should have."""
        return self._call.next_read() if self._call is not None else 1

    def submit(self, func: Any, callback: Callable[[Any], object] | None = None) -> "DispatchedBatch":
        """Run a batch of calls; `callback` is called with it when it has ended."""
        assert self._call is not None and callback is not None
        return self._call.submit(func.items, callback)

    def apply_async(self, func: Any, callback: Callable[[Any], object] | None = None) -> "DispatchedBatch":
        """Do the same for joblib until 1.4."""
        return self.submit(func, callback)

    def retrieve_result_callback(self, out: "DispatchedBatch") -> Any:
        """Return the results of a batch that has ended, or raise its exception."""
        return out.result()

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Wait for all results first, if this thread wants the list of them."""
        if self._call is not None and self._call.has_reader:
            self._call.work()
        yield

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel the batches of the call, and stop running ones."""
        if self._call is not None:
            self._call.cancel()

    def get_nested_backend(self) -> tuple[Any, None]:
        """Return the backend of a `Parallel` in a task."""
        return BackendInTask(nesting_level=(self.nesting_level or 0) + 1), None

    # --------------------------------------------------------------------------------------------------------- inside

    def _open_stream(self, name: str) -> CallStream:
        """Begin a job for a call of the `Parallel`."""
        at_once = None if self._n_jobs >= self._count_places() else self._n_jobs
        return self._application()._open_stream(self._task_options(name), at_once)

    def _task_options(self, name: str = "") -> TaskOptions:
        """Return the options of each task, and the name of the job, if none was given."""
        given = self._options
        needs = given.needs
        if self.inner_max_num_threads is not None:
            if needs is not None:
                raise ConfigurationError("inner_max_num_threads and needs both set the number of cores of a task")
            needs = Needs(cores=self.inner_max_num_threads)
        limits = given.limits
        return options_of(limits.timeout_s, limits.retries, needs, given.name or name, given.strategy)

    def _count_places(self) -> int:
        """Return how many tasks with these options the cluster can run at the same time."""
        needs = self._task_options().needs
        cores = 1 if needs is None or needs.kind != "process" else needs.cores
        return self._application()._count_places(cores)


class DispatchedBatch:
    """A batch of joblib, and what became of it. joblib keeps it until it takes the results."""

    __slots__ = ("callback", "calls", "count", "error", "values")

    def __init__(self, count: int, callback: Callable[["DispatchedBatch"], object]) -> None:
        self.count = count  #: of its calls
        self.calls: Calls | None = None  #: until they are sent
        self.callback: Callable[[DispatchedBatch], object] | None = callback  #: until it is called
        self.values: Sequence[Any] = ()
        self.error: BaseException | None = None

    def result(self) -> Sequence[Any]:
        """Return the values of its calls, or raise the exception of one."""
        if self.error is not None:
            raise self.error
        return self.values

    def end(self) -> None:
        """Report to joblib that it has ended. joblib may dispatch more."""
        callback, self.callback = self.callback, None  # it refers to this batch
        assert callback is not None
        callback(self)


class ParallelCall:
    """One call of a `Parallel`: its job, and what its batches have in common.

    Args:
        open_stream: begins its job, given the name of the function that is called.
        merges: whether several batches of short calls may travel as one task.
        nesting_level: of a `Parallel` in its tasks.
    """

    def __init__(
        self,
        parallel: Any,
        open_stream: Callable[[str], CallStream],
        n_jobs: int,
        merges: bool,
        nesting_level: int,
    ) -> None:
        self._sizes = StreamBatchSize(n_jobs)
        self._parallel = parallel
        self._open_stream = open_stream
        self._stream: CallStream | None = None  # from the first batch on
        self._n_jobs = n_jobs
        self._tasks_ahead = 2 * n_jobs  # one runs on each slot, one is there before it ends
        self._merges = merges
        self._nesting_level = nesting_level
        self._ended: queue.SimpleQueue[tuple[Sequence[DispatchedBatch], Any] | None] = queue.SimpleQueue()
        # For the thread that waits:
        self._unanswered = 0  # tasks
        self._gathers = False  # whether batches are gathered, and sent when all ends of tasks are handled
        self._gathered: deque[DispatchedBatch] = deque()
        self._reads = AdaptiveSize(1, READ_S)
        self._read_began_s: float | None = None  # the time, while joblib reads
        self._read_s = 0.0  # since the last batch was sent
        self._is_read = False  # whether the input has ended
        #: whether the thread that called the `Parallel` works here until all batches have ended
        self.has_reader = not parallel.return_generator and parallel.timeout is None
        if not self.has_reader:
            threading.Thread(target=self._run, name="concurrent_nb joblib", daemon=True).start()

    def submit(self, items: Sequence[Item], callback: Callable[[Any], object]) -> DispatchedBatch:
        """Run a batch. If it cannot be sent, that is its result: joblib would wait for ever for what raises here."""
        batch = DispatchedBatch(len(items), callback)
        self._note_read(len(items))
        try:
            batch.calls = arranged(items)
        except Exception as error:  # noqa: BLE001  (the items of the input may be anything)
            self._unanswered += 1
            self._end_unsent([batch], error)
            return batch
        if self._gathers:
            self._gathered.append(batch)
        elif self._merges and self.has_reader:  # joblib begins; nobody handles ends of tasks until it has read enough
            self._gathered.append(batch)
            while self._gathered and self._unanswered - self._ended.qsize() < self._tasks_ahead:
                self._send(self._taken(self._sizes.next_size(), lambda calls: False))
        else:
            self._send([batch])
        return batch

    def next_read(self) -> int:
        """Return how many calls the next batch of joblib should have. It reads as many for each slot at once."""
        size = self._sizes.next_size()
        if not (self._merges and self.has_reader):
            return size
        if self._parallel._ready_batches.empty():
            self._read_began_s = time.perf_counter()
        read = min(self._reads.next_size(size * self._n_jobs * CHUNKS_LEFT), READ_MAX)
        return min(size, max(read // self._n_jobs, 1))

    def cancel(self) -> None:
        """Cancel all batches, and stop running ones."""
        if self._stream is not None:
            self._stream.cancel()

    def close(self) -> None:
        """End the job; the `Parallel` has what it wanted."""
        if self._stream is not None:
            self._stream.close()
        self._ended.put(None)

    def work(self) -> None:
        """Call the callbacks of batches until all have ended or the `Parallel` aborts. For the thread that waits."""
        progress = Progress("map", "joblib", self._counts)
        self._gathers = self._merges
        with self._parallel._lock:
            unread = self._parallel._original_iterator
            self._is_read = unread is None
            if unread is not None:
                self._parallel._original_iterator = itertools.chain(unread, self._end())
        try:
            while self._unanswered and not self._parallel._aborting:
                try:
                    ended = self._ended.get(timeout=progress.wait_s(LOOK_EVERY_S))
                    while ended is not None:
                        self._hand_over(*ended)
                        ended = self._ended.get_nowait() if self._gathers else None
                except queue.Empty:
                    pass
                self._send_gathered()
                progress.look()
        finally:
            self._gathers = False
            progress.close()

    def _run(self) -> None:
        while (ended := self._ended.get()) is not None:
            foreign.call(log, "a callback of joblib has raised", self._hand_over, *ended)
            del ended  # it holds results

    def _hand_over(self, batches: Sequence[DispatchedBatch], future: "concurrent.futures.Future[Any]") -> None:
        """Report to joblib that batches have ended. It may submit more."""
        self._unanswered -= 1
        error = concurrent.futures.CancelledError() if future.cancelled() else future.exception()
        if error is not None:  # of one of the calls; joblib drops the values of all others
            batches[0].error = error
            batches[0].end()
            return
        values, start = future.result(), 0
        for batch in batches:
            end = start + batch.count
            batch.values, start = values[start:end] if len(batches) > 1 else values, end
            batch.end()

    def _send_gathered(self) -> None:
        """Send the gathered batches, those of short calls together, and read more if there are too few for all slots.

        joblib divides what is left at the end of its input into ten batches for each slot. Of short calls these are so
        short that sending them takes longer than running them.
        """
        while self._gathers and self._unanswered < self._tasks_ahead and not self._parallel._aborting:
            left = sum(batch.count for batch in self._gathered) + self._count_ready() if self._is_read else None
            if not (taken := self._taken(self._sizes.next_size(left), self._reads_for)):
                return
            if self._is_read and left is None:  # now it is known how much is left for all slots
                self._gathered.extendleft(reversed(taken))
                continue
            self._send(taken)
            self._read_s = 0.0

    def _taken(self, wanted: int, reads_for: Callable[[int], bool]) -> list[DispatchedBatch]:
        """Take batches that were gathered, with at least so many calls together, if there are as many.

        Args:
            reads_for: gathers more for so many calls, if that is worth the time; returns whether there is more.
        """
        gathered, taken, calls = self._gathered, [], 0
        while calls < wanted and (gathered or reads_for(calls)):
            taken.append(gathered.popleft())
            calls += taken[-1].count
            if calls < wanted and self._gathers and not gathered and not self._ended.empty():
                gathered.extend(taken)  # what has ended in the meantime comes first
                return []
        return taken

    def _reads_for(self, calls: int) -> bool:
        """Have joblib make one more batch to go with so many calls, unless an idle slot should get these now.

        Returns whether there is one more.
        """
        is_idle = calls and self._unanswered < self._n_jobs
        if is_idle and (self._sizes.expected_s(calls) >= WORTH_S or self._read_s >= READ_MAX_S):
            return False
        parallel = self._parallel
        with parallel._lock:
            if parallel._original_iterator is not None and not parallel._aborting:
                parallel.dispatch_next()
        return bool(self._gathered)

    def _note_read(self, calls: int) -> None:
        """Note how long joblib has read, if it has, when it dispatches one of the batches that it has made."""
        if self._read_began_s is None:
            return
        elapsed_s, self._read_began_s = time.perf_counter() - self._read_began_s, None
        self._read_s += elapsed_s
        self._reads.measured(calls + self._count_ready(), elapsed_s)

    def _end(self) -> Iterator[Item]:
        """Yield nothing, but note that all of the input has been read."""
        self._is_read = True
        yield from ()

    def _count_ready(self) -> int:
        """Return how many calls joblib has read and not dispatched."""
        return sum(map(len, self._parallel._ready_batches.queue))

    def _send(self, batches: Sequence[DispatchedBatch]) -> None:
        """Send batches as one task."""
        self._unanswered += 1
        try:
            calls = joined([batch.calls for batch in batches if batch.calls is not None])
            for batch in batches:
                batch.calls = None  # it may be large
            if (stream := self._stream) is None:
                stream = self._stream = self._open_stream(_name_of(calls.each_function()[0]))
            function, args = task_of(calls, self._nesting_level)
            payload = stream.pack(function, args)
            stream.send(function, payload, partial(self._task_ended, batches, calls.number, _bytes_of(payload)))
        except Exception as error:  # noqa: BLE001  (the arguments may be anything)
            self._end_unsent(batches, error)

    def _end_unsent(self, batches: Sequence[DispatchedBatch], error: Exception) -> None:
        unsent: concurrent.futures.Future[Any] = concurrent.futures.Future()
        unsent.set_exception(error)
        self._ended.put((batches, unsent))

    def _task_ended(
        self, batches: Sequence[DispatchedBatch], calls: int, size_bytes: int, future: "TaskFuture[Any]"
    ) -> None:
        if future.status in TIMED_STATUSES:
            self._sizes.measured(calls, future.elapsed_s, size_bytes)
        self._ended.put((batches, future))

    def _counts(self) -> tuple[int, int]:
        parallel = self._parallel
        known = getattr(parallel, "n_tasks", None)  # since joblib 1.5
        return parallel.n_completed_tasks, known or parallel.n_dispatched_tasks


@contextmanager
def in_use(backend: ClusterBackend, n_jobs: int | None) -> Iterator[None]:
    """Run each `Parallel` of the `with` block on a backend, those that do not name another one."""
    with joblib.parallel_config(backend=backend, n_jobs=n_jobs):
        yield


def _name_of(function: Any) -> str:
    return text_attribute_of(function, "__name__") or type(function).__name__


def _bytes_of(payload: Payload) -> int:
    return len(payload.body) + sum(map(size_of, payload.sizes))
