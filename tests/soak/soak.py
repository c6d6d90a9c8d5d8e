"""Run load on a cluster while its workers, templates and slaves are killed and stopped; check what becomes of it.

    python -m tests.soak.soak --seconds 3600 --seed 1

Each accepted task must be answered once, with the right value; exactly the poison tasks may be quarantined; at the end
there may be no more processes, descriptors, files and shared memory than before, and no more memory than a bit.
"""
# ruff: noqa: T201  (it is a command)

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from concurrent_nb import ApplicationNode, Cluster
from concurrent_nb.errors import PoisonTask
from tests import systems
from tests.clusters import BRISK, eventually, master_pid, settle
from tests.soak.chaos import Chaos
from tests.soak.history import History
from tests.work import PATIENCE_S

WORKERS: Final = 3
#: most tasks without an answer
OPEN_MAX: Final = 200
#: bytes of a result that lies in shared memory
LARGE_BYTES: Final = 400_000
#: items of each task system
SYSTEM_ITEMS: Final = 300
#: deaths after which a task is quarantined: so many that those of the soak are not taken for the task's own
DEATHS: Final = 8
CONFIG: Final[dict[str, dict[str, Any]]] = {
    "MasterNode": {**BRISK["MasterNode"], "deaths_allowed": DEATHS},
    "SlaveNode": {"stopped_s": 0.5},
}
#: load before the first measurement, in seconds, so that what grows once has grown
WARM_UP_S: Final = 2.0
#: most growth of the memory of this process and the master, in bytes
GROWTH_BYTES: Final = 96 << 20


def square(number: int) -> int:
    return number * number


def pause(number: int) -> int:
    time.sleep(0.02)
    return number


def large(number: int) -> bytes:
    return bytes([number % 256]) * LARGE_BYTES


def poison(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _drawn_task(drawn: float, number: int) -> tuple[str, Callable[[int], Any], object]:
    """Return kind, function and expected result of a task, for a number from 0 to 1."""
    if drawn < 0.002:
        return "poison", poison, PoisonTask
    if drawn < 0.05:
        return "large", large, large(number)
    if drawn < 0.35:
        return "pause", pause, number
    return "square", square, number * number


@dataclass(frozen=True)
class Resources:
    """What the cluster and its application hold."""

    processes: int  #: of the whole cluster
    descriptors: int  #: of this process
    master_descriptors: int
    files: frozenset[str]  #: temporary ones, and connection files
    shared_memory: frozenset[str]
    memory_bytes: int  #: of this process and the master

    def growth_since(self, before: "Resources") -> list[str]:
        """Name what is more than before."""
        grown = [
            f"{name.replace('_', ' ')}: {getattr(self, name)} after {getattr(before, name)}"
            for name in ("processes", "descriptors", "master_descriptors")
            if getattr(self, name) > getattr(before, name)
        ]
        grown += [f"file {name}" for name in sorted(self.files - before.files)]
        grown += [f"shared memory {name}" for name in sorted(self.shared_memory - before.shared_memory)]
        if self.memory_bytes - before.memory_bytes > GROWTH_BYTES:
            grown.append(f"memory: {self.memory_bytes >> 20} MiB after {before.memory_bytes >> 20} MiB")
        return grown


def measure(cluster: Cluster) -> Resources:
    """Measure what is held now."""
    here, master = psutil.Process(), psutil.Process(master_pid(cluster))
    assert cluster.connection_file is not None
    folders = [Path(tempfile.gettempdir()), cluster.connection_file.parent]
    return Resources(
        processes=len(here.children(recursive=True)),
        descriptors=here.num_fds(),
        master_descriptors=master.num_fds(),
        files=frozenset(str(path) for folder in folders for path in folder.iterdir()),
        shared_memory=frozenset(path.name for path in Path("/dev/shm").iterdir())
        if Path("/dev/shm").exists()
        else frozenset(),
        memory_bytes=here.memory_info().rss + master.memory_info().rss,
    )


class Load:
    """Keeps a cluster busy with tasks of all kinds, and task systems one after another."""

    def __init__(self, app: ApplicationNode, history: History, chance: random.Random) -> None:
        self._app = app
        self._history = history
        self._chance = chance
        self._system: Any = None
        self._system_number = 0

    def turn(self) -> None:
        """Submit what there is room for."""
        while self._history.open < OPEN_MAX:
            self._submit()
        if self._system is None:
            total = sum(number * number for number in range(SYSTEM_ITEMS))
            self._system_number = self._history.begin("system", total)
            self._system = self._app.push_tasksystem(systems.Squares(SYSTEM_ITEMS, systems.SlowSquare))
        elif self._system.wait(0):
            self.end_system(0.0)

    def end_system(self, patience_s: float) -> None:
        """Wait for the task system, and note its end."""
        if self._system is None:
            return
        value, error = None, None
        try:
            value = self._system.result(patience_s)
        except Exception as raised:  # noqa: BLE001  (it is checked)
            error = raised
        self._history.end(self._system_number, value, error)
        self._system = None

    def _submit(self) -> None:
        drawn, number = self._chance.random(), self._chance.randrange(1 << 30)
        kind, call, expected = _drawn_task(drawn, number)
        own = self._history.begin(kind, expected)
        future: Future[Any] = self._app.submit(call, number)
        future.add_done_callback(partial(self._ended, own))

    def _ended(self, number: int, future: "Future[Any]") -> None:
        error = future.exception()
        self._history.end(number, None if error else future.result(), error)


def run_soak(seconds: float, seed: int, warm_up_s: float = WARM_UP_S) -> tuple[History, Chaos, list[str]]:
    """Run a soak; return what was checked, which faults there were, and what has grown."""
    chance, history = random.Random(seed), History()
    with Cluster(workers=WORKERS, config=CONFIG) as cluster, cluster.application() as app:
        load, chaos = Load(app, history, chance), Chaos(cluster, chance)
        settle(cluster)
        _turn_until(time.monotonic() + warm_up_s, load.turn)
        _quiesce(load, history, cluster)
        before = measure(cluster)
        _turn_until(time.monotonic() + seconds, load.turn, chaos.turn)
        chaos.end()
        _quiesce(load, history, cluster)
        grown = measure(cluster).growth_since(before)
        deadline = time.monotonic() + 5.0
        while grown and time.monotonic() < deadline:  # what ends takes a moment
            time.sleep(0.1)
            grown = measure(cluster).growth_since(before)
    return history, chaos, grown


def _turn_until(deadline: float, *turns: Callable[[], None]) -> None:
    while time.monotonic() < deadline:
        for turn in turns:
            turn()
        time.sleep(0.005)


def _quiesce(load: Load, history: History, cluster: Cluster) -> None:
    load.end_system(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while history.open and time.monotonic() < deadline:
        time.sleep(0.02)
    history.close()
    if not history.violations:
        settle(cluster)
        eventually(lambda: cluster.status()["tasks"]["kept"] == 0, "the master keeps nothing")


def main() -> int:
    """Run a soak from the command line; return 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    history, chaos, grown = run_soak(options.seconds, options.seed)
    print(f"seed {options.seed}, {options.seconds:g} s: {history.submitted:,} tasks, {dict(history.ended)}")
    print(f"faults: {dict(chaos.done)}")
    for text in [*history.violations, *(f"has grown: {each}" for each in grown)]:
        print(f"WRONG: {text}")
    return 1 if history.violations or grown else 0


if __name__ == "__main__":
    sys.exit(main())
