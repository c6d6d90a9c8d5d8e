"""A world of 10,000 members with 10 messages each a step, beside Mesa on one core and actors of Ray. 2 workers.

    python -m benchmarks.worlds [--rounds 5] [--steps 100] [--members 10000] [--results FILE.md] [mesa] [ray] ...

Each member takes the mean of its inbox and sends its value to ten others. Every round measures all of them in turn, and
also the CPU time of all processes of each. Our steps end with a checkpoint of all members, so that a few steps are
slower than many. Before that a small world is made by all of them, and its values must be the same (but for `mesa`,
whose order is random).

Promised: at least 1.5 x Mesa: with `shuffle_do`, as its documentation does, and with the members in their order.
"""

import argparse
import contextlib
import importlib
import importlib.util
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import psutil

import concurrent_nb
from benchmarks import report

#: what is promised of the ratio to Mesa
MESA_AT_LEAST = 1.5
#: ... for this way to send
PROMISED = "one send to ten"
PEERS = {"mesa": "mesa", "mesa_in_order": "mesa", "ray": "ray"}  # by name: the package
MESSAGES = 10

#: makes so many steps; returns the values of the members, or a function that does
Run = Callable[[int], Any]


def neighbours(members: int) -> list[list[int]]:
    chance = random.Random(1)
    return [[chance.randrange(members) for _ in range(MESSAGES)] for _ in range(members)]


def first_value(number: int) -> float:
    return number % 97 / 97


class Cell:
    """A member of our world that sends to its neighbours in one call."""

    def __init__(self, value: float, others: list[int]) -> None:
        self.value = value
        self.others = others

    def step(self, ctx: Any) -> None:
        inbox = ctx.inbox
        if inbox:
            self.value = 0.5 * self.value + 0.5 * sum(inbox) / len(inbox)
        ctx.send(self.others, self.value)


class SingleCell(Cell):
    """A member that sends to its neighbours one by one."""

    def step(self, ctx: Any) -> None:
        inbox = ctx.inbox
        if inbox:
            self.value = 0.5 * self.value + 0.5 * sum(inbox) / len(inbox)
        send, value = ctx.send, self.value
        for other in self.others:
            send(other, value)


@contextmanager
def ours(kind: type[Cell], members: int) -> Iterator[Run]:
    with concurrent_nb.Cluster(workers=2) as cluster:
        cells = [kind(first_value(number), others) for number, others in enumerate(neighbours(members))]
        world = cluster.application().world(cells)

        def run(steps: int) -> Any:
            world.run(steps, show=False)
            return lambda: [cell.value for cell in world.members.values()]

        yield run


@contextmanager
def mesa(members: int) -> Iterator[Run]:
    """Agents in a random order, as in Mesa's documentation: a message may be read in the step in which it was sent."""
    with _mesa_model(members, is_in_order=False) as run:
        yield run


@contextmanager
def mesa_in_order(members: int) -> Iterator[Run]:
    """Agents in their order, whose messages are read in the next step: the same values as those of our members."""
    with _mesa_model(members, is_in_order=True) as run:
        yield run


