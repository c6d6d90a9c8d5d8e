"""A world of 10,000 members with 10 messages each a step, beside Mesa on one core and actors of Ray. 2 workers.

    python -m benchmarks.worlds [--rounds 5] [--steps 40] [--members 10000] [mesa] [ray]

Each member takes the mean of its inbox and sends its value to ten others. Every round measures all of them in turn.
Promised: at least 1.5 x Mesa, with `shuffle_do`, as its documentation does.
"""

import argparse
import importlib
import importlib.util
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import concurrent_nb

#: what is promised of the ratio to Mesa
MESA_AT_LEAST = 1.5
MESSAGES = 10

#: makes so many steps
Run = Callable[[int], Any]


def neighbours(members: int) -> list[list[int]]:
    chance = random.Random(1)
    return [[chance.randrange(members) for _ in range(MESSAGES)] for _ in range(members)]


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
        world = cluster.application().world([kind(0.5, others) for others in neighbours(members)])
        yield lambda steps: world.run(steps, show=False)


@contextmanager
def mesa(members: int) -> Iterator[Run]:
    package: Any = importlib.import_module("mesa")

    class CellAgent(package.Agent):  # type: ignore[misc]
        def __init__(self, model: Any) -> None:
            super().__init__(model)
            self.value = 0.5
            self.inbox: list[float] = []
            self.others: list[Any] = []

        def receive(self, value: float) -> None:
            self.inbox.append(value)

        def step(self) -> None:
            inbox = self.inbox
            if inbox:
                self.value = 0.5 * self.value + 0.5 * sum(inbox) / len(inbox)
                self.inbox = []
            for other in self.others:
                other.receive(self.value)

    class CellModel(package.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(seed=1)
            cells = [CellAgent(self) for _ in range(members)]
            for cell, others in zip(cells, neighbours(members), strict=True):
                cell.others = [cells[other] for other in others]

        def step(self) -> None:
            self.agents.shuffle_do("step")

    model = CellModel()

    def run(steps: int) -> None:
        for _ in range(steps):
            model.step()

    yield run


@contextmanager
def ray(members: int) -> Iterator[Run]:
    """Two actors with half of the members each, whose messages the driver passes on."""
    package: Any = importlib.import_module("ray")
    package.init(num_cpus=2, include_dashboard=False, log_to_driver=False)

    class CellActor:
        def __init__(self, first: int, end: int) -> None:
            self.first = first
            self.values = [0.5] * (end - first)
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

    kind = package.remote(CellActor)
    actors = [kind.remote(0, members // 2), kind.remote(members // 2, members)]

    def run(steps: int) -> None:
        sent: Any = [[{}, {}], [{}, {}]]
        for _ in range(steps):
            sent = package.get([actor.step.remote([each[at] for each in sent]) for at, actor in enumerate(actors)])

    try:
        yield run
    finally:
        package.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", nargs="*", default=[], help="mesa, ray; default: those that are installed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--members", type=int, default=10_000)
    options = parser.parse_args()
    peers = options.peers or [name for name in ("mesa", "ray") if importlib.util.find_spec(name)]
    starts: dict[str, Callable[[], Any]] = {
        "one send to ten": lambda: ours(Cell, options.members),
        "ten sends": lambda: ours(SingleCell, options.members),
    }
    starts |= {name: lambda name=name: globals()[name](options.members) for name in peers}
    figures: dict[str, list[float]] = {name: [] for name in starts}
    for _ in range(options.rounds):
        for name, start in starts.items():
            with start() as run:
                run(8)  # warms up
                began = time.perf_counter()
                run(options.steps)
                figures[name].append((time.perf_counter() - began) / options.steps * 1e3)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    for name, value in medians.items():
        ratios = "".join(f"   {medians[peer] / value:6.2f} x {peer}" for peer in peers if peer != name)
        print(f"{name:16} {value:8.1f} ms a step (least {min(figures[name]):.1f}){ratios}")
    if "mesa" in peers:
        holds = medians["mesa"] / medians["one send to ten"] >= MESA_AT_LEAST
        print(f"promised: at least {MESA_AT_LEAST} x mesa: {'met' if holds else 'MISSED'}")


if __name__ == "__main__":
    main()
