"""A worker that does what no worker does ends alone: whatever it writes to whatever it shares with its slave."""

import logging
import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import ErrorReport, Needs, OutcomeFrame, TaskRef
from concurrent_nb.workers.protocol.records import WORKER_HEADER_BYTES_MAX
from concurrent_nb.workers.slave_side.note_framing import NOTE_BYTES_MAX
from tests.integration.pool_driver import Driver, End

SEEDS = 200
#: misbehaving tasks that are open at the same time
AT_ONCE = 5
#: how often a task may count a death until it is right. More than a cluster allows, because nearly all workers here
#: have run a task that may break them after its end, and on a busy machine a good task meets several of them
DEATHS_MAX = 5
RESULT_S = 0.7


# ----------------------------------------------------------------------------------------------- in the worker


def ends() -> dict[str, list[int]]:
    """Find what this worker shares with its slave."""
    import fcntl
    import os
    import stat

    found: dict[str, list[int]] = {"socket": [], "reads": [], "output": [1, 2], "page": []}
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            mode, target = os.fstat(fd).st_mode, os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if stat.S_ISSOCK(mode):
            found["socket"].append(fd)
        elif stat.S_ISFIFO(mode) and fd > 2 and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            found["reads"].append(fd)
        elif "concurrent_nb.page" in target:
            found["page"].append(fd)
    return found


def send(data: bytes) -> None:
    """Write to the socket on which results travel."""
    import os

    os.write(ends()["socket"][0], data)


def ticket() -> int:
    """Give the ticket of the task that runs."""
    import os
    import struct

    return int(struct.unpack("<Q", os.pread(ends()["page"][0], 8, 0))[0])


def misbehave(seed: int) -> str:
    """Write nonsense somewhere, and end somehow."""
    import contextlib
    import os
    import random
    import struct
    import time

    import msgspec

    chance = random.Random(seed)
    where = ends()
    encode = msgspec.msgpack.Encoder().encode
    page = where["page"][0]
    own = ticket()

    def odd() -> Any:
        numbers: list[Any] = [0, 1, -1, own, 1 << 31, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -0.5]
        numbers += [float("nan"), float("inf")]
        others: list[Any] = [b"", b"x" * 16, "", "text", [], [[]], {}, None, True]
        others += [[b"s" * 16, 0, 100, 1], [[b"s" * 16, 0, 1, 1]], (1 << 60,)]
        return chance.choice(numbers + others)

    def record() -> bytes:
        results = [[own, 0, 0.1, b"x", []], [own, 0, 0.1, b"", [chance.choice((0, 5, 1 << 20, 1 << 40))]]]
        others: list[list[Any]] = [
            [4, own, b"notes"],
            [5, b"s" * 16, os.getpid(), 5, 100],
            [6, [b"s" * 16]],
            [8, "report"],
        ]
        if chance.random() < 0.5:
            fields = chance.choice(results)
            fields[chance.randrange(len(fields))] = odd()
            items = encode(fields)
            header = b"\xdd" + struct.pack(">I", chance.choice((1, 1, 1, 2, 0, 1 << 30))) + items
        else:
            fields = chance.choice(others)
            fields[chance.randrange(1, len(fields))] = odd()
            header = encode(fields)
        return struct.pack("<I", len(header)) + header

    def writes_bytes() -> None:
        send(chance.randbytes(chance.choice((1, 4, 5, 300, 5000))))

    def writes_records() -> None:
        send(b"".join(record() for _ in range(chance.randint(1, 5))))

    def announces() -> None:
        send(struct.pack("<I", chance.choice((60 << 20, 1 << 20, 1000, 0xFFFFFFFF, 0))))

    def writes_page() -> None:
        if chance.random() < 0.5:
            os.pwrite(page, chance.randbytes(chance.choice((8, 64, 1000))), 8 * chance.randrange(40))
        else:
            os.pwrite(
                page, struct.pack("<Q", chance.choice((0, 1, own, 77, (1 << 64) - 1, 1 << 34))), 8 * chance.randrange(6)
            )
        with contextlib.suppress(OSError):
            os.ftruncate(page, 0)

    def writes_output() -> None:
        nonce = os.pread(page, 16, 128)
        pieces = [chance.randbytes(1000), nonce, b"text"]
        pieces += [nonce + struct.pack("<Q", number) for number in (0, own, own, 77, (1 << 64) - 1)]
        for _ in range(chance.randint(1, 20)):
            os.write(chance.choice((1, 2)), chance.choice(pieces))

    def writes_tokens() -> None:
        for fd in where["reads"]:
            with contextlib.suppress(OSError):
                pipe = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK)
                os.write(pipe, chance.randbytes(chance.choice((1, 10, 60_000))))
                os.close(pipe)

    def takes() -> None:
        for fd in (*where["socket"], *where["reads"]):
            os.set_blocking(fd, False)
            with contextlib.suppress(OSError):
                os.read(fd, chance.choice((1, 10, 100_000)))
            os.set_blocking(fd, chance.random() < 0.5)

    def writes_notes() -> None:
        for _ in range(chance.choice((1, 100))):
            note = encode(
                [4, chance.choice((own, own, own, 1, 1 << 50)), chance.randbytes(chance.choice((1, 100, 60_000)))]
            )
            send(struct.pack("<I", len(note)) + note)

    ways = [writes_bytes, writes_records, announces, writes_page, writes_output, writes_tokens, takes, writes_notes]
    for _ in range(chance.choice((1, 1, 3))):
        way = chance.choice(ways)
        way()
    time.sleep(chance.choice((0, 0, 0, 0.05)))
    if chance.random() < 0.1:
        raise ValueError("the end of it")
    return way.__name__


