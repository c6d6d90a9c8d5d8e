"""Random worlds on clusters of 1, 2 and 5 workers, with and without workers that are killed: all end in the same state.

    python -m tests.worlds_on_clusters [--seeds 200] [--first 0]

Each seed makes another world of creatures, which do everything that members can do, by chance.
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from concurrent_nb import ApplicationNode, Cluster, World
from tests.unit.worlds.test_step_driver import Creature, shared_data

WORKERS = (1, 2, 5)
MEMBERS = 12
STEPS = 16


class Assassin:
    """Kills workers of a world at random moments while it runs.

    Args:
        seconds: a run takes about; None: kills nobody.
    """

    def __init__(self, world: World, chance: random.Random, seconds: float | None) -> None:
        self._world = world
        self._chance = chance
        self._seconds = seconds
        self._is_over = threading.Event()
        self.kills = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        thread = threading.Thread(target=self._kill_some)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()

    def _kill_some(self) -> None:
        for _ in range(2 if self._seconds is not None else 0):
            assert self._seconds is not None
            if self._is_over.wait(self._chance.random() * self._seconds * 0.7):
                return
            with contextlib.suppress(ProcessLookupError, IndexError):
                share = self._chance.choice(self._world.history[-1].groups)
                os.kill(int(share.worker.split()[-1]), signal.SIGKILL)
                self.kills += 1


def outcome(app: ApplicationNode, seed: int, seconds: float | None) -> tuple[Any, int, float]:
    """Run a world; return all that can be seen of it, the number of workers killed, and the seconds."""
    chance = random.Random(seed)
    members = [Creature(chance.random()) for _ in range(MEMBERS)]
    began_s = time.monotonic()
    with app.world(members, shared=shared_data(), seed=seed, on_error="drop") as world:
        assassin = Assassin(world, random.Random(), seconds)
        with assassin.at_work():
            world.run(STEPS, show=False)
        elapsed_s = time.monotonic() - began_s
        steps = [
            (step.number, step.members, step.messages, step.undelivered, step.born, step.left, step.stats)
            for step in world.history
        ]
        dropped = [(each.member, each.step, each.text) for step in world.history for each in step.dropped]
        found = {number: (each.energy, each.heard) for number, each in world.members.items()}
        values = {name: np.asarray(value).tolist() for name, value in world.shared.items()}
    return (found, values, steps, dropped), assassin.kills, elapsed_s


def check(apps: Sequence[ApplicationNode], seed: int) -> int:
    """Run the world of a seed on each of these applications, with and without kills; return the number of kills.

    Raises AssertionError if the worlds end in different states.
    """
    expected, _, seconds = outcome(apps[0], seed, None)
    kills = 0
    for app in apps:
        for is_killing in (False, True):
            found, killed, seconds = outcome(app, seed, seconds if is_killing else None)
            kills += killed
            assert found == expected, f"seed {seed}: the world of {app!r} is another one, after {killed} kills"
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    began_s = time.monotonic()
    kills = 0
    with ExitStack() as stack:
        apps = [stack.enter_context(Cluster(workers=workers)).application() for workers in WORKERS]
        for seed in range(options.first, options.first + options.seeds):
            kills += check(apps, seed)
            sys.stderr.write(f"\rseed {seed}: {kills} kills, {time.monotonic() - began_s:.0f} s")
    workers = ", ".join(map(str, WORKERS))
    sys.stdout.write(f"\n{options.seeds} seeds: the same on {workers} workers; {kills} workers were killed\n")


if __name__ == "__main__":
    main()
