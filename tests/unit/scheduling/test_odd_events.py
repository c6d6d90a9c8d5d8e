"""Every event of a peer is handled or refused; a refused one changes nothing, and the other peers go on."""

from collections import deque
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from itertools import count
from math import inf, nan
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concurrent_nb.ids import Digest, JobId, SessionId
from concurrent_nb.outcome import Status
from concurrent_nb.scheduling import events as e
from concurrent_nb.scheduling.refusal import EventRefused
from concurrent_nb.scheduling.strategies.by_name import BY_NAME
from concurrent_nb.wire.messages import Needs, OutcomeFrame, Slice, StartedTask, TaskFrame, TaskRef
from tests.unit.scheduling.bench import JOB, ME, OTHER_JOB, YOU, Bench, F
from tests.unit.scheduling.client_events import acknowledged, cancelled, opened, submitted
from tests.unit.scheduling.slave_events import ended, joined, lost, slave_id, started

#: for each strategy; by hand some thousands were tried
EXAMPLES = 25
NUMBERS = [-(2**63), -1, 0, 1, 2, 3, 7, 900, 2**31, 2**53 + 1, 2**63, 2**64 - 1]
SECONDS = [-inf, -1e300, -1.0, 0.0, 5e-324, 1e-9, 0.5, 1.0, 1e9, 1e300, 1.7e308, inf, nan]
STATUSES = [-(2**63), -1, *map(int, Status), 99, 2**64 - 1]
BYTES = [b"", b"x", b"\x00" * 16, b"\xff" * 15, b"\xff" * 17, b"y" * 10_000]

numbers = st.sampled_from(NUMBERS)
seconds = st.sampled_from(SECONDS)
jobs = st.sampled_from([JOB, OTHER_JOB, *map(JobId, BYTES)])
clients = st.sampled_from([ME, YOU, SessionId(b"stranger"), SessionId(b"")])
slaves = st.sampled_from([slave_id(name) for name in ("a", "b", "c", "nobody", "")])
texts = st.sampled_from(["", "me", "you", "stealing", "no strategy", "\x00\n\u202e", "x" * 10_000])
sizes = st.lists(st.one_of(numbers, st.builds(Slice, st.just(b"s"), numbers, numbers, numbers)), max_size=3).map(tuple)
buffers = st.lists(st.lists(st.just(b"buffer"), max_size=2), max_size=3)
refs = st.lists(st.builds(TaskRef, jobs, numbers, numbers), max_size=4)
started_tasks = st.lists(st.builds(StartedTask, jobs, numbers, numbers, numbers), max_size=4)
frames = st.lists(st.builds(TaskFrame, numbers, numbers, st.sampled_from(BYTES), sizes), max_size=4)
outcomes = st.lists(
    st.builds(
        OutcomeFrame, numbers, numbers, st.sampled_from(STATUSES), seconds, numbers, st.sampled_from(BYTES), sizes
    ),
    max_size=4,
)
needs = st.none() | st.builds(
    Needs, st.sampled_from([*NUMBERS, 10**9]), st.sampled_from(["process", "thread", "system_host", "odd"])
)
objects = st.lists(st.lists(st.tuples(st.sampled_from(BYTES), numbers), max_size=3).map(tuple), max_size=4)

odd_events: st.SearchStrategy[e.Event] = st.one_of(
    st.builds(e.SlaveJoined, slaves, texts, numbers, numbers, st.booleans()),
    st.builds(e.SlaveResized, slaves, numbers, numbers),
    st.builds(e.JobOpened, clients, texts, jobs, texts, st.booleans(), st.booleans(), texts, st.booleans()),
    st.builds(
        e.TasksSubmitted,
        clients,
        jobs,
        st.sampled_from([F, *map(Digest, BYTES)]),
        frames,
        buffers,
        st.none() | seconds,
        numbers,
        objects,
        needs,
    ),
    st.builds(e.JobClosed, clients, jobs),
    st.builds(e.CancelRequested, clients, jobs, st.none() | st.lists(numbers, max_size=4)),
    st.builds(e.OutcomesAcknowledged, clients, jobs, st.lists(numbers, max_size=4)),
    st.builds(e.ClientSilent, clients),
    st.builds(e.ClientResumed, clients),
    st.builds(e.TasksStarted, slaves, started_tasks),
    st.builds(e.TasksReturned, slaves, refs),
    st.builds(e.OutcomesReceived, slaves, jobs, outcomes, buffers),
    st.builds(e.ObjectsHeld, slaves, st.lists(st.sampled_from(BYTES), max_size=3)),
    st.builds(e.ObjectsDropped, slaves, st.lists(st.sampled_from(BYTES), max_size=3)),
    st.builds(e.SlaveLost, slaves, texts, st.booleans()),
)


