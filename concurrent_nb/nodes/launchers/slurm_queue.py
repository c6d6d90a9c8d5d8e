"""What is known of the Slurm jobs of one launcher, and when Slurm is asked again: a state machine without I/O.

One `squeue` answers for all jobs: `LOOK` are its arguments, `read_look` its answer. Sites ask their users to call it
rarely, so looks are `poll_s` apart. Only after a submission they are 1, 2, 4, ... seconds apart until that is reached,
so that a job that starts at once, or fails at once, is noticed soon.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from concurrent_nb.nodes.launchers.launcher import LaunchedSlave, LaunchState
from concurrent_nb.nodes.launchers.slurm_script import limit_s
from concurrent_nb.nodes.launchers.supervisor import REPLACE_BEFORE_S

#: arguments of `squeue` besides those that choose the jobs. This form exists in each version of Slurm, while the fields
#: of `--json` have changed with its versions.
LOOK: Final = ("--noheader", "--states=all", "--format=%i|%T|%N|%L|%l|%r")
#: seconds between a submission and the first look at it
FIRST_LOOK_S: Final = 1.0
#: how long Slurm is asked about a job that it may have accepted without an answer
UNCLAIMED_S: Final = 600.0
#: how a job has ended that has run too long
TIME_IS_UP: Final = "Slurm has ended it, because its time limit was reached"
#: how one ends by itself, so that its exit code has the reason
_BY_ITSELF: Final = ("COMPLETED", "FAILED")
#: a slave in a job with a shorter time limit would leave as soon as it has joined
SHORTEST_S: Final = 2 * REPLACE_BEFORE_S
#: states in which a job has a node and its script may not run yet
_STARTING: Final = {"CONFIGURING"}
_WAITING: Final = {"PENDING"}
_RUNNING: Final = {"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
_ENDED: Final = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT",
}  # fmt: skip
#: why a job waits that would wait for ever
_NEVER_STARTS: Final = {
    "AccountNotAllowed", "AssocMaxCpuPerJobLimit", "AssocMaxNodePerJobLimit", "AssocMaxWallDurationPerJobLimit",
    "BadConstraints", "DependencyNeverSatisfied", "InvalidAccount", "InvalidQOS", "PartitionInactive",
    "PartitionNodeLimit", "PartitionTimeLimit", "QOSMaxCpuPerJobLimit", "QOSMaxNodePerJobLimit",
    "QOSMaxWallDurationPerJobLimit", "QOSNotAllowed",
}  # fmt: skip
#: errors of sbatch about the request itself, which would be refused again
_WRONG_REQUEST: Final = re.compile(
    r"\binvalid\b|unrecognized|ambiguous|\bspecifi(?:cation|ed)\b|not permitted|permission denied|than permitted"
    r"|node configuration is not available|can ?not be satisfied|" + "|".join(_NEVER_STARTS),
    re.IGNORECASE,
)
#: errors after which the next try may succeed, also if they match the first kind: "Invalid authentication credential"
_MAY_PASS: Final = re.compile(
    r"contact slurm|timed? ?out|temporarily|connect|credential|authentication|SubmitJob|zero bytes", re.IGNORECASE
)
#: and if it does not know whether the controller has accepted the job
_UNANSWERED: Final = re.compile(r"timed out|zero bytes", re.IGNORECASE)
#: errors in a slave's log that would be the same in the next job
_HOPELESS_LOG: Final = re.compile(r"No module named '?concurrent_nb|command not found|No such file or directory$", re.M)
#: exit codes of a shell that has found no command, or one that it may not run
_NO_COMMAND: Final = (126, 127)
_EXIT_CODE: Final = re.compile(r"\bExitCode=(\d+):(\d+)")


@dataclass(frozen=True, slots=True)
class SqueueRow:
    """One job in the answer of `squeue`."""

    state: str
    nodes: str
    left_s: float | None  #: until the time limit; None: there is none, or the job does not run
    limit_s: float | None
    reason: str


@dataclass(slots=True)
class _SlurmJob:
    launched: LaunchedSlave
    number: str = ""  # as Slurm counts; "" before it has accepted the job
    seen_at: float = 0.0  # when `launched` was known to be true
    state: str = ""  # as Slurm calls it; "" if it does not know the job
    ended: LaunchedSlave | None = None  # what is shown when it is known how it has ended: see `explained`

    @property
    def is_over(self) -> bool:
        return self.ended is not None or self.launched.state is LaunchState.ENDED


class SlurmQueue:
    """The jobs of one launcher, by the names of their slaves.

    Args:
        poll_s: seconds between two looks.
    """

    def __init__(self, poll_s: float) -> None:
        self._poll_s = poll_s
        self._jobs: dict[str, _SlurmJob] = {}
        self._gap_s = poll_s
        self._look_at: float | None = None
        self._numbers: set[str] = set()  # of all jobs that Slurm has reported
        self._unclaimed_until = 0.0  # there may be others

    def submitting(self, name: str) -> None:
        """Record a slave whose job is about to be given to Slurm."""
        self._jobs[name] = _SlurmJob(LaunchedSlave(name, LaunchState.QUEUED, "Slurm"))

    def submitted(self, name: str, number: str, now: float) -> None:
        """Record that Slurm has accepted the job of a slave."""
        self._numbers.add(number)
        if job := self._jobs.get(name):  # else it was ended meanwhile
            job.number, job.seen_at = number, now
            job.launched = replace(job.launched, place=f"Slurm job {number}")
            self._look_soon(now)

    def not_submitted(self, name: str, reason: str, *, refused: bool) -> None:
        """Record that Slurm has not accepted the job of a slave."""
        if job := self._jobs.get(name):
            job.launched = replace(job.launched, state=LaunchState.ENDED, reason=reason, refused=refused)

    def unanswered(self, name: str, reason: str, now: float) -> None:
        """Record that it is unknown whether Slurm has accepted the job of a slave, which counts as ended."""
        self.not_submitted(name, reason, refused=False)
        self._unclaimed_until = now + UNCLAIMED_S
        self._look_soon(now)

    def unclaimed(self, rows: Mapping[str, SqueueRow]) -> list[str]:
        """Return the numbers of open jobs whose submission was not answered: no slave belongs to them."""
        return [
            number
            for number, row in rows.items()
            if number not in self._numbers and row.state not in (_ENDED | {"COMPLETING"})
        ]

    def next_look_at(self) -> float | None:
        """Return when Slurm is to be asked again; None: not before a job is submitted."""
        return self._look_at

    def looked(self, rows: Mapping[str, SqueueRow], now: float) -> list[str]:
        """Record the answer of `squeue`, asked at `now`.

        Return the slaves whose jobs have ended. They count as running until `explained`: when the supervisor
        sees that a slave has ended, it also needs the reason, and then forgets the slave.
        """
        ended = []
        for name, job in self._jobs.items():
            if not job.number or job.is_over:
                continue
            row = rows.get(job.number, SqueueRow("", "", None, None, ""))
            looked = _launched(job.launched, job.number, row)
            job.state = row.state
            job.seen_at = now
            if looked.state is LaunchState.ENDED:
                job.ended, job.launched = looked, replace(job.launched, ends_in_s=None)
                ended.append(name)
            else:
                job.launched = looked
        self._next_look(now)
        return ended

    def not_looked(self, now: float) -> None:
        """Record that `squeue` has given no answer: what is known stays, and it is asked again."""
        self._next_look(now)

    def explained(self, name: str, ended: LaunchedSlave) -> None:
        """Record how a slave has ended, which now is seen."""
        if job := self._jobs.get(name):
            job.ended = job.launched = ended

    def slaves(self, now: float) -> list[LaunchedSlave]:
        """Return all slaves that were not forgotten."""
        return [
            replace(each.launched, ends_in_s=each.launched.ends_in_s - (now - each.seen_at))
            if each.launched.ends_in_s is not None
            else each.launched
            for each in self._jobs.values()
        ]

    def slave(self, name: str) -> LaunchedSlave | None:
        """Return what was last seen of a slave; None if it is unknown or forgotten."""
        job = self._jobs.get(name)
        return None if job is None else job.ended or job.launched

    def number_of(self, name: str) -> str:
        """Return the number of a slave's job; "" if Slurm has not accepted one."""
        job = self._jobs.get(name)
        return "" if job is None else job.number

    def has_ended_itself(self, name: str) -> bool:
        """Return whether a job has ended without Slurm, so that its exit code is the reason; True if it is unknown."""
        job = self._jobs.get(name)
        return job is None or not job.state or job.state in _BY_ITSELF

    def forget(self, names: Collection[str]) -> list[str]:
        """Forget slaves. Return the numbers of their jobs that may not have ended."""
        forgotten = [self._jobs.pop(name) for name in names if name in self._jobs]
        return [job.number for job in forgotten if job.number and not job.is_over]

    def _look_soon(self, now: float) -> None:
        self._gap_s = min(FIRST_LOOK_S, self._poll_s)
        soon = now + self._gap_s
        self._look_at = soon if self._look_at is None else min(self._look_at, soon)

    def _next_look(self, now: float) -> None:
        """Return when to ask next: ever later after a submission, up to `poll_s`; None while no job is open."""
        self._gap_s = min(2 * self._gap_s, self._poll_s)
        is_open = any(job.number and not job.is_over for job in self._jobs.values())
        self._look_at = now + self._gap_s if is_open or now < self._unclaimed_until else None


