"""The tasks of an application in a task that may not have begun: a thread that waits for them can run them itself.

    submitting thread: add       --> unsent
    client thread:     may_send  --> sent, then begun or ended
    waiting thread:    claim     <-- unsent, or free
                       ask       --> sent and asked for, then free (the master gives it back), begun or ended

A lock and no other I/O. A task that a thread has claimed is in none of these states: that thread ends it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.client_tasks import TaskEntry
from concurrent_nb.nodes.application.condition import Condition
from concurrent_nb.nodes.application.task_handle import TaskHandle

Entry = TaskEntry[TaskHandle]
#: a task: its job and index
TaskKey = tuple[bytes, int]
#: of tasks that have not begun, how many are at the master: at first, at least and at most. Each that the cluster does
#: not begin with has to be asked back
SENT_FIRST: Final = 4
SENT_LEAST: Final = 2
SENT_MOST: Final = 512
#: most tasks that are asked for at a time
ASKED_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a thread waits for: a task, or all tasks of a job (None)."""

    job: JobId
    index: int | None


class Wait:
    """One wait of a thread: which of the tasks it may still run itself."""

    def __init__(self, wanted: Iterable[Wanted]) -> None:
        self.jobs: list[JobId] = []
        self.keys: deque[TaskKey] = deque()  #: not looked at yet
        self.asked: set[TaskKey] = set()  #: whose answer is not there yet
        for one in wanted:
            if one.index is None:
                self.jobs.append(one.job)
            else:
                self.keys.append((one.job, one.index))


