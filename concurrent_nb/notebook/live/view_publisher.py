"""Shares the views of this process's jobs with their masters, so that people see them elsewhere than in the cell.

One thread, of its own, so that a master that is slow or gone delays neither a cell nor a display. It runs while there
is a job that is shown live, and asks each second whether anybody looks; only then, and from time to time, and at the
end of the job a view is made and sent. What fails is tried again, and given up quietly when the job or the session is
over: nothing here is an error of a cell.
"""

import atexit
import logging
import threading
import time
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from concurrent_nb.clock import Clock, monotonic
from concurrent_nb.errors import ConcurrentError
from concurrent_nb.nodes.application.job import Job
from concurrent_nb.nodes.application.master_calls import MasterCalls, SeparateCalls

log = logging.getLogger(__name__)

TICK_S: Final = 1.0  #: seconds between two questions whether a view is wanted
#: a view without a reader is sent after this time in seconds, and this part of the job's age, since the last one
UNWANTED_S: Final = 10.0
UNWANTED_PART: Final = 0.25
#: most of the processor time of one core that this takes: else it ticks later, up to LONGEST_TICK_S
SHARE: Final = 0.05
LONGEST_TICK_S: Final = 10.0
TICK_OF_JOB_S: Final = 0.1  #: ... and for the sake of the master, which each job asks: seconds between ticks per job
CALL_S: Final = 5.0  #: seconds that a call may take
RETRY_S: Final = 5.0  #: seconds after a call that has failed until the next one
GIVE_UP_S: Final = 30.0  #: seconds after the end of a job in which its last view is tried again
SETTLED_S: Final = 5.0  #: seconds after the end of a job after which its display does not come to its own end any more
JOIN_S: Final = 1.0  #: most seconds that the end of the interpreter waits for views that are due


class Shareable(Protocol):
    """A view that is shared: a JobDocument."""

    @property
    def job(self) -> Job:
        """The job."""

    @property
    def is_final(self) -> bool:
        """Whether nothing of it will change any more."""

    @property
    def version(self) -> object:
        """What differs when something has changed."""

    def finish(self) -> None:
        """Note that nothing will change any more."""

    def encode(self) -> bytes:
        """Return the view as JSON."""


class Schedule:
    """When the view of one job is asked about and sent. Pure: time is an argument, in seconds.

    Args:
        version: of the view when nothing of it was sent.
        now: the start of the job.
    """

    def __init__(self, version: object, now: float) -> None:
        self._version = version
        self._began_s = now
        self._sent_s = now
        self._retry_s = now
        self._ended_s: float | None = None  # when the job was first seen to have ended

    def may_call(self, now: float) -> bool:
        """Return whether enough time has passed since a call has failed."""
        return now >= self._retry_s

    def is_due(self, version: object, now: float, *, wanted: bool) -> bool:
        """Return whether the view of a job that runs is to be sent."""
        if version == self._version:
            return False
        return wanted or now - self._sent_s >= max(UNWANTED_S, UNWANTED_PART * (now - self._began_s))

    def sent(self, version: object, now: float) -> None:
        """Note that the view was sent."""
        self._version, self._sent_s = version, now

    def failed(self, now: float) -> None:
        """Note that a call has failed."""
        self._retry_s = now + RETRY_S

    def ended_since_s(self, now: float) -> float:
        """Note that the job has ended; return since when, in seconds."""
        if self._ended_s is None:
            self._ended_s = now
        return now - self._ended_s


class _PublishedView:
    """A view that is shared, the schedule of its job, and what calls the master."""

    def __init__(self, view: Shareable, ask: MasterCalls, now: float) -> None:
        self.view = view
        self.ask = ask
        self._began(now)

    def _began(self, now: float) -> None:
        self.job_id = self.view.job.id
        self.schedule = Schedule(None, now)

    def follow_job(self, now: float) -> None:
        """Begin anew if the job goes on under another id, as one does whose task has returned a task system."""
        if self.view.job.id != self.job_id:
            self._began(now)