def read_look(text: str) -> dict[str, SqueueRow]:
    """Return the jobs in an answer of `squeue LOOK`, by number. Lines of another form are left out."""
    rows = {}
    for line in text.splitlines():
        parts = line.strip().split("|", 5)
        if len(parts) == 6:
            number, state, nodes, left, limit, reason = parts
            left_s = limit_s(left) if state in _RUNNING else None
            rows[number] = SqueueRow(state, nodes, left_s, limit_s(limit), reason)
    return rows


def exit_code_of(text: str) -> int | None:
    """Return the exit code, or minus the signal, of a job that `scontrol show job` describes; None if it does not."""
    match = _EXIT_CODE.search(text)
    if match is None:
        return None
    return -int(match[2]) if int(match[2]) else int(match[1])


def is_wrong_request(said: str) -> bool:
    """Return whether sbatch refuses a job for what it asks for; else it may accept the same job later."""
    return _MAY_PASS.search(said) is None and _WRONG_REQUEST.search(said) is not None


def is_unanswered(said: str) -> bool:
    """Return whether sbatch does not know if its job was accepted."""
    return _UNANSWERED.search(said) is not None


def is_hopeless(exit_code: int | None, log: str) -> bool:
    """Return whether a slave that has ended in this way would do so again."""
    return exit_code in _NO_COMMAND or _HOPELESS_LOG.search(log) is not None


