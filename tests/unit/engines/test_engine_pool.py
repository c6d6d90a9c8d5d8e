"""What the pool of an engine makes of its hosts' reports, with an engine that only keeps what it gets."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from concurrent_nb.engines.engine_interface import EngineEvents
from concurrent_nb.engines.engine_pool import EnginePool
from concurrent_nb.engines.failing_hosts import PAUSES_S
from concurrent_nb.engines.group_messages import EngineSession, HostReport, Parcel, pack
from concurrent_nb.wire.messages import Assign, StartedTask, TaskFrame

JOB = b"j" * 16
FUNCTION = b"f" * 32


class KeepingEngine:
    """Keeps groups and orders. Implements `engine_interface.Engine`."""

    name = "kept"

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.groups: list[int] = []
        self.authkey: str | None = None

    def open(self, session: EngineSession, events: EngineEvents) -> EngineSession:
        self.authkey = session.authkey
        return session

    def put(self, parcel: Parcel) -> None:
        return None

    def drop(self, handle: Any) -> None:
        return None

    def submit(self, number: int, parcel: Parcel, objects: list[Parcel], handles: list[Any]) -> None:
        self.groups.append(number)

    def order(self, number: int, parcel: Sequence[bytes]) -> None:
        return None

    def describe(self) -> str:
        return "an engine that keeps what it gets"

    def close(self) -> None:
        return None


@contextmanager
def pool_with(slots: int, tasks: int) -> Iterator[tuple[KeepingEngine, EnginePool]]:
    engine = KeepingEngine(slots)
    pool = EnginePool(engine)
    try:
        pool.add_function(FUNCTION, b"body", ())
        pool.tick(0.0)
        frames = [TaskFrame(index, 1, b"body") for index in range(tasks)]
        pool.assign(Assign(JOB, FUNCTION, None, frames), (), 0.0)
        pool.take_reports()
        yield engine, pool
    finally:
        pool.close()


def fail(pool: EnginePool, number: int, now: float) -> str:
    """Have a group fail as on a worker where no process can be started; return what the pool says of the engine."""
    pool.reported(pack(HostReport(number, b"run", 0, b"", is_last=True, failure="no more processes")))
    pool.tick(now)
    return pool.take_reports().degraded


def test_a_bad_worker_beside_one_that_works_does_not_end_the_engine() -> None:
    with pool_with(slots=2, tasks=2) as (engine, pool):
        bad, good = engine.groups
        pool.reported(pack(HostReport(good, b"run", 0, b"host", started=[StartedTask(JOB, 1, 1, 7)])))
        now = 1.0
        for _ in range(20):
            assert fail(pool, bad, now) == ""
            assert pool.unfinished == 2
            due_at = pool.next_deadline()
            assert due_at is not None
            now = due_at
            pool.tick(now)
            assert pool.take_reports().outcomes == []
            assert engine.groups[-1] != bad
            bad = engine.groups[-1]


def test_an_engine_without_a_worker_that_works_is_lost() -> None:
    with pool_with(slots=1, tasks=1) as (engine, pool):
        now = 1.0
        for pause_s in PAUSES_S:
            assert fail(pool, engine.groups[-1], now) == ""
            now += pause_s
            pool.tick(now)
            pool.take_reports()
        assert fail(pool, engine.groups[-1], now) == "no more processes"


def test_the_key_of_managers_travels_only_if_the_engine_adds_it() -> None:
    with pool_with(slots=1, tasks=0) as (engine, _):
        assert engine.authkey == ""