class KeptTasks:
    """Keeps tasks until they have begun. Safe to use from many threads."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._unsent: dict[bytes, dict[int, Entry]] = {}
        self._sent: dict[bytes, dict[int, Entry]] = {}
        self._free: dict[TaskKey, Entry] = {}
        self._asked: set[TaskKey] = set()
        self._elsewhere: set[TaskKey] = set()  # tasks that cannot run here
        self._waits = 0
        self._sent_count = 0
        self._sent_max = SENT_FIRST  # it grows while the cluster begins with what is sent, and shrinks when it does not

    # ------------------------------------------------------------------------------------------ what becomes of a task

    def add(self, entries: Sequence[Entry]) -> None:
        """Keep tasks that are about to be sent."""
        with self._condition:
            for entry in entries:
                self._unsent.setdefault(entry.job.id, {})[entry.index] = entry
                if entry.payload.inputs:  # the cluster brings it the results that it needs
                    self._elsewhere.add((entry.job.id, entry.index))

    def may_send(self, entry: Entry) -> bool:
        """Return whether a task is to be sent; False if a thread has claimed it, or it was cancelled."""
        with self._condition:
            if _pop(self._unsent, entry) is None:
                return False
            if entry.handle.cancelled():
                return False
            self._sent.setdefault(entry.job.id, {})[entry.index] = entry
            self._sent_count += 1
            return True

    def is_unsent(self, entry: Entry) -> bool:
        """Return whether a task has been neither claimed nor cancelled nor sent."""
        return self._unsent.get(entry.job.id, {}).get(entry.index) is entry and not entry.handle.cancelled()

    def has_room(self, entry: Entry) -> bool:
        """Return whether one more task may be sent now: this one, if it cannot run here, in any case."""
        return self._sent_count < self._sent_max or (entry.job.id, entry.index) in self._elsewhere

    def begun(self, entry: Entry) -> None:
        """Note that a task has begun elsewhere, or has ended."""
        with self._condition:
            if _pop(self._sent, entry) is not None:
                self._sent_count -= 1
                self._sent_max = min(self._sent_max + 1, SENT_MOST)
            _pop(self._unsent, entry)
            key = entry.job.id, entry.index
            self._asked.discard(key)
            self._free.pop(key, None)
            self._elsewhere.discard(key)

    def taken_back(self, entry: Entry) -> bool:
        """Note that the master has given a task back. False if no thread waits for it: it is to be sent again."""
        with self._condition:
            key = entry.job.id, entry.index
            if _pop(self._sent, entry) is not None:
                self._sent_count -= 1
                self._sent_max = max(self._sent_max // 2, SENT_LEAST)
            if key not in self._asked:
                self._unsent.setdefault(entry.job.id, {})[entry.index] = entry
                return False
            self._asked.discard(key)
            self._free[key] = entry
            return True

    def runs_elsewhere(self, entry: Entry) -> None:
        """Keep a claimed task that cannot run here: it is about to be sent, and is not claimed again."""
        with self._condition:
            self._elsewhere.add((entry.job.id, entry.index))
            self._unsent.setdefault(entry.job.id, {})[entry.index] = entry

    def wake(self) -> None:
        """Wake the threads that wait: something has happened."""
        if self._waits:
            with self._condition:
                self._condition.notify_all()

    # ---------------------------------------------------------------------------------------- for the thread that waits

    def claim_one(self, job: JobId, index: int) -> Entry | None:
        """Claim a task that has not been sent; None if it has."""
        with self._condition:
            tasks = self._unsent.get(job)
            if tasks is None or index not in tasks or (job, index) in self._elsewhere:
                return None
            entry = tasks.pop(index)
            if not tasks:
                del self._unsent[job]
            return entry

    def claim(self, wait: Wait) -> Entry | None:
        """Claim a task that can be run here now; None if there is none. Of a job, the last one: the cluster begins with
        the first.
        """
        with self._condition:
            for key in wait.asked:
                if key in self._free:
                    wait.asked.discard(key)
                    return self._free.pop(key)
            for _ in range(len(wait.keys)):
                job, index = key = wait.keys[0]
                if key in self._elsewhere:
                    wait.keys.popleft()
                elif (tasks := self._unsent.get(job)) is not None and index in tasks:
                    wait.keys.popleft()
                    return _take(self._unsent, job, index)
                elif index in self._sent.get(job, ()):
                    break
                else:
                    wait.keys.popleft()  # it has begun, has ended, or another thread has it
            for job in wait.jobs:
                for index in reversed(self._unsent.get(job, {})):
                    if (job, index) not in self._elsewhere:
                        return _take(self._unsent, job, index)
        return None

    def ask(self, wait: Wait, count: int) -> list[tuple[JobId, list[int]]]:
        """Choose up to `count` tasks that the master is to give back, and note that they are asked for; by job."""
        chosen: dict[bytes, list[int]] = {}
        with self._condition:
            wait.asked = {key for key in wait.asked if key in self._asked or key in self._free}
            count = min(count, ASKED_MAX - len(wait.asked))
            while wait.keys and count > 0:
                job, index = key = wait.keys.popleft()
                if index in self._sent.get(job, ()) and key not in self._asked and key not in self._elsewhere:
                    chosen.setdefault(job, []).append(index)
                    count -= 1
            for job in wait.jobs:
                for index in reversed(self._sent.get(job, {})):
                    if count <= 0:
                        break
                    if (job, index) not in self._asked and (job, index) not in self._elsewhere:
                        chosen.setdefault(job, []).append(index)
                        count -= 1
            keys = [(job, index) for job, indexes in chosen.items() for index in indexes]
            self._asked.update(keys)
            wait.asked.update(keys)
        return [(JobId(job), indexes) for job, indexes in chosen.items()]

    def expects(self, wait: Wait) -> bool:
        """Return whether a task that was asked for, or could be, may still become free."""
        with self._condition:
            return bool(wait.keys) or any(key in self._asked or key in self._free for key in wait.asked)

    def pause(self, wait: Wait, is_over: Callable[[], bool], timeout_s: float) -> None:
        """Wait until a task becomes free or something else happens, at most `timeout_s` seconds."""
        with self._condition:
            self._waits += 1
            try:
                if not is_over() and not any(key in self._free for key in wait.asked):
                    self._condition.wait(timeout_s)
            finally:
                self._waits -= 1

    def leave(self, wait: Wait) -> list[Entry]:
        """End a wait; return the tasks that it has asked for and not run. They are kept, and about to be sent again."""
        with self._condition:
            left = [self._free.pop(key) for key in wait.asked if key in self._free]
            self._asked.difference_update(wait.asked)
            for entry in left:
                self._unsent.setdefault(entry.job.id, {})[entry.index] = entry
        return left


def _take(tasks: dict[bytes, dict[int, Entry]], job: bytes, index: int) -> Entry:
    entry = tasks[job].pop(index)
    if not tasks[job]:
        del tasks[job]
    return entry


def _pop(tasks: dict[bytes, dict[int, Entry]], entry: Entry) -> Entry | None:
    """Remove a task; return it, None if it is not there."""
    of_job = tasks.get(entry.job.id)
    if of_job is None or of_job.get(entry.index) is not entry:
        return None
    return _take(tasks, entry.job.id, entry.index)
