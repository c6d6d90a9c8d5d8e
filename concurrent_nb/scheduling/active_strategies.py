"""The strategies in use: the cluster's, and those of open jobs.

A strategy costs time whenever a slave changes, so one that no open job uses is dropped.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.scheduling.strategies.strategy import Strategy
from concurrent_nb.tasks.task_record import JobRecord

#: factories of the strategies that jobs may name
Makers = Mapping[str, Callable[[], Strategy]]


class ActiveStrategies:
    """The strategy of each job.

    Args:
        default: the cluster's strategy.
        makers: factories of the others that jobs may name.
    """

    def __init__(self, default: Strategy, makers: Makers) -> None:
        self.default = default
        self.all: tuple[Strategy, ...] = (default,)
        #: open jobs with a prefetching strategy of their own, by owner
        self.prefetching_owners: Counter[str] = Counter()
        self._makers = makers
        self._own: dict[str, Strategy] = {}  # those that open jobs name
        self._jobs: Counter[str] = Counter()  # open jobs by the strategy that they name

    @property
    def names(self) -> list[str]:
        """The names that a job may use."""
        return sorted({self.default.name, *self._makers} - {""})

    @property
    def all_default(self) -> bool:
        """Return whether all open jobs use the cluster's strategy."""
        return not self._own

    def replace_default(self, default: Strategy, jobs: Iterable[JobRecord], slaves: Collection[SlaveState]) -> None:
        """Use another strategy for the cluster; it and those that open jobs name are informed of the slaves."""
        self.default = default
        self.all = (default,)
        self._own.clear()
        self._jobs.clear()
        self.prefetching_owners.clear()
        for slave in slaves:
            default.changed(slave)
        for job in jobs:
            self.opened(job, slaves)

    def opened(self, job: JobRecord, slaves: Iterable[SlaveState]) -> None:
        """Use the strategy that a new job names, one of `names`; a new strategy is informed of the slaves."""
        name = job.strategy
        if name in ("", self.default.name):
            return
        if not self._jobs[name]:
            strategy = self._own[name] = self._makers[name]()
            for slave in slaves:
                strategy.changed(slave)
            self.all = (self.default, *self._own.values())
        self._jobs[name] += 1
        if self._own[name].prefetching:
            self.prefetching_owners[job.owner] += 1

    def forgotten(self, job: JobRecord) -> None:
        """Drop the strategy of a job that is over, unless another open job names it."""
        strategy = self._own.get(job.strategy)
        if strategy is None:
            return
        if strategy.prefetching:
            _decrease(self.prefetching_owners, job.owner)
        _decrease(self._jobs, job.strategy)
        if not self._jobs[job.strategy]:
            del self._own[job.strategy]
            self.all = (self.default, *self._own.values())

    def of(self, job: JobRecord) -> Strategy:
        """Return the strategy of a job."""
        return self._own.get(job.strategy, self.default)

    def has_own_prefetching(self, job: JobRecord) -> bool:
        """Return whether the job has a prefetching strategy of its own."""
        own = self._own.get(job.strategy)
        return own is not None and own.prefetching


def _decrease(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
