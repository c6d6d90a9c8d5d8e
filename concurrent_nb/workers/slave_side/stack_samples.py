"""Samples of the stacks of running tasks: at most one at a time of each process, until its worker has written it.

sample -> the launcher signals the worker -> tick, tick ... the file is complete, or the time is over -> taken
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

from concurrent_nb.wire.messages import StackSampled
from concurrent_nb.workers.protocol.stacks import StackFile
from concurrent_nb.workers.protocol.status_page import StatusPage
from concurrent_nb.workers.slave_side.launchers import Launcher
from concurrent_nb.workers.slave_side.stack_text import is_complete, stack_text

#: seconds that a worker has to write its stack
WRITE_WITHIN_S: Final = 2.0


@dataclass(slots=True, eq=False)
class _StackRequest:
    requests: list[int]
    page: StatusPage
    ticket: int  #: of the task that must run before and after
    pid: int
    run_s: float
    file: StackFile
    until: float = 0.0
    read: str = ""  #: what the file contained the last time


class StackSamples:
    """The samples that are being taken.

    Args:
        launcher: signals workers.
    """

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._waiting: dict[int, deque[_StackRequest]] = {}  # by process; the first one of each is being taken
        self._done: list[StackSampled] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def refuse(self, request: int, why: str) -> None:
        """Answer that there is no stack."""
        self._done.append(StackSampled(request, 0, 0.0, "", why))

    def begin(
        self,
        request: int,
        process: int,
        file: StackFile,
        page: StatusPage,
        ticket: int,
        pid: int,
        run_s: float,
        now: float,
    ) -> None:
        """Sample the task of this ticket.

        Args:
            request: number of the question.
            process: number of the process, for the launcher.
            file: into which the process writes.
            page: of the task's worker.
            ticket: of the task.
            pid: of the process.
            run_s: how long the task has run, in seconds.
            now: the time.
        """
        waiting = self._waiting.setdefault(process, deque())
        for sample in waiting:
            if sample.ticket == ticket:
                sample.requests.append(request)
                return
        waiting.append(_StackRequest([request], page, ticket, pid, run_s, file))
        if len(waiting) == 1:
            self._signal(process, waiting[0], now)

    def _signal(self, process: int, sample: _StackRequest, now: float) -> None:
        sample.until = now + WRITE_WITHIN_S
        sample.file.empty()
        self._launcher.write_stack(process, sample.page.thread if sample.page.thread < 1 << 31 else 0)

    def tick(self, now: float) -> None:
        """Answer what has been written, and what has not been in time."""
        for process, waiting in list(self._waiting.items()):
            sample = waiting[0]
            answer = self._answer_of(sample, now)
            if answer is None:
                continue
            stack, error = answer
            self._end(sample, stack, error)
            waiting.popleft()
            if waiting:
                self._signal(process, waiting[0], now)
            else:
                sample.file.empty()
                del self._waiting[process]

    def _answer_of(self, sample: _StackRequest, now: float) -> tuple[str, str] | None:
        """Return the stack, or why there is none; None if it may still come."""
        dump, before = sample.file.read(), sample.read
        sample.read = dump
        if sample.page.ticket != sample.ticket:  # what was written may be the next task's, of another user
            return "", "it has ended meanwhile"
        shows_others = not sample.page.has_left_threads
        if dump and dump == before and is_complete(dump):
            return stack_text(dump, shows_others=shows_others), ""
        if now < sample.until:
            return None
        if stack := stack_text(dump, shows_others=shows_others):
            return stack, ""
        why = (
            f"worker {sample.pid} has not written it within {WRITE_WITHIN_S:g} s. It does so at SIGUSR2, unless a task"
            " has set another handler for that signal or blocks it, or the process is stopped; `concurrent-nb restart`"
            " replaces workers"
        )
        return "", why

    def died(self, process: int, reason: str) -> None:
        """Answer that a process has died, `reason` as in "died of SIGSEGV"."""
        for sample in self._waiting.pop(process, ()):
            self._end(sample, "", f"its worker {sample.pid} {reason}")

    def _end(self, sample: _StackRequest, stack: str, error: str) -> None:
        self._done += [StackSampled(it, sample.pid, sample.run_s, stack, error) for it in sample.requests]

    def clear(self) -> None:
        """Forget all samples: no caller waits for them any more."""
        self._waiting.clear()
        self._done.clear()

    def take(self) -> list[StackSampled]:
        """Return the answers since the last call."""
        done, self._done = self._done, []
        return done
