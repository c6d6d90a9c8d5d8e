"""What the pool of an engine makes of its hosts' reports, with an engine that only keeps what it gets."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from concurrent_nb.engines.engine_interface import EngineEvents
from concurrent_nb.engines.engine_pool import EnginePool
from concurrent_nb.engines.failing_hosts import PAUSES_S
from concurrent_nb.engines.group_messages import EngineSession, HostReport, Orders, Parcel, pack, read_orders
from concurrent_nb.engines.group_scheduler import LOST_MAX
from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import Assign, OutcomeFrame, Outcomes, StartedTask, TaskFrame, TaskRef, Withdraw

JOB = b"j" * 16
FUNCTION = b"f" * 32


class KeepingEngine:
    """Keeps groups and orders. Implements `engine_interface.Engine`."""

    name = "kept"

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.groups: list[int] = []
        self.orders: list[Orders] = []
        self.recalled: list[int] = []
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
        self.orders.append(read_orders(parcel))

    def recall(self, number: int) -> None:
        self.recalled.append(number)

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
    pool.ended(number, pack(HostReport(number, b"run", 0, b"", is_last=True, failure="no more processes")))
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


def test_a_group_that_begins_although_it_was_recalled_is_stopped() -> None:
    with pool_with(slots=1, tasks=1) as (engine, pool):
        ref = TaskRef(JOB, 0, 1)
        pool.withdraw([ref], True, 0.0)
        assert [frame.index for _, frames, _ in pool.take_reports().outcomes for frame in frames] == [0]
        assert (engine.recalled, engine.orders, pool.unfinished) == (engine.groups, [], 0)
        pool.reported(pack(HostReport(engine.groups[0], b"run", 0, b"host", started=[StartedTask(JOB, 0, 1, 7)])))
        pool.tick(1.0)
        assert engine.orders == [Orders(engine.groups[0], withdraw=[Withdraw([ref], True)])]
        pool.ended(engine.groups[0], pack(HostReport(engine.groups[0], b"run", 1, b"host", is_last=True)))
        pool.tick(2.0)
        assert (pool.take_reports().outcomes, pool._recalled) == ([], {})


@pytest.mark.parametrize(
    "parcel",
    [
        [b"\x93\x01"],
        [],
        None,
        {"a": 1},
        pack(HostReport(9, b"run", 0, b"host", is_last=True)),
        pack(HostReport(1, b"run", 0, b"host")),
    ],
)
@pytest.mark.parametrize("has_begun", [True, False])
def test_a_group_whose_last_report_cannot_be_read_ends(parcel: Any, has_begun: bool) -> None:
    """Its first task counts a death, at once or after some times, so that the tasks end, too."""
    with pool_with(slots=1, tasks=2) as (engine, pool):
        outcomes: list[OutcomeFrame] = []
        for turn in range(LOST_MAX):
            assert len(engine.groups) == turn + 1
            if has_begun:
                started = [StartedTask(JOB, 0, 1, 7)]
                pool.reported(pack(HostReport(engine.groups[-1], b"run", 0, b"host", started=started)))
            pool.ended(engine.groups[-1], parcel)
            pool.tick(1.0)
            outcomes += [frame for _, frames, _ in pool.take_reports().outcomes for frame in frames]
            if outcomes:
                break
        assert turn == (0 if has_begun else LOST_MAX - 1)
        assert [(frame.index, frame.status) for frame in outcomes] == [(0, Status.DIED)]
        assert b"the engine 'kept' has brought a result that cannot be read" in outcomes[0].body
        assert len(engine.groups) == turn + 2  # the other task runs again


def test_a_report_that_cannot_be_read_ends_nothing() -> None:
    with pool_with(slots=1, tasks=1) as (engine, pool):
        for parcel in ([b"\x93"], None):
            pool.reported(parcel)  # type: ignore[arg-type]
        outcome = Outcomes(JOB, "", [OutcomeFrame(0, 1, Status.OK, 0.1, 7, b"result")])
        pool.ended(engine.groups[0], pack(HostReport(engine.groups[0], b"run", 0, b"host", True, [outcome])))
        pool.tick(1.0)
        assert [frame.body for _, frames, _ in pool.take_reports().outcomes for frame in frames] == [b"result"]
