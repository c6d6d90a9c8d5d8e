"""The simulator's checks: what may never happen, checked while a history runs, and once more at its end.

    network --> SessionChecker: a session delivers exactly what was sent, once and in order
    applications --> OutcomeChecker: each task ends once, at its owner, with its own value and a possible status

Raises Violation at the first error. Changes nothing, except that it wraps `receive` of the sessions that it checks.
"""

from collections.abc import Sequence
from math import inf
from typing import Final

import msgspec

from concurrent_nb.nodes.application.client_tasks import ResultFetched, TaskEnded, TaskWrote
from concurrent_nb.outcome import SUCCESSES, Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire import session as wire_session
from concurrent_nb.wire.codec import Buffer, Received, decode, unpack_body
from concurrent_nb.wire.parts import Joiner
from concurrent_nb.wire.session import Session
from tests.simulator.network import Frames
from tests.simulator.plans import Kind, TaskCatalog, Violation, WantedJob, WantedTask, error_of

#: the reason of a session that its node has ended
UNREGISTERED: Final = "it has unregistered"
#: overhead of a worker for a task, in seconds, at most
_OVERHEAD_S: Final = 0.05
#: a task that takes longer, in seconds, is reported as running before it has ended
_LONG_S: Final = 1.2


class _ObservedHead(msgspec.Struct, array_like=True, frozen=True, gc=False):
    version: int
    epoch: int
    seq: int


_head: Final = msgspec.msgpack.Decoder(_ObservedHead)


class _CheckedDirection:
    """One direction of a session: what one end sends and the other receives."""

    def __init__(self, sent_by: str) -> None:
        self.sent_by = sent_by
        self.sent: dict[int, list[Received]] = {}  # by number of the envelope; what was not received yet
        self.next = 1  # number of the envelope that is received next
        self.joiner = Joiner()


class SessionChecker:
    """Checks that sessions deliver what was sent, in order. An `EnvelopeListener` of the network."""

    def __init__(self) -> None:
        self._directions: dict[tuple[bytes, bool], _CheckedDirection] = {}

    def watch(self, session: bytes, role: str) -> None:
        """Start to check a session of a "client" or a "slave"."""
        self._directions[session, True] = _CheckedDirection(f"from_{role}")
        self._directions[session, False] = _CheckedDirection(f"to_{role}")

    def sent(self, session: bytes, upwards: bool, frames: Frames) -> None:
        """Note an envelope that is sent."""
        seq = _head.decode(frames[0]).seq
        direction = self._directions.get((session, upwards))
        if direction is not None and seq >= direction.next and seq not in direction.sent:
            if seq >= direction.next + wire_session.WINDOW:
                raise Violation(f"envelope {seq} is sent, and {direction.next} has not arrived")
            direction.sent[seq] = decode(frames, direction.sent_by)[1]

    def listen(self, session: bytes, upwards: bool, end: Session) -> None:
        """Check what an end of the session delivers."""
        direction = self._directions[session, upwards]
        receive = end.receive

        def checked(frames: Sequence[Buffer], now: float) -> list[Received]:
            received = receive(frames, now)
            self._check(direction, received, end.received_seq)
            return received

        end.receive = checked  # type: ignore[method-assign]

    def _check(self, direction: _CheckedDirection, received: list[Received], heard: int) -> None:
        """Compare what a session has delivered with what was sent in the envelopes that it has received."""
        expected: list[Received] = []
        while direction.next <= heard:
            if (sent := direction.sent.pop(direction.next, None)) is None:
                raise Violation(f"a session has received envelope {direction.next}, which was not sent")
            expected += direction.joiner.joined(sent)
            direction.next += 1
        if received != expected:
            names = [[type(item.message).__name__ for item in items] for items in (received, expected)]
            raise Violation(f"a session has delivered {names[0]}, and its envelopes up to {heard} contain {names[1]}")


