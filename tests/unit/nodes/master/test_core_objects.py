"""Large objects, as the master reports them to the scheduler: which tasks refer to them, which slaves have them."""

from collections.abc import Iterator

import pytest

from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.object_store.segments import is_available
from concurrent_nb.object_store.store import RECOGNISED_BYTES, ObjectStore
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import encode_error, function_digest
from tests.unit.nodes.master.bench import ALICE, BOB, EAST, JOB, Bench, function

pytestmark = pytest.mark.skipif(not is_available(), reason="this system has no anonymous files in memory")

SIZE = 100_000
WEST = BOB
#: two arrays of Alice, who is on another host
ONE, TWO = m.Slice(b"a" * 16, 0, SIZE, 1), m.Slice(b"b" * 16, 0, SIZE, 1)


@pytest.fixture
def bench() -> Iterator[Bench]:
    store = ObjectStore()
    bench = Bench(store)
    bench.client(ALICE)
    for slice_ in (ONE, TWO):
        send_content(bench, slice_)
    yield bench
    store.close()


def send_content(bench: Bench, slice_: m.Slice) -> None:
    content = m.Content(slice_.segment, slice_.offset, slice_.serial, b"", (slice_.size,))
    bench.send(ALICE, content, buffers=[[bytes([slice_.serial]) * slice_.size]])


def open_job(bench: Bench, strategy: str = "locality") -> None:
    bench.send(ALICE, m.OpenJob(JOB, "job", False, False, strategy), function())  # type: ignore[arg-type]


def submit(*slices: m.Slice | None, first: int = 0, digest: bytes = function().digest) -> m.Submit:
    frames = [
        m.TaskFrame(index, 0, b"arguments", () if slice_ is None else (slice_,))
        for index, slice_ in enumerate(slices, first)
    ]
    return m.Submit(JOB, digest, None, 0, frames)


def indexes(sent: list[m.AnyMessage]) -> list[int]:
    return [task.index for message in sent if isinstance(message, m.Assign) for task in message.tasks]


def contents(sent: list[m.AnyMessage]) -> int:
    return sum(isinstance(message, m.Content) for message in sent)


def fetched_bytes(bench: Bench) -> list[int]:
    return [slave["fetched_bytes"] for slave in bench.core.status(bench.now)["slaves"]]


def test_tasks_know_what_their_arguments_and_their_function_refer_to(bench: Bench) -> None:
    open_job(bench)
    bench.send(ALICE, submit(ONE, None, TWO, ONE))
    captured = m.Function(function_digest([b"captures", TWO]), b"captures", (TWO,))
    bench.send(ALICE, captured, submit(ONE, TWO, first=4, digest=captured.digest))
    bench.send(ALICE, submit(None, first=6, digest=captured.digest))
    tasks = bench.core.scheduler.jobs[JobId(JOB)].tasks
    one, two = tasks[0].objects, tasks[2].objects
    assert one != two and [size for _, size in one + two] == [SIZE, SIZE]
    assert [tasks[index].objects for index in (1, 3, 4, 5, 6)] == [(), one, two + one, two, two]


def test_an_array_travels_to_one_slave_where_tasks_go_to_it_and_to_all_where_they_take_turns() -> None:
    travelled = {}
    for strategy in ("locality", "pull_round_robin"):
        store = ObjectStore()
        bench = Bench(store)
        bench.client(ALICE)
        for slave in (EAST, WEST):
            bench.slave(slave)
        for slice_ in (ONE, TWO):
            send_content(bench, slice_)
        open_job(bench, strategy)
        travelled[strategy] = 0
        for message in (submit(ONE, TWO), submit(TWO, ONE, first=2)):
            bench.send(ALICE, message)
            travelled[strategy] += sum(contents(sent) for sent in bench.all_sent().values())
        assert sum(fetched_bytes(bench)) == travelled[strategy] * SIZE
        store.close()
    assert travelled == {"locality": 2, "pull_round_robin": 4}