# ------------------------------------------------------------------------------------------------------ the proof


class Patient(Driver):
    """A driver that takes whatever misbehaving tasks answer, and lets the others run again when they count a death."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.bad: set[TaskRef] = set()

    def open(self, ref: TaskRef, frame: OutcomeFrame, own: list[Any]) -> End:
        if ref not in self.bad:
            return super().open(ref, frame, own)
        return End(Status(frame.status), None, frame.elapsed_s, frame.worker)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def settle(driver: Driver) -> None:
    """Wait until every worker is there and has nothing."""

    def is_calm() -> bool:
        lines = driver.pool._connections.values()
        return not (driver.pool.unfinished or driver.pool._kill_deadlines) and all(
            line.is_ready and line.pid for line in lines
        )

    driver.until(is_calm)


@pytest.mark.parametrize("kind", ["fork_server", "spawn"])
def test_what_a_worker_writes_where_it_should_not_ends_at_most_that_worker(kind: str) -> None:
    seeds = iter(range(SEEDS) if kind == "fork_server" else range(SEEDS, SEEDS + SEEDS // 10))
    with Patient(kind=kind, slots=6, grace_s=0.2, result_s=RESULT_S) as driver:
        good, bad = driver.add(good_task), driver.add(misbehave)
        driver.wait(driver.assign(good, [(n, 1000) for n in range(50)]))
        settle(driver)
        held, resident = descriptors(), psutil.Process().memory_info().rss
        expected: dict[TaskRef, tuple[int, int]] = {}
        tries: dict[TaskRef, int] = {}
        done = 0

        def answers() -> None:
            """Check what has come of good tasks; those that counted a death run again."""
            for ref in [ref for ref in tries if ref in driver.ended]:
                end, tried, args = driver.ended[ref], tries.pop(ref), expected[ref]
                if end.status == Status.DIED and tried < DEATHS_MAX:
                    (again,) = driver.assign(good, [args])
                    expected[again], tries[again] = args, tried + 1
                else:
                    assert end.value == good_task(*args), (end, tried)
                    end.value = None  # it is large

        while (seed := next(seeds, None)) is not None:
            driver.bad |= set(driver.assign(bad, [(seed,)], timeout_s=2.0))
            arguments = [(seed, n) for n in range(8)]
            refs = driver.assign(good, arguments)
            expected |= dict(zip(refs, arguments, strict=True))
            tries |= dict.fromkeys(refs, 1)
            driver.until(lambda: sum(ref not in driver.ended for ref in driver.bad) < AT_ONCE)
            answers()
            done += 1

        def is_over() -> bool:
            answers()
            return not tries and all(ref in driver.ended for ref in driver.bad)

        driver.until(is_over)

        # then: all good tasks are right, and the slave is what it was
        assert done == (SEEDS if kind == "fork_server" else SEEDS // 10)
        assert not driver.degraded
        settle(driver)
        segments = sum(len(line.own_segments) for line in driver.pool._connections.values())
        assert descriptors() <= held + segments + 4
        assert psutil.Process().memory_info().rss - resident < 48 << 20
        assert driver.run(good_task, 7, 8).value == good_task(7, 8)


def good_task(seed: int, n: int) -> tuple[int, bytes]:
    """Give what can be checked; now and then it is large."""
    return seed * n, bytes([n % 256]) * (300_000 if n == 5 else 10)


# ------------------------------------------------------------------------------------------------ each finding


@pytest.fixture
def driver() -> Iterator[Driver]:
    with Driver("fork_server", slots=2, grace_s=0.2, result_s=RESULT_S) as driver:
        yield driver


def report_of(end: End) -> str:
    assert isinstance(end.value, ErrorReport), end
    return end.value.message


def announce_buffers() -> None:
    import struct

    import msgspec

    header = b"\xdd" + struct.pack(">I", 1) + msgspec.msgpack.encode([ticket(), 0, 0.1, b"", [1 << 60]])
    send(struct.pack("<I", len(header)) + header)


def announce_a_header() -> None:
    import struct

    send(struct.pack("<I", 60 << 20))


def announce_a_smaller_header() -> None:
    import struct

    send(struct.pack("<I", 1 << 20))


def announce_a_result() -> None:
    import struct

    import msgspec

    header = b"\xdd" + struct.pack(">I", 1) + msgspec.msgpack.encode([ticket(), 0, 0.1, b"", [60 << 20]])
    send(struct.pack("<I", len(header)) + header)


def then_go_on(announce: Callable[[], None]) -> Callable[[], None]:
    def task() -> None:
        import time

        announce()
        time.sleep(20)

    return task


@pytest.mark.parametrize(
    "announce",
    [then_go_on(announce_buffers), then_go_on(announce_a_header), announce_a_smaller_header, announce_a_result],
    ids=["2^60 bytes", "60 MB", "1 MB", "60 MB of a result"],
)
def test_what_is_announced_and_never_comes_costs_its_task_a_death(driver: Driver, announce: Callable[[], None]) -> None:
    begun = time.monotonic()
    ref = driver.start(announce)
    refs = driver.assign(driver.add(good_task), [(2, n) for n in range(40)])
    driver.wait([ref, *refs])
    assert driver.ended[ref].status == Status.DIED
    assert re.search("was killed because (it|the result) ", report_of(driver.ended[ref]))
    assert [driver.ended[other].value for other in refs] == [good_task(2, n) for n in range(40)]
    assert not driver.degraded
    assert (
        time.monotonic() - begun < 30
    )  # not for ever, and not the time after which a worker that never worked is stuck


def test_two_swallowers_hang_nobody(driver: Driver) -> None:
    # Each of two workers swallows its results; then whatever is given to either comes from their successors.
    swallow = driver.add(announce_a_smaller_header)
    bad = driver.assign(swallow, [()] * 2)
    refs = driver.assign(driver.add(good_task), [(3, n) for n in range(40)], timeout_s=2.0)
    driver.wait([*bad, *refs])
    assert {driver.ended[ref].status for ref in bad} == {Status.DIED}
    assert [driver.ended[ref].value for ref in refs] == [good_task(3, n) for n in range(40)]


def test_a_worker_that_takes_its_own_orders_away_hangs_nobody(driver: Driver) -> None:
    def take() -> None:
        import contextlib
        import os
        import time

        (socket,) = ends()["socket"]
        os.set_blocking(socket, False)
        time.sleep(0.1)  # more has come by now, and is taken back; what comes after that is not whole
        with contextlib.suppress(BlockingIOError):
            os.read(socket, 7)
        os.set_blocking(socket, True)

    refs = driver.assign(driver.add(take), [()] * 4)
    refs += driver.assign(driver.add(good_task), [(3, n) for n in range(40)])
    driver.until(lambda: all(ref in driver.ended for ref in refs))
    ends_of_good = [(n, driver.ended[ref]) for n, ref in enumerate(refs[4:])]
    assert all(end.status == Status.DIED or end.value == good_task(3, n) for n, end in ends_of_good)
    assert driver.run(good_task, 1, 2).value == good_task(1, 2)


def test_notes_that_are_none_are_passed_on_once(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    def flood() -> None:
        import struct

        import msgspec

        note = msgspec.msgpack.encode([4, ticket(), b"\0" * 60_000])
        for _ in range(500):
            send(struct.pack("<I", len(note)) + note)

    with caplog.at_level(logging.WARNING):
        ref = driver.start(flood)
        driver.wait([ref])
    assert driver.ended[ref].status == Status.OK
    assert len(driver.output[ref][3]) == 60_000
    assert len([line for line in caplog.records if "invalid notes" in line.message]) == 1


def test_notes_travel_however_long_they_are(driver: Driver) -> None:
    def publish() -> None:
        import concurrent_nb

        for n in range(5):
            concurrent_nb.publish(bytes(n * 100_000))
            concurrent_nb.report(n / 5)

    ref = driver.start(publish)
    driver.wait([ref])
    assert len(driver.output[ref][3]) > 1_000_000
    assert driver.run(publish).status == Status.OK


def test_what_leftovers_print_does_not_fill_the_log(single: Driver, caplog: pytest.LogCaptureFixture) -> None:
    def leave() -> None:
        import os
        import threading
        import time

        def write() -> None:
            for n in range(300):
                os.write(1, b"%d " % n + b"x" * 3000 + b"\n")
                time.sleep(0.001)

        threading.Thread(target=write, daemon=True).start()

    with caplog.at_level(logging.INFO):
        assert single.run(leave).status == Status.OK
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            single.turn(0.05)
    lines = [line.message for line in caplog.records if "outside of any task" in line.message]
    assert 1 <= len(lines) <= 20
    assert max(map(len, lines)) < 2000


@pytest.fixture
def single() -> Iterator[Driver]:
    with Driver("fork_server", slots=1, grace_s=0.2, result_s=RESULT_S) as driver:
        yield driver


def test_a_child_that_writes_without_end_does_not_hold_the_slave(driver: Driver) -> None:
    def leave() -> int:
        import subprocess

        return subprocess.Popen(["sh", "-c", "while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyy; done"]).pid

    noisy = driver.start(leave)
    refs = driver.assign(driver.add(good_task), [(3, n) for n in range(200)])
    driver.wait([noisy, *refs])
    assert [driver.ended[ref].value for ref in refs] == [good_task(3, n) for n in range(200)]


@pytest.mark.parametrize(
    "record",
    [
        lambda: [5, b"s" * 16, 1, 5, 100],
        lambda: [5, b"s", __import__("os").getpid(), 5, 100],
        lambda: [4, ticket() + 1_000_000, b"note"],
        lambda: [8, "I was never to be initialized"],
    ],
    ids=["another's memory", "no memory", "another's ticket", "not initialized"],
)
def test_what_is_not_its_own_ends_a_worker(driver: Driver, record: Callable[[], list[Any]]) -> None:
    def task() -> None:
        import struct
        import time

        import msgspec

        data = msgspec.msgpack.encode(record())
        send(struct.pack("<I", len(data)) + data)
        time.sleep(20)

    end = driver.run(task)
    assert end.status == Status.DIED
    assert "was killed because it " in report_of(end)
    assert driver.run(good_task, 1, 2).value == good_task(1, 2)
    assert not driver.degraded


def test_a_result_counts_although_the_next_one_in_its_record_is_invalid(driver: Driver) -> None:
    def task() -> None:
        import pickle
        import struct
        import time

        import msgspec

        results = [[ticket(), 0, 0.1, pickle.dumps("first")], [ticket(), 0, 0.1, b"", [[b"s" * 16, 0, 8, 1]]]]
        header = b"\xdd" + struct.pack(">I", 2) + b"".join(map(msgspec.msgpack.encode, results))
        send(struct.pack("<I", len(header)) + header)
        time.sleep(20)

    end = driver.run(task)
    assert (end.status, end.value) == (Status.OK, "first")
    assert driver.run(good_task, 1, 2).value == good_task(1, 2)


def test_a_thread_that_sends_an_invalid_record_ends_its_process_alone(driver: Driver) -> None:
    def task() -> None:
        import os
        import time

        for fd in ends()["socket"]:
            os.write(fd, b"\xff" * 100)
        time.sleep(20)

    ref = driver.start(task, needs=Needs(kind="thread"))
    refs = driver.assign(driver.add(good_task), [(3, n) for n in range(40)])
    driver.wait([ref, *refs])
    assert driver.ended[ref].status == Status.DIED
    assert [driver.ended[other].value for other in refs] == [good_task(3, n) for n in range(40)]
    assert driver.run(good_task, 1, 2).value == good_task(1, 2)


def test_a_page_cannot_be_cut_off(driver: Driver) -> None:
    def cut() -> str:
        import os

        try:
            os.ftruncate(ends()["page"][0], 0)
        except OSError as error:
            return type(error).__name__
        return "it was cut off"

    assert driver.run(cut).value == "PermissionError"


def test_limits_of_what_is_announced() -> None:
    assert WORKER_HEADER_BYTES_MAX < 64 << 20
    assert struct.calcsize("<I") == 4
    assert NOTE_BYTES_MAX == 16 << 20


def test_a_task_whose_notes_are_not_taken_is_slowed_and_others_are_not(driver: Driver) -> None:
    def publish(count: int) -> int:
        from concurrent_nb.shipping.runtime import notes

        for _ in range(count):
            notes.sink().put_progress(notes.ItemEnded(0, 1, bytes(100_000)))  # which has no limit of its own
        return count

    driver.pool.hold_notes(True)
    ref = driver.start(publish, 100)
    driver.until(lambda: any(line.is_held for line in driver.pool._connections.values()))
    refs = driver.assign(driver.add(good_task), [(3, n) for n in range(40)])
    driver.wait(refs)
    until = time.monotonic() + 2 * RESULT_S
    while time.monotonic() < until:
        driver.turn(0.05)
    # then: what is held is no worker that does nothing
    assert ref not in driver.ended
    assert len(driver.output[ref][3]) < 6_000_000
    driver.pool.hold_notes(False)
    driver.wait([ref])
    assert driver.ended[ref].value == 100
    assert len(driver.output[ref][3]) > 9_900_000
