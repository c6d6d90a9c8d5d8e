"""What is over the limits of the master waits in the application, and goes out as answers come."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.client_tasks import ClientJob, FunctionPayload, Payload, TaskEnded, TaskEntry
from concurrent_nb.nodes.application.core import ClientCore
from concurrent_nb.nodes.common.quota import Quota
from concurrent_nb.object_store.segments import SegmentHandle
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, length, slices_of
from concurrent_nb.wire.session import Session

FUNCTION = FunctionPayload(b"f" * 32, Payload(b"function"))
SMALL = Quota(tasks=10, bytes=1000)


class Segments:
    """The application's shared memory."""

    def handle(self, segment: bytes) -> SegmentHandle | None:
        return SegmentHandle(segment, 1, 1, 1 << 40)

    def read(self, slice_: m.Slice) -> Buffer:
        return bytes(slice_.size)


class Master:
    """Counts what an application makes it hold, as a real one does, and answers when it is asked to.

    Args:
        shares: it can open the application's segments.
    """

    def __init__(self, quota: Quota, *, shares: bool = False) -> None:
        self.core: ClientCore[str] = ClientCore(interval_s=1.0)
        self.quota = quota
        self.shares = shares
        self.ends: Counter[str] = Counter()
        self.connect()

    def begin_session(self, quota: Quota) -> None:
        """Begin another session, with another quota, and receive what is sent in it."""
        self.quota = quota
        self.connect()
        self.receive()

    def run_job(self, job: ClientJob[str], count: int, *, is_open: bool = False) -> None:
        """Have the application submit a job of small tasks, and receive what it sends."""
        self.core.add(tasks(count, job))
        if not is_open:
            self.core.close(job)
        self.receive()

    def connect(self) -> None:
        """Begin a session with a master that knows nothing."""
        self.session = Session(7, "from_client")
        self.open: dict[tuple[bytes, int], int] = {}  # bytes, by job and index
        self.functions: dict[bytes, dict[bytes, int]] = {}  # bytes, by job and digest
        self.contents: dict[tuple[bytes, int], int] = {}
        self.segments: set[bytes] = set()
        self.closed: list[bytes] = []
        self.over: set[bytes] = set()  # jobs of which nothing more comes
        self.ended: set[bytes] = set()  # jobs that were cancelled
        self.arrived: dict[bytes, int] = {}  # functions without a job
        fresh = Session(7, "to_client")
        for entry in self.core.attach(fresh, Segments(), shares=self.shares, quota=self.quota):
            self.ends[entry.handle] += 1

    def receive(self) -> list[m.AnyMessage]:
        """Take what the application sends, and see that it keeps to the limits."""
        received: list[m.AnyMessage] = []
        for _ in range(100):
            known = len(received)
            for frames in self.core.step(0.0):
                for item in self.session.receive(frames, 0.0):
                    received.append(item.message)
                    self._take(item.message, item.buffers)
            self._said()
            if len(received) == known:
                break
        for unsent in self.core.take_unsent():
            self.ends[unsent.entry.handle] += 1
            assert not unsent.size_bytes or "too large" in unsent.entry.handle
        return received

    def _take(self, message: m.AnyMessage, buffers: Sequence[Sequence[Buffer]]) -> None:
        if isinstance(message, m.OpenJob):
            self.functions.setdefault(message.job, {})
            self.over.discard(message.job)
        elif isinstance(message, m.Function):
            self.arrived[message.digest] = len(message.body) + sum(map(length, buffers[0] if buffers else ()))
        elif isinstance(message, m.Submit):
            if message.function in self.arrived:
                self.functions[message.job][message.function] = self.arrived.pop(message.function)
            assert message.function in self.functions[message.job], "a function is sent before its tasks"
            for at, task in enumerate(message.tasks):
                size = len(task.body) + sum(map(length, buffers[at] if buffers else ()))
                self.open[message.job, task.index] = size
                for slice_ in slices_of(task.sizes):
                    known = self.segments if self.shares else {segment for segment, _ in self.contents}
                    assert slice_.segment in known, "a slice is introduced before its task"
            if message.job in self.ended:
                self.answer(message.job, [task.index for task in message.tasks], 3)
        elif isinstance(message, m.Content):
            self.contents[message.segment, message.offset] = sum(map(length, buffers[0])) + 300
        elif isinstance(message, m.Segment):
            self.segments.add(message.segment)
        elif isinstance(message, m.DropSegments):
            self.segments -= set(message.segments)
            self.contents = {place: size for place, size in self.contents.items() if place[0] not in message.segments}
        elif isinstance(message, m.CloseJob):
            self.closed.append(message.job)
            self.over.add(message.job)
            self._forget(message.job)
        elif isinstance(message, m.Cancel):
            if message.indexes is None:
                self.ended.add(message.job)
            wanted = {i for job, i in self.open if job == message.job}
            self.answer(message.job, sorted(wanted if message.indexes is None else wanted & set(message.indexes)), 3)
        assert len(self.open) <= self.quota.tasks
        assert self.held_bytes() <= self.quota.bytes
        assert len(self.segments) <= self.quota.segments

    def held_bytes(self) -> int:
        functions = sum(sum(of.values()) for of in self.functions.values())
        return sum(self.open.values()) + functions + sum(self.contents.values())

    def answer(self, job: bytes, indexes: Sequence[int], status: int = 0) -> None:
        """End tasks."""
        for index in indexes:
            del self.open[job, index]
        if indexes:
            frames = [m.OutcomeFrame(index, 1, status, 0.1, 42, b"value") for index in indexes]
            self.session.send(m.Outcomes(job, "east", frames))
            self._forget(job)
        self._said()

    def _forget(self, job: bytes) -> None:
        if job in self.over and not any(of == job for of, _ in self.open):
            self.functions.pop(job, None)

    def _said(self) -> None:
        for frames in self.session.flush(0.0):
            for news in self.core.received(frames, 0.0):
                assert isinstance(news, TaskEnded)
                self.ends[news.entry.handle] += 1

    def answer_all(self, count: int = 3) -> int:
        """Answer so many tasks at a time until none is left; return how often."""
        turns = 0
        self.receive()
        while self.open:
            for job, index in list(self.open)[:count]:
                self.answer(job, [index])
            self.receive()
            turns += 1
        assert not self.core.has_entries()
        return turns


