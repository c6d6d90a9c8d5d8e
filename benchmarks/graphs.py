"""Graphs of no-op tasks, side by side: ours, Dask and Ray, with 2 workers each.

    python benchmarks/graphs.py [--only ours,dask,ray] [--chain 10000] [--tree 10000] [--square 300] [--rounds 1]
    python benchmarks/graphs.py --scheduler [--tasks 100000]

chain: each task needs the one before. tree: the sum of as many tasks, two by two. all-to-all: each of N tasks needs
each of N others. Times are from the first submit to the last result. Each contender runs alone; quote the ratios of one
run. With --scheduler: the processor time of our scheduler alone per edge, for graphs of several sizes.
"""

import argparse
import statistics
import time
from collections.abc import Callable

from benchmarks.peers import CONTENDERS, Contender
from benchmarks.scheduler_alone import CLIENT, FUNCTION, JOB, answers
from concurrent_nb.ids import SessionId
from concurrent_nb.scheduling.events import Event, JobOpened, SlaveJoined, TasksSubmitted
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobinStrategy
from concurrent_nb.wire.messages import TaskFrame

WORKERS = 2


def one_more(x: int) -> int:
    return x + 1


def add(a: int, b: int) -> int:
    return a + b


def add_all(*values: int) -> int:
    return sum(values)


def chain(contender: Contender, count: int) -> None:
    handle = contender.submit(one_more, 0)
    for _ in range(count - 1):
        handle = contender.submit(one_more, handle)
    assert contender.result(handle) == count


def tree(contender: Contender, count: int) -> None:
    level = [contender.submit(one_more, 0) for _ in range(count)]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        level = [contender.submit(add, one, two) for one, two in pairs] + ([level[-1]] if len(level) % 2 else [])
    assert contender.result(level[0]) == count


def all_to_all(contender: Contender, count: int) -> None:
    first = [contender.submit(one_more, 0) for _ in range(count)]
    assert list(contender.gather([contender.submit(add_all, *first) for _ in range(count)])) == [count] * count


def measure(contender: Contender, graph: Callable[[Contender, int], None], count: int, rounds: int) -> list[float]:
    """Return the seconds that a graph took, in each round."""
    graph(contender, min(count, 50))
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        graph(contender, count)
        seconds.append(time.perf_counter() - begin)
    return seconds


def compare(names: list[str], sizes: dict[str, int], rounds: int) -> None:
    """Print a row for each contender."""
    graphs = {"chain": chain, "tree": tree, "all-to-all": all_to_all}
    print(f"{'':16}" + "".join(f"{f'{name} {sizes[name]:,}':>24}" for name in graphs))
    for name in names:
        contender = CONTENDERS[name]()
        contender.start(WORKERS)
        try:
            contender.result(contender.submit(one_more, 0))
            took = [statistics.median(measure(contender, graphs[kind], sizes[kind], rounds)) for kind in graphs]
        finally:
            contender.stop()
        print(f"{contender.title:16}" + "".join(f"{seconds:>22.2f} s" for seconds in took), flush=True)


def scheduler_alone(inputs: Callable[[int], list[int]], count: int) -> tuple[float, int]:
    """Return the microseconds of `Scheduler.handle` for each edge of a graph, and the number of edges.

    Args:
        inputs: returns the indexes of the tasks that the task of an index needs.
        count: number of tasks.
    """
    scheduler, now = Scheduler(PullRoundRobinStrategy()), 0.0
    slaves = [SlaveJoined(SessionId(b"s%d" % n), f"s{n}", 8, 4096) for n in range(4)]
    scheduler.handle(*slaves, JobOpened(CLIENT, "me", JOB), now=now)
    edges, spent_s = 0, 0.0
    todo: list[Event] = []
    for start in range(0, count, 100):
        needs = [(index, inputs(index)) for index in range(start, min(start + 100, count))]
        edges += sum(len(each) for _, each in needs)
        frames = [TaskFrame(index, 0, b"arguments") for index, _ in needs]
        pairs = [(index, [(JOB, it) for it in each]) for index, each in needs if each]
        todo.append(TasksSubmitted(CLIENT, JOB, FUNCTION, frames, (), inputs=pairs))
    while todo:
        events, todo = todo, []
        for event in events:
            now += 1e-4
            begin = time.process_time()
            instructions = scheduler.handle(event, now=now)
            spent_s += time.process_time() - begin
            todo += answers(instructions)
    assert not scheduler.jobs[JOB].tasks
    return spent_s / edges * 1e6, edges


def show_scheduler(count: int) -> None:
    """Print the cost of an edge for graphs of several sizes: it does not grow."""
    side = int(count**0.5)
    shapes: dict[str, Callable[[int], list[int]]] = {
        "chain": lambda index: [index - 1] if index else [],
        "tree": lambda index: [] if index < count // 2 else [2 * (index - count // 2), 2 * (index - count // 2) + 1],
        "all-to-all": lambda index: [] if index < side else list(range(side)),
    }
    for name, inputs in shapes.items():
        for tasks in (count // 10, count) if name == "chain" else ((count,) if name == "tree" else (2 * side,)):
            cost_us, edges = scheduler_alone(inputs, tasks)
            print(f"{name:12}{tasks:>10,} tasks{edges:>10,} edges{cost_us:>10.2f} us of processor time per edge")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="ours,dask,ray")
    parser.add_argument("--rounds", type=int, default=1)
    for name, size in (("chain", 10_000), ("tree", 10_000), ("square", 300), ("tasks", 100_000)):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--scheduler", action="store_true")
    options = parser.parse_args()
    if options.scheduler:
        show_scheduler(options.tasks)
        return
    sizes = {"chain": options.chain, "tree": options.tree, "all-to-all": options.square}
    compare(options.only.split(","), sizes, options.rounds)


if __name__ == "__main__":
    main()
