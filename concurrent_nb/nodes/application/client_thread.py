"""The client thread of an application: sends tasks to the master and receives their outcomes.

    any thread: post, call_soon  -->  inbox, wake  -->  this thread: ClientCore, link  -->  master
    master  -->  this thread: link, ClientCore  -->  futures end, callbacks run

No other thread touches core and link, because an interrupt may stop a user's thread between any two steps. This thread
pickles nothing and makes no future; it unpickles results, because futures need them. An exception of that, or of a
callback, is caught here (`foreign`); output of tasks is written by another thread (`task_output`). If the master falls
silent, this thread searches for one for a while, and open tasks go to the master that it finds, under the same ids.
"""

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from math import inf
from typing import Any, Final, Protocol

from msgspec.structs import replace

from concurrent_nb import foreign
from concurrent_nb.clock import monotonic
from concurrent_nb.errors import (
    AccessRefused,
    AttachRefused,
    ClusterError,
    DependencyFailed,
    MasterLost,
    NotPicklable,
    ProtocolError,
    ResultNotLoadable,
    TooLarge,
    WorkerDied,
)
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.client_loop import MASTER_LOST_AFTER_S, PATIENCE_S, RETRY_S, ClientLoop
from concurrent_nb.nodes.application.client_tasks import (
    ClientJob,
    Found,
    JobFound,
    NeededTask,
    News,
    Payload,
    ResultFetched,
    TaskEnded,
    TaskEntry,
    TaskRunning,
    TaskWrote,
    UnclaimedResult,
)
from concurrent_nb.nodes.application.condition import this_thread
from concurrent_nb.nodes.application.core import ClientCore, ends_job
from concurrent_nb.nodes.application.futures import Presenter
from concurrent_nb.nodes.application.kept_futures import KeptFuture
from concurrent_nb.nodes.application.kept_results import KeptResults
from concurrent_nb.nodes.application.kept_tasks import KeptTasks
from concurrent_nb.nodes.application.results import answer_of, dependency_failed, failure_of
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.nodes.application.task_output import OutputThread
from concurrent_nb.nodes.application.task_streams import StreamDecoder
from concurrent_nb.nodes.common import nested
from concurrent_nb.nodes.common.registration import CALL_TIMEOUT_S, Membership
from concurrent_nb.nodes.common.session_loop import Verdict
from concurrent_nb.nodes.common.wakeup import Wakeup
from concurrent_nb.object_store.segment_reader import SegmentReader
from concurrent_nb.object_store.segments import CannotOpen, SegmentHandle
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.runtime.call_chunks import FORKS
from concurrent_nb.transport.poller import Poller, fd_of, has_message
from concurrent_nb.wire.messages import INPUTS_MAX, NOTES, DropSegments, JobAttached, OutcomeFrame, Segment, Slice

log = foreign.Log(__name__)

#: ends of tasks wait so long for output that is not read, and then overtake it
OVERTAKE_S: Final = 60.0
#: longer than a turn or an attempt to find a master takes: a thread that took longer has stood still
STOOD_STILL_S: Final = 2 * CALL_TIMEOUT_S
#: shared memory is tidied this often, and unused memory is closed after so long
TIDY_S: Final = 1.0
REST_AFTER_S: Final = 10.0
#: a task that has run on top of another one for so long, in seconds, may wait for tasks of its own
RUNS_HERE_S: Final = 0.1
#: a task's own tasks are sent after so many seconds: a thread that waits for one of them may run it before
HOLD_S: Final = 0.005
#: how often a thread that waits for this one checks whether it has ended
STOPPED_CHECK_S: Final = 1.0
#: most seconds for which an application that leaves waits until the master has its last report, if there is one
LAST_REPORT_S: Final = 1.0
#: after these a worker does not use the arguments of a task any more
_AT_REST: Final = frozenset({Status.OK, Status.HIT, Status.ERROR, Status.NOT_PICKLABLE})

#: by number: a call of the enumeration takes longer than all other bookkeeping of an outcome
_STATUSES: Final = {int(status): status for status in Status}
_CANCELLED: Final = Status.CANCELLED  # a name in a module is found faster than a member of an enumeration
_KEPT: Final = Status.KEPT

Task = TaskEntry[TaskHandle]
Callback = Callable[[], None]


class TaskSource(Protocol):
    """Makes the tasks of a job when there is room for them. Called in the client thread."""

    record: ClientJob[TaskHandle]

    def leave(self, cancel: bool) -> None:
        """Make no more tasks, because the application leaves. With `cancel`, cancel what has not been sent."""

    def fail(self, error: ClusterError) -> None:
        """End what has not been sent with an error: the cluster is gone."""