def tasks(
    count: int,
    job: ClientJob[str] | None = None,
    body: bytes = b"x",
    function: FunctionPayload = FUNCTION,
    first: int = 0,
    sizes: m.Sizes = (),
    name: str = "",
) -> list[TaskEntry[str]]:
    job = job or ClientJob(JobId(b"j" * 16), "job")
    return [
        TaskEntry(job, index, function, Payload(body, sizes), f"{name}{job.id[:1].decode()}{index}")
        for index in range(first, first + count)
    ]


def job_of(name: bytes, *, until: bool = False, stop_on_error: bool = False) -> ClientJob[str]:
    return ClientJob(JobId(name * 16), name.decode(), until, stop_on_error)


def assert_limited(master: Master, count: int, total: int) -> None:
    """Check that so many tasks are at the master at first, and that all end."""
    master.receive()
    assert len(master.open) == count
    master.answer_all(1)
    assert len(master.ends) == total


def test_tasks_above_the_limit_wait_and_are_sent_in_order() -> None:
    master = Master(SMALL)
    job = job_of(b"j")
    master.run_job(job, 100)
    assert list(master.open) == [(job.id, index) for index in range(8)]
    assert not master.closed
    order = []
    while master.open:
        (_, index), *_ = master.open
        order.append(index)
        master.answer(job.id, [index])
        master.receive()
    assert order == list(range(100))
    assert master.closed == [job.id]
    assert set(master.ends.values()) == {1}
    assert not master.core.jobs


