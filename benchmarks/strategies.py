"""Compares strategies by type of work: the real scheduler and modelled slaves, in virtual time, deterministic.

    python benchmarks/strategies.py [--only NAME]
    python benchmarks/strategies.py --real [--rounds 3] [--slaves 4] [--arrays 24] [--array-mb 8] [--tasks 16]

A slave has workers that run its tasks in order, and a link from the master on which missing shared objects travel
before the first task that refers to them and before everything after it. It returns unstarted tasks, and reports after
20 ms that a task runs. The ideal is all work spread evenly over all workers, by their speed, without fetches and
latency. Makespans are in seconds; in brackets, the ratio to the ideal.

With --real: processes on this machine, slaves of one worker without shared memory, as if each were on a host of its
own, and tasks that refer to large arrays in random order. Each round runs every strategy once, with new arrays, and
prints how many bytes of them have travelled to the slaves. Quote the ratios of one run.
"""

import argparse
import heapq
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from math import inf
from typing import Any

from concurrent_nb import Cluster
from concurrent_nb.ids import Digest, JobId, SessionId
from concurrent_nb.outcome import Status
from concurrent_nb.scheduling.events import (
    Event,
    JobOpened,
    OutcomesAcknowledged,
    OutcomesReceived,
    SlaveJoined,
    TasksReturned,
    TasksStarted,
    TasksSubmitted,
)
from concurrent_nb.scheduling.instructions import AssignTasks, DeliverOutcomes, Instruction, WithdrawTasks
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobinStrategy
from concurrent_nb.tasks.task_record import ObjectSize, TaskRecord
from concurrent_nb.wire.messages import STRATEGIES, OutcomeFrame, StartedTask, TaskFrame, TaskRef

OK = int(Status.OK)
#: seconds that a task has run when its slave reports it as started
STARTED_AFTER_S = 0.02
CREDIT_PER_SLOT = 512
#: seconds at which another owner's job starts
GUESTS_AFTER_S = 1.0


@dataclass(frozen=True)
class Work:
    """One job on one cluster, and possibly a later small job of another owner."""

    name: str
    runs_s: list[float]  #: run time of each task on a slave of speed 1
    objects: list[tuple[ObjectSize, ...]] = field(default_factory=list)
    speeds: tuple[float, ...] = (1.0,) * 8
    slots: int = 4
    way_s: float = 0.00025  #: to a slave, and back
    bytes_per_s: float = 500e6  #: of objects on the way to a slave
    before: int = 0  #: number of tasks in an earlier job, so that the scheduler has measured tasks and slaves
    guests_s: list[float] = field(default_factory=list)  #: run times of the later tasks of another owner

    @property
    def ideal_s(self) -> float:
        """Return the ideal makespan."""
        return (sum(self.runs_s) + sum(self.guests_s)) / (sum(self.speeds) * self.slots)


class ModelSlave:
    """A slave: workers, a queue, the link to it."""

    def __init__(self, world: "World", name: bytes, speed: float) -> None:
        self.id = SessionId(name)
        self.fetched_bytes = 0
        self._world = world
        self._speed = speed
        self._free = world.work.slots
        self._queue: deque[tuple[TaskRecord, int]] = deque()
        self._running: set[tuple[JobId, int, int]] = set()
        self._way_free_s = 0.0
        self._here: set[bytes] = set()

    def send(self, action: Callable[[], None], objects: Iterable[ObjectSize] = ()) -> None:
        """Call a function when everything sent before, and these objects, have arrived."""
        world = self._world
        self._way_free_s = max(self._way_free_s, world.now)
        for each, size_bytes in objects:
            if each not in self._here:
                self._here.add(each)
                self.fetched_bytes += size_bytes
                self._way_free_s += size_bytes / world.work.bytes_per_s
        world.after(self._way_free_s + world.work.way_s - world.now, action)

    def assigned(self, task: TaskRecord, attempt: int) -> None:
        self._queue.append((task, attempt))
        self._begin()

    def withdrawn(self, refs: set[TaskRef]) -> None:
        keys = {(ref.job, ref.index, ref.attempt) for ref in refs}
        back = [(task, attempt) for task, attempt in self._queue if (task.job.id, task.index, attempt) in keys]
        self._queue = deque(pair for pair in self._queue if pair not in back)
        if back:
            returned = [TaskRef(task.job.id, task.index, attempt) for task, attempt in back]
            self._world.deliver(TasksReturned(self.id, returned))

    def _begin(self) -> None:
        while self._free and self._queue:
            self._free -= 1
            task, attempt = self._queue.popleft()
            run_s = self._world.run_s(task) / self._speed
            self._running.add((task.job.id, task.index, attempt))
            self._world.after(run_s, partial(self._ended, task, attempt, run_s))
            if run_s > STARTED_AFTER_S:
                started = TasksStarted(self.id, [StartedTask(task.job.id, task.index, attempt)])
                self._world.after(STARTED_AFTER_S, partial(self._world.deliver, started))

    def _ended(self, task: TaskRecord, attempt: int, run_s: float) -> None:
        self._free += 1
        item = OutcomeFrame(task.index, attempt, OK, run_s, 1, b"")
        self._world.deliver(OutcomesReceived(self.id, task.job.id, [item], ()))
        self._begin()