def test_what_is_gone_is_held_by_no_slave(bench: Bench) -> None:
    bench.slave(EAST)
    open_job(bench)
    bench.send(ALICE, submit(ONE, TWO))
    assert contents(bench.sent_to(EAST)) == 2
    slave = bench.core.scheduler.slaves[EAST]
    bench.sent_to(EAST)
    assert len(slave.objects) == 2
    bench.send(ALICE, m.DropSegments([ONE.segment, TWO.segment]))
    assert any(isinstance(message, m.DropSegments) for message in bench.sent_to(EAST))
    bench.sent_to(EAST)
    assert len(slave.objects) == 0


def test_what_was_sent_to_another_session_of_a_slave_travels_again(bench: Bench) -> None:
    bench.slave(EAST)
    open_job(bench)
    bench.send(ALICE, submit(ONE))
    assert contents(bench.sent_to(EAST)) == 1
    bench.core.remove(EAST, "it has gone", bench.now)
    bench.slave(WEST)
    sent = bench.sent_to(WEST)
    assert (contents(sent), indexes(sent), fetched_bytes(bench)) == (1, [0], [SIZE])


def test_a_slave_on_the_masters_host_has_everything(bench: Bench) -> None:
    bench.slave(EAST)
    bench.slave(WEST, shares_memory=True)
    open_job(bench)
    bench.send(ALICE, submit(ONE, TWO))
    sent = bench.all_sent()
    assert indexes(sent[WEST]) == [0, 1] and not sent[EAST]
    assert any(isinstance(message, m.Segment) for message in sent[WEST])
    assert fetched_bytes(bench) == [0, 0]


# ------------------------------------------------------------------------------------------- results that tasks need


def end(bench: Bench, slave: SessionId, index: int, *results: bytes, keeps: bool = False) -> None:
    """The slave reports that a task has ended, whose result has these buffers."""
    sizes = tuple(map(len, results))
    outcome = m.OutcomeFrame(index, 1, Status.OK, 0.1, 42, b"a pickle", sizes, keeps)
    bench.send(slave, m.Outcomes(JOB, "east", [outcome]), buffers=[list(results)] if results else ())


def needing(*indexes: int) -> list[m.AnyMessage]:
    """Tasks that need the result of task 0."""
    inputs = [m.TaskInputs(JOB, index, [m.JobTasks(JOB, [0])]) for index in indexes]
    return [*inputs, m.Submit(JOB, function().digest, None, 0, [m.TaskFrame(i, 0, b"arguments") for i in indexes])]


def test_a_result_from_another_host_travels_once_to_each_slave_that_needs_it(bench: Bench) -> None:
    bench.slave(EAST, slots=4)
    open_job(bench)
    bench.send(ALICE, submit(None), *needing(1, 2, 3))
    assert indexes(bench.sent_to(EAST)) == [0, 1]  # the second was sent ahead
    end(bench, EAST, 0, b"r" * SIZE, b"small")
    bench.send(EAST, m.Returned([m.TaskRef(JOB, 1, 1)]))  # as it cannot be bound there
    sent = bench.sent_to(EAST)
    assert (contents(sent), sorted(indexes(sent))) == (1, [1, 2, 3])
    bench.slave(WEST, slots=4)
    bench.send(ALICE, *needing(4, 5, 6))
    sent_to = bench.all_sent()
    assert (contents(sent_to[EAST]), indexes(sent_to[EAST])) == (0, [4])  # its last slot: it has the result
    assert (contents(sent_to[WEST]), indexes(sent_to[WEST])) == (1, [5, 6])
    assert fetched_bytes(bench) == [SIZE, SIZE]


def test_the_owner_gets_a_stored_result_and_its_memory_is_free_when_no_task_needs_it(bench: Bench) -> None:
    bench.slave(EAST, slots=4)
    open_job(bench)
    bench.send(ALICE, submit(None), *needing(1))
    bench.sent_to(EAST)
    end(bench, EAST, 0, b"r" * SIZE)
    [outcome] = [each for each in bench.sent_to(ALICE) if isinstance(each, m.Outcomes)]
    assert outcome.items[0].sizes == (SIZE,)  # she is on another host
    bench.send(ALICE)
    [(_, results)] = bench.core._memory._pinned.items()
    assert bench.core._memory._memory.read(results[0].slice) == b"r" * SIZE
    end(bench, EAST, 1)
    bench.all_sent()
    bench.send(ALICE)
    assert not bench.core._memory._pinned and not bench.core._memory._references