class OutcomeChecker:
    """Checks how tasks end."""

    def __init__(self, catalog: TaskCatalog, *, faults: bool, deaths_allowed: int, is_patient: bool = True) -> None:
        self.faults = faults  #: sessions may end in this history, which allows more ends of tasks
        self.is_patient = is_patient  #: the master notices a lost slave before it gives up tasks with a timeout there
        self.losses = 0  #: slaves removed and workers killed: each is a death of the tasks that ran there
        self.killed: set[str] = set()  #: slaves that tasks have killed
        self.own_losses = 0  #: how many of those the master has removed
        self.fewest_slots: float = inf  #: that any slave has ever offered
        self._catalog = catalog
        self._deaths_allowed = deaths_allowed

    def removed(self, role: str, name: str, reason: str) -> None:
        """Check the reason why the master has ended a session."""
        if reason.startswith("protocol error"):
            raise Violation(f"the master ended the session of {name}: {reason}")
        if not self.faults and reason != UNREGISTERED and name not in self.killed:
            raise Violation(f"the master removed {name}, although it has no fault: {reason}")
        self.losses += role == "slave"
        self.own_losses += name in self.killed

    def answered(self, ended: TaskEnded[WantedTask]) -> None:
        """Check the end of a task that an application has received."""
        wanted = ended.entry.handle
        status = Status(ended.frame.status)
        if wanted.over:
            raise Violation(f"{wanted.name} ended twice: as {wanted.status}, and as {status.name}")
        if ended.entry.index != wanted.index or ended.frame.index != wanted.index:
            raise Violation(f"{wanted.name} received the outcome of {ended.frame.index}")
        if not self._possible(wanted, status):
            raise Violation(f"{wanted.name}, {wanted.plan}, ended as {status.name} after {_past_of(wanted)}")
        body, _ = unpack_body(ended.frame.body, ended.buffers)
        expected = None
        if status is Status.KEPT:
            if not wanted.keep or body:
                raise Violation(f"{wanted.name} is kept, which was not asked for, or has come nevertheless")
        elif status in SUCCESSES:
            expected = wanted.value
        elif status is Status.ERROR:
            expected = error_of(wanted)
        if expected is not None and bytes(body) != expected:
            raise Violation(f"{wanted.name} ended with {bytes(body)[:80]!r}, and not with {expected[:80]!r}")
        wanted.status = status

    def fetched(self, wanted: WantedTask, fetched: ResultFetched) -> None:
        """Check a kept result that an application has fetched."""
        if fetched.frame.status == Status.INPUT_GONE:
            if not self.faults:
                raise Violation(f"the kept result of {wanted.name} is lost, and there is no fault")
            wanted.lost, wanted.is_kept = True, False
            return
        body, _ = unpack_body(fetched.frame.body, fetched.buffers)
        if fetched.frame.index != wanted.index or bytes(body) != wanted.value:
            raise Violation(f"the kept result of {wanted.name} is {bytes(body)[:80]!r}, and not {wanted.value[:80]!r}")
        wanted.has_come = True

    def failed_here(self, wanted: WantedTask) -> None:
        """Note that an application has ended a task because one that it needs has failed."""
        if wanted.over:
            raise Violation(f"{wanted.name} ended twice: as {wanted.status}, and because of what it needs")
        wanted.status = Status.DEPENDENCY_FAILED

    def wrote(self, wrote: TaskWrote[WantedTask]) -> None:
        """Check a task's output: pieces may be missing, but none arrives late or twice."""
        wanted = wrote.entry.handle
        if wrote.stream == 2:  # the master says that its slave is lost
            if not wrote.data.startswith(b"concurrent_nb: slave "):
                raise Violation(f"{wanted.name} is said to have written {wrote.data!r}")
            return
        name, run, piece = wrote.data.decode().split(" ")
        if name != wanted.name or (int(run), int(piece)) <= wanted.wrote:
            raise Violation(f"{wanted.name} wrote {wrote.data!r} after {wanted.wrote}")
        wanted.wrote = int(run), int(piece)

    def end(self) -> None:
        """Check everything that was submitted, at the end of the history."""
        for job in self._catalog.jobs:
            for wanted in job.tasks:
                fine = all(it.status in SUCCESSES and not it.lost for it in wanted.inputs)
                if wanted.status is Status.DEPENDENCY_FAILED and fine:
                    raise Violation(f"{wanted.name} ended because of what it needs, which has not failed")
                if wanted.status in SUCCESSES and not all(it.status in SUCCESSES or it.dropped for it in wanted.inputs):
                    raise Violation(f"{wanted.name} has succeeded, although what it needs has failed")
                if not wanted.over:
                    raise Violation(f"{wanted.name}, {wanted.plan}, has never ended: {_past_of(wanted)}")
                if not self.faults:
                    if not self.killed:
                        _check_runs(wanted, self._deaths_allowed)
                    _check_news(wanted)
                    if self.is_patient and wanted.killed > (most := max(2, self._deaths_allowed)):
                        raise Violation(f"{wanted.name} has killed {wanted.killed} slaves, it may kill {most}")
            self._check_job(job)

    def _possible(self, wanted: WantedTask, status: Status) -> bool:
        plan = wanted.plan
        if status in (Status.OK, Status.KEPT):
            return (status is Status.KEPT) == wanted.keep and plan.kind in (
                Kind.PLAIN,
                Kind.FLAKY,
                Kind.DIES,
                Kind.KILLS,
            )
        if status is Status.HIT:
            return plan.kind is Kind.HIT
        if status is Status.ERROR:
            # Attempts that took too long count, too; a task that is to be stopped is not retried.
            tries = wanted.raised if wanted.timeout_s is None else wanted.runs
            raises = plan.kind in (Kind.ERROR, Kind.FLAKY) and wanted.raised > 0
            return raises and (tries > wanted.retries or _may_be_stopped(wanted))
        if status is Status.NOT_PICKLABLE:
            return plan.kind is Kind.UNPICKLABLE
        if status is Status.POISON:
            # The last death was its own, or its worker or slave was lost for another reason.
            innocent = not (wanted.died or wanted.killed)
            broken = self.losses > self.own_losses
            return wanted.died + self.losses >= self._deaths_allowed and (broken or not innocent)
        if status is Status.TIMEOUT:
            too_long = plan.kind is Kind.ENDLESS or plan.run_s + _OVERHEAD_S >= (wanted.timeout_s or inf)
            return wanted.timeout_s is not None and (self.faults or bool(self.killed) or too_long)
        if status is Status.CANCELLED:
            return _may_be_stopped(wanted)
        if status is Status.REFUSED:
            return wanted.needs is not None and wanted.needs.cores > self.fewest_slots
        if status is Status.DEPENDENCY_FAILED:
            return bool(wanted.inputs)
        return False  # DIED is for the master alone

    def _check_job(self, job: WantedJob) -> None:
        """Check that a job which was cut short has a task that explains it to its owner."""
        if any(task.cancelled or task.dropped for task in job.tasks):
            return
        ends = [task.status for task in job.tasks]
        if Status.CANCELLED not in ends:
            return
        hit = job.until and Status.HIT in ends
        failed = job.stop_on_error and any(end not in SUCCESSES and end is not Status.CANCELLED for end in ends)
        if not (hit or failed):
            raise Violation(f"job {job.id.hex()[:4]} of {job.owner} was cancelled without a reason")