@contextmanager
def _mesa_model(members: int, is_in_order: bool) -> Iterator[Run]:
    package: Any = importlib.import_module("mesa")

    class CellAgent(package.Agent):  # type: ignore[misc]
        def __init__(self, model: Any) -> None:
            super().__init__(model)
            self.value = 0.5
            self.inbox: list[float] = []
            self.coming: list[float] = []  # becomes the inbox when the step ends
            self.others: list[Any] = []

        def receive(self, value: float) -> None:
            self.coming.append(value)

        def step(self) -> None:
            inbox = self.inbox
            if inbox:
                self.value = 0.5 * self.value + 0.5 * sum(inbox) / len(inbox)
                if not is_in_order:
                    self.inbox = self.coming = []
            for other in self.others:
                other.receive(self.value)

        def advance(self) -> None:
            self.inbox, self.coming = self.coming, []

    class CellModel(package.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(seed=1)
            cells = [CellAgent(self) for _ in range(members)]
            for number, (cell, others) in enumerate(zip(cells, neighbours(members), strict=True)):
                cell.value = first_value(number)
                cell.others = [cells[other] for other in others]
                if not is_in_order:
                    cell.inbox = cell.coming

        def step(self) -> None:
            if is_in_order:
                self.agents.do("step")
                self.agents.do("advance")
            else:
                self.agents.shuffle_do("step")

    model = CellModel()

    def run(steps: int) -> Any:
        for _ in range(steps):
            model.step()
        return [cell.value for cell in model.agents]

    yield run


@contextmanager
def ray(members: int) -> Iterator[Run]:
    """Two actors with half of the members each, whose messages the driver passes on."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "90"}  # read when it is imported
    package: Any = importlib.import_module("ray")
    package.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    class CellActor:
        def __init__(self, first: int, end: int) -> None:
            self.first = first
            self.values = [first_value(number) for number in range(first, end)]
            self.others = neighbours(members)[first:end]

        def step(self, inboxes: Sequence[dict[int, list[float]]]) -> list[dict[int, list[float]]]:
            sent: list[dict[int, list[float]]] = [{}, {}]
            for at, others in enumerate(self.others):
                inbox = [value for each in inboxes for value in each.get(self.first + at, ())]
                if inbox:
                    self.values[at] = 0.5 * self.values[at] + 0.5 * sum(inbox) / len(inbox)
                value = self.values[at]
                for other in others:
                    sent[other >= members // 2].setdefault(other, []).append(value)
            return sent

        def get_values(self) -> list[float]:
            return self.values

    kind = package.remote(CellActor)
    actors = [kind.remote(0, members // 2), kind.remote(members // 2, members)]

    sent: Any = [[{}, {}], [{}, {}]]

    def run(steps: int) -> Any:
        nonlocal sent
        for _ in range(steps):
            sent = package.get([actor.step.remote([each[at] for each in sent]) for at, actor in enumerate(actors)])
        return lambda: list(chain.from_iterable(package.get([actor.get_values.remote() for actor in actors])))

    try:
        yield run
    finally:
        package.shutdown()


def cpu_s() -> float:
    """Return the CPU time of this process and those that it has started."""
    found = 0.0
    for process in (me := psutil.Process(), *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            found += times.user + times.system
    return found


def values_of(start: Callable[[int], Any], steps: int) -> list[float]:
    with start(200) as run:
        values = run(steps)
        found: list[float] = values() if callable(values) else values
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", nargs="*", default=[], help=", ".join(PEERS) + "; default: those that are installed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--results", type=Path, help="put the table into this report, as a section")
    options = parser.parse_args()
    peers = options.peers or [name for name, package in PEERS.items() if importlib.util.find_spec(package)]
    starts: dict[str, Callable[[int], Any]] = {
        "one send to ten": partial(ours, Cell),
        "ten sends": partial(ours, SingleCell),
    }
    starts |= {name: globals()[name] for name in peers}
    expected = values_of(starts["one send to ten"], 7)
    for name, start in starts.items():
        if name != "mesa" and values_of(start, 7) != expected:
            raise SystemExit(f"the world of {name} is not the same as that of one send to ten")
    wall: dict[str, list[float]] = {name: [] for name in starts}
    cpu: dict[str, list[float]] = {name: [] for name in starts}
    for _ in range(options.rounds):
        for name, start in starts.items():
            with start(options.members) as run:
                run(12)  # warms up
                began_s, began_cpu_s = time.perf_counter(), cpu_s()
                run(options.steps)
                wall[name].append((time.perf_counter() - began_s) / options.steps * 1e3)
                cpu[name].append((cpu_s() - began_cpu_s) / options.steps * 1e3)
    medians = {name: statistics.median(values) for name, values in wall.items()}
    promised = [peer for peer in peers if PEERS[peer] == "mesa"]
    head = ["world of", "ms a step", "least", "CPU, ms", *(f"times as fast as {peer}" for peer in peers), "promise"]
    rows = []
    for name, value in medians.items():
        ratios = [f"{medians[peer] / value:.2f}" if peer != name else "" for peer in peers]
        kept = all(medians[peer] / value >= MESA_AT_LEAST for peer in promised)
        promise = ("kept" if kept else "missed") if name == PROMISED and promised else ""
        rows.append(
            [name, f"{value:.1f}", f"{min(wall[name]):.1f}", f"{statistics.median(cpu[name]):.1f}", *ratios, promise]
        )
    text = report.table(head, rows, range(1, len(head) - 1))
    print(text)
    if options.results is not None:
        about = report.about_section("worlds", sys.argv[1:])
        words = (
            f"{options.members:,} members, {MESSAGES} messages each a step, 2 workers; medians of {options.rounds}"
            f" rounds of {options.steps} steps; CPU of all processes. Promised: {PROMISED}, {MESA_AT_LEAST} x Mesa."
        )
        report.write_section(options.results, "Worlds", f"{about} {words}\n\n{text}")


if __name__ == "__main__":
    main()
