"""The client core: the application without sockets. It keeps every task that has no answer yet.

    submits, cancellations -> ClientCore -> Session -> frames for the master
    frames of the master -> Session -> ClientCore -> which task ended how

A task is kept until its outcome is here, so a master that was restarted gets everything again under the same ids. Tasks
above the limits that the master has announced (`quota`) wait here, and are sent as answers come. Pure; it never pickles
or unpickles. Called by the client thread, by the simulator and by the test of a task's life
(tests/test_life_of_a_task.py).
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from math import inf
from typing import Final, Generic, TypeVar

import msgspec

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.client_tasks import (
    NO_FUNCTION,
    NO_PAYLOAD,
    ClientJob,
    Fetched,
    Found,
    FunctionPayload,
    JobFound,
    NeededTask,
    News,
    Payload,
    ResultFetched,
    TaskEnded,
    TaskEntry,
    TaskRunning,
    TaskUnsent,
    TaskWrote,
    UnclaimedResult,
)
from concurrent_nb.nodes.common.quota import UNLIMITED, Quota, room
from concurrent_nb.nodes.common.shared_memory_link import AnnouncedSegments, NullSegmentReader, OpenSegments, cost_of
from concurrent_nb.outcome import SUCCESSES, Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import RUN_ITEMS, Buffer, Buffers, ItemBuffers, length, slices_of
from concurrent_nb.wire.session import Session

T = TypeVar("T")

_INPUT_GONE: Final = int(Status.INPUT_GONE)
_CANCELLED: Final = int(Status.CANCELLED)
_KEPT: Final = int(Status.KEPT)
#: statuses of tasks that have not run, and that are no failures
_NO_FAILURES: Final = frozenset({Status.CANCELLED, Status.TAKEN_BACK})
#: streams that a task can write to
STREAMS: Final = frozenset({1, 2, m.NOTES})
#: most tasks with buffers in shared memory in a run of tasks that have waited
SHARED_ITEMS: Final = 32
#: most inputs of one job, and most jobs, in one announcement of the inputs of a task
INPUTS_EACH: Final = 4096
JOBS_EACH: Final = 16


class ClientCore(Generic[T]):
    """Decides what an application sends, and interprets what it receives."""

    def __init__(self, interval_s: float) -> None:
        self.session: Session | None = None
        self._announced: AnnouncedSegments | None = None
        self.jobs: dict[bytes, ClientJob[T]] = {}
        self.interval_s = interval_s
        self._last_sent_s = float("-inf")
        self.quota = UNLIMITED
        self._sent = 0  # tasks at the master, unanswered
        self._sent_bytes = 0  # ... bytes of them and of the functions that have travelled
        self._segments_in_use: Counter[bytes] = Counter()  # ... how often they refer to our segments
        self._waiting: OrderedDict[bytes, ClientJob[T]] = OrderedDict()  # jobs with tasks that wait; the first is next
        self._may_send = False  # something has changed since the last attempt
        self._sessions = 0
        self._unsent: list[TaskUnsent[T]] = []
        self._fetches: dict[tuple[JobId, int], tuple[ClientJob[T], Fetched]] = {}  # kept results that were asked for
        self._found: dict[JobId, Found] = {}  # who waits for the answer about a job, which was asked for or is to be
        self._newly_held: list[TaskEntry[T]] = []
        #: held tasks that wait until another one is sent, by that one
        self._parked: dict[TaskEntry[T], list[TaskEntry[T]]] = {}
        self._has_unsent_input = False  # the last task that was looked at needs one that is not sent yet

    # ------------------------------------------------------------------------------------------------------ sending

    def has_entries(self) -> bool:
        """Return whether any task is unanswered."""
        return any(job.entries for job in self.jobs.values())

    def entries(self) -> list[TaskEntry[T]]:
        """Return the tasks without an answer."""
        return [entry for job in self.jobs.values() for entry in job.entries.values()]

    def attach(
        self, session: Session, memory: OpenSegments | None = None, *, shares: bool = False, quota: Quota = UNLIMITED
    ) -> list[TaskEntry[T]]:
        """Continue in a new session: send all unanswered tasks again, under the same ids.

        Args:
            memory: where what is not sent as frames lies; None if everything is sent as frames.
            shares: whether the master can open it.
            quota: the limits of the master.

        Returns the tasks that were cancelled. They are not sent again, so there will be no answer for them.
        """
        self.session = session
        self._sessions += 1
        self._announced = AnnouncedSegments(session, memory or NullSegmentReader(), shares)
        self.quota = quota
        self._sent = self._sent_bytes = 0
        self._segments_in_use.clear()
        self._waiting.clear()
        if shares:
            session.send(m.ShareMemory())
        self._last_sent_s = float("-inf")  # the master sends only after the first envelope
        dropped = []
        for job in list(self.jobs.values()):
            if job.new_handle is not None:
                session.send(m.AttachJob(job.id, job.is_read))
                continue
            job.open_sent = job.close_sent = False
            job.functions.clear()
            job.captured_segments.clear()
            job.function_bytes = job.sent = job.sent_bytes = 0
            over = [entry for entry in job.entries.values() if entry.cancelled]
            for entry in over:
                del job.entries[entry.index]
            dropped += over
            job.dropped += [entry.index for entry in over]
            job.waiting.clear()
            self._wait(job, [entry for entry in job.entries.values() if not entry.is_held])
            if job.kept:  # the master drops what is kept for jobs that are not opened again
                self._open(job, session)
            self._close_if_over(job)
        for (_, index), (job, _) in self._fetches.items():
            self._ask_for(job, index, session)
        for job_id in self._found:
            if job_id not in self.jobs:  # its tasks have ended, and it is not opened again
                session.send(m.AttachJob(job_id))
        self._send_waiting()
        return dropped

    def add(self, entries: Iterable[TaskEntry[T]]) -> None:
        """Submit tasks; neighbours that share job, function, limits and needs travel as one run."""
        added = list(entries)
        reopened: dict[bytes, ClientJob[T]] = {}
        for entry in added:
            job = entry.job
            job.entries[entry.index] = entry
            self.jobs[job.id] = job
            if job.closed:  # a thread was slow to submit: the master may have forgotten the job
                if job.close_sent:
                    job.open_sent = job.close_sent = False
                    self._forget_functions(job)
                reopened[job.id] = job
        for _, members in groupby(added, _run_key):
            run = list(members)
            job = run[0].job
            if job.is_over and not job.open_sent:  # else the master answers for them
                for entry in run:
                    self._end_unsent(entry)
            elif self.session is None or job.waiting or (job.is_linked and _needs_results(run)):
                self._wait(job, run)
            else:
                payloads = [entry.payload for entry in run]
                size = sum([len(payload.body) for payload in payloads]) + sum(
                    [sum(map(length, payload.buffers)) for payload in payloads if payload.buffers]
                )
                if self._fits(job, run, size):
                    self._submit(run, size)
                else:
                    self._wait(job, run)
        if self._waiting:
            self._send_waiting()
        for job in reopened.values():
            self._close_if_over(job)

    def close(self, job: ClientJob[T]) -> None:
        """Note that no more tasks will be added to a job."""
        job.closed = True
        self._close_if_over(job)

    def cancel(self, job: JobId, indexes: Sequence[int] | None) -> None:
        """Cancel tasks, or a whole job (None); each is still answered, or returned by `take_unsent`."""
        known = self.jobs.get(job)
        if known is None:
            return
        unsent: list[int] = []
        for index in list(known.entries) if indexes is None else indexes:
            if (entry := known.entries.get(index)) is not None:
                entry.cancelled = True
                if entry.is_waiting:
                    self._end_unsent(entry)
                    unsent.append(index)
        if indexes is None:
            known.is_over = True
        elif unsent:
            gone = set(unsent) if self._sessions == 1 else set()  # a former session may have sent them
            indexes = [index for index in indexes if index not in gone]
        if self._sessions > 1:
            known.dropped += unsent
        # The master does not know a job that this session has not opened. Such a job has no unanswered tasks, unless it
        # is about to be opened again for a late task.
        if self.session is not None and (known.open_sent or known.sent) and (indexes is None or indexes):
            self.session.send(m.Cancel(job, None if indexes is None else list(indexes)))
        if unsent:
            self._skip_ended(known)
            self._close_if_over(known)

    def ran(self, job: ClientJob[T], function: FunctionPayload, frames: list[m.OutcomeFrame]) -> None:
        """Report tasks of a job, of one function, that have run in this process."""
        if self.session is None:
            return
        if job.close_sent:
            job.open_sent = job.close_sent = False
            self._forget_functions(job)
        self.jobs[job.id] = job
        self._open(job, self.session)
        self.session.send(m.Ran(job.id, function.digest, function.name, frames))
        self._close_if_over(job)

    def take_back(self, job: JobId, indexes: Sequence[int]) -> None:
        """Ask for tasks that have not begun: each of them ends as TAKEN_BACK."""
        known = self.jobs.get(job)
        if known is None or self.session is None or not known.open_sent:
            return
        sent = [index for index in indexes if (entry := known.entries.get(index)) is not None and not entry.is_waiting]
        if sent:
            self.session.send(m.Cancel(job, sent, unstarted_only=True))

    def keep(self, job: ClientJob[T]) -> None:
        """Note that a result of a job is kept in the cluster, until `free` is called."""
        job.kept += 1
        self.jobs[job.id] = job

    def free(self, job: ClientJob[T], index: int) -> None:
        """Have a kept result dropped: this application does not need it any more."""
        job.kept -= 1
        job.freed.append(index)
        if self.session is None:
            return
        if job.open_sent:
            self.session.send(m.FreeResults(job.id, [index]))
        else:
            self._open(job, self.session)
        self._close_if_over(job)

    def read(self, job: ClientJob[T], then: Found) -> None:
        """Read a job of another application, or a former one of this: its tasks come when the master has answered."""
        self._found[job.id] = then
        self.jobs[job.id] = job
        job.closed = job.open_sent = job.close_sent = True
        if self.session is not None:
            self.session.send(m.AttachJob(job.id))

    def confirm(self, job: ClientJob[T], then: Found) -> None:
        """Call `then` when the master has all tasks of a detached job, which is closed."""
        self._found[job.id] = then
        if self.session is not None and (job.close_sent or job.id not in self.jobs):
            self.session.send(m.AttachJob(job.id))

    def let_go(self, job: ClientJob[T]) -> list[TaskEntry[T]]:
        """Read a detached job no longer; return its tasks. It goes on."""
        self.jobs.pop(job.id, None)
        entries = list(job.entries.values())
        job.entries.clear()
        return entries

    def drop_found(self) -> list[Found]:
        """Forget who waits for answers about jobs; return whom to inform."""
        found, self._found = self._found, {}
        return list(found.values())

    def fetch(self, job: ClientJob[T], index: int, then: Fetched) -> None:
        """Ask for a kept result; it comes as a `ResultFetched`."""
        self._fetches[job.id, index] = job, then
        self.jobs[job.id] = job
        if self.session is not None:
            self._ask_for(job, index, self.session)

    def _ask_for(self, job: ClientJob[T], index: int, session: Session) -> None:
        if job.close_sent:  # a master that has nothing of it has forgotten it
            job.open_sent = job.close_sent = False
            self._forget_functions(job)
        self._open(job, session)
        session.send(m.FetchResults(job.id, [index]))
        self._close_if_over(job)

    def needed_by_unsent(self) -> set[NeededTask]:
        """Return the tasks whose results are needed by tasks that are not sent yet."""
        if not self._waiting and not any(job.held for job in self.jobs.values()):
            return set()
        return {needed for entry in self.entries() if entry.is_waiting for needed in entry.payload.inputs}

    def drop_fetches(self) -> list[Fetched]:
        """Forget all requests for kept results; return whom to inform."""
        fetches, self._fetches = self._fetches, {}
        return [then for _, then in fetches.values()]

    def take_held(self) -> list[TaskEntry[T]]:
        """Return the tasks that are held since the last call: they need results that the cluster does not have.

        The caller calls `give` for each when this process has the results, or `drop_held`.
        """
        held, self._newly_held = self._newly_held, []
        return [entry for entry in held if entry.is_held]

    def give(self, entry: TaskEntry[T], payload: Payload) -> None:
        """Send a held task with the results that it needs in its payload, unless it has ended meanwhile."""
        if not self.is_held(entry):
            if payload.lease is not None:
                payload.lease.end(clean=True)
            return
        self._let_go(entry)
        entry.payload = payload
        self.add([entry])
        self._unpark(entry)
        self._send_waiting()

    def drop_held(self, entry: TaskEntry[T]) -> bool:
        """Forget a held task, which the caller ends. False if it has ended."""
        if not self.is_held(entry):
            return False
        del entry.job.entries[entry.index]
        self._let_go(entry)
        self._close_if_over(entry.job)
        self._unpark(entry)
        return True

    def _let_go(self, entry: TaskEntry[T]) -> None:
        entry.job.held -= entry.is_held
        entry.is_held = entry.is_waiting = False
        self._may_send = True  # tasks may wait for it

    def _unpark(self, entry: TaskEntry[T]) -> None:
        """Have the tasks sent that were held because this one was."""
        todo = [entry]
        while todo and self._parked:
            for parked in self._parked.pop(todo.pop(), ()):
                if self.is_held(parked):
                    self._let_go(parked)
                    self._wait(parked.job, [parked])
                    todo.append(parked)

    def look_again(self, entry: TaskEntry[T]) -> None:
        """Have `take_held` return a held task once more."""
        self._newly_held.append(entry)

    def is_held(self, entry: TaskEntry[T]) -> bool:
        """Return whether a task is held."""
        return entry.is_held and entry.job.entries.get(entry.index) is entry

    def take_unsent(self) -> list[TaskUnsent[T]]:
        """Return the tasks that have ended in this process since the last call."""
        unsent, self._unsent = self._unsent, []
        return unsent

    def release(self, slices: Sequence[m.Slice], *, clean: bool = True) -> None:
        """Give blocks of results back. If it is `clean`, no process can read them any more, so they may be reused."""
        if self.session is not None:
            self.session.send(m.Release(list(slices), clean))

    def measured(self, job: JobId, values: Sequence[m.MeasuredValue]) -> None:
        """Report to the master the values that the tasks of a job have measured so far."""
        if self.session is not None:
            self.session.send(m.Measured(job, list(values)))

    def closed(self, segments: Sequence[bytes]) -> None:
        """Announce that segments of this application are closed."""
        if self._announced is not None:
            self._announced.dropped(segments)

    def drop_all(self) -> list[TaskEntry[T]]:
        """Forget every task; return them."""
        entries = self.entries()
        self.jobs.clear()
        self._waiting.clear()
        return entries

    def _submit(self, run: list[TaskEntry[T]], size: int) -> None:
        """Send tasks that share job, function, limits and needs; `size` bytes of them travel."""
        session = self.session
        assert session is not None
        first = run[0]
        job = first.job
        self._send_prerequisites(job, first.function, session)
        buffers: ItemBuffers = ()
        if any([entry.payload.sizes for entry in run]):  # noqa: C419  (a list is twice as fast)
            parts = [self._outgoing(entry.payload) for entry in run]
            buffers = [own for _, own in parts]
            frames = [
                m.TaskFrame(entry.index, 0, entry.payload.body, sizes, entry.payload.kind)
                for entry, (sizes, _) in zip(run, parts, strict=True)
            ]
            for entry in run:
                self._segments_in_use.update([slice_.segment for slice_ in slices_of(entry.payload.sizes)])
        else:
            frames = [m.TaskFrame(entry.index, 0, entry.payload.body, (), entry.payload.kind) for entry in run]
        job.sent += len(run)
        job.sent_bytes += size
        self._sent += len(run)
        self._sent_bytes += size
        limits = first.limits
        if job.is_linked:
            for entry in run:
                if entry.payload.inputs:
                    self._announce_inputs(entry, session)
        session.send(
            m.Submit(job.id, first.function.digest, limits.timeout_s, limits.retries, frames, first.needs, limits.keep),
            buffers,
        )

    def _announce_inputs(self, entry: TaskEntry[T], session: Session) -> None:
        indexes: dict[JobId, list[int]] = {}
        for needed in entry.payload.inputs:
            indexes.setdefault(needed.job_id, []).append(needed.index)
        inputs = [
            m.JobTasks(job, of_job[at : at + INPUTS_EACH])
            for job, of_job in indexes.items()
            for at in range(0, len(of_job), INPUTS_EACH)
        ]
        for at in range(0, len(inputs), JOBS_EACH):
            session.send(m.TaskInputs(entry.job.id, entry.index, inputs[at : at + JOBS_EACH]))

    def _outgoing(self, payload: Payload) -> tuple[m.Sizes, Buffers]:
        assert self._announced is not None
        return self._announced.outgoing(payload.sizes, payload.buffers, once=True)

    def _send_prerequisites(self, job: ClientJob[T], function: FunctionPayload, session: Session) -> None:
        """Send what the master must have before a task of this job and function."""
        self._open(job, session)
        if function.digest not in job.functions:
            payload = function.payload
            sizes, buffers = self._outgoing(payload)
            session.send(m.Function(function.digest, payload.body, sizes, function.name), [buffers] if buffers else ())
            job.functions.add(function.digest)
            size = payload.wire_bytes
            job.function_bytes += size
            captured_segments = [slice_.segment for slice_ in slices_of(payload.sizes)]
            job.captured_segments += captured_segments
            self._segments_in_use.update(captured_segments)
            job.sent_bytes += size
            self._sent_bytes += size

    def _open(self, job: ClientJob[T], session: Session) -> None:
        if not job.open_sent:
            session.send(
                m.OpenJob(
                    job.id,
                    job.name,
                    job.until,
                    job.stop_on_error,
                    job.strategy,
                    job.notebook,
                    job.cell,
                    job.line,
                    job.detached,
                )
            )
            job.open_sent = True
            if job.dropped:
                session.send(m.Cancel(job.id, list(job.dropped)))
            if job.freed:
                session.send(m.FreeResults(job.id, list(job.freed)))

    def _close_if_over(self, job: ClientJob[T]) -> None:
        is_open = self.session is not None and job.open_sent and not job.close_sent
        if job.closed and self.session is not None and is_open and not (job.waiting or job.held):
            self.session.send(m.CloseJob(job.id))
            job.close_sent = True
            if job.id in self._found:
                self.session.send(m.AttachJob(job.id))
        if job.closed and not job.entries:
            self._forget_functions(job)
            self._waiting.pop(job.id, None)
            if not job.kept:
                self.jobs.pop(job.id, None)

    def _forget_functions(self, job: ClientJob[T]) -> None:
        """Stop counting a job's functions: the master forgets them with the job."""
        job.functions.clear()
        job.sent_bytes -= job.function_bytes
        self._sent_bytes -= job.function_bytes
        job.function_bytes = 0
        self._uncount_segments(job.captured_segments)
        job.captured_segments.clear()

    def _uncount_segments(self, segments: Iterable[bytes]) -> None:
        in_use = self._segments_in_use
        for segment in segments:
            in_use[segment] -= 1
            if not in_use[segment]:
                del in_use[segment]

    # ------------------------------------------------------------------------------------------- tasks above the limits

    def _fits(self, job: ClientJob[T], run: Sequence[TaskEntry[T]], size: int) -> bool:
        """Return whether tasks that share their function can be sent now; `size` bytes of them travel."""
        quota, function = self.quota, run[0].function
        if quota is UNLIMITED:
            return True
        if len(run) > room(quota.tasks, self._sent, job.sent):
            return False
        slices = [slice_ for sizes in [entry.payload.sizes for entry in run] if sizes for slice_ in slices_of(sizes)]
        if function.digest not in job.functions:
            size += function.payload.wire_bytes
            slices += slices_of(function.payload.sizes)
        return self._has_room(job, size, slices, is_one=len(run) == 1)

    def _has_room(self, job: ClientJob[T], size: int, slices: Sequence[m.Slice], *, is_one: bool) -> bool:
        """Return whether so many bytes of a job may travel, and these slices be announced.

        Args:
            is_one: it is one task. If nothing of its job is at the master yet, it needs no share.
        """
        quota, known = self.quota, self._announced
        assert known is not None
        if slices:
            if known.segments_with(slices) > quota.segments:
                return False
            size += known.bytes_to_send(slices)
        held = self._sent_bytes + known.content_bytes
        return size <= (quota.bytes - held if is_one and not job.sent else room(quota.bytes, held, job.sent_bytes))

    def _is_too_large(self, entry: TaskEntry[T]) -> int:
        """Return how many bytes would have to travel for a task alone, if the master never allows so many; else 0."""
        task, function, known = entry.payload, entry.function.payload, self._announced
        assert known is not None
        size = task.wire_bytes + function.wire_bytes
        if not known.shares:
            size += sum(map(cost_of, set(slices_of((*task.sizes, *function.sizes)))))
        return size if size > self.quota.bytes else 0

    def _wait(self, job: ClientJob[T], entries: Sequence[TaskEntry[T]]) -> None:
        if entries:
            if job.close_sent:  # a task that was held, and so may come late
                job.open_sent = job.close_sent = False
                self._forget_functions(job)
            for entry in entries:
                entry.is_waiting = True
            job.waiting.extend(entries)
            self._waiting[job.id] = job
            self._may_send = True

    def _send_waiting(self) -> None:
        """Send waiting tasks, of each job in its turn, until the limits are reached."""
        self._may_send = False
        if self.session is None:
            return
        has_reclaimed, blocked = False, 0
        while self._waiting and blocked < len(self._waiting) and self._sent < self.quota.tasks:
            job = next(iter(self._waiting.values()))
            run = self._next_run(job)
            if run:
                self._submit(run, sum([entry.payload.wire_bytes for entry in run]))
                blocked = 0
            elif job.waiting and self._has_unsent_input and job.waiting[0].payload.inputs:
                blocked += 1
            elif job.waiting and not job.sent:  # so it is the next, and needs room that other jobs occupy
                if has_reclaimed or not self._reclaim():
                    break
                has_reclaimed = True
                continue
            elif job.waiting:
                blocked += 1
            if job.waiting:
                self._waiting.move_to_end(job.id)
            else:
                self._close_if_over(job)

    def _next_run(self, job: ClientJob[T]) -> list[TaskEntry[T]]:
        """Return the next tasks of a job, which share everything and may be sent now; none if the first may not."""
        waiting, run = job.waiting, list[TaskEntry[T]]()
        count = min(RUN_ITEMS, room(self.quota.tasks, self._sent, job.sent))
        size = 0
        slices: list[m.Slice] = []
        turned = 0
        while waiting and len(run) < count:
            entry = waiting[0]
            if entry.payload.inputs:
                if len(entry.payload.inputs) > m.INPUTS_MAX:
                    self._end_unsent(entry, inputs=len(entry.payload.inputs))
                    if job.stop_on_error:
                        self.cancel(job.id, None)
                    self._skip_ended(job)
                    continue
                if self._lacks_inputs(entry):
                    waiting.popleft()
                    self._skip_ended(job)
                    continue
                if self._has_unsent_input:
                    if run or turned >= len(waiting):
                        break
                    turned += 1  # what it needs may wait behind it, if it was sent before, in a former session
                    waiting.rotate(-1)
                    self._skip_ended(job)
                    continue
            if not run:
                alike, function = _run_key(entry), entry.function
                is_known = function.digest in job.functions
                size = 0 if is_known else function.payload.wire_bytes
                slices = [] if is_known else slices_of(function.payload.sizes)
            elif _run_key(entry) != alike:
                break
            size += entry.payload.wire_bytes
            if entry.payload.sizes:
                slices += slices_of(entry.payload.sizes)
                count = min(count, SHARED_ITEMS)
            if self._has_room(job, size, slices, is_one=not run):
                entry.is_waiting = False
                run.append(entry)
            elif not run and (large := self._is_too_large(entry)):
                self._end_unsent(entry, large)
                if job.stop_on_error:
                    self.cancel(job.id, None)
            else:
                break
            self._skip_ended(job)
        return run

    def _lacks_inputs(self, entry: TaskEntry[T]) -> bool:
        """Hold a task that needs a result which the cluster does not have, or not yet. Return whether it is so.

        Notes in any case whether it needs the result of a task that waits to be sent.
        """
        self._has_unsent_input = False
        for needed in entry.payload.inputs:
            other = self._entry_of(needed)
            if other is None and needed.is_kept:
                continue
            if other is None:
                self._hold(entry)
                return True
            if other.is_held:
                self._hold(entry, other)
                return True
            if other.is_waiting:
                self._has_unsent_input = True
        return False

    def _entry_of(self, needed: NeededTask) -> TaskEntry[T] | None:
        """Return the unanswered task of this handle; None if it has an answer, or travels as a part of another one."""
        job = self.jobs.get(needed.job_id)
        entry = None if job is None else job.entries.get(needed.index)
        return entry if entry is not None and entry.handle is needed else None

    def is_unanswered(self, needed: NeededTask) -> bool:
        """Return whether the cluster has a task, or will have it, and has not answered it."""
        return self._entry_of(needed) is not None

    def _hold(self, entry: TaskEntry[T], other: TaskEntry[T] | None = None) -> None:
        """Hold a task until `give`, or until another one is not held any more."""
        entry.is_waiting = entry.is_held = True
        entry.job.held += 1
        entry.job.entries[entry.index] = entry
        self.jobs[entry.job.id] = entry.job
        if other is None:
            self._newly_held.append(entry)
        else:
            self._parked.setdefault(other, []).append(entry)

    def _skip_ended(self, job: ClientJob[T]) -> None:
        """Remove tasks that were sent or have ended from the front of a job's waiting tasks."""
        waiting = job.waiting
        while waiting and not waiting[0].is_waiting:
            waiting.popleft()
        if not waiting:
            self._waiting.pop(job.id, None)

    def _reclaim(self) -> bool:
        """Have the master release contents and functions that no unanswered task needs. False if there are none."""
        assert self.session is not None
        assert self._announced is not None
        idle = [job for job in self.jobs.values() if job.open_sent and not (job.sent or job.kept or job.new_handle)]
        for job in idle:  # it is opened again with its next task
            self.session.send(m.CloseJob(job.id))
            job.open_sent = False
            self._forget_functions(job)
        return self._announced.drop_unused(self._segments_in_use) or bool(idle)

    def _end_unsent(self, entry: TaskEntry[T], size_bytes: int = 0, inputs: int = 0) -> None:
        """End a task that is not at the master, and release its buffers."""
        entry.job.entries.pop(entry.index, None)
        self._let_go(entry)
        self._unpark(entry)
        if entry.payload.lease is not None:
            entry.payload.lease.end(clean=self._sessions <= 1)
        entry.payload = NO_PAYLOAD
        self._unsent.append(TaskUnsent(entry, size_bytes, inputs))

    # ---------------------------------------------------------------------------------------------------- receiving

    def received(self, frames: Sequence[Buffer], now: float) -> Iterator[News[T]]:
        """Interpret one envelope of the master. Raises ProtocolError; the session is over then."""
        assert self.session is not None
        for item in self.session.receive(frames, now):
            message = item.message
            if type(message) is m.Outcomes:
                job = self.jobs.get(message.job)
                if job is not None:
                    yield from self._ended(job, message, item.buffers)
                elif slices := [it for frame in message.items if frame.sizes for it in slices_of(frame.sizes)]:
                    yield UnclaimedResult(slices)
            elif type(message) is m.JobAttached:
                yield self._answered(message)
            elif type(message) in (m.Segment, m.DropSegments):
                yield message  # type: ignore[misc]
            elif type(message) is m.Started:
                for ref in message.tasks:
                    if (entry := self._find(ref)) is not None:
                        yield TaskRunning(entry, message.slave)
            elif type(message) is m.Output and message.stream in STREAMS and (entry := self._find(message.task)):
                yield TaskWrote(entry, message.task.attempt, message.stream, message.data)

    def _answered(self, answer: m.JobAttached) -> JobFound[T]:
        """Make the tasks of a job that this application reads, unless they are there."""
        then = self._found.pop(JobId(answer.job), None)
        job = self.jobs.get(answer.job)
        if job is None or job.new_handle is None:
            return JobFound(None, answer, then)
        if not (answer.error or job.is_read):
            job.is_read = True
            handles = map(job.new_handle, range(answer.tasks))
            job.entries = {
                index: TaskEntry(job, index, NO_FUNCTION, NO_PAYLOAD, handle) for index, handle in enumerate(handles)
            }
        self._close_if_over(job)
        return JobFound(job, answer, then)

    def _ended(self, job: ClientJob[T], message: m.Outcomes, buffers: Sequence[Buffers]) -> Iterator[News[T]]:
        count = size = 0
        may_end, is_over = bool(job.waiting or job.held) and (job.until or job.stop_on_error), False
        for at, frame in enumerate(message.items):
            entry = job.entries.pop(frame.index, None)
            if entry is not None:
                if entry.is_waiting:  # a former session has sent it
                    entry.is_waiting = False
                else:
                    count += 1
                    payload = entry.payload
                    size += len(payload.body) if not payload.sizes else self._uncount_buffers(payload)
                if frame.status == _INPUT_GONE:
                    if not (entry.cancelled or job.is_over):
                        self._take_in(entry)
                        continue
                    frame = msgspec.structs.replace(frame, status=_CANCELLED)
                if may_end and ends_job(job, frame.status):
                    is_over = True
                yield TaskEnded(entry, frame, buffers[at] if buffers else (), message.slave)
            elif frame.status == _KEPT:
                continue  # its receipt, once more
            elif self._fetches and (fetch := self._fetches.pop((job.id, frame.index), None)) is not None:
                yield ResultFetched(fetch[1], job.id, frame, buffers[at] if buffers else (), message.slave)
            elif slices := slices_of(frame.sizes):
                yield UnclaimedResult(slices)
        if job.new_handle is None:
            job.sent -= count
            job.sent_bytes -= size
            self._sent -= count
            self._sent_bytes -= size
            self._may_send = True
        if is_over:
            job.is_over = True
            held = [entry for entry in job.entries.values() if entry.is_held]
            for entry in (*job.waiting, *held):
                if entry.is_waiting:
                    self._end_unsent(entry)
        if job.waiting:
            self._skip_ended(job)
        self._close_if_over(job)

    def _take_in(self, entry: TaskEntry[T]) -> None:
        """Keep a task to send it again: the master does not have a result that it needs."""
        entry.job.entries[entry.index] = entry
        self.jobs[entry.job.id] = entry.job
        if any(needed.is_kept for needed in entry.payload.inputs):
            self._hold(entry)  # a master that was restarted has no kept results
        elif not self._lacks_inputs(entry):  # they were sent, or will be, again, too
            self._wait(entry.job, [entry])

    def _uncount_buffers(self, payload: Payload) -> int:
        """Note that a task uses its segments no more; return the bytes that have travelled."""
        self._uncount_segments([slice_.segment for slice_ in slices_of(payload.sizes)])
        return payload.wire_bytes

    def _find(self, ref: m.TaskRef) -> TaskEntry[T] | None:
        job = self.jobs.get(ref.job)
        return None if job is None else job.entries.get(ref.index)

    # --------------------------------------------------------------------------------------------------------- time

    def step(self, now: float) -> list[list[Buffer]]:
        """Return all envelopes that should be sent now."""
        if self.session is None:
            return []
        envelopes = []
        if self._waiting and self._may_send:
            # Acknowledge first: then the master has room for what is sent next.
            envelopes.append(self.session.heartbeat())
            self._send_waiting()
        envelopes += self.session.flush(now)
        if not envelopes and now - self._last_sent_s >= self.interval_s:
            envelopes = [self.session.heartbeat()]
        if envelopes:
            self._last_sent_s = now
        return envelopes

    def next_deadline(self) -> float:
        """Return when `step` should be called again at the latest."""
        if self._waiting and self._may_send and self.session is not None:
            return -inf  # a task that was held has ended, or was given its results, after the last step
        heartbeat = self._last_sent_s + self.interval_s
        due = None if self.session is None else self.session.next_deadline()
        return heartbeat if due is None else min(heartbeat, due)


def _needs_results(run: Sequence[TaskEntry[T]]) -> bool:
    """Return whether any of these tasks needs results of others."""
    return any(entry.payload.inputs for entry in run)


def _run_key(entry: TaskEntry[T]) -> object:
    """Return what tasks that travel as one run have in common."""
    return entry.job.id, entry.function.digest, entry.limits, entry.needs


def ends_job(job: ClientJob[T], status: int) -> bool:
    """Return whether the master cancels the rest of a job after such an end; as in scheduling/task_lifecycle.py."""
    if status == Status.HIT:
        return job.until
    return job.stop_on_error and status not in SUCCESSES and status not in _NO_FAILURES