def _launched(before: LaunchedSlave, number: str, row: SqueueRow) -> LaunchedSlave:
    """Return the state of a slave in a row of `squeue`."""
    where = f"Slurm job {number}" + (f" on {row.nodes}" if row.nodes else "")
    place = where if row.nodes else before.place.partition(":")[0]
    is_new = before.state is not LaunchState.RUNNING and row.state in (_RUNNING | _WAITING)
    if is_new and row.limit_s is not None and row.limit_s < SHORTEST_S:
        short = (
            f"its time limit is {row.limit_s:g} s, too short for tasks: ask for {SHORTEST_S:g} s at least (Slurm.time)"
        )
        return replace(before, state=LaunchState.ENDED, place=where, reason=short, refused=True)
    if row.state in _RUNNING:
        return replace(before, state=LaunchState.RUNNING, place=where, ends_in_s=row.left_s, limit_s=row.limit_s)
    if row.state in _STARTING:
        return replace(before, state=LaunchState.STARTING, place=where, ends_in_s=None)
    if row.state in _ENDED or not row.state:
        return replace(before, state=LaunchState.ENDED, place=place, reason=_how_it_ended(row), ends_in_s=None)
    if row.state == "COMPLETING":
        return replace(before, place=place, ends_in_s=None)  # how it has ended is known when its processes have
    why = row.reason if row.reason not in ("", "None") else "Slurm gives no reason yet"
    if row.reason in _NEVER_STARTS:
        never = f"Slurm would never start it: {row.state} ({row.reason})"
        return replace(before, state=LaunchState.ENDED, place=f"Slurm job {number}", reason=never, refused=True)
    return replace(before, state=LaunchState.QUEUED, place=f"Slurm job {number}: {row.state} ({why})")


def _how_it_ended(row: SqueueRow) -> str:
    if not row.state:
        return "Slurm does not know the job any more"
    if row.state == "TIMEOUT":
        return TIME_IS_UP
    return f"Slurm has ended it as {row.state}" + (f" ({row.reason})" if row.reason not in ("", "None") else "")
