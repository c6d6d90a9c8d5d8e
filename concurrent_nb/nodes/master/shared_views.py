"""What applications share of their jobs (pictures, errors, prints), so that people see it elsewhere than in the cell.

    application: share_view -> SharedViews -> job_view: a panel beside the notebook, the web page

Pure; used in the compute thread. Views are opaque bytes here. They are bounded in number by the jobs that the feed
lists, and in size together.
"""

from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Final

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.master.cluster_view import listed_ended
from concurrent_nb.scheduling.scheduler import Scheduler

#: most bytes of all views
ALL_VIEWS_BYTES: Final = 64 * 1024 * 1024
#: seconds after a reader has asked for which a view is wanted
WANTED_S: Final = 15.0
#: seconds between two searches for views of jobs that are not listed any more
SWEEP_S: Final = 10.0


@dataclass(slots=True)
class _SharedView:
    """The last view of a job, if any, and when a reader has asked for it."""

    version: int = 0
    data: bytes | None = None
    asked_s: float = -inf

    def is_wanted(self, now: float) -> bool:
        """Return whether a reader has asked for it lately."""
        return now - self.asked_s <= WANTED_S


class SharedViews:
    """The views of a master's jobs.

    Args:
        scheduler: has the jobs.
        limit_bytes: most bytes of all views; beyond it the oldest views without a reader are dropped first.
    """

    def __init__(self, scheduler: Scheduler, limit_bytes: int = ALL_VIEWS_BYTES) -> None:
        self._scheduler = scheduler
        self._limit_bytes = limit_bytes
        self._views: dict[JobId, _SharedView] = {}  # the one that was shared last is the last
        self._bytes = 0
        self._versions = count(1)  # of all views, so that a view that was dropped and shared again has a new one
        self._sweep_s = inf

    def share(self, job_id: JobId, data: bytes | None, owner: str | None, now: float) -> bool:
        """Keep a view of a job, None to keep the one that there is; return whether a reader has asked for it lately.

        Args:
            job_id: the job.
            data: the view.
            owner: whose job it must be; None for an admin.
            now: the time, in seconds.

        Raises ConfigurationError if there is no such job, or if it is another's, which looks the same.
        """
        self._check(job_id, owner, now)
        if data is None:
            known = self._views.get(job_id)
            return known is not None and known.is_wanted(now)
        view = self._views.pop(job_id, None) or _SharedView()
        self._bytes += len(data) - len(view.data or b"")
        view.version, view.data = next(self._versions), data
        self._add(job_id, view, now)
        if self._bytes > self._limit_bytes:
            self._shrink(job_id, now)
        return view.is_wanted(now)

    def read(self, job_id: JobId, since: int, owner: str | None, now: float) -> tuple[int, bytes | None]:
        """Return version and content of the view of a job, which is wanted from now on; version 0 if there is none.

        The content is None if there is none, or if the version is `since`. Raises as `share`.
        """
        self._check(job_id, owner, now)
        view = self._views.get(job_id)
        if view is None:
            view = _SharedView()
            self._add(job_id, view, now)
        view.asked_s = now
        return view.version, None if view.version == since else view.data

    def version_of(self, job_id: JobId) -> int:
        """Return the version of the view of a job, 0 if there is none."""
        view = self._views.get(job_id)
        return 0 if view is None else view.version

    def tick(self, now: float) -> None:
        """Drop what belongs to jobs that are not listed any more."""
        if now < self._sweep_s:
            return
        jobs, ended = self._scheduler.jobs, {job.id for job in listed_ended(self._scheduler, now)}
        for job_id, view in list(self._views.items()):
            if (job_id not in jobs and job_id not in ended) or (view.data is None and not view.is_wanted(now)):
                self._bytes -= len(view.data or b"")
                del self._views[job_id]
        self._sweep_s = now + SWEEP_S if self._views else inf

    def next_deadline(self) -> float:
        """Return when `tick` must be called again."""
        return self._sweep_s

    def _add(self, job_id: JobId, view: _SharedView, now: float) -> None:
        self._views[job_id] = view
        self._sweep_s = min(self._sweep_s, now + SWEEP_S)

    def _shrink(self, newest: JobId, now: float) -> None:
        """Drop views until the rest fits, but not the newest one."""
        full = [(job_id, view) for job_id, view in self._views.items() if view.data is not None and job_id != newest]
        full.sort(key=lambda item: item[1].is_wanted(now))  # stable, so of each kind the oldest comes first
        for _, view in full:
            if self._bytes <= self._limit_bytes:
                return
            assert view.data is not None
            self._bytes -= len(view.data)
            view.version, view.data = 0, None

    def _check(self, job_id: JobId, owner: str | None, now: float) -> None:
        job = self._scheduler.jobs.get(job_id)
        if job is None and job_id in self._scheduler.ended_jobs:
            job = next((each for each in listed_ended(self._scheduler, now) if each.id == job_id), None)
        if job is None or owner not in (None, job.owner):
            raise ConfigurationError(
                f"there is no job {job_id.hex()} with a view for this caller: it has ended and is not listed any more, "
                "it is another user's, or it never was; `concurrent-nb jobs` lists the jobs"
            )
