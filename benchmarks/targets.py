"""The promised targets, row by row, and whether the figures of a run meet them. Pure."""

import enum
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.peers import CONTENDERS, OURS

#: median of a metric for a contender (a name of `peers.CONTENDERS`); None: not measured
Median = Callable[[str, str], float | None]


class Verdict(enum.Enum):
    """Whether the figures meet a target."""

    MET = "met"
    MISSED = "missed"
    UNKNOWN = "not measured"


@dataclass(frozen=True)
class Bound:
    """Our figure must be at least, or at most, `limit`; with a `peer`, `limit` times that contender's figure."""

    limit: float
    at_least: bool
    peer: str = ""

    def measured(self, metric: str, median: Median) -> float | None:
        """Return our figure, or its ratio to the peer's, to compare with the limit. None if one is missing."""
        ours = median(metric, OURS)
        if ours is None or not self.peer:
            return ours
        peers = median(metric, self.peer)
        return ours / peers if peers else None

    def verdict(self, metric: str, median: Median) -> Verdict:
        value = self.measured(metric, median)
        if value is None:
            return Verdict.UNKNOWN
        holds = value >= self.limit if self.at_least else value <= self.limit
        return Verdict.MET if holds else Verdict.MISSED

    def __str__(self) -> str:
        relation = "≥" if self.at_least else "≤"
        times = f" x {CONTENDERS[self.peer].title}" if self.peer else ""
        return f"{relation} {self.limit:,}{times}"


@dataclass(frozen=True)
class Target:
    """One row: the metric, the promised target, the stretch target."""

    what: str
    metric: str
    unit: str
    promised: tuple[Bound, ...]
    stretch: tuple[Bound, ...]
    more_is_better: bool


def verdict(bounds: tuple[Bound, ...], metric: str, median: Median) -> Verdict:
    """Return whether all bounds hold. One that fails means missed; one that was not measured leaves it open."""
    each = {bound.verdict(metric, median) for bound in bounds}
    for worst in (Verdict.MISSED, Verdict.UNKNOWN):
        if worst in each:
            return worst
    return Verdict.MET


def _more(what: str, metric: str, unit: str, promised: tuple[Bound, ...], *stretch: Bound) -> Target:
    return Target(what, metric, unit, promised, stretch, more_is_better=True)


def _less(what: str, metric: str, unit: str, promised: tuple[Bound, ...], *stretch: Bound) -> Target:
    return Target(what, metric, unit, promised, stretch, more_is_better=False)


def _least(limit: float, peer: str = "") -> Bound:
    return Bound(limit, True, peer)


def _most(limit: float, peer: str = "") -> Bound:
    return Bound(limit, False, peer)


TARGETS = (
    _more(
        "10,000 no-ops, one `submit` each",
        "submit_10k/s",
        "tasks/s",
        (_least(2, "pool"), _least(20, "ray"), _least(60, "dask")),
        _least(4, "pool"),
    ),
    _less("processor time per no-op, all processes", "cpu_us/task", "µs", (_most(110),), _most(50)),
    _more(
        "`map` of 100,000, default chunks, mixed inputs, one in a thousand fails, errors kept per item",
        "map_kept_100k/s",
        "items/s",
        (_least(2, "ray"),),
        _least(1_000_000),
    ),
    _less(
        "a lone no-op and its answer, p50",
        "latency_p50_us",
        "µs",
        (_most(1.6, "ppe"), _most(round(1 / 3, 3), "ray")),
        _most(1.3, "ppe"),
    ),
    _more("2,000 tasks burning 1 ms, of two bare processes", "burn_1ms_%bare", "%", (_least(85),), _least(90)),
    _more("200 tasks burning 10 ms, of two bare processes", "burn_10ms_%bare", "%", (_least(95),), _least(98)),
    _more(
        "a 64 MiB array there and back, changed by the task, warm",
        "change_64MiB_MiB/s",
        "MiB/s",
        (_least(1.2, "ray"),),
        _least(2, "ray"),
    ),
    _more(
        "1,000 arrays of 64 KiB there and back",
        "change_64KiB_MiB/s",
        "MiB/s",
        (_least(1.5, "ppe"),),
        _least(3, "ppe"),
    ),
    _less("one 64 MiB array handed over once, 50 tasks", "shared_50_s", "s", (_most(0.1),), _most(0.05)),
    _less("the same 64 MiB array passed to 50 submits", "passed_50_s", "s", (_most(1),), _most(0.5)),
    _more("Mandelbrot, a task per column, of two bare processes", "mandel_%bare", "%", (_least(95),), _least(98)),
    _more("MD5 to the end of its range, of two bare processes", "md5_%bare", "%", (_least(95),), _least(98)),
    _less("cold start until both workers have answered", "start_s", "s", (_most(0.8),), _most(0.5)),
    _less("idle memory without the client (PSS)", "idle_cluster_MiB", "MiB", (_most(90),), _most(60)),
    _less("memory per queued task, all processes", "queue_B/task", "B", (_most(2048),), _most(1024)),
    _less(
        "scheduler alone, 1,000,000 tasks: cost per task at 10,000 slaves to that at 10",
        "scheduler_growth",
        "x",
        (_most(2),),
        _most(1.2),
    ),
)

#: figures without a promised target
OTHERS = (
    Target("`map` of 100,000 no-ops, default chunks", "map_default_100k/s", "items/s", (), (), True),
    Target("a lone no-op and its answer, p99", "latency_p99_us", "µs", (), (), False),
    Target("Mandelbrot 1536x1024x20, a task per column", "mandel_columns_s", "s", (), (), False),
    Target("MD5 of 1 to 2,000,000, 128 tasks", "md5_128tasks_s", "s", (), (), False),
    Target("idle memory, all processes (PSS)", "idle_MiB", "MiB", (), (), False),
    Target("submit calls while 100,000 tasks queue up", "queue_submit/s", "calls/s", (), (), True),
    Target("stopping it", "stop_s", "s", (), (), False),
    Target("until all of its processes have gone after that", "exit_s", "s", (), (), False),
)
