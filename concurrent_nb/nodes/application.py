"""The user's side of a cluster: an Executor whose tasks run on slaves.

    your threads: submit, map, start_job --pickle--> inbox -> wake
    one thread of ours: inbox -> Ledger -> Link -> master;  master -> Link -> Ledger -> futures end, callbacks run

Nothing is pickled in our thread and no future is made there, so a slow argument holds up only the one who sends it.
"""

import atexit
import concurrent.futures
import itertools
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from concurrent_nb.clock import monotonic
from concurrent_nb.errors import AccessRefused, ClusterError, MasterLost, NotPicklable, ProtocolError
from concurrent_nb.ids import JobId, new_job_id
from concurrent_nb.nodes.answers import answer_of
from concurrent_nb.nodes.futures import Job, OutputPiece, TaskFuture
from concurrent_nb.nodes.ledger import Ended, Entry, Ledger, OpenJob, Runs, Shipment, Wrote
from concurrent_nb.nodes.registration import Membership, register
from concurrent_nb.nodes.stream import Stream
from concurrent_nb.nodes.wake import Wake
from concurrent_nb.outcome import SUCCESSES, Status
from concurrent_nb.shipping import pickles
from concurrent_nb.shipping.functions import Functions
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.keys import KeyPair
from concurrent_nb.transport.waiting import Waiter, fd_of, has_mail
from concurrent_nb.wire.codec import Buffers, pack_body
from concurrent_nb.wire.session import Session

log = logging.getLogger(__name__)

#: no master within this time after it fell silent, and every open future ends with MasterLost
MASTER_LOST_AFTER_S: Final = 5.0
#: time between two attempts to find a master again
RETRY_S: Final = 0.25
#: single submits share a job; a new one is begun after this many, so that what the old one used can be forgotten
SUBMITS_PER_JOB: Final = 4096

Callback = Callable[[], None]