class World:
    """Master, slaves, owners, and the time."""

    def __init__(self, work: Work, strategy: str) -> None:
        self.work = work
        self.now = 0.0
        self.ended_s: dict[JobId, float] = {}  #: when each job's last result arrived
        self.asked_back = 0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = count()
        self._scheduler = Scheduler(PullRoundRobinStrategy())
        self._runs_s: dict[JobId, list[float]] = {}
        self._tick_s = inf
        self.slaves = [ModelSlave(self, b"s%d" % number, speed) for number, speed in enumerate(work.speeds)]
        self._by_id = {slave.id: slave for slave in self.slaves}
        slots = work.slots
        self.handle(*[SlaveJoined(s.id, s.id.decode(), slots, slots * CREDIT_PER_SLOT) for s in self.slaves])
        if work.before:
            self._submit(b"before", work.runs_s[: work.before], "", work.objects[: work.before])
            self._pass_time()
        self.began_s = self.now
        self._submit(b"host", work.runs_s, strategy, work.objects)
        if work.guests_s:
            self.after(GUESTS_AFTER_S, lambda: self._submit(b"guest", work.guests_s, "", []))
        self._pass_time()

    def lasted_s(self, owner: bytes) -> float:
        """Return when an owner's last result arrived, from the start of the job."""
        return self.ended_s[JobId(owner.ljust(16))] - self.began_s

    def _pass_time(self) -> None:
        while self._agenda:
            self.now, _, action = heapq.heappop(self._agenda)
            action()
        if self._scheduler.waiting or any(job.tasks for job in self._scheduler.jobs.values()):
            raise SystemExit(f"{self.work.name}: tasks are left, the figures mean nothing")

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + seconds, next(self._serial), action))

    def run_s(self, task: TaskRecord) -> float:
        return self._runs_s[task.job.id][task.index]

    def deliver(self, event: Event) -> None:
        """Deliver an event of a slave to the master after the latency."""
        self.after(self.work.way_s, lambda: self.handle(event))

    def handle(self, *events: Event) -> None:
        self._obey(self._scheduler.handle(*events, now=self.now))
        due_s = self._scheduler.next_deadline()
        if due_s is not None and (self._tick_s <= self.now or due_s < self._tick_s):
            self._tick_s = max(due_s, self.now)
            self.after(self._tick_s - self.now, self.handle)

    def _submit(self, owner: bytes, runs_s: list[float], strategy: str, objects: list[tuple[ObjectSize, ...]]) -> None:
        job, client = JobId(owner.ljust(16)), SessionId(owner)
        self._runs_s[job] = runs_s
        frames = [TaskFrame(index, 0, b"") for index in range(len(runs_s))]
        function = Digest((b"guests" if owner == b"guest" else b"hosts").ljust(32))
        self.handle(
            JobOpened(client, "guest" if owner == b"guest" else "host", job, "", False, False, strategy),
            TasksSubmitted(client, job, function, frames, (), None, 0, objects),
        )

    def _obey(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, AssignTasks):
                slave = self._by_id[instruction.slave]
                for task in instruction.tasks:
                    slave.send(partial(slave.assigned, task, task.attempt), task.objects)
            elif isinstance(instruction, WithdrawTasks):
                slave, refs = self._by_id[instruction.slave], set(instruction.tasks)
                self.asked_back += len(refs)
                slave.send(partial(slave.withdrawn, refs))
            elif isinstance(instruction, DeliverOutcomes):
                self.ended_s[instruction.job] = self.now
                indexes = [item.index for item in instruction.items]
                self.handle(OutcomesAcknowledged(instruction.client, instruction.job, indexes))