def test_tasks_above_the_limit_of_bytes_wait() -> None:
    master = Master(SMALL)
    master.core.add(tasks(20, body=b"x" * 300))
    assert_limited(master, 2, 20)


def test_a_small_job_does_not_wait_for_a_large_one() -> None:
    master = Master(Quota(tasks=100))
    large, small = job_of(b"l"), job_of(b"s")
    master.core.add(tasks(10_000, large))
    master.receive()
    master.core.add(tasks(3, small))
    master.core.close(small)
    master.receive()
    assert {job for job, _ in master.open} == {large.id, small.id}
    assert sum(job == small.id for job, _ in master.open) == 3
    assert master.closed == [small.id]


def test_many_jobs_are_served_in_turn() -> None:
    master = Master(Quota(tasks=50))
    jobs = [job_of(b"%c" % (97 + number)) for number in range(20)]
    for job in jobs:
        master.core.add(tasks(100, job))
    seen: Counter[bytes] = Counter()
    master.receive()
    for _ in range(200):
        (job_id, index), *_ = master.open
        master.answer(job_id, [index])
        seen[job_id] += 1
        master.receive()
    assert len(seen) == 20
    assert seen[jobs[0].id] <= 100


def test_a_large_task_of_a_later_job_is_not_overtaken_for_ever() -> None:
    master = Master(SMALL)
    stream, heavy = job_of(b"s"), job_of(b"h")
    master.core.add(tasks(1000, stream, b"x" * 100))
    master.receive()
    master.core.add(tasks(1, heavy, b"x" * 900))
    for _ in range(30):
        (job_id, index), *_ = master.open
        master.answer(job_id, [index])
        master.receive()
        if (heavy.id, 0) in master.open:
            break
    else:
        pytest.fail("the large task never came")
    assert master.answer_all() > 0


def test_a_task_that_is_too_large_for_the_master_ends_here_at_once() -> None:
    master = Master(SMALL)
    job = job_of(b"j")
    master.core.add(tasks(3, job))
    master.receive()
    master.core.add(tasks(1, job, b"x" * 2000, first=3, name="too large "))
    master.core.add(tasks(3, job, first=4))
    master.receive()
    assert master.ends == {"too large j3": 1}
    master.answer_all()
    assert len(master.ends) == 7
    assert not job.entries


@pytest.mark.parametrize("of", ["arguments", "function", "both", "content"])
def test_too_large_is_what_has_to_travel(of: str) -> None:
    function = FunctionPayload(b"g" * 32, Payload(b"x" * {"function": 1500, "both": 600}.get(of, 1)))
    body = b"x" * {"arguments": 1500, "both": 600}.get(of, 1)
    sizes: m.Sizes = (m.Slice(b"s" * 16, 0, 1500, 1),) if of == "content" else ()
    far = Master(SMALL)
    far.core.add(tasks(1, body=body, function=function, sizes=sizes, name="too large "))
    far.receive()
    assert far.ends.total() == 1
    near = Master(SMALL, shares=True)
    near.core.add(tasks(1, body=body, function=function, sizes=sizes, name="" if of == "content" else "too large "))
    near.receive()
    assert near.ends.total() == (0 if of == "content" else 1)  # in shared memory there is no such limit


def test_a_task_that_is_too_large_ends_a_job_that_stops_on_errors() -> None:
    master = Master(SMALL)
    job = job_of(b"j", stop_on_error=True)
    master.core.add(tasks(3, job))
    master.receive()
    master.core.add(tasks(1, job, b"x" * 2000, first=3, name="too large "))
    master.core.add(tasks(5, job, first=4))
    master.receive()
    assert len(master.ends) == 9
    assert not job.entries


