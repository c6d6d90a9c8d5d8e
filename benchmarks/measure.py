"""One contender, measured in a process of its own: `python -m benchmarks.measure NAME RUN SIZE GROUP`.

Started by `benchmarks.run`. Standard output has a JSON object for each figure; a line on standard input lets it
continue. Imports of this module count as part of every contender's start, so there are few, and the rest is imported
when needed.

GROUP is "figures"; or "queue", which leaves 100,000 tasks waiting until the driver ends the process; or "scheduler",
ours without any cluster.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from benchmarks import workloads as work
from benchmarks.peers import CONTENDERS, Contender, NotOffered

if TYPE_CHECKING:
    from benchmarks.bare import Bare

WORKERS = 2
#: most measurements of a rate; none is repeated after the size's `cap_s`
REPEATS = 5
#: seconds after which workers without an answer are reported as missing
START_TIMEOUT_S = 60.0


class Size(NamedTuple):
    """How much is measured. A contender that needs much longer than `cap_s` gets a smaller count."""

    cap_s: float = 2.0
    submits: int = 10_000
    mapped: int = 100_000
    lone: int = 1000
    big_bytes: int = 64 * work.MIB
    big_times: int = 5
    blocks: int = 1000
    together: int = 50
    burn_s: float = 2.0  #: of processor time, once in tasks of 1 ms and once in tasks of 10 ms
    column_step: int = 1
    queued: int = 100_000
    queue_s: float = 10.0
    settle_s: float = 3.0
    scheduled: int = 1_000_000
    idle_s: float = 0.5  #: after the start, before memory is read
    pause_s: float = 0.1  #: after each figure, so that its unfinished work does not count in the next


SIZES = {
    "full": Size(),
    "quick": Size(cap_s=1.0, big_times=3, burn_s=1.0, column_step=4, queue_s=5.0, settle_s=1.0, scheduled=200_000),
    "tiny": Size(0.1, 200, 1000, 20, work.MIB, 1, 20, 4, 0.04, 384, 200, 1.0, 0.1, 2000, 0.0, 0.0),
}


class Measurement:
    """The figures of one contender. Each method emits some."""

    def __init__(self, contender: Contender, run: str, size: Size, out: IO[str]) -> None:
        self.contender = contender
        self.run = run
        self.size = size
        self._out = out
        self.workers: set[int] = set()

    def emit(self, metric: str, value: Any, n: int | None = None, note: str = "") -> None:
        self._out.write(json.dumps({"metric": metric, "value": value, "n": n, "note": note}) + "\n")
        self._out.flush()

    @contextmanager
    def figure(self, metric: str) -> Iterator[None]:
        """Record that this figure is missing, with the reason, if the block fails; other figures go on."""
        try:
            yield
        except NotOffered:
            self.emit(metric, None, note="not offered")
        except Exception as error:  # noqa: BLE001  (its message is reported)
            self.emit(metric, None, note=f"{type(error).__name__}: {error}"[:300])
        gc.collect()
        time.sleep(self.size.pause_s)

    # --------------------------------------------------------------------------------------------------------- figures

    def start(self) -> None:
        """Start the contender; return when every worker has answered."""
        self.contender.start(WORKERS)
        deadline = time.monotonic() + START_TIMEOUT_S
        while len(self.workers) < WORKERS and time.monotonic() < deadline:
            self.workers.update(self.contender.each(work.who, [0.01] * 2 * WORKERS))
        self.emit("ready", time.time(), note=" ".join(map(str, self.workers)))

    def figures(self) -> None:
        self.noops()
        self.maps()
        self.lone()
        self.arrays()
        self.against_bare()

    def noops(self) -> None:
        """Many no-ops, a task each, and their cost in each process."""
        from benchmarks import processes

        with self.figure("submit_10k/s"):
            if not self.contender.futures:
                raise NotOffered
            self.contender.each(work.noop, range(200))
            while len(self.workers) < WORKERS:
                self.workers.update(self.contender.each(work.who, [0.01] * 2 * WORKERS))
            done = 0

            def call(items: Sequence[Any]) -> list[Any]:
                nonlocal done
                done += len(items)
                return self.contender.each(work.noop, items)

            before = processes.cpu_s(self.run)
            self.rate("submit_10k/s", call, range, self.size.submits)
            after = processes.cpu_s(self.run)
            spent = {pid: (seconds - before.get(pid, 0.0)) / done * 1e6 for pid, seconds in after.items()}
            self.by_role("cpu_us/task", spent, done)

    def maps(self) -> None:
        def default(items: Sequence[Any]) -> list[Any]:
            return list(self.contender.map(work.noop, items))

        def keeping_errors(items: Sequence[Any]) -> list[Any]:
            return list(self.contender.map_keeping_errors(work.checked, items))

        with self.figure("map_default_100k/s"):
            self.rate("map_default_100k/s", default, range, self.size.mapped)
        with self.figure("map_kept_100k/s"):
            self.rate("map_kept_100k/s", keeping_errors, work.mixed, self.size.mapped)

    def lone(self) -> None:
        """One no-op at a time, each after the answer of the one before."""
        with self.figure("latency_p50_us"):
            contender = self.contender
            times: list[float] = []
            for number in range(20):
                contender.result(contender.submit(work.noop, number))
            end = time.monotonic() + self.size.cap_s
            while len(times) < self.size.lone and time.monotonic() < end:
                started = time.perf_counter()
                contender.result(contender.submit(work.noop, 1))
                times.append(time.perf_counter() - started)
            times.sort()
            self.emit("latency_p50_us", times[len(times) // 2] * 1e6, len(times))
            self.emit("latency_p99_us", times[-1 - len(times) // 100] * 1e6, len(times))

    def arrays(self) -> None:
        import numpy as np

        contender, size = self.contender, self.size
        big = np.arange(size.big_bytes // 8, dtype=np.float64)
        both_ways_mib = 2 * big.nbytes / work.MIB

        with self.figure("change_64MiB_MiB/s"):
            contender.result(contender.submit(work.plus_one, big))
            times = []
            for _ in range(size.big_times):
                started = time.perf_counter()
                back = contender.result(contender.submit(work.plus_one, big))
                times.append(time.perf_counter() - started)
                assert back.shape == big.shape and back[-1] == big[-1] + 1, "wrong result"
                del back
            self.emit("change_64MiB_MiB/s", both_ways_mib / sorted(times)[len(times) // 2], len(times))

        with self.figure("change_64KiB_MiB/s"):
            blocks = [np.full(8192, float(number)) for number in range(size.blocks)]
            contender.each(work.plus_one, blocks[:20])
            each_s, _ = timed(contender.each, work.plus_one, blocks[:50])
            blocks = blocks[: max(50, int(size.cap_s * 50 / each_s))]
            took_s, changed = timed(contender.each, work.plus_one, blocks)
            assert all(got[-1] == block[0] + 1 for got, block in zip(changed, blocks, strict=True)), "wrong result"
            self.emit("change_64KiB_MiB/s", 2 * len(blocks) / 16 / took_s, len(blocks))
            del changed

        def together(metric: str, share: Callable[[Any], Any]) -> None:
            """One array for many tasks; another one each time, so that no process has it already."""

            def run(array: Any, count: int) -> float:
                took_s, sums = timed(lambda: contender.each(work.touch, [share(array)] * count))
                assert sums == [work.touch(array)] * count, "wrong result"
                return took_s

            with self.figure(metric):
                pilot_s = run(big + 1, 4) / 4
                count = max(4, min(size.together, int(size.cap_s / pilot_s)))
                self.emit(metric, run(big + 2, count) * size.together / count, count)

        together("shared_50_s", contender.share)
        together("passed_50_s", lambda array: array)

    def against_bare(self) -> None:
        """CPU work, each between two runs of the same work by two bare processes."""
        from benchmarks.bare import Bare

        size = self.size
        with Bare(WORKERS) as bare:
            for ms in (1, 10):
                with self.figure(f"burn_{ms}ms_%bare"):
                    seconds = ms / 1000
                    pilot_s, _ = timed(self.contender.each, work.burn, [seconds] * 20)
                    count = min(round(size.burn_s / seconds), max(100, int(size.cap_s * 20 / pilot_s)))
                    took_s, bare_s = self.between(bare, work.burn, [seconds] * count)
                    self.emit(f"burn_{ms}ms_%bare", 100 * bare_s / took_s, count)
                    self.emit("calm_%", 100 * count * seconds / WORKERS / bare_s)
            with self.figure("mandel_%bare"):
                pilot = range(3, work.MANDEL_WIDTH, 48)
                pilot_s, _ = timed(self.contender.each, work.mandel_column, pilot)
                slow = pilot_s / len(pilot) * work.MANDEL_WIDTH > 3 * size.cap_s
                columns = range(0, work.MANDEL_WIDTH, max(size.column_step, 4 if slow else 1))
                took_s, bare_s = self.between(bare, work.mandel_column, columns)
                self.emit("mandel_%bare", 100 * bare_s / took_s, len(columns))
                self.emit("mandel_columns_s", took_s * work.MANDEL_WIDTH / len(columns), len(columns))
            with self.figure("md5_%bare"):
                ranges = work.md5_ranges()[:: 16 if size.column_step > 16 else 1]
                took_s, bare_s = self.between(bare, work.md5_search, ranges)
                self.emit("md5_%bare", 100 * bare_s / took_s, len(ranges))
                self.emit("md5_128tasks_s", took_s * work.MD5_TASKS / len(ranges), len(ranges))

    def queue(self) -> None:
        """Memory of many waiting tasks. The driver ends this process afterwards."""
        from benchmarks import processes

        contender, size, metric = self.contender, self.size, "queue_B/task"
        with self.figure(metric):
            if not contender.futures:
                raise NotOffered
            gates = [contender.submit(work.gate, os.path.join(os.environ["TMPDIR"], "never")) for _ in range(WORKERS)]
            time.sleep(size.settle_s / 3)
            before = processes.rss_bytes(self.run)
            held: list[Any] = []
            started = time.perf_counter()
            while len(held) < size.queued and time.perf_counter() - started < size.queue_s:
                held.extend(contender.submit(work.noop, len(held)) for _ in range(100))
            rate = len(held) / (time.perf_counter() - started)
            time.sleep(size.settle_s)  # until the tasks have reached their queues
            after = processes.rss_bytes(self.run)
            grown = {pid: (rss - before.get(pid, 0)) / len(held) for pid, rss in after.items()}
            self.by_role(metric, grown, len(held))
            self.emit("queue_submit/s", rate, len(held))
            del gates

    def scheduler(self) -> None:
        """The cost of our scheduler alone per task."""
        from benchmarks.scheduler_alone import measure
        from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobinStrategy

        costs_us = []
        for slaves in (10, 10_000):
            costs_us.append(measure(PullRoundRobinStrategy(), slaves, self.size.scheduled))
            self.emit(f"scheduler_us/task, {slaves:,} slaves", costs_us[-1], self.size.scheduled)
        self.emit("scheduler_growth", costs_us[1] / costs_us[0], self.size.scheduled)

    # --------------------------------------------------------------------------------------------------------- helpers

    def rate(
        self, metric: str, call: Callable[[Sequence[Any]], list[Any]], make: Callable[[int], Sequence[Any]], count: int
    ) -> None:
        """Emit items per second of `call` with `count` items that `make` makes, or with fewer if that takes too long.

        The count grows step by step, because chunking has a fixed cost, so the speed with few items is no measure.
        Short runs are repeated, and the median counts.
        """
        step = min(200, count)
        call(make(step))
        while True:
            items = make(step)
            took_s, got = timed(call, items)
            check(items, got)
            if step >= count or took_s > self.size.cap_s / 2:
                break
            step = min(count, step * max(2, min(10, int(self.size.cap_s / took_s))))
        times = [took_s]
        while sum(times) < self.size.cap_s and len(times) < REPEATS:
            items = make(step)
            took_s, got = timed(call, items)
            check(items, got)
            times.append(took_s)
        times.sort()
        self.emit(metric, step / times[len(times) // 2], step)

    def between(self, bare: "Bare", fn: Callable[[Any], Any], items: Sequence[Any]) -> tuple[float, float]:
        """Return the seconds that the contender takes, and the mean of the bare ones before and after it."""
        before_s = bare.run(fn.__name__, items)
        took_s, got = timed(self.contender.each, fn, items)
        assert len(got) == len(items), f"{len(got)} results of {len(items)}"
        return took_s, (before_s + bare.run(fn.__name__, items)) / 2

    def by_role(self, metric: str, values: dict[int, float], n: int) -> None:
        """Emit the sum over all processes, and the sum of each kind of process."""
        from benchmarks import processes

        self.emit(metric, sum(values.values()), n)
        for role, value in roles(self.contender, values, processes.commands(self.run), self.workers).items():
            self.emit(f"{metric}, {role}", value, n)


def roles(
    contender: Contender, values: dict[int, float], commands: dict[int, str], workers: set[int], client: int = 0
) -> dict[str, float]:
    """Add up values of processes by role: client (this process, or the one given), workers, and the rest."""
    sums: dict[str, float] = {}
    for pid, value in values.items():
        if pid == (client or os.getpid()):
            role = "client"
        elif pid in workers:
            role = "workers"
        else:
            role = contender.role(commands.get(pid, ""))
        sums[role] = sums.get(role, 0.0) + value
    return sums


def timed(call: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    """Return the seconds that a call took, and its value."""
    started = time.perf_counter()
    value = call(*args)
    return time.perf_counter() - started, value


def check(items: Sequence[Any], got: Sequence[Any]) -> None:
    """Raise AssertionError unless these are the results of `noop` or `checked`, in order."""
    assert len(got) == len(items), f"{len(got)} results of {len(items)}"
    for item, value in zip(items, got, strict=True):
        failed = isinstance(item, int) and item < 0
        error = value.error if isinstance(value, work.Failure) else value
        assert isinstance(error, ValueError) if failed else value == item, f"{item!r} gave {value!r}"


def main(name: str, run: str, size: str, group: str) -> None:
    """Measure one contender."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # frameworks print to standard output, where the figures go
    measurement = Measurement(CONTENDERS[name](), run, SIZES[size], out)
    if group == "scheduler":
        measurement.scheduler()
        measurement.emit("end", None)
        return
    measurement.start()
    sys.stdin.readline()  # meanwhile the driver measures us as we are idle
    if group == "queue":
        measurement.queue()
        measurement.emit("end", None)
        sys.stdin.read()
        return
    measurement.figures()
    took_s, _ = timed(measurement.contender.stop)
    measurement.emit("stop_s", took_s)
    measurement.emit("end", None)


if __name__ == "__main__":
    main(*sys.argv[1:])