def _may_be_stopped(wanted: WantedTask) -> bool:
    """Return whether a task may be cancelled: by its owner, or because its job is over."""
    job = wanted.job
    failed = job.failures > 0 or any(
        task.timeout_s is not None or _may_be_refused(task) or task.inputs for task in job.tasks
    )
    asked = wanted.cancelled
    return asked or (job.until and job.hits > 0) or (job.stop_on_error and failed)


def _may_be_refused(wanted: WantedTask) -> bool:
    """Return whether a task needs more cores than a slave may have."""
    return wanted.needs is not None and wanted.needs.cores > 1


def _check_runs(wanted: WantedTask, deaths_allowed: int) -> None:
    """Check that without faults a task runs as often as planned, and not more."""
    status, runs = wanted.status, wanted.runs
    expected = {
        Status.OK: wanted.plan.times + 1,
        Status.KEPT: wanted.plan.times + 1,
        Status.HIT: 1,
        Status.ERROR: wanted.retries + 1,
        Status.TIMEOUT: wanted.retries + 1,
        Status.POISON: deaths_allowed,
        Status.NOT_PICKLABLE: 1,
        Status.DEPENDENCY_FAILED: 0,
    }.get(status or Status.CANCELLED, runs)
    punctual = wanted.timeout_s is None or wanted.plan.run_s + _OVERHEAD_S < wanted.timeout_s
    if wanted.needs is not None and wanted.needs.kind == "thread":
        expected = max(expected, runs)  # a thread that ends its process costs its neighbours a run
    if status is not None and runs != expected and punctual and not _may_be_stopped(wanted):
        raise Violation(f"{wanted.name}, {wanted.plan}, ended as {status.name} after {runs} runs, and not {expected}")


def _check_news(wanted: WantedTask) -> None:
    """Check that without faults an owner receives all output, and a report of each long task."""
    if wanted.status not in (Status.OK, Status.KEPT):
        return
    if wanted.plan.writes and wanted.wrote != (wanted.runs, wanted.plan.writes):
        raise Violation(f"{wanted.name} wrote {wanted.plan.writes} pieces, the last that arrived is {wanted.wrote}")
    # A process of threads may be killed for a task in another thread, and is not watched while that takes a moment.
    shares_process = wanted.needs is not None and wanted.needs.kind == "thread"
    if wanted.plan.run_s > _LONG_S and not wanted.seen_running and not shares_process:
        raise Violation(f"{wanted.name} ran for {wanted.plan.run_s:.2f} s, and was not reported as running")


def _past_of(wanted: WantedTask) -> str:
    facts = f"{wanted.runs} runs, of which {wanted.raised} raised and {wanted.died} died"
    return facts + f", timeout {wanted.timeout_s}, {wanted.retries} retries, cancelled {wanted.cancelled}"


def check_references(owner: str, refs: Sequence[m.TaskRef], known: set[tuple[bytes, int, int]]) -> None:
    """Check that reported attempts were assigned and not reported before, and remove them from `known`."""
    for ref in refs:
        key = (ref.job, ref.index, ref.attempt)
        if key not in known:
            raise Violation(
                f"{owner} reports {ref.job.hex()[:4]}/{ref.index}, attempt {ref.attempt}, which it does not have"
            )
        known.discard(key)
