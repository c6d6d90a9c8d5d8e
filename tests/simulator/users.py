"""The users of the simulated applications: they submit jobs of all kinds, cancel some, and close them in the end.

`User.begin` draws and schedules what a user does; `User.finish` is called when the faults have ended: the user submits
no more tasks, and cancels those that never end. Called by `simulation`.
"""

from math import inf
from random import Random
from typing import Final

from concurrent_nb.ids import JobId, digest_of
from concurrent_nb.nodes.application.client_tasks import ClientJob, FunctionPayload, Payload, TaskEntry, TaskLimits
from concurrent_nb.scheduling.slave_state import is_system_host
from concurrent_nb.wire.codec import pack_body
from concurrent_nb.wire.messages import STRATEGIES, Needs
from tests.simulator.actors import ApplicationActor
from tests.simulator.plans import Kind, Plan, WantedJob, WantedTask
from tests.simulator.simulated_world import SimulatedWorld

#: most tasks of a job, with weights
_SIZES: Final = ((1, 2), (4, 4), (15, 4), (60, 2), (200, 0.2))
#: kinds of tasks in a job besides plain ones, with weights
_SPECIAL_KINDS: Final = (
    (Kind.ERROR, 4),
    (Kind.FLAKY, 4),
    (Kind.DIES, 3),
    (Kind.POISON, 2),
    (Kind.ENDLESS, 3),
    (Kind.UNPICKLABLE, 2),
    (Kind.KILLS, 4),
)