class StallDetector:
    """Detects that this thread has stood still: stopped by a signal, blocked by a lock, or asleep with its machine."""

    def __init__(self) -> None:
        self._seen = self._clocks()

    def stood_still(self) -> bool:
        """Return whether more than STOOD_STILL_S have passed since the last call."""
        before, self._seen = self._seen, self._clocks()
        return any(now - then > STOOD_STILL_S for then, now in zip(before, self._seen, strict=True))

    @staticmethod
    def _clocks() -> tuple[float, float]:
        return monotonic(), time.time()  # the first clock stops while the machine sleeps


class ClientThread:
    """The thread that exchanges the tasks of one application with the master.

    Args:
        join: registers the application, now and whenever its master is lost; called with the membership that the
            new one replaces, or None.
        cluster, name: names of the cluster, for messages, and of the application, for the thread.
        store: the shared memory with the application's large buffers.
        gone: called when the master is given up; with whether the cluster was stopped.
        at_end: called at the end of the thread.
    """

    def __init__(
        self,
        join: Callable[[Membership | None], Membership],
        cluster: str,
        name: str,
        store: ObjectStore,
        gone: Callable[[bool], object],
        at_end: Callback,
    ) -> None:
        self.member = join(None)  # first, because it may fail, and what follows has to be closed
        self.store = store  #: the shared memory with the application's large buffers
        # When, since when unused, the count of stored buffers then.
        self._tidied: tuple[float, float, int] = (0.0, 0.0, 0)
        self._segments = SegmentReader()  # shared memory of others, which holds results
        self._released: deque[Slice] = deque()  # filled when a result is dropped, in any thread
        self._join = join
        self._gone = gone
        self._at_end = at_end
        self._cluster = cluster
        self._pid, self._forks = os.getpid(), len(FORKS)
        self.present: Presenter | None = None  #: called with each exception before its future ends; never raises
        #: submits a function with arguments, as `ApplicationNode.submit`; None: that is not possible
        self.submit: Callable[..., Any] | None = None
        #: called with a held task whose inputs have ended: makes the payload for `give`, in another thread
        self.pack_results: Callable[[Task], object] | None = None
        #: called with the job of a task that neither this application nor the end of its job has cancelled
        self.cancelled_elsewhere: Callable[[ClientJob[TaskHandle]], None] | None = None
        #: tasks that may not have begun, so that a thread that waits can run them; None: none does
        self.kept: KeptTasks | None = None
        #: called with this and whether tasks are unanswered; None: as `nested` has it
        self.note_blocked: Callable[[object, bool], None] | None = None
        #: since when a thread that waits runs a task here; None: none does
        self.runs_here_since_s: float | None = None
        self._lock = threading.Lock()  # guards the attributes up to the inbox
        self._closed = False  # no more tasks
        self._sources: dict[JobId, TaskSource] = {}
        self._broken: ClusterError | None = None
        self._inbox: deque[Task | Callback] = deque()
        self._holds = False  # tasks in the inbox wait until `_hold_until_s`, as a thread may claim them meanwhile
        self._hold_until_s = 0.0
        self._is_urgent = False  # but not now
        self._unsent: deque[Task] = deque()  # tasks that a thread may claim, the oldest first
        self._leaving = False  # this thread ends when no task is open
        self._unattended = False  # and the master may keep its jobs then
        self._wake = Wakeup()
        self.output = OutputThread(name, drained=self._wake.set)
        self._held: deque[News[TaskHandle]] = deque()  # news that waits for output to be written
        self._held_until = 0.0
        self._ran: deque[tuple[Task, OutcomeFrame, float]] = deque()  # tasks that ran here, and when they ended
        self._has_run = False  # whether there were any that may not have been reported to the master
        self.streams = StreamDecoder(self.output)  #: what tasks write
        self._core = ClientCore[TaskHandle](self.member.interval_s)
        #: results that stay in the cluster
        self.kept_results = KeptResults(self._core, self._copy, self.call_soon, self._why_gone, lambda: self.has_left)
        self._loop = ClientLoop(self._core, self._take_news, cluster)
        self._attach()
        self._waiter = self._watch()
        self._awake = StallDetector()
        self._thread = threading.Thread(target=self._run, name=f"concurrent_nb {name}", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------------------------------------ for any thread

    @property
    def is_closed(self) -> bool:
        """Whether no more tasks are taken, because of `leave`; False if that is because the cluster is gone."""
        return self._closed and self._broken is None

    @property
    def has_left(self) -> bool:
        """Whether this thread has ended: the application has nothing in the cluster any more."""
        return not self._thread.is_alive()

    def check_open(self) -> None:
        """Raise RuntimeError after `leave` and in a forked copy, MasterLost once the cluster is gone."""
        if os.getpid() != self._pid:
            raise RuntimeError("this application was made before a fork: make a new one in the child process")
        if self._broken is not None:
            raise type(self._broken)(str(self._broken))
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def post(self, tasks: Sequence[Task]) -> None:
        """Queue tasks. Raises as `check_open`."""
        with self._lock:
            if self._closed or self._broken is not None or len(FORKS) != self._forks:
                self.check_open()
            if self.kept is not None:
                self.kept.add(tasks)
            self._inbox.extend(tasks)
        if self.kept is None:
            self._wake.set()
        elif not self._holds:
            self._holds = True
            self._wake.set()

    def open_source(self, source: TaskSource) -> None:
        """Register a source, which will `add` tasks of its own job in this thread. Raises as `check_open`."""
        with self._lock:
            self.check_open()
            self._sources[source.record.id] = source

    def ask_statistics(self, job: JobId | None) -> dict[str, Any]:
        """Return the master's statistics of a job, or of the cluster (None).

        Raises MasterUnreachable if the master does not answer, and what it answers.
        """
        try:
            return self.member.statistics(job)
        finally:
            self.member.control.close()  # the next request comes much later

    def owns_job(self, job: JobId) -> bool:
        """Return whether a job belongs to the owner of this application's jobs. Raises as `ask_statistics`."""
        try:
            return bool(self.member.ask("owns_job", job=job.hex()))
        finally:
            self.member.control.close()  # as above

    def is_idle(self) -> bool:
        """Return whether nothing is unfinished. For a thread beside which no other one submits."""
        with self._lock:
            if self._closed or self._broken is not None or self._sources:
                return False
        answered = threading.Event()
        has_entries: list[bool] = []

        def look() -> None:
            has_entries.append(self._has_tasks() or bool(self._held))
            answered.set()

        self.call_soon(look)
        while not answered.wait(STOPPED_CHECK_S):
            if self.has_left:
                return False
        return not has_entries[0]

    def close_job(self, record: ClientJob[TaskHandle]) -> None:
        """Close a job: it gets no more tasks."""
        self.call_soon(lambda: self._core.close(record))

    def read_job(self, record: ClientJob[TaskHandle], found: Callable[[JobAttached], object]) -> None:
        """Read a job that the master keeps, and wait until its tasks are there.

        Args:
            record: of the job; `new_handle` makes the handles of its tasks, in the client thread.
            found: called with the master's answer, in the client thread.

        Raises AttachRefused if the job cannot be read, RuntimeError in the client thread, and as `check_open`.
        """
        self._wait_for_job(lambda then: self._core.read(record, then), found)

    def confirm_job(self, record: ClientJob[TaskHandle]) -> None:
        """Wait until the master has all tasks of a detached job, which is closed. Raises as `read_job`."""
        self._wait_for_job(lambda then: self._core.confirm(record, then), lambda _: None)

    def _wait_for_job(self, ask: Callable[[Found], None], found: Callable[[JobAttached], object]) -> None:
        self.check_may_wait("the master cannot be asked about a job")
        self.check_open()
        answers: list[JobAttached | None] = []
        answered = threading.Event()

        def then(answer: JobAttached | None) -> None:
            if answer is not None and not answer.error:
                found(answer)
            answers.append(answer)
            answered.set()

        self.call_soon(partial(ask, then))
        while not answered.wait(STOPPED_CHECK_S):
            if self.has_left:
                break
        if not answers or answers[0] is None:
            self.check_open()
            raise MasterLost(f"the application has left cluster {self._cluster!r}")
        if answers[0].error:
            raise AttachRefused(answers[0].error)

    def cancel(self, job: JobId, indexes: Sequence[int] | None) -> None:
        """Cancel tasks of a job, or all (None), running ones too."""
        self.call_soon(lambda: self._cancel(job, indexes))

    def leave(self, wait: bool, cancel_futures: bool, stop: bool = False) -> None:
        """Accept no more tasks, and end this thread when the accepted ones have ended.

        Args:
            wait: return only when the thread has ended.
            cancel_futures: cancel what does not run yet.
            stop: cancel everything, running tasks too.
        """
        with self._lock:
            self._closed = True
        if os.getpid() != self._pid:
            return  # a forked copy: thread and link belong to the parent
        self.call_soon(lambda: self._begin_leaving(cancel_futures, stop))
        if wait and threading.current_thread() is not self._thread:
            self._thread.join()

    def quit(self, *, unattended: bool = False) -> None:
        """Leave now, and wait for no outcome: no future ends, and the master cancels what is open.

        With `unattended`, the master does with it what it does with the jobs of an application that was killed.
        """
        with self._lock:
            self._closed = True
            self._unattended = unattended
        self.call_soon(self._quit)
        self._thread.join()

    def fail(self, error: ClusterError) -> None:
        """End all tasks, open and later ones, with an error: the cluster cannot run them any more."""
        self.call_soon(lambda: self._give_up(str(error), type(error)))

    def call_soon(self, what: Callback) -> None:
        """Call something in this thread. May be called in any thread."""
        self._inbox.append(what)
        self._is_urgent = True
        self._wake.set()

    # ------------------------------------------------------------------------------------------------- in this thread

    def add(self, tasks: Sequence[Task]) -> None:
        """Add tasks of a source, also while the application leaves."""
        if tasks:
            if self.kept is not None:
                self.kept.add(tasks)
                tasks = [task for task in tasks if self.kept.may_send(task)]
            self._core.add(tasks)

    def close_source(self, source: TaskSource) -> None:
        """Close a source: it makes no more tasks."""
        if self._sources.pop(source.record.id, None) is not None:
            self._core.close(source.record)

    def _run(self) -> None:
        this_thread.is_client = True
        try:
            while not (self._leaving and not self._has_tasks() and not self._inbox and not self._held):
                if not self._turn() or self._broken is not None:
                    break
        except BaseException as error:
            log.exception("the client thread has failed")
            self._give_up(f"the client thread of the application has failed: {foreign.describe(error)}")
        finally:
            self.report_blocked(False)
            with self._lock:
                self._closed = True
            if self._broken is None and self._unattended:
                self.member.leave(unattended=True)  # what is not acknowledged is kept
            elif self._broken is None:
                self._report_last()
                self._loop.acknowledge()
                self.member.leave()
            else:
                self.member.close()
            for then in self._core.drop_fetches():
                then(None)
            for found in self._core.drop_found():
                found(None)
            self._wake.close()
            self._segments.close()
            self.store.close()
            self.output.close()
            self._at_end()

    def _attach(self) -> list[Task]:
        member = self.member
        return self._loop.attach(
            member.link,
            member.epoch,
            member.silence_s,
            monotonic(),
            self.store,
            shares=member.shares_memory,
            quota=member.quota,
            patience_s=PATIENCE_S if member.journal else MASTER_LOST_AFTER_S,
        )

    def _turn(self) -> bool:
        """Wait for an event, and take a turn. False if the cluster is gone."""
        if self._awake.stood_still():
            self._loop.stood_still(monotonic())
        self._wake.rearm()
        waits = (bool(self._inbox) and not self._must_hold(monotonic())) or has_message(self.member.link.socket)
        due_s = min(self._core.next_deadline(), self._hold_until_s) if self._holds else self._core.next_deadline()
        ready = self._waiter.poll(0.0 if waits else max(0.0, due_s - monotonic()))
        now = monotonic()
        if self._wake.fileno() in ready:
            self._wake.clear()
        if self._inbox and not self._must_hold(now):
            self._holds = self._is_urgent = False
            self._hold_until_s = 0.0
            self._take_inbox()
        self._loop.receive(now)
        if self._held:
            self._learn_held(now)
        self.kept_results.drop_unused()
        if self._released:
            self._core.release([self._released.popleft() for _ in range(len(self._released))])
        if now - self._tidied[0] >= TIDY_S:
            self._tidy(now)
            self._report_measured(now)
        if self._unsent:
            self._send_unsent()
        if self._ran:
            self._report_ran(now)
        verdict = self._loop.send(self._monitor_fd in ready and self.member.link.disturbed(), now)
        self._end_unsent()
        self._look_after_held()
        if nested.note_blocked is not None or self.note_blocked is not None:
            self.report_blocked(self._core.has_entries() and not self._runs_here(now))
        if self.kept is not None:
            self.kept.wake()
        return verdict is Verdict.STAY or self._find_master(verdict)

    def report_blocked(self, is_blocked: bool) -> None:
        """Report in a worker whether the task of this application waits for tasks of its own."""
        if (note_blocked := self.note_blocked or nested.note_blocked) is not None:
            note_blocked(self, is_blocked)

    def _runs_here(self, now: float) -> bool:
        """Return whether a task that waits runs another one here. It may wait in a way that is not known here."""
        since_s = self.runs_here_since_s
        return since_s is not None and now - since_s < RUNS_HERE_S

    def _take_news(self, envelope: Iterable[News[TaskHandle]]) -> None:
        """Act on the news of an envelope."""
        for news in envelope:
            if (self._held or self.output.is_busy) and self._must_wait(news):
                self._held.append(news)
                continue
            # Not by `foreign.call`, which would cost each result a tenth of its way through this thread.
            try:
                if type(news) is TaskEnded and self.kept is None:  # by far the most frequent news
                    self.end(news)
                else:
                    self._learn(news)
            except BaseException as error:  # noqa: BLE001  (foreign code; the task's own future has it)
                self._end_broken(news, error)

    def _end_unsent(self) -> None:
        """End the tasks that were cancelled before they were sent, and those that are too large for the master."""
        for unsent in self._core.take_unsent():
            future, limit_bytes = unsent.entry.handle, self._core.quota.bytes
            if self.kept is not None:
                self.kept.begun(unsent.entry)
            if unsent.inputs:
                text = (
                    f"task {future.task} needs the results of {unsent.inputs:,} tasks, and one task takes at most"
                    f" {INPUTS_MAX:,}: gather them in several steps, or use `reduce`"
                )
                future.end(None, TooLarge(text))
                continue
            if not unsent.size_bytes:
                future.end_cancelled()
                continue
            error = TooLarge(
                f"task {future.task}: its function and arguments have {unsent.size_bytes:,} bytes that travel, and the "
                f"master takes {limit_bytes:,} of one application: raise MasterNode.bytes_per_client, or run on the "
                "master's host, where large buffers lie in shared memory and do not travel",
                unsent.size_bytes,
                limit_bytes,
            )
            future.end(None, error)

    def _look_after_held(self) -> None:
        """Have tasks sent that need results that only this process has, or will have: with these results."""
        for entry in self._core.take_held():
            # The others are in the cluster, or are held themselves: references to them stay.
            absent = [it for it in entry.payload.inputs if not self._core.is_unanswered(it)]
            left = [future for future in absent if not future.done()]
            if self._fetch_kept(entry, absent):
                continue
            if not left:
                self._give_results(entry)
                continue
            countdown = itertools.count(1)
            total = len(left)

            def ended(_: object, entry: Task = entry, countdown: Iterator[int] = countdown, total: int = total) -> None:
                if next(countdown) == total:
                    self.call_soon(lambda: self._give_results(entry))

            for future in left:
                future.add_done_callback(ended)

    def _fetch_kept(self, entry: Task, inputs: Sequence[NeededTask]) -> bool:
        """Ask for the kept results that a held task needs, to send them along. Return whether there are any to come."""
        away = [it for it in inputs if isinstance(it, KeptFuture) and it.is_kept and not it.has_come]
        if not away:
            return False
        missing = len(away)

        def fetched(_: object) -> None:
            nonlocal missing
            missing -= 1
            if not missing and self._core.is_held(entry):
                self._core.look_again(entry)

        for future in away:
            self.kept_results.ask(future._record, future, fetched)
        return True

    def _why_gone(self) -> Exception | None:
        """Return why nothing can be fetched from the cluster any more; None while it can."""
        if self._broken is not None or not self._leaving:
            return self._broken
        return RuntimeError("cannot fetch results after shutdown")

    def _copy(self, slice_: Slice) -> bytearray:
        """Copy a slice of a kept result, which others may get after it was freed here."""
        data = self._segments.read(slice_)
        self._released.append(slice_)
        return data

    def check_may_wait(self, what: str = "a kept result cannot be fetched") -> None:
        """Raise RuntimeError in this thread: it cannot wait for what it has to do itself."""
        if threading.current_thread() is self._thread:
            raise RuntimeError(f"{what} in a callback of a future, which runs in the client thread: use another thread")

    def _give_results(self, entry: Task) -> None:
        """Send a held task with the results that it needs, or end it if it cannot have them."""
        ended = [future for future in entry.payload.inputs if future.done()]
        failed = next((future for future in ended if failure_of(future) is not None), None)
        if failed is not None:
            self.end_held(entry, dependency_failed(entry.handle, failed))
        elif self.pack_results is None:
            self.end_held(entry, NotPicklable("this application takes no futures as arguments"))
        else:
            self.pack_results(entry)

    def end_held(self, entry: Task, error: BaseException) -> None:
        """End a held task that cannot be sent. In this thread."""
        if self._core.drop_held(entry):
            if entry.payload.lease is not None:
                entry.payload.lease.end(clean=True)
            if self.kept is not None:
                self.kept.begun(entry)
            status = Status.DEPENDENCY_FAILED if isinstance(error, DependencyFailed) else Status.REFUSED
            entry.handle.status = status
            entry.handle.set_outcome(None, error, self.present)
            self.end_job_after(entry.job, status)

    def give(self, entry: Task, payload: Payload) -> None:
        """Send a held task, with the results that it needs in its payload. In this thread."""
        self._core.give(entry, payload)

    def _tidy(self, now: float) -> None:
        """Close unused shared memory: any surplus now, the rest after a while without use."""
        _, since, count = self._tidied
        if count != self.store.stored_count:
            since, count = now, self.store.stored_count
        self._tidied = (now, since, count)
        if closed := self.store.tidy(0 if now - since >= REST_AFTER_S else None):
            self._core.closed(closed)

    def _watch(self) -> Poller:
        waiter = Poller(self.member.link.socket)
        self._monitor_fd = fd_of(self.member.link.monitor)
        waiter.add(self._monitor_fd)
        self.member.link.disturbed()  # a monitor's descriptor becomes readable only after a first read
        waiter.add(self._wake.fileno())
        return waiter

    def _take_inbox(self) -> None:
        tasks: list[Task] = []
        for _ in range(len(self._inbox)):  # what a source queues meanwhile is for the next turn
            if not self._inbox:  # an item has given the cluster up, and dropped the others
                break
            item = self._inbox.popleft()
            if isinstance(item, TaskEntry):
                if self.kept is not None:
                    self._unsent.append(item)
                elif not item.handle.cancelled():
                    tasks.append(item)
            else:
                self._core.add(tasks)
                tasks = []
                item()
        if tasks:
            self._core.add(tasks)

    def _quit(self) -> None:
        self._unsent.clear()
        self._core.drop_all()
        self._core.take_unsent()
        self._held.clear()
        self._leaving = True

    def _has_tasks(self) -> bool:
        return self._core.has_entries() or bool(self._unsent)

    def _must_hold(self, now: float) -> bool:
        """Return whether tasks that have just come are not sent yet: a thread that waits may claim them."""
        if not self._holds or self._is_urgent:
            return False
        if not self._hold_until_s:
            self._hold_until_s = now + HOLD_S
        if now < self._hold_until_s:
            return True
        self._hold_until_s = 0.0
        return False

    def _send_unsent(self) -> None:
        """Send tasks that no thread has claimed, as many as the cluster is likely to start soon."""
        kept, unsent = self.kept, self._unsent
        assert kept is not None
        tasks: list[Task] = []
        while unsent:
            if kept.is_unsent(unsent[0]) and not (self._leaving or kept.has_room(unsent[0])):
                break
            task = unsent.popleft()
            if kept.may_send(task):
                tasks.append(task)
        if tasks:
            self._core.add(tasks)

    def _cancel(self, job: JobId, indexes: Sequence[int] | None) -> None:
        """Cancel tasks of a job, also those that are kept for a thread."""
        self._core.cancel(job, indexes)
        if self._unsent:
            for entry in [it for it in self._unsent if it.job.id == job and (indexes is None or it.index in indexes)]:
                if indexes is None:
                    entry.job.is_over = True
                if self.kept is not None and self.kept.is_unsent(entry):
                    self.kept.begun(entry)
                    entry.handle.end_cancelled()

    def _begin_leaving(self, cancel_futures: bool, stop: bool) -> None:
        if cancel_futures:
            for entry in [*self._core.entries(), *self._unsent]:
                if not _goes_on(entry.job):
                    entry.handle.cancel()
        if cancel_futures or stop:
            self._held_until = 0.0  # output is not waited for any more
        sources = dict(self._sources)
        for source in sources.values():
            source.leave(cancel_futures or stop)
        if stop:
            for job_id in {entry.job.id for entry in self._unsent}:
                self._cancel(job_id, None)
        for job in list(self._core.jobs.values()):
            if _goes_on(job):
                self._let_go(job)
                continue
            if stop:
                self._core.cancel(job.id, None)
            if job.id not in sources:
                self._core.close(job)
        self._leaving = True

    def _let_go(self, job: ClientJob[TaskHandle]) -> None:
        """Leave a job to the master, which keeps it."""
        why = f"job {job.id.hex()} goes on without this application, which has left the cluster: attach to it"
        for entry in self._core.let_go(job):
            entry.handle.end(None, RuntimeError(why))

    # --------------------------------------------------------------------------------------------------------- news

    def _must_wait(self, news: News[TaskHandle]) -> bool:
        """Return whether output must be written first: before ends, and before all news after an end that waits."""
        if type(news) is TaskWrote:
            if news.stream != NOTES:
                return False
        elif type(news) is not TaskEnded:
            return bool(self._held)
        if self._held:
            return True
        if self.output.settle():
            return False
        self._held_until = monotonic() + OVERTAKE_S
        return True

    def _learn_held(self, now: float) -> None:
        """Handle news that has waited for output, if that is written or has taken too long."""
        if self.output.is_busy:
            if now < self._held_until:
                return
            self.output.overtake()
        while self._held:
            news = self._held.popleft()
            try:
                self._learn(news)
            except BaseException as error:  # noqa: BLE001  (as in `_take_news`)
                self._end_broken(news, error)

    def _learn(self, news: News[TaskHandle]) -> None:
        if type(news) is TaskEnded:
            if self.kept is not None and self._was_taken_back(news):
                return
            self.end(news)
        elif type(news) is TaskRunning:
            if self.kept is not None:
                self.kept.begun(news.entry)
            news.entry.handle.note_running(news.slave)
        elif type(news) is TaskWrote:
            self.streams.show(news)
        elif type(news) is ResultFetched:
            news.then(news)
        elif type(news) is JobFound:
            self._job_found(news)
        elif type(news) is UnclaimedResult:
            # It may be a result that has arrived in a former session, and that is still used.
            self._core.release(news.slices, clean=False)
        elif type(news) is Segment:
            try:
                self._segments.add(SegmentHandle(news.segment, news.pid, news.fd, news.size))
            except (CannotOpen, OSError, ValueError) as error:  # tasks whose results are there end with an error
                log.warning("shared memory of the master: %s", error)
        elif type(news) is DropSegments:
            self._segments.drop(news.segments)

    def _job_found(self, news: JobFound[TaskHandle]) -> None:
        """Tell who waits for a job; end its tasks if the master does not have it any more."""
        if news.answer.error and news.job is not None:
            for entry in self._core.let_go(news.job):
                entry.handle.end(None, MasterLost(f"task {entry.handle.task}: {news.answer.error}"))
        if news.then is not None:
            news.then(news.answer)

    def _end_broken(self, news: News[TaskHandle], error: BaseException) -> None:
        """End a task whose outcome raised an error here: its future may not wait for ever."""
        log.error("news of a task could not be handled", exc_info=error)
        if type(news) is TaskEnded:
            future = news.entry.handle
            failure = ResultNotLoadable(
                f"the result of task {future.task} could not be handed over: {foreign.describe(error)}",
                task=future.task,
                slave=future.slave,
                worker=future.worker,
            )
            failure.__cause__ = error
            foreign.call(log, "ending a task has failed", future.end, None, failure)

    def _was_taken_back(self, ended: TaskEnded[TaskHandle]) -> bool:
        """Return whether the master has given a task back that had not begun. Note the end of others."""
        assert self.kept is not None
        entry = ended.entry
        if ended.frame.status != Status.TAKEN_BACK:
            self.kept.begun(entry)
            return False
        if entry.cancelled or entry.job.is_over or entry.handle.cancelled():
            self.kept.begun(entry)
            entry.handle.end_cancelled()
        elif not self.kept.taken_back(entry):  # the thread that has asked for it does not wait any more
            self._inbox.append(entry)
        return True

    def take_back(self, job: JobId, indexes: Sequence[int]) -> None:
        """Ask the master for tasks that have not begun. In this thread."""
        self._core.take_back(job, indexes)

    def send_again(self, tasks: Sequence[Task]) -> None:
        """Queue tasks that a thread has claimed and not run, also while the application leaves. For any thread."""
        if tasks:
            self._inbox.extend(tasks)
            self._is_urgent = True
            self._wake.set()

    def ran(self, task: Task, frame: OutcomeFrame) -> None:
        """Report soon to the master that a task has run here, and how it ended. For any thread."""
        self._has_run = True
        self._ran.append((task, frame, monotonic()))

    def _report_ran(self, now: float) -> None:
        by_function: dict[tuple[bytes, bytes], tuple[Task, list[OutcomeFrame]]] = {}
        while self._ran:
            task, frame, ended_s = self._ran.popleft()
            frame = replace(frame, ago_us=max(0, int((now - ended_s) * 1e6)))
            by_function.setdefault((task.job.id, task.function.digest), (task, []))[1].append(frame)
        for task, frames in by_function.values():
            self._core.ran(task.job, task.function, frames)

    def end_job_after(self, job: ClientJob[TaskHandle], status: int) -> None:
        """Cancel the rest of a job, if it ends with a task that has run here and ended like this. In this thread."""
        if ends_job(job, status) and not job.is_over:
            job.is_over = True
            self._cancel(job.id, None)

    def end(self, ended: TaskEnded[TaskHandle]) -> None:
        """End a task. In this thread, or in the one that has run the task."""
        entry, frame = ended.entry, ended.frame
        future = entry.handle
        self._loop.sessions_in_vain = 0
        if (lease := entry.payload.lease) is not None:
            # A lost worker that ran an earlier attempt may still use it.
            lease.end(clean=frame.attempt == 1 and frame.status in _AT_REST and not frame.keeps)
        status = future.status = _STATUSES[frame.status]
        future.slave, future.worker = ended.slave, frame.worker
        future.attempt, future.elapsed_s = frame.attempt, frame.elapsed_s
        if frame.cpu_us:
            future.usage = frame.cpu_us, frame.peak_kib
        if self.streams.is_used:
            self.streams.forget(future)
        if status is _KEPT and isinstance(future, KeptFuture):
            self._core.keep(entry.job)
            future.note_kept()
        if status is _CANCELLED:
            future.end_cancelled()
            if self.cancelled_elsewhere is not None and not (entry.cancelled or entry.job.is_over):
                self.cancelled_elsewhere(entry.job)
        else:
            value, error = answer_of(ended, self._take)
            if isinstance(error, WorkerDied) and future.reported:
                error.reported = future.reported
                error.add_note(f"the last that it has reported: {future.reported}")
            future.set_outcome(value, error, self.present)

    def _take(self, slice_: Slice) -> memoryview | bytearray:
        return self._segments.map_until_unused(slice_, self._released.append)

    def _report_measured(self, now: float) -> None:
        """Report to the master the values that tasks have measured, if a report is due."""
        while self.streams.reports.is_due(now):  # more than once only at infinity, when the application leaves
            for job, values in self.streams.reports.take(now):
                self._core.measured(job, values)

    def _report_last(self) -> None:
        """Send the last reports, if there are any, and wait a moment until the master has them."""
        if not self._has_run and not self.streams.reports.is_due(inf):
            return
        self._report_ran(monotonic())
        self._report_measured(inf)
        now, session = monotonic(), self._core.session
        until_s = now + LAST_REPORT_S
        while self._loop.send(False, now) is Verdict.STAY and session is not None and session.in_flight:
            if now >= until_s:
                return
            left_s = min(until_s, self._core.next_deadline()) - now
            self._waiter.poll(0.0 if has_message(self.member.link.socket) else max(0.0, left_s))
            now = monotonic()
            self._loop.receive(now)

    # ----------------------------------------------------------------------------------------- when the master is gone

    def _find_master(self, verdict: Verdict) -> bool:
        """Ask a silent master whether the session exists; if not, register again. False if there is no master."""
        if verdict is not Verdict.END:
            verdict = self._loop.next_attempt(monotonic())
        while verdict is not Verdict.END:
            try:
                if verdict is Verdict.ASK and self.member.still_known():
                    self._loop.confirmed(monotonic())
                else:
                    self._go_on_with(self._join(self.member))
                return True
            except (ClusterError, ProtocolError, AccessRefused, OSError) as error:
                self._loop.attempt_failed(f"{type(error).__name__}: {error}")
                time.sleep(RETRY_S)
            if self._awake.stood_still():
                self._loop.stood_still(monotonic())
            verdict = self._loop.next_attempt(monotonic())
        assert self._loop.gave_up is not None
        why, error_type, is_stopped = self._loop.gave_up
        self._give_up(why, error_type, gracefully=is_stopped)
        return False

    def _go_on_with(self, member: Membership) -> None:
        self.member.close()
        self.member = member
        self._waiter = self._watch()
        for entry in self._attach():
            entry.handle.end_cancelled()

    def _give_up(self, why: str, kind: type[ClusterError] = MasterLost, gracefully: bool = False) -> None:
        self._held_until = 0.0
        self._learn_held(monotonic())
        with self._lock:
            self._broken = kind(why)
            left = [item for item in self._inbox if isinstance(item, TaskEntry)]
            self._inbox.clear()
        self._end_unsent()
        for entry in [*self._core.drop_all(), *self._unsent, *left]:
            entry.handle.end(None, kind(f"task {entry.handle.task}: {why}"))
        for then in self._core.drop_fetches():
            then(None)
        for found in self._core.drop_found():
            found(None)
        for source in list(self._sources.values()):
            source.fail(kind(why))
        self._gone(gracefully)


def _goes_on(job: ClientJob[Any]) -> bool:
    """Return whether a job goes on without this application: the master has all of it, and keeps it."""
    return job.new_handle is not None or (job.detached and job.close_sent)