def busy_bench(name: str) -> Bench:
    """Make a bench with tasks of all kinds in all states, of two owners."""
    bench = Bench(BY_NAME[name](), results_kept_bytes=2000)
    bench(opened(), opened(YOU, "you", OTHER_JOB), joined("lost", slots=2, credit=4))
    bench(submitted([900], timeout_s=1.0, retries=2), submitted([901], client=YOU, job=OTHER_JOB))
    bench(lost("lost"), joined("lost", slots=2, credit=4))
    bench(lost("lost"))
    bench(joined("a", slots=2, credit=4), joined("b", slots=2, credit=4, shares_memory=True))
    bench(submitted(range(3), timeout_s=2.0), submitted(range(3), client=YOU, job=OTHER_JOB))
    host = Needs(kind="system_host")
    bench(submitted([7], needs=Needs(2)), submitted([8], needs=host), submitted([9], needs=Needs(3)))
    for slave in list(bench.scheduler.slaves.values()):
        for task in list(slave.tasks)[:1]:
            bench(started(slave.name, task.index, attempt=task.attempt, job=task.job.id))
        for task in list(slave.tasks)[1:2]:
            bench(ended(slave.name, task.index, attempt=task.attempt, job=task.job.id))
    return bench


def snapshot(thing: Any, seen: dict[int, int] | None = None) -> Any:
    """Give all that can be reached from something, as what can be compared."""
    seen = {} if seen is None else seen
    if thing is None or isinstance(thing, bool | int | float | str | bytes | type):
        return repr(thing)
    if id(thing) in seen:
        return f"see {seen[id(thing)]}"
    seen[id(thing)] = len(seen)
    if isinstance(thing, count):
        return repr(thing)
    if isinstance(thing, Mapping):
        return [type(thing).__name__, *[(snapshot(key, seen), snapshot(value, seen)) for key, value in thing.items()]]
    if isinstance(thing, Set):
        return ["set", *sorted(str(snapshot(each, seen)) for each in thing)]
    if isinstance(thing, Sequence | deque):
        return [type(thing).__name__, *[snapshot(each, seen) for each in thing]]
    if isinstance(thing, msgspec.Struct):
        names: Sequence[str] = thing.__struct_fields__
    elif is_dataclass(thing):
        names = [field.name for field in fields(thing)]
    elif hasattr(thing, "__dict__"):
        names = list(vars(thing))
    else:
        names = getattr(type(thing), "__slots__", ())
    return [type(thing).__name__, *[(name, snapshot(getattr(thing, name), seen)) for name in names]]