def works() -> Iterator[Work]:
    """Create the work, always the same."""
    chance = random.Random(1)
    yield Work("equal tasks: 4,000 of 10 ms", [0.01] * 4000)
    yield Work("equal tasks, a way of 20 ms", [0.01] * 4000, way_s=0.02)
    bimodal = [1.0 if chance.random() < 0.05 else 0.01 for _ in range(2000)]
    yield Work("bimodal: 2,000, one in 20 takes 1 s, others 10 ms", bimodal)
    yield Work("one of 8 slaves four times slower: 4,000 of 10 ms", [0.01] * 4000, speeds=(1.0,) * 7 + (0.25,))
    yield Work("the same, after a job of 64 such tasks", [0.01] * 4000, speeds=(1.0,) * 7 + (0.25,), before=64)
    yield Work("one of 8 slaves four times slower: 96 of 0.5 s", [0.5] * 96, speeds=(1.0,) * 7 + (0.25,))
    inputs: list[tuple[ObjectSize, ...]] = [((b"object %d" % (index % 48), 200_000_000),) for index in range(768)]
    chance.shuffle(inputs)
    yield Work("large shared inputs: 48 of 200 MB, 16 tasks of 50 ms each", [0.05] * 768, inputs)
    yield Work("one large input: 200 MB, 1,000 tasks of 10 ms", [0.01] * 1000, [((b"object", 200_000_000),)] * 1000)
    yield Work("two owners: 4,000 of 50 ms, after 1 s 64 of 10 ms of a guest", [0.05] * 4000, guests_s=[0.01] * 64)


def use(array: Any, run_s: float) -> float:
    """Read an array, and take a while."""
    time.sleep(run_s)
    return float(array.sum())


def real(rounds: int, slaves: int, arrays: int, array_bytes: int, tasks: int, run_s: float) -> None:
    """Run tasks of each array by each strategy, on processes; print the bytes that have travelled and the times."""
    import numpy as np

    def fetched_bytes() -> int:
        return sum(slave["fetched_bytes"] for slave in cluster.status()["slaves"])

    order = [number for number in range(arrays) for _ in range(tasks)]
    random.Random(1).shuffle(order)
    took_s: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    fetched: dict[str, list[int]] = {name: [] for name in STRATEGIES}
    with Cluster(workers=1, config={"MasterNode": {"share_memory": False}}) as cluster:
        for workers in range(2, slaves + 1):
            cluster.scale(workers)
        while len(cluster.status()["slaves"]) < slaves:
            time.sleep(0.1)
        app = cluster.application()
        app.start_job(use, [(np.zeros(8), run_s)] * 50).results()
        for _ in range(rounds):
            for name in STRATEGIES:
                shared = [app.put(np.full(array_bytes // 8, float(number))) for number in range(arrays)]
                before, began_s = fetched_bytes(), time.perf_counter()
                app.start_job(use, [(shared[number], run_s) for number in order], strategy=name).results()
                took_s[name].append(time.perf_counter() - began_s)
                fetched[name].append(fetched_bytes() - before)
    work = f"{arrays} arrays of {array_bytes / 1e6:.0f} MB, {tasks} tasks of {run_s * 1e3:.0f} ms each"
    print(f"{slaves} slaves, {work}, {rounds} rounds (all arrays once: {arrays * array_bytes / 1e6:.0f} MB)")
    for name in STRATEGIES:
        times, travelled = took_s[name], sorted(each / 1e6 for each in fetched[name])
        line = f"  {name:17} {statistics.median(times):7.2f} s  [{min(times):.2f}-{max(times):.2f}]"
        print(f"{line}  {statistics.median(travelled):7.0f} MB fetched  [{travelled[0]:.0f}-{travelled[-1]:.0f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="work whose name has this in it")
    parser.add_argument("--real", action="store_true", help="use processes instead of the model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slaves", type=int, default=4)
    parser.add_argument("--arrays", type=int, default=24)
    parser.add_argument("--array-mb", type=int, default=8)
    parser.add_argument("--tasks", type=int, default=16, help="of each array")
    parser.add_argument("--task-ms", type=float, default=5.0)
    options = parser.parse_args()
    if options.real:
        array_bytes, run_s = options.array_mb * 1_000_000, options.task_ms / 1000
        real(options.rounds, options.slaves, options.arrays, array_bytes, options.tasks, run_s)
        return
    for work in works():
        if options.only not in work.name:
            continue
        print(f"{work.name} (ideal {work.ideal_s:.2f} s)")
        for strategy in STRATEGIES:
            world = World(work, strategy)
            makespan_s = max(world.lasted_s(owner) for owner in ((b"host", b"guest") if work.guests_s else (b"host",)))
            line = f"  {strategy:17} {makespan_s:7.2f} s  [{makespan_s / work.ideal_s:5.2f}]"
            line += f"  {world.asked_back:6} asked back"
            if work.objects:
                line += f"  {sum(slave.fetched_bytes for slave in world.slaves) / 1e9:6.1f} GB fetched"
            if work.guests_s:
                line += f"  the guest waits {world.lasted_s(b'guest') - GUESTS_AFTER_S:6.3f} s"
            print(line, flush=True)


if __name__ == "__main__":
    main()