class ApplicationNode(concurrent.futures.Executor):
    """Run functions on a cluster: `submit`, `map` and `shutdown` as the standard library documents them.

    Made by `Cluster.application()` and `concurrent_nb.connect()`. Safe to use from many threads. What tasks print comes
    out of this process's standard output and error, unless they belong to a job of `start_job`.

    >>> with concurrent_nb.Cluster(workers=2) as cluster:               # doctest: +SKIP
    ...     app = cluster.application()
    ...     app.submit(pow, 2, 10).result()
    1024

    Args:
        where: path of the cluster's connection file. It is read again when the master has to be found again.
        keys: CURVE pair; its public half is the principal that owns the jobs.
        name: what people see in the cluster's status.

    Raises MasterUnreachable, AccessRefused or VersionMismatch if it cannot register.
    """

    def __init__(self, where: Path, keys: KeyPair, name: str = "") -> None:
        self._where = where
        self._keys = keys
        self.name = name or f"application-{os.getpid()}"
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._turning = threading.Lock()  # held by who uses ledger and link: our thread, or one that sends alone
        self._closed = False  # no more submits
        self._leaving = False  # the thread may stop when nothing is unanswered
        self._broken: MasterLost | None = None
        self._inbox: deque[Entry[TaskFuture] | Callback] = deque()
        self._wake = Wake()
        self._functions = Functions()
        self._indexes = itertools.count()
        self._loose = OpenJob[TaskFuture](new_job_id(), self.name)
        self._jobs: dict[bytes, Job] = {}
        self._member = self._register()
        self._ledger = Ledger[TaskFuture](self._member.interval_s)
        self._ledger.attach(Session(self._member.epoch, "to_client"))
        self._waiter = self._watch()
        self._heard_at = monotonic()
        self._thread = threading.Thread(target=self._run, name=f"concurrent_nb {self.name}", daemon=True)
        self._thread.start()
        self._at_exit = _finish_at_exit(self)

    def _register(self) -> Membership:
        return register(connection_file.read(self._where), "client", self._keys, name=self.name)

    # --------------------------------------------------------------------------------------------------- the Executor

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskFuture:
        """Run `fn(*args, **kwargs)` on the cluster; return its future.

        What cannot be pickled shows up as the future's exception, NotPicklable. Raises RuntimeError after `shutdown`
        and MasterLost once the cluster is gone.
        """
        index = next(self._indexes)
        if index % SUBMITS_PER_JOB == SUBMITS_PER_JOB - 1:
            self._renew_loose_job()
        job = self._loose
        future = TaskFuture(job.id, index, self.cancel, None)
        try:
            body, sizes, buffers = self.pack(fn, args, kwargs)
            function = self.ship(fn)
        except NotPicklable as error:
            self._check_open()
            future.end(None, error)
            return future
        entry = Entry(job, index, function, body, sizes, buffers, None, 0, future)
        if not self._send_alone(entry):
            self.post([entry])
        return future

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Return an iterator over `fn(*items)` for the items of the iterables, in order.

        Args:
            timeout: seconds from now after which `next` raises TimeoutError.
            chunksize: items per task; None lets the cluster decide (today a task each).
            buffersize: take items from the iterables only this many tasks ahead of what was read; None takes all now.
        """
        if chunksize is not None and chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and type(buffersize) is not int:
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else time.monotonic() + timeout
        items = zip(*iterables, strict=False)
        if chunksize is None or chunksize == 1:
            return self._results(self._stream(fn, items, buffersize), deadline)
        chunks = ((chunk,) for chunk in iter(lambda: tuple(itertools.islice(items, chunksize)), ()))
        results = self._results(self._stream(pickles.OnEach(fn), chunks, buffersize), deadline)
        return itertools.chain.from_iterable(results)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and leave the cluster when those that were taken have ended.

        Args:
            wait: return only then.
            cancel_futures: cancel what does not run yet.
        """
        with self._lock:
            self._closed = True
        if os.getpid() != self._pid:
            return  # a forked copy: the thread and the link belong to the parent
        self._tell(self._begin_leaving, cancel_futures)
        if wait and threading.current_thread() is not self._thread:
            self._thread.join()
            self._at_exit()

    def close(self) -> None:
        """Leave the cluster now: what has not ended is cancelled, running tasks are stopped."""
        self._tell(self._cancel_everything)
        self.shutdown(wait=True)

    # ---------------------------------------------------------------------------------------------------------- jobs

    def start_job(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        *,
        name: str = "",
        until: bool = False,
        stop_on_error: bool = False,
        timeout_s: float | None = None,
        retries: int = 0,
    ) -> Job:
        """Run `function(*call)` for each call as one job; return it at once.

        Args:
            until: the first task that returns an `outcome.Hit` ends the job, the rest is cancelled.
            stop_on_error: the first task that fails ends the job.
            timeout_s: run time in seconds allowed per attempt.
            retries: how often a task may run again after an error or a timeout.

        Raises NotPicklable before anything has been sent.
        """
        record = OpenJob[TaskFuture](new_job_id(), name, until, stop_on_error)
        job = Job(record.id, name, self.cancel)
        shipment = self.ship(function)
        entries = []
        for index, call in enumerate(calls):
            body, sizes, buffers = self.pack(function, call, {})
            future = TaskFuture(record.id, index, self.cancel, job.task_ended)
            job.futures.append(future)
            entries.append(Entry(record, index, shipment, body, sizes, buffers, timeout_s, retries, future))
        self._jobs[record.id] = job
        self.post(entries)
        self.close_job(record)
        return job

    def status(self) -> dict[str, Any]:
        """Ask the master what there is: slaves, clients, tasks. Raises MasterUnreachable."""
        answer = self._member.control.call("status")
        assert isinstance(answer, dict)
        return answer

    # ----------------------------------------------------------------------------------------------- in your threads

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError("this application was made before a fork: make a new one in the child process")
        if self._broken is not None:
            raise MasterLost(str(self._broken))
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def post(self, entries: Sequence[Entry[TaskFuture]]) -> None:
        """Hand tasks to our thread. Raises RuntimeError after `shutdown`, MasterLost once the cluster is gone."""
        with self._lock:
            self._check_open()
            self._inbox.extend(entries)
        self._wake.set()

    def close_job(self, record: OpenJob[TaskFuture]) -> None:
        """Say that no more tasks will come for a job."""
        self._tell(self._ledger.close, record)

    def _tell(self, what: Callable[..., None], *args: Any) -> None:
        self._inbox.append(lambda: what(*args))
        self._wake.set()

    def _send_alone(self, entry: Entry[TaskFuture]) -> bool:
        """Send a task from the caller's thread, if nothing else is underway; False if it should be posted.

        To wake our thread, only for it to send, takes a third of the time that a lone task takes here.
        """
        with self._lock:
            if not self._turning.acquire(blocking=False):
                return False
            try:
                self._check_open()
                session = self._ledger.session
                if self._inbox or session is None or session.in_flight or session.backlog:
                    return False
                self._ledger.add([entry])
                self._send_what_is_due(monotonic())
                if has_mail(self._member.link.socket):
                    self._wake.set()  # sending may have taken the sign by which our thread would have noticed
                return True
            finally:
                self._turning.release()

    def ship(self, fn: Callable[..., Any]) -> Shipment:
        """Pickle a function, or find it pickled. Raises NotPicklable."""
        with self._lock:
            pickled = self._functions.pickle(fn)
        return Shipment(pickled.digest, *pack_body(pickled.body, pickled.buffers))

    def pack(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[bytes, tuple[int, ...], Buffers]:
        """Pickle the arguments of a call. Raises NotPicklable."""
        try:
            return pack_body(*pickles.dumps((args, kwargs)))
        except Exception as error:  # whatever the argument's own pickling raises is the caller's to see
            name = getattr(fn, "__qualname__", repr(fn))
            raise NotPicklable(f"an argument of {name} cannot be sent: {type(error).__name__}: {error}") from error

    def _renew_loose_job(self) -> None:
        with self._lock:
            old, self._loose = self._loose, OpenJob[TaskFuture](new_job_id(), self.name)
            self._inbox.append(lambda: self._ledger.close(old))

    def cancel(self, job: JobId, indexes: Sequence[int] | None) -> None:
        """Ask for the end of tasks of a job, or of all (None), running ones too. For futures and jobs."""
        self._tell(self._cancel_now, job, indexes)

    def _stream(self, fn: Callable[..., Any], calls: Iterator[tuple[Any, ...]], ahead: int | None) -> Stream:
        record = OpenJob[TaskFuture](new_job_id(), getattr(fn, "__name__", "map"))
        return Stream(self, fn, calls, record, ahead)

    def _results(self, stream: Stream, deadline: float | None) -> Iterator[Any]:
        """Iterate over a stream's results, which begins at once although nobody has asked for the first."""
        stream.fill()

        def results() -> Iterator[Any]:
            try:
                while stream.futures:
                    future = stream.futures.popleft()
                    left = None if deadline is None else deadline - time.monotonic()
                    try:
                        value = future.result(left)
                    except BaseException:
                        future.cancel()
                        raise
                    del future
                    stream.fill()
                    yield value
            finally:
                stream.close()

        return results()

    # ----------------------------------------------------------------------------------------------- in our thread

    def _run(self) -> None:
        try:
            while not (self._leaving and not self._ledger.has_entries() and not self._inbox):
                if not self._turn():
                    break
        except BaseException as error:
            log.exception("the application's thread has failed")
            self._give_up(MasterLost(f"the application's own thread has failed: {type(error).__name__}: {error}"))
        finally:
            self._say_what_is_left()
            self._member.leave() if self._broken is None else self._member.close()
            with self._lock:
                self._closed = True
            self._wake.close()

    def _turn(self) -> bool:
        """Wait for something, and do it. False when the cluster is gone."""
        with self._turning:
            waits = bool(self._inbox) or has_mail(self._member.link.socket)
            wait_s = 0.0 if waits else max(0.0, self._ledger.next_deadline() - monotonic())
        ready = self._waiter.poll(wait_s)
        with self._turning:
            return self._do_turn(ready, monotonic())

    def _do_turn(self, ready: dict[int, int], now: float) -> bool:
        if self._wake.fileno() in ready:
            self._wake.clear()
        if self._inbox:
            self._take_inbox()
        try:
            for frames in self._member.link.receive():
                self._heard_at = now
                for news in self._ledger.received(frames, now):
                    self._learn(news)
            session = self._ledger.session
            assert session is not None
            over = session.closed_by_peer is not None
        except ProtocolError as error:
            log.warning("the master broke the protocol: %s", error)
            over = True
        self._send_what_is_due(now)
        cut = self._monitor_fd in ready and self._member.link.disturbed()
        if over or cut or now - self._heard_at > self._member.silence_s:
            return self._look_for_master(over)
        return True

    def _send_what_is_due(self, now: float) -> None:
        for frames in self._ledger.step(now):
            self._member.link.send(frames)

    def _watch(self) -> Waiter:
        waiter = Waiter(self._member.link.socket)
        self._monitor_fd = fd_of(self._member.link.monitor)
        waiter.add(self._monitor_fd)
        waiter.add(self._wake.fileno())
        return waiter

    def _take_inbox(self) -> None:
        entries: list[Entry[TaskFuture]] = []
        while self._inbox:
            item = self._inbox.popleft()
            if isinstance(item, Entry):
                if not item.owner.cancelled():
                    entries.append(item)
            else:
                self._ledger.add(entries)
                entries = []
                item()
        if entries:
            self._ledger.add(entries)

    def _learn(self, news: Any) -> None:
        if type(news) is Ended:
            self._end(news)
        elif type(news) is Runs:
            future = news.entry.owner
            future.slave = news.slave
            if not future.running() and not future.done():
                future.set_running_or_notify_cancel()
            if (job := self._jobs.get(future.job_id)) is not None:
                job.task_started(future.index)
        elif type(news) is Wrote:
            self._show(news)

    def _end(self, ended: Ended[TaskFuture]) -> None:
        future, frame = ended.entry.owner, ended.frame
        status = future.status = Status(frame.status)
        future.slave, future.worker = ended.slave, frame.worker
        future.attempt, future.elapsed_s = frame.attempt, frame.elapsed_s
        if status is Status.CANCELLED:
            future.end_cancelled()
        elif status in SUCCESSES or not future.cancelled():
            future.end(*answer_of(future.task, ended))
        if not ended.entry.job.entries and ended.entry.job.closed:
            self._jobs.pop(future.job_id, None)

    def _show(self, wrote: Wrote[TaskFuture]) -> None:
        text = wrote.data.decode(errors="replace")
        job = self._jobs.get(wrote.entry.job.id)
        if job is not None:
            job.task_wrote(OutputPiece(wrote.entry.index, wrote.stream, text))
            return
        stream = sys.stdout if wrote.stream == 1 else sys.stderr
        if stream is not None:
            stream.write(text)
            stream.flush()

    def _cancel_now(self, job: JobId, indexes: Sequence[int] | None) -> None:
        self._ledger.cancel(job, indexes)

    def _begin_leaving(self, cancel_futures: bool) -> None:
        if cancel_futures:
            for entry in self._ledger.entries():
                entry.owner.cancel()
        self._ledger.close(self._loose)
        self._leaving = True

    def _cancel_everything(self) -> None:
        for job in list(self._ledger.jobs.values()):
            self._ledger.cancel(job.id, None)

    # ------------------------------------------------------------------------------------------ when the master is gone

    def _look_for_master(self, over: bool) -> bool:
        """Ask a silent master whether we are still known; if not, register anew. False if there is none any more."""
        deadline = monotonic() + MASTER_LOST_AFTER_S
        why = "it ended the session" if over else "it fell silent"
        while monotonic() < deadline:
            try:
                if not over and self._member.still_known():
                    self._heard_at = monotonic()
                    return True
                over = True
                member = self._register()
            except (ClusterError, ProtocolError, AccessRefused, OSError) as error:
                why = f"{type(error).__name__}: {error}"
                over = True
                time.sleep(RETRY_S)
                continue
            self._member.close()
            self._member = member
            self._waiter = self._watch()
            for entry in self._ledger.attach(Session(member.epoch, "to_client")):
                entry.owner.end_cancelled()
            self._heard_at = monotonic()
            return True
        self._give_up(MasterLost(f"the master of {self._where.name} is gone and none came back within 5 s ({why})"))
        return False

    def _give_up(self, error: MasterLost) -> None:
        with self._lock:
            self._broken = error
            left = [item for item in self._inbox if isinstance(item, Entry)]
            self._inbox.clear()
        for entry in [*self._ledger.drop_all(), *left]:
            entry.owner.end(None, MasterLost(f"task {entry.owner.task}: {error}"))

    def _say_what_is_left(self) -> None:
        """Acknowledge the last outcomes, so that the master need not wait for us."""
        if self._broken is None and self._ledger.session is not None:
            self._member.link.send(self._ledger.session.keepalive())


def _finish_at_exit(app: ApplicationNode) -> Callback:
    """At the end of the interpreter let what was submitted finish, as the standard library's executors do.

    Returns a function that makes this undone.
    """
    reference = weakref.ref(app)

    def finish() -> None:
        alive = reference()
        if alive is not None:
            alive.shutdown(wait=True)

    atexit.register(finish)
    return lambda: atexit.unregister(finish)