@pytest.mark.parametrize("name", BY_NAME)
@settings(max_examples=EXAMPLES)
@given(events=st.lists(odd_events, min_size=1, max_size=6))
def test_odd_events_are_handled_or_refused_and_the_good_ones_go_on(name: str, events: list[e.Event]) -> None:
    bench = busy_bench(name)
    for event in events:
        before = snapshot(bench.scheduler._state)
        try:
            bench(event)
        except EventRefused:
            assert snapshot(bench.scheduler._state) == before
            bench()
    # Time passes, and the good ones find everything as it should be
    bench.after(0.2)
    bench.after(100.0)
    good = SessionId(b"good one")
    job = JobId(b"a good job".ljust(16))
    bench(opened(good, "good one", job), submitted(range(4), client=good, job=job))
    for slave in [slave for slave in bench.scheduler.slaves.values() if slave.name not in ("a", "b")]:
        bench(e.SlaveLost(slave.id, left=True))
    bench(joined("good slave", slots=2, credit=4))
    for _ in range(100):
        tasks = [task for slave in bench.scheduler.slaves.values() for task in slave.tasks if task.job.id == job]
        for task in tasks:
            assert task.slave is not None
            bench(ended(task.slave.decode(), task.index, attempt=task.attempt, job=job))
        others = bench.scheduler.slaves[slave_id("good slave")].tasks
        for task in [task for task in others if task.job.id != job]:
            bench(ended("good slave", task.index, attempt=task.attempt, job=task.job.id))
        bench(acknowledged([*range(4)], client=good, job=job))
        if not bench.scheduler.jobs[job].tasks:
            return
    raise AssertionError(f"the good one still has {list(bench.scheduler.jobs[job].tasks.values())}")


@pytest.mark.parametrize(
    "event",
    [
        joined("a"),
        joined("c", slots=0),
        joined("c", slots=2**63, credit=2**64),
        e.SlaveResized(slave_id("a"), -1, 5),
        e.SlaveResized(slave_id("a"), 5, 1),
        e.SlaveResized(slave_id("a"), 1, 2**64 - 1),
        opened(ME, "you", JobId(b"j" * 16)),
        opened(job=JobId(b"")),
        opened(job=JobId(b"j" * 17)),
        opened(job=JobId(b"j" * 16), strategy="no strategy"),
        opened(YOU, "you", JOB),
        submitted([50], job=JobId(b"j" * 16)),
        submitted([50], client=YOU),
        submitted([50], timeout_s=nan),
        submitted([50], timeout_s=-inf),
        submitted([50], timeout_s=0.0),
        submitted([50], retries=-1),
        submitted([50], needs=Needs(-1)),
        submitted([50], needs=Needs(2, "thread")),
        submitted([50, 51], objects=[()]),
        e.TasksSubmitted(ME, JOB, F, [TaskFrame(50, 0, b"")], [(), ()]),
        e.CancelRequested(YOU, JOB, None),
        e.OutcomesAcknowledged(YOU, JOB, [0]),
        e.JobClosed(YOU, JOB),
        ended("a", 0, 1, status=int(Status.POISON)),
        ended("a", 0, status=2**63),
        e.OutcomesReceived(slave_id("a"), JOB, [OutcomeFrame(0, 1, 0, 0.0, 1, b"")], [(), ()]),
    ],
    ids=repr,
)
def test_what_cannot_be_is_refused_and_has_changed_nothing(event: e.Event) -> None:
    bench = busy_bench("pull_round_robin")
    before = snapshot(bench.scheduler._state)
    with pytest.raises(EventRefused):
        bench(event)
    assert snapshot(bench.scheduler._state) == before
    bench()


def test_snapshots_of_different_states_differ() -> None:
    bench = busy_bench("pull_round_robin")
    before = snapshot(bench.scheduler._state)
    assert before == snapshot(busy_bench("pull_round_robin").scheduler._state)
    for event in (submitted([50]), e.SlaveResized(slave_id("a"), 1, 4), cancelled([0]), opened(job=JobId(b"j" * 16))):
        bench(event)
        after = snapshot(bench.scheduler._state)
        assert after != before
        before = after


@pytest.mark.parametrize("elapsed_s", [1.7e308, 1e200, -1e-300, inf, nan])
@pytest.mark.parametrize("name", BY_NAME)
def test_a_run_time_that_cannot_be_spoils_no_strategy(name: str, elapsed_s: float) -> None:
    bench = Bench(BY_NAME[name]())
    bench(joined("a", slots=2, credit=50), opened(), submitted(range(60)))
    for index in range(60):
        task = bench.scheduler.jobs[JOB].tasks[index]
        bench(ended("a", index, attempt=task.attempt, elapsed_s=elapsed_s))
    assert bench.scheduler.slaves[slave_id("a")].in_flight_s == 0.0
