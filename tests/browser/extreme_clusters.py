"""Made-up clusters that a page must survive: one that is hostile and large, and one in which much happens for long.

.venv/bin/python -m tests.browser.extreme_clusters hostile --port 8999
.venv/bin/python -m tests.browser.extreme_clusters busy --port 8999 --interval 0.1
"""

import argparse
import asyncio
import itertools
import struct
import time
from typing import Any

from tests.browser import made_up_cluster
from tests.browser.made_up_cluster import Job, MadeUpCluster, MadeUpMaster, Worker
from tests.browser.made_up_views import EVIL

#: of the hostile cluster
SLAVES, JOBS, TASKS = 256, 1000, 1_000_000
#: of the busy one: jobs that are listed, and tasks in each
BUSY_JOBS, BUSY_TASKS = 60, 2_000
#: of the busy one: in each message, so that lists of them are full soon
EVENTS = 20
#: starts that a slave whose clock is wrong would report, in seconds after now
ODD_STARTS_S = (float("nan"), 1e9, -1e9, 1e300, float("inf"), 0.0)
_START = struct.Struct("<dff")
_START_AT = 8


class HostileCluster(MadeUpCluster):
    """All texts would run, hide or turn something around if they were markup; one slave has a wrong clock."""

    def __init__(self) -> None:
        now_s = time.monotonic()
        long, markup = Job("ee" * 8, f"{EVIL} a million", TASKS, 2.0, now_s - 3600), f"{EVIL}/a.ipynb"
        long.begun = long.done = TASKS - 400_000
        wide = Job("ff" * 8, "x" * 1_000_000, 1, 0.01, now_s - 50)
        failing = [
            Job(f"{number:016x}", f"{EVIL} {number % 7}", 3, 0.5, now_s - number % 200, failing=0.3)
            for number in range(JOBS - 2)
        ]
        self._odd_starts_s = itertools.cycle(ODD_STARTS_S)
        super().__init__(name=EVIL, slaves=SLAVES, workers=2, jobs=[long, wide, *failing])
        for job in self.jobs:
            job.notebook, job.cell = markup, EVIL

    def event(self, kind: str, text: str, slave: str = "", job: str = "") -> None:
        super().event(kind, f"{text} {EVIL} {'y' * 400}", slave, job)

    def _end(self, worker: Worker) -> None:
        super()._end(worker)
        if worker.slave == self.slave(0):
            mark = bytearray(self.marks[-1])
            _START.pack_into(mark, _START_AT, self.now_s + next(self._odd_starts_s), float("inf"), float("nan"))
            self.marks[-1] = bytes(mark)

    def state(self) -> dict[str, Any]:
        state = super().state()
        for number, slave in enumerate(state["slaves"].values()):
            slave["host"] = f"{EVIL} {number}"
        for job in state["jobs"].values():
            job["client"] = f"{EVIL} (pid 1)"
        return state


class BusyCluster(MadeUpCluster):
    """Thousands of short tasks a second; jobs end and are replaced by new ones; some tasks fail; much happens."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        super().__init__(name="busy", slaves=16, workers=8, jobs=[self._new_job() for _ in range(BUSY_JOBS)])

    def _new_job(self) -> Job:
        number = next(self._numbers)
        name = made_up_cluster.FUNCTIONS[number % len(made_up_cluster.FUNCTIONS)]
        return Job(f"{number:032x}", name, BUSY_TASKS, 0.04, time.monotonic(), failing=0.01, cell=f"c{number}")

    def run_until(self, now_s: float) -> None:
        super().run_until(now_s)
        for number in range(EVENTS):
            self.event("worker died", f"worker {number} was killed: memory", self.slave(number % self.slaves))
        for at, job in enumerate(self.jobs):
            if job.ended_s is not None and job.ended_s < now_s - 2:
                self.jobs[at] = self._new_job()


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["hostile", "busy"])
    parser.add_argument("--port", type=int, default=8999)
    parser.add_argument("--interval", type=float, default=made_up_cluster.INTERVAL_S, help="seconds between two deltas")
    options = parser.parse_args()
    made_up_cluster.INTERVAL_S = options.interval  # type: ignore[misc]
    master = MadeUpMaster(HostileCluster() if options.kind == "hostile" else BusyCluster())
    master.start(options.port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