def test_waiting_tasks_are_cancelled_without_the_master() -> None:
    master = Master(SMALL)
    job = job_of(b"j")
    master.core.add(tasks(50, job))
    master.receive()
    sent = {index for _, index in master.open}
    master.core.cancel(job.id, [2, 20, 30])
    received = master.receive()
    assert [message for message in received if isinstance(message, m.Cancel)] == [m.Cancel(job.id, [2])]
    assert set(master.ends) == {"j2", "j20", "j30"}
    assert 2 in sent
    assert not {20, 30} & sent
    master.answer_all()
    assert len(master.ends) == 50
    assert set(master.ends.values()) == {1}


@pytest.mark.parametrize("indexes", [[0], None])
def test_tasks_of_a_closed_job_are_cancelled_while_a_late_one_waits_to_open_it_again(
    indexes: list[int] | None,
) -> None:
    master = Master(SMALL)
    other, job = job_of(b"a"), job_of(b"j")
    master.core.add(tasks(2, job))
    master.core.close(job)
    master.core.add(tasks(50, other))
    master.receive()
    assert (job.id, 0) in master.open
    master.core.add(tasks(1, job, first=2))
    assert master.core.jobs[job.id].waiting
    master.core.cancel(job.id, indexes)
    assert m.Cancel(job.id, indexes) in master.receive()
    master.answer_all()
    assert len(master.ends) == 53
    assert set(master.ends.values()) == {1}


def test_a_whole_job_is_cancelled_with_what_waits_and_what_comes_later() -> None:
    master = Master(SMALL)
    first, job = job_of(b"a"), job_of(b"j")
    master.core.add(tasks(50, first))
    for index in range(20):
        master.core.add(tasks(1, job, b"x" * 400, first=index))
    master.receive()
    master.core.cancel(job.id, None)
    master.core.add(tasks(3, job, first=20))
    master.core.close(job)
    master.receive()
    assert sum(count for name, count in master.ends.items() if name.startswith("j")) == 23
    assert job.id not in master.core.jobs
    master.answer_all()
    assert set(master.ends.values()) == {1}


@pytest.mark.parametrize(("option", "status"), [("until", Status.HIT), ("stop_on_error", Status.ERROR)])
def test_what_waits_of_a_job_that_has_ended_is_cancelled(option: str, status: Status) -> None:
    master = Master(SMALL)
    job = job_of(b"j", **{option: True})
    master.run_job(job, 50)
    master.answer(job.id, [0], status)
    master.receive()
    assert not job.waiting
    assert len(master.ends) == 43  # the hit, and what was not sent; the master answers for the rest
    master.answer(job.id, [index for _, index in master.open], Status.CANCELLED)
    assert set(master.ends.values()) == {1}
    assert len(master.ends) == 50
    assert job.id not in master.core.jobs


def test_a_new_master_gets_everything_again_within_its_limits() -> None:
    master = Master(SMALL)
    job = job_of(b"j")
    master.run_job(job, 50)
    master.answer(job.id, [0, 1])
    master.begin_session(Quota(tasks=5, bytes=500))
    assert list(master.open) == [(job.id, index) for index in range(2, 6)]
    master.answer_all()
    assert set(master.ends.values()) == {1}
    assert len(master.ends) == 50
    assert master.closed == [job.id]


def test_the_answer_of_a_former_session_ends_a_task_that_waits() -> None:
    master = Master(SMALL)
    job = job_of(b"j")
    master.run_job(job, 50, is_open=True)
    master.begin_session(Quota(tasks=1))
    master.open = {(job.id, index): 1 for index in range(8)}  # the master is the old one
    master.answer(job.id, range(8))
    assert sorted(master.ends) == [f"j{index}" for index in range(8)]
    master.answer_all()
    assert set(master.ends.values()) == {1}
    assert len(master.ends) == 50


def test_what_a_former_session_may_have_sent_is_cancelled_there_too() -> None:
    master = Master(SMALL)
    job = job_of(b"j")
    master.run_job(job, 8, is_open=True)
    master.begin_session(Quota(tasks=2))
    master.core.cancel(job.id, [7])
    assert m.Cancel(job.id, [7]) in master.receive()


