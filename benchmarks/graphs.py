"""Graphs of no-op tasks, side by side: ours, Dask and Ray, with 2 workers each.

    python -m benchmarks.graphs [--rounds 1] [--only ours,dask,ray] [--tasks 1000,10000] [--results FILE.md]
    python -m benchmarks.graphs --scheduler [--tasks 10000,100000]

chain: each task needs the one before. tree: the sum of as many tasks, two by two. all-to-all: each of N tasks needs
each of N others: 60 for 1,000 tasks of the other graphs, 300 for 10,000. Times are from the first submit to the last
result. In each round, the contenders run one after another, each alone; Dask runs the larger graphs once. Promised: at
least 5 x Dask, and 2 x Ray. With --scheduler: the processor time of our scheduler alone per edge, for several sizes.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks import report
from benchmarks.peers import CONTENDERS, Contender
from benchmarks.scheduler_alone import CLIENT, FUNCTION, JOB, answers
from concurrent_nb.ids import SessionId
from concurrent_nb.scheduling.events import Event, JobOpened, SlaveJoined, TasksSubmitted
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobinStrategy
from concurrent_nb.wire.messages import TaskFrame

WORKERS: Final = 2
#: graphs of so many tasks or more are measured once with Dask, which needs minutes for each
LARGE: Final = 10_000
#: so many times as long as ours must theirs take
AT_LEAST: Final = {"dask": 5.0, "ray": 2.0}
#: seconds by graph and number of tasks
Figures = dict[tuple[str, int], float]


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


GRAPHS: Final[dict[str, Callable[[Contender, int], None]]] = {"chain": chain, "tree": tree, "all-to-all": all_to_all}


def side_of(tasks: int) -> int:
    """Return the side of the all-to-all that is measured beside graphs of so many tasks."""
    return 300 if tasks >= LARGE else 60


def measure(contender: Contender, sizes: Sequence[int]) -> Figures:
    """Return the seconds that each graph of each size took, after a small one."""
    figures: Figures = {}
    for tasks in sizes:
        for name, graph in GRAPHS.items():
            count = side_of(tasks) if graph is all_to_all else tasks
            graph(contender, 50)
            begin = time.perf_counter()
            graph(contender, count)
            figures[name, tasks] = time.perf_counter() - begin
    return figures


def compare(names: Sequence[str], sizes: Sequence[int], rounds: int) -> list[list[str]]:
    """Measure all contenders in turn; return a row for each graph and size, and print each figure as it comes."""
    took: dict[tuple[str, str, int], list[float]] = {}
    for number in range(rounds):
        for name in names:
            contender = CONTENDERS[name]()
            contender.start(WORKERS)
            mine = [tasks for tasks in sizes if name != "dask" or tasks < LARGE or number == 0]
            try:
                contender.result(contender.submit(one_more, 0))
                figures = measure(contender, mine)
            finally:
                contender.stop()
            for (graph, tasks), seconds in figures.items():
                took.setdefault((name, graph, tasks), []).append(seconds)
                print(f"{name:6}{graph:12}{tasks:>8,} tasks{seconds:>10.3f} s", flush=True)
    return [_row(took, graph, tasks) for tasks in sizes for graph in GRAPHS]


def _row(took: dict[tuple[str, str, int], list[float]], graph: str, tasks: int) -> list[str]:
    """Return the medians of a graph, the median ratios of its rounds, and whether the promises are kept."""
    side = side_of(tasks)
    row = [f"{graph}, {side} x {side}" if graph == "all-to-all" else f"{graph} of {tasks:,}"]
    ours = took.get(("ours", graph, tasks), [])
    row.append(f"{statistics.median(ours):.2f} s" if ours else "")
    kept = True
    for name, promised in AT_LEAST.items():
        theirs = took.get((name, graph, tasks), [])
        ratios = [other / mine for other, mine in zip(theirs, ours, strict=False)]
        row.append(f"{statistics.median(theirs):.2f} s" if theirs else "")
        row.append(f"{statistics.median(ratios):.1f}" if ratios else "")
        kept = kept and (not ratios or statistics.median(ratios) >= promised)
    return [*row, "kept" if kept else "broken"]


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


def show_scheduler(sizes: Sequence[int]) -> None:
    """Print the cost of an edge for graphs of several sizes: it does not grow."""
    for tasks in sizes:
        side, half = int(tasks**0.5), tasks // 2

        def of_tree(index: int, half: int = half) -> list[int]:
            return [] if index < half else [2 * (index - half), 2 * (index - half) + 1]

        def of_square(index: int, side: int = side) -> list[int]:
            return [] if index < side else list(range(side))

        shapes: dict[str, tuple[Callable[[int], list[int]], int]] = {
            "chain": (lambda index: [index - 1] if index else [], tasks),
            "tree": (of_tree, tasks),
            "all-to-all": (of_square, 2 * side),
        }
        for name, (inputs, count) in shapes.items():
            cost_us, edges = scheduler_alone(inputs, count)
            print(f"{name:12}{count:>10,} tasks{edges:>10,} edges{cost_us:>10.2f} us of processor time per edge")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="ours,dask,ray")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tasks", default="", help="numbers of tasks, with commas")
    parser.add_argument("--results", type=Path, help="put the table into this report, as a section")
    parser.add_argument("--scheduler", action="store_true")
    options = parser.parse_args()
    default = "10000,100000" if options.scheduler else f"1000,{LARGE}"
    sizes = [int(number) for number in (options.tasks or default).split(",")]
    if options.scheduler:
        show_scheduler(sizes)
        return
    rows = compare(options.only.split(","), sizes, options.rounds)
    text = report.table(("graph of no-ops", "ours", "Dask", "Dask / ours", "Ray", "Ray / ours", "promise"), rows)
    print(text)
    if options.results is not None:
        about = report.about_section("graphs", sys.argv[1:])
        words = "2 workers; medians of rounds, a ratio is the median of their ratios. Promised: 5 x Dask, 2 x Ray."
        report.write_section(options.results, "Graphs", f"{about} {words}\n\n{text}")


if __name__ == "__main__":
    main()