class ViewPublisher:
    """Shares views in a thread that it starts for the first one and that ends after the last one."""

    def __init__(self, clock: Clock = monotonic, cpu_clock: Clock = time.thread_time) -> None:
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._entries: list[_PublishedView] = []
        self._calls: dict[MasterCalls, SeparateCalls] = {}  # used by the thread
        self._next_tick_s = 0.0
        self._lock = threading.Lock()  # guards the entries and the thread
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closing = False

    def add(self, view: Shareable) -> None:
        """Share a view until it is final. Does nothing for a job without a cluster."""
        if (ask := view.job.ask) is None:
            return
        with self._lock:
            self._entries.append(_PublishedView(view, ask, self._clock()))
            if self._thread is None or not self._thread.is_alive():  # not alive: after a fork
                self._next_tick_s = self._clock() + TICK_S
                # A kernel that shuts down does not wait for a master, but the thread should end before Python does.
                # Registered anew, so that it is called before the clusters are left that were joined meanwhile.
                atexit.unregister(self.close)
                atexit.register(self.close)
                self._thread = threading.Thread(target=self._run, name="concurrent_nb shared views", daemon=True)
                self._thread.start()

    def finish(self, view: Shareable) -> None:
        """Send a view for the last time, soon."""
        view.finish()
        self._wake.set()

    def close(self) -> None:
        """Send what is final, drop the rest, and end the thread, within JOIN_S seconds."""
        with self._lock:
            if (thread := self._thread) is None:
                return
            self._closing = True
        self._wake.set()
        thread.join(JOIN_S)

    def _run(self) -> None:
        while (pause_s := self.turn()) is not None:
            self._wake.wait(pause_s)
            self._wake.clear()

    def turn(self) -> float | None:
        """Do what is due; return the seconds until the next turn, None if there is nothing more to share."""
        began_s, now = self._cpu_clock(), self._clock()
        is_tick = now >= self._next_tick_s
        with self._lock:
            entries = list(self._entries)
        over = [entry for entry in entries if self._is_over_after(entry, is_tick, entries)]
        self._close_calls(unless={entry.ask for entry in entries if entry not in over})
        if is_tick:
            pause_s = max(TICK_S, TICK_OF_JOB_S * len(entries), (self._cpu_clock() - began_s) / SHARE)
            self._next_tick_s = self._clock() + min(pause_s, LONGEST_TICK_S)
        with self._lock:
            self._entries = [entry for entry in self._entries if entry not in over and not self._closing]
            if not self._entries:
                self._thread, self._closing = None, False
                return None
        return max(0.0, self._next_tick_s - self._clock())

    def _is_over_after(self, entry: _PublishedView, is_tick: bool, entries: Sequence[_PublishedView]) -> bool:
        """Do what is due for one of these views; return whether it is not shared any more."""
        now = self._clock()
        calls = self._calls.get(entry.ask)
        if calls is None:
            calls = self._calls[entry.ask] = entry.ask.separate(CALL_S)
        if calls.has_left or (self._closing and not entry.view.is_final):
            return True
        schedule = entry.schedule
        is_done = entry.view.is_final or entry.view.job.done()
        ended_s = schedule.ended_since_s(now) if is_done else 0.0
        if ended_s >= SETTLED_S and not entry.view.is_final:
            entry.view.finish()
        if ended_s >= GIVE_UP_S:
            return True
        if not (entry.view.is_final or is_tick) or not schedule.may_call(now):
            return False
        try:
            return self._share(entry, calls, now)
        except OSError as error:  # MasterUnreachable: the other views of this master would wait as long
            log.debug("the view of job %s was not shared: %s", entry.job_id.hex(), error)
            for other in entries:
                if other.ask is entry.ask:
                    other.schedule.failed(self._clock())
        except ConcurrentError as error:
            log.debug("the view of job %s was refused: %s", entry.job_id.hex(), error)
            schedule.failed(self._clock())
        except Exception as error:  # a view calls code of the user's values, and the job must not suffer
            log.debug("the view of job %s cannot be shared", entry.job_id.hex(), exc_info=error)
            return True
        return False

    def _share(self, entry: _PublishedView, calls: SeparateCalls, now: float) -> bool:
        """Ask whether the view is wanted, or send it; return whether it was the last time."""
        entry.follow_job(now)
        # Before it is read: what changes meanwhile is sent the next time.
        is_final, version, job = entry.view.is_final, entry.view.version, entry.job_id.hex()
        if not is_final and not entry.schedule.is_due(version, now, wanted=False):
            wanted = calls("share_view", job=job, view=None)["wanted"]
            if not entry.schedule.is_due(version, now, wanted=wanted):
                return False
        calls("share_view", job=job, view=msgspec.Raw(entry.view.encode()))
        entry.schedule.sent(version, self._clock())
        return is_final

    def _close_calls(self, unless: set[MasterCalls]) -> None:
        for ask in [ask for ask in self._calls if ask not in unless]:
            self._calls.pop(ask).close()


#: of this process
PUBLISHER: Final = ViewPublisher()