def test_functions_of_jobs_that_rest_make_room() -> None:
    master = Master(SMALL)
    job = job_of(b"j")
    for index in range(10):
        function = FunctionPayload(b"%032d" % index, Payload(b"x" * 300))
        master.core.add(tasks(1, job, function=function, first=index))
        master.receive()
        master.answer_all()
    assert len(master.ends) == 10


def test_contents_of_tasks_that_have_ended_make_room() -> None:
    master = Master(SMALL)
    job = job_of(b"j")
    for index in range(50):  # four places in a segment
        slice_ = m.Slice(b"%016d" % (index // 4), 100 * (index % 4), 100, index)
        master.core.add(tasks(1, job, sizes=(slice_,), first=index))
    master.answer_all(1)
    assert len(master.ends) == 50


def test_segments_are_limited_where_the_master_can_open_them() -> None:
    master = Master(Quota(tasks=100, segments=4), shares=True)
    job = job_of(b"j")
    for index in range(40):
        slice_ = m.Slice(b"%016d" % (index // 2), 10**9 * (index % 2), 10**9, index)
        master.core.add(tasks(1, job, sizes=(slice_,), first=index))
    assert_limited(master, 8, 40)


def test_outcomes_are_acknowledged_before_the_next_tasks_are_sent() -> None:
    master = Master(Quota(tasks=4))
    master.core.add(tasks(20))
    master.receive()
    master.answer(b"j" * 16, [0])
    first, *_, last = master.core.step(0.0)
    assert master.session.receive(first, 0.0) == []
    assert not master.session.in_flight
    assert any(isinstance(item.message, m.Submit) for item in master.session.receive(last, 0.0))


def test_giving_up_gives_back_what_waits_too() -> None:
    master = Master(SMALL)
    master.core.add(tasks(50))
    master.receive()
    assert len(master.core.drop_all()) == 50
    assert master.core.step(0.0) == []


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_every_task_ends_once_within_the_limits(seed: int) -> None:
    chance = random.Random(seed)
    quota = Quota(chance.randint(1, 20), chance.randint(1300, 3000), chance.choice([2, 5, 1000]))
    master = Master(quota, shares=chance.random() < 0.5)
    jobs = [job_of(b"%c" % (97 + number), stop_on_error=chance.random() < 0.2) for number in range(4)]
    functions = [FunctionPayload(b"%032d" % number, Payload(b"x" * chance.randint(1, 300))) for number in range(4)]
    count, serial = Counter[bytes](), 0
    for _ in range(100):
        job = chance.choice(jobs)
        what = chance.random()
        if what < 0.4 and not job.closed:
            for _ in range(chance.randint(1, 10)):
                serial += 1
                slice_ = m.Slice(b"%016d" % chance.randint(0, 9), 200 * chance.randint(0, 3), 200, serial)
                sizes = (slice_,) if chance.random() < 0.3 else ()
                is_large = chance.random() < 0.02
                body = b"x" * (5000 if is_large else chance.choice([1, 1, 50, 150]))
                name = "too large " if is_large else ""
                function = chance.choice(functions)
                master.core.add(tasks(1, job, body, function=function, first=count[job.id], sizes=sizes, name=name))
                count[job.id] += 1
        elif what < 0.8:
            master.receive()
            for of, index in chance.sample(list(master.open), min(len(master.open), chance.randint(1, 5))):
                if (of, index) in master.open:
                    master.answer(of, [index], chance.choice([0, 0, 0, 2]))
        elif what < 0.9:
            known = list(job.entries)
            chosen = None if chance.random() < 0.1 else chance.sample(known, min(len(known), 4))
            master.core.cancel(job.id, chosen)
        elif what < 0.93:
            master.core.close(job)
        elif what < 0.97:
            master.receive()
            master.connect()
    for job in jobs:
        master.core.close(job)
    master.answer_all()
    assert master.ends.total() == len(master.ends) == count.total()
    assert not master.core.jobs
    assert not master.functions