class User:
    """The user of one application."""

    def __init__(self, world: SimulatedWorld, app: ApplicationActor, functions: list[FunctionPayload]) -> None:
        self.app = app
        self._world = world
        self._chance = world.chance
        self._functions = functions
        self._jobs: list[tuple[WantedJob, ClientJob[WantedTask]]] = []

    def begin(self, until_s: float) -> None:
        """Schedule what the user does up to a time."""
        chance, clock = self._chance, self._world.clock
        for _ in range(chance.choices((1, 3, 6), (4, 4, 1))[0]):
            clock.at(chance.uniform(0, until_s), lambda: self.app.post(self._new_job))
        for _ in range(chance.choices((0, 1, 3), (5, 3, 2))[0]):
            clock.at(chance.uniform(0, until_s), lambda: self.app.post(self._cancel_something))
        if chance.random() < 0.1:
            clock.at(chance.uniform(0, until_s), lambda: self.app.post(self._close))
        for _ in range(chance.choices((0, 2, 8), (5, 3, 2))[0]):
            clock.at(chance.uniform(0, until_s), lambda: self.app.post(self._submit_one_more))
        of_kept = Random(f"kept of {self.app.name}: {self._world.settings}")
        for _ in range(10):
            clock.at(of_kept.uniform(0, until_s), lambda: self.app.post(lambda: self._use_kept(of_kept)))

    def finish(self) -> None:
        """Submit nothing more, and cancel what would never end."""
        for job, record in self._jobs:
            if not record.closed:
                self.app.core.close(record)
            endless = [
                entry.index
                for entry in record.entries.values()
                if entry.handle.plan.kind is Kind.ENDLESS and entry.limits.timeout_s is None and not entry.cancelled
            ]
            if endless:
                self._cancel(job, endless)
        self.app.frees = True
        for wanted in list(self.app.kept):
            self.app.free(wanted)
        self.app.leaving = self.app.leaving or self._chance.random() < 0.5

    # ---------------------------------------------------------------------------------------------------------- steps

    def _new_job(self) -> None:
        if self.app.leaving:
            return
        chance = self._chance
        job = WantedJob(
            JobId(chance.randbytes(16)),
            self.app.name,
            until=chance.random() < 0.2,
            stop_on_error=chance.random() < 0.2,
        )
        strategy = chance.choice(STRATEGIES) if chance.random() < self._world.settings.own_strategies else None
        record = ClientJob[WantedTask](job.id, "a job", job.until, job.stop_on_error, strategy)
        self._world.catalog.jobs.append(job)
        self._jobs.append((job, record))
        (most,) = chance.choices([size for size, _ in _SIZES], [weight for _, weight in _SIZES])
        count = chance.randint(1, most)
        self._world.trace(self.app.name, f"submits {count} tasks of job {job.id.hex()[:4]}, strategy {strategy}")
        self.app.core.add(self._entries(job, record, count))
        if chance.random() < 0.7:
            self.app.core.close(record)
        if chance.random() < 0.1:
            soon_s = chance.uniform(0, 0.3)
            self._world.clock.after(soon_s, lambda: self.app.post(lambda: self._cancel_job(job)))

    def _close(self) -> None:
        """Close the application: cancel everything, and leave when all has ended."""
        self._world.trace(self.app.name, "closes")
        for job, record in self._jobs:
            self._cancel_job(job)
            self.app.core.close(record)
        self.app.leaving = True

    def _submit_one_more(self) -> None:
        """Submit one task to a job that is open, or was closed just before, as from a slow thread."""
        late = self._chance.random() < 0.25
        pairs = [(job, record) for job, record in self._jobs if not record.closed or (late and job.cancelled_s == inf)]
        if pairs and not self.app.leaving:
            job, record = self._chance.choice(pairs)
            self.app.core.add(self._entries(job, record, 1))

    def _use_kept(self, chance: Random) -> None:
        """Fetch a kept result, or free one."""
        if not self.app.kept:
            return
        wanted = chance.choice(list(self.app.kept))
        if chance.random() < 0.6:
            self.app.fetch(wanted)
        else:
            self.app.free(wanted)

    def _cancel_something(self) -> None:
        if not self._jobs:
            return
        chance = self._chance
        job, _ = chance.choice(self._jobs)
        if chance.random() < 0.4:
            self._cancel_job(job)
        else:
            count = min(len(job.tasks), chance.randint(1, 5))
            self._cancel(job, [task.index for task in chance.sample(job.tasks, count)])

    def _cancel_job(self, job: WantedJob) -> None:
        self._world.trace(self.app.name, f"cancels job {job.id.hex()[:4]}")
        job.cancelled_s = min(job.cancelled_s, self._world.clock.now)
        self.app.core.cancel(job.id, None)

    def _cancel(self, job: WantedJob, indexes: list[int]) -> None:
        self._world.trace(self.app.name, f"cancels {indexes} of job {job.id.hex()[:4]}")
        for index in indexes:
            job.tasks[index].cancelled_s = min(job.tasks[index].cancelled_s, self._world.clock.now)
        self.app.core.cancel(job.id, indexes)

    # ---------------------------------------------------------------------------------------------------------- tasks

    def _entries(self, job: WantedJob, record: ClientJob[WantedTask], count: int) -> list[TaskEntry[WantedTask]]:
        chance = self._chance
        special_share = chance.choice((0.0, 0.0, 0.1, 0.5))
        length = chance.choices(("none", "short", "long", "both"), (3, 4, 1, 2))[0]
        timeout_s = chance.choice((None, 0.2, 0.5, 2.0))
        retries = chance.choice((0, 0, 1, 3))
        padding = chance.choices((0, 40, 500), (6, 3, 1))[0]
        function = chance.choice(self._functions)
        needs = self._needs()
        keep = Random(f"kept of {job.id.hex()}").random() < 0.2  # as for inputs
        entries = []
        for _ in range(count):
            kind = Kind.PLAIN
            if chance.random() < special_share:
                (kind,) = chance.choices([name for name, _ in _SPECIAL_KINDS], [weight for _, weight in _SPECIAL_KINDS])
            if job.until and chance.random() < 0.1:
                kind = Kind.HIT
            if kind is Kind.KILLS and is_system_host(needs):
                kind = Kind.PLAIN
            wanted = self._wanted(job, function, kind, length, timeout_s, retries, padding)
            wanted.needs = needs
            wanted.inputs = self._inputs(wanted)
            wanted.keep = keep
            record.is_linked = record.is_linked or bool(wanted.inputs)
            self._world.catalog.add(wanted)
            payload = Payload(*pack_body(wanted.body, ()), inputs=wanted.inputs)
            entries.append(
                TaskEntry(record, wanted.index, function, payload, wanted, TaskLimits(timeout_s, retries, keep), needs)
            )
        return entries

    def _inputs(self, wanted: WantedTask) -> tuple[WantedTask, ...]:
        """Draw the tasks whose results a new task needs: mostly none, else some of the last ones of this user."""
        # A generator of its own: the history of all else stays the same.
        chance = Random(f"inputs of {wanted.name}")
        if wanted.job.tasks and Random(f"chain in job {wanted.job.id.hex()}").random() < 0.15:
            return (wanted.job.tasks[-1],)  # each task needs the one before
        share = Random(f"inputs in job {wanted.job.id.hex()}").choice((0.0, 0.0, 0.1, 0.9))
        if chance.random() >= share:
            return ()
        others = [task for job, _ in self._jobs[-2:] for task in job.tasks[-20:]]
        return tuple(chance.sample(others, min(len(others), chance.choice((1, 1, 2, 5)))))

    def _needs(self) -> Needs | None:
        """Draw the needs of the tasks of a submit: mostly none, else several cores, a thread, or a host of a system."""
        chance = self._chance
        if chance.random() < 0.7:
            return None
        special = Needs(2), Needs(3), Needs(0), Needs(kind="system_host"), Needs(kind="thread")
        hosts = 0 if self._world.settings.killers == "many" else 4
        return chance.choices(special, (4, 2, 3, hosts, 6))[0]

    def _wanted(
        self,
        job: WantedJob,
        function: FunctionPayload,
        kind: Kind,
        length: str,
        timeout_s: float | None,
        retries: int,
        padding: int,
    ) -> WantedTask:
        chance, index = self._chance, len(job.tasks)
        if length == "both":
            length = "long" if chance.random() < 0.1 else "short"
        run_s = {"none": 0.0, "short": chance.expovariate(200), "long": chance.uniform(0.1, 2.0)}[length]
        stubborn = chance.random() < (0.6 if kind is Kind.ENDLESS else 0.2)
        times = chance.randint(1, 2) if kind in (Kind.FLAKY, Kind.DIES) else 0
        if kind is Kind.KILLS:
            times = min(chance.choice((1, 2, 99)), self._world.kills_left)
            self._world.kills_left -= min(times, max(2, self._world.settings.deaths_allowed))
        plan = Plan(
            kind,
            run_s,
            times=times,
            stubborn=stubborn,
            stuck_s=chance.uniform(1, 10) if stubborn and chance.random() < 0.5 else 0.0,
            writes=chance.choices((0, 2), (9, 1))[0],
        )
        body = b"%s/%d" % (job.id.hex().encode(), index)
        return WantedTask(job, index, plan, function, body + b"." * padding, timeout_s, retries)


def draw_functions(world: SimulatedWorld) -> list[FunctionPayload]:
    """Return the functions that all users share."""
    functions = []
    for number in range(world.chance.randint(1, 6)):
        pickled = b"function %d" % number + b"." * world.chance.choice((0, 0, 100))
        functions.append(FunctionPayload(digest_of(pickled), Payload(*pack_body(pickled, ()))))
    return functions
