"""The strategies in use: the cluster's, and those that open jobs have asked for.

A strategy costs something whenever a slave changes, so one that no open job has asked for is not kept.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.scheduling.strategies.strategy import Strategy
from concurrent_nb.tasks.task_record import JobRecord

#: makes a strategy for jobs that ask for it by its name
Makers = Mapping[str, Callable[[], Strategy]]


class ActiveStrategies:
    """Which strategy places a job's tasks.

    Args:
        default: the cluster's.
        makers: what jobs may ask for besides.
    """

    def __init__(self, default: Strategy, makers: Makers) -> None:
        self.default = default
        self.all: tuple[Strategy, ...] = (default,)
        self.prefetching_owners: Counter[str] = (
            Counter()
        )  #: owners of open jobs that asked for one that is `far`: how many
        self._makers = makers
        self._own: dict[str, Strategy] = {}  # those that jobs have asked for, by name
        self._jobs: Counter[str] = Counter()  # how many open jobs have asked for each

    @property
    def names(self) -> list[str]:
        """What a job may ask for."""
        return sorted({self.default.name, *self._makers} - {""})

    @property
    def all_default(self) -> bool:
        """Say whether all jobs leave it to the cluster's strategy."""
        return not self._own

    def opened(self, job: JobRecord, slaves: Iterable[SlaveState]) -> None:
        """Use what the job asks for, one of `names`, from now on. It gets to know the slaves that there are."""
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
        """Drop what no other open job asks for."""
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
        """Say whether the job has asked for a strategy that is `far`."""
        own = self._own.get(job.strategy)
        return own is not None and own.prefetching


def _decrease(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
