"""The cost of the scheduler alone per task: submitted, assigned, finished and acknowledged, without a network.

    python benchmarks/scheduler_alone.py [--run 100] [--tasks 200000] [--strategy NAME] [--objects 500] [--profile]

Slaves answer immediately and events are passed in runs. Only the processor time inside `Scheduler.handle` counts, so
other load changes little. The last figure of a line is the ratio to the cost of a task with 10 slaves.
"""

import argparse
import cProfile
import pstats
import time
from collections.abc import Iterator

from concurrent_nb.ids import Digest, JobId, SessionId
from concurrent_nb.outcome import Status
from concurrent_nb.scheduling.events import (
    Event,
    JobOpened,
    OutcomesAcknowledged,
    OutcomesReceived,
    SlaveJoined,
    TasksSubmitted,
)
from concurrent_nb.scheduling.instructions import AssignTasks, DeliverOutcomes, Instruction
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.scheduling.strategies.by_name import BY_NAME
from concurrent_nb.scheduling.strategies.strategy import Strategy
from concurrent_nb.wire.messages import OutcomeFrame, TaskFrame

JOB, CLIENT, FUNCTION = JobId(b"j" * 16), SessionId(b"sclient"), Digest(b"f" * 32)
OK = int(Status.OK)


class Watch:
    """Runs a scheduler and adds up its processor time."""

    def __init__(self, strategy: Strategy, profile: cProfile.Profile | None) -> None:
        self.scheduler = Scheduler(strategy)
        self.spent_s = 0.0
        self._now = 0.0
        self._profile = profile

    def handle(self, *events: Event) -> list[Instruction]:
        self._now += 1e-4
        if self._profile is not None:
            self._profile.enable()
        begin = time.process_time()
        instructions = self.scheduler.handle(*events, now=self._now)
        self.spent_s += time.process_time() - begin
        if self._profile is not None:
            self._profile.disable()
        return instructions


def answers(instructions: list[Instruction]) -> Iterator[Event]:
    """Play the slaves and the owner."""
    for instruction in instructions:
        if isinstance(instruction, AssignTasks):
            items = [OutcomeFrame(t.index, t.attempt, OK, 1e-4, 1234, b"result") for t in instruction.tasks]
            yield OutcomesReceived(instruction.slave, instruction.job, items, ())
        elif isinstance(instruction, DeliverOutcomes):
            yield OutcomesAcknowledged(instruction.client, instruction.job, [item.index for item in instruction.items])


def measure(
    strategy: Strategy,
    slaves: int,
    tasks: int,
    *,
    run: int = 100,
    objects: int = 0,
    single: bool = False,
    profile: cProfile.Profile | None = None,
) -> float:
    """Return microseconds per task.

    Args:
        run: tasks in one submit.
        objects: number of objects, to one of which each task refers.
        single: call the scheduler for each event alone.
    """
    watch = Watch(strategy, profile)
    for number in range(slaves):
        watch.scheduler.handle(SlaveJoined(SessionId(b"s%d" % number), f"slave {number}", 4, 1000), now=0.0)
    watch.scheduler.handle(JobOpened(CLIENT, "owner", JOB), now=0.0)
    for first in range(0, tasks, run):
        indexes = range(first, first + run)
        frames = [TaskFrame(index, 0, b"arguments") for index in indexes]
        named = [((b"%d" % (index % objects), 50_000_000),) for index in indexes] if objects else ()
        instructions = watch.handle(TasksSubmitted(CLIENT, JOB, FUNCTION, frames, (), None, 0, named))
        while instructions:
            events = list(answers(instructions))
            calls = [[event] for event in events] if single else [events]
            instructions = [done for call in calls for done in watch.handle(*call)]
    if watch.scheduler.waiting or watch.scheduler.jobs[JOB].tasks:
        raise SystemExit("tasks are left: the figures mean nothing")
    return watch.spent_s / tasks * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=int, default=100, help="tasks in one submit")
    parser.add_argument("--tasks", type=int, default=200_000)
    parser.add_argument("--strategy", choices=BY_NAME, help="only this one")
    parser.add_argument("--objects", type=int, default=0, help="shared objects; each task refers to one")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--single", action="store_true", help="call the scheduler for each event alone")
    options = parser.parse_args()
    for name in [options.strategy] if options.strategy else BY_NAME:
        of_ten_us = 0.0
        for slaves in (2, 10, 1000, 10_000):
            profile = cProfile.Profile() if options.profile else None
            tasks_us = measure(
                BY_NAME[name](),
                slaves,
                options.tasks,
                run=options.run,
                objects=options.objects,
                single=options.single,
                profile=profile,
            )
            of_ten_us = tasks_us if slaves == 10 else of_ten_us
            ratio = f"{tasks_us / of_ten_us:6.2f}" if of_ten_us else ""
            print(f"{name:16} {slaves:6} slaves {tasks_us:6.2f} us/task {1e6 / tasks_us:9,.0f} tasks/s {ratio}")
            if profile is not None:
                pstats.Stats(profile).sort_stats("tottime").print_stats(14)


if __name__ == "__main__":
    main()