@pytest.fixture
def near() -> Iterator[tuple[Bench, ObjectStore]]:
    """A master whose application is on its host, and whose slave is not; and its store."""
    store = ObjectStore()
    bench = Bench(store)
    bench.client(ALICE)
    bench.send(ALICE, m.ShareMemory())
    bench.slave(EAST, slots=4)
    open_job(bench)
    yield bench, store
    store.close()


def test_an_owner_on_the_masters_host_maps_a_stored_result(near: tuple[Bench, ObjectStore]) -> None:
    bench, store = near
    bench.send(ALICE, submit(None), *needing(1))
    bench.all_sent()
    end(bench, EAST, 0, b"r" * SIZE)
    to_alice = bench.sent_to(ALICE)
    [outcome] = [each for each in to_alice if isinstance(each, m.Outcomes)]
    [slice_] = outcome.items[0].sizes
    assert isinstance(slice_, m.Slice) and store.read(slice_) == b"r" * SIZE
    assert [each.segment for each in to_alice if isinstance(each, m.Segment)] == [slice_.segment]
    bench.send(ALICE)
    end(bench, EAST, 1)
    bench.all_sent()
    bench.send(ALICE)
    assert bench.core._memory._references[slice_.segment] == 1  # she may still read it
    bench.send(ALICE, m.Release([slice_], True))
    assert not bench.core._memory._references


def test_results_with_the_same_content_are_stored_and_released_one_by_one(near: tuple[Bench, ObjectStore]) -> None:
    bench, store = near
    bench.send(ALICE, submit(None), *needing(1))
    inputs = [m.TaskInputs(JOB, 3, [m.JobTasks(JOB, [0, 2])])]
    bench.send(ALICE, submit(None, first=2), *inputs, submit(None, first=3))
    bench.all_sent()
    data = b"r" * RECOGNISED_BYTES  # at the same address, as memory of the messages may be
    for index in (0, 2):
        end(bench, EAST, index, data)
    sent = [each for each in bench.sent_to(ALICE) if isinstance(each, m.Outcomes)]
    slices = [size for each in sent for item in each.items for size in item.sizes if isinstance(size, m.Slice)]
    assert len(set(slices)) == 2
    end(bench, EAST, 1)
    end(bench, EAST, 3)
    bench.all_sent()
    bench.send(ALICE, m.Release(slices[:1], True))
    bench.send(ALICE, m.Release(slices[1:], True))
    store.tidy()
    assert store._allocator.free_bytes == 2 * RECOGNISED_BYTES


def test_a_large_report_of_a_failure_is_read_and_not_stored(near: tuple[Bench, ObjectStore]) -> None:
    bench, store = near
    bench.send(ALICE, submit(None), *needing(1))
    bench.all_sent()
    report = encode_error(m.ErrorReport("ValueError", "x" * SIZE, ""))
    failed = m.OutcomeFrame(0, 1, Status.ERROR, 0.1, 42, b"", (len(report),))
    bench.send(EAST, m.Outcomes(JOB, "east", [failed]), buffers=[[report]])
    sent = [each for each in bench.sent_to(ALICE) if isinstance(each, m.Outcomes)]
    [dependent] = [item for each in sent for item in each.items if item.index == 1]
    assert dependent.status == Status.DEPENDENCY_FAILED and b"ValueError" in dependent.body
    assert store.stored_count == 0


def test_a_result_that_no_task_needs_is_not_stored(bench: Bench) -> None:
    bench.slave(EAST)
    open_job(bench)
    bench.send(ALICE, submit(None))
    bench.sent_to(EAST)
    store = bench.core._memory._store
    assert store is not None
    before = store.stored_count
    end(bench, EAST, 0, b"r" * SIZE)
    assert store.stored_count == before
