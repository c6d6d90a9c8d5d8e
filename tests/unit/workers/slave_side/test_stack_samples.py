"""Samples that are being taken: one at a time of each process, answered once, and never with another task's stack."""

import os
from collections.abc import Iterator

import pytest

from concurrent_nb.wire.messages import StackSampled
from concurrent_nb.workers.protocol.stacks import StackFile, make_stack_file
from concurrent_nb.workers.protocol.status_page import StatusPage, make_page_file
from concurrent_nb.workers.slave_side.stack_samples import WRITE_WITHIN_S, StackSamples
from tests.fuzzer.fuzzed_slave import FakeLauncher

TICKET = 5
DUMP = b"""Current thread 0x01 (most recent call first):
  File "In[3]", line 7 in fit
  File "<frozen runpy>", line 198 in _run_module_as_main
"""
STACK = '  File "<frozen runpy>", line 198, in _run_module_as_main\n  File "In[3]", line 7, in fit'


class Signals(FakeLauncher):
    """Counts what workers were sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[int, int]] = []

    def write_stack(self, worker: int, thread: int) -> None:
        self.sent.append((worker, thread))


class Worker:
    """The file and the page of a worker, seen by the slave, and the descriptor into which the worker writes."""

    def __init__(self) -> None:
        fd, page = make_stack_file(), make_page_file()
        self.writes = os.dup(fd)
        self.file, self.page = StackFile(fd), StatusPage(page)
        os.close(page)
        self.page.begin(TICKET, 0.0)

    def close(self) -> None:
        self.file.close()
        self.page.close()
        os.close(self.writes)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def begin(samples: StackSamples, worker: Worker, request: int = 1, ticket: int = TICKET) -> None:
    samples.begin(request, 3, worker.file, worker.page, ticket, 4711, 1.5, 0.0)


def test_a_stack_is_answered_when_it_is_complete_and_grows_no_more(worker: Worker) -> None:
    launcher = Signals()
    samples = StackSamples(launcher)
    begin(samples, worker)
    assert launcher.sent == [(3, 0)]
    half = len(DUMP) // 2
    for part in (b"", DUMP[:half], b"", DUMP[half:]):
        os.write(worker.writes, part)
        samples.tick(0.1)
        assert samples.take() == []
    samples.tick(0.1)
    assert samples.take() == [StackSampled(1, 4711, 1.5, STACK, "")]
    assert not samples
    assert worker.file.read() == ""


def test_those_who_ask_about_the_same_task_share_an_answer(worker: Worker) -> None:
    launcher = Signals()
    samples = StackSamples(launcher)
    begin(samples, worker, 1)
    begin(samples, worker, 2)
    assert len(launcher.sent) == 1
    os.write(worker.writes, DUMP)
    samples.tick(0.1)
    samples.tick(0.1)
    assert [(each.request, each.stack) for each in samples.take()] == [(1, STACK), (2, STACK)]


def test_the_stack_of_the_next_task_is_not_shown(worker: Worker) -> None:
    samples = StackSamples(Signals())
    begin(samples, worker)
    worker.page.begin(TICKET + 1, 0.0)
    os.write(worker.writes, DUMP)
    samples.tick(0.1)
    assert samples.take() == [StackSampled(1, 4711, 1.5, "", "it has ended meanwhile")]


def test_a_worker_that_writes_nothing_is_given_up(worker: Worker) -> None:
    samples = StackSamples(Signals())
    begin(samples, worker)
    samples.tick(WRITE_WITHIN_S - 0.01)
    assert samples and samples.take() == []
    samples.tick(WRITE_WITHIN_S)
    (answer,) = samples.take()
    assert answer.stack == ""
    assert "worker 4711 has not written it within 2 s" in answer.error and "SIGUSR2" in answer.error
    assert not samples


def test_what_has_been_written_by_then_is_shown(worker: Worker) -> None:
    samples = StackSamples(Signals())
    begin(samples, worker)
    os.write(worker.writes, DUMP[: DUMP.index(b"  File", 60)])
    samples.tick(WRITE_WITHIN_S)
    assert [each.stack for each in samples.take()] == ['  File "In[3]", line 7, in fit']


def test_tasks_of_one_process_take_turns(worker: Worker) -> None:
    launcher, other = Signals(), Worker()
    other.page.begin(TICKET + 1, 0.0)
    other.page.name_thread(99)
    samples = StackSamples(launcher)
    begin(samples, worker, 1)
    samples.begin(2, 3, worker.file, other.page, TICKET + 1, 4711, 0.5, 0.0)
    assert launcher.sent == [(3, 0)]
    samples.tick(WRITE_WITHIN_S)
    assert launcher.sent == [(3, 0), (3, 99)]
    os.write(worker.writes, DUMP)
    samples.tick(WRITE_WITHIN_S)
    samples.tick(WRITE_WITHIN_S)
    assert [(each.request, each.stack) for each in samples.take()] == [(1, ""), (2, STACK)]
    other.close()


@pytest.mark.parametrize("thread", [0, 7, 2**31 - 1, 2**31, 2**64 - 1])
def test_a_thread_that_no_system_has_is_not_asked(worker: Worker, thread: int) -> None:
    launcher = Signals()
    worker.page.name_thread(thread)
    begin(StackSamples(launcher), worker)
    assert launcher.sent == [(3, thread if thread < 2**31 else 0)]


def test_a_worker_that_dies_is_named(worker: Worker) -> None:
    samples = StackSamples(Signals())
    begin(samples, worker, 1)
    begin(samples, worker, 2, TICKET + 1)
    samples.died(8, "died of SIGKILL")
    assert samples.take() == []
    samples.died(3, "died of SIGSEGV")
    assert [(each.request, each.error) for each in samples.take()] == [
        (1, "its worker 4711 died of SIGSEGV"),
        (2, "its worker 4711 died of SIGSEGV"),
    ]
    assert not samples


def test_nothing_is_left_after_a_session(worker: Worker) -> None:
    samples = StackSamples(Signals())
    begin(samples, worker)
    samples.refuse(2, "it has ended")
    samples.clear()
    assert not samples and samples.take() == []


def test_of_a_huge_file_the_end_is_read(worker: Worker) -> None:
    os.write(worker.writes, b"x" * (3 << 20))
    os.write(worker.writes, DUMP)
    assert worker.file.read().endswith(DUMP.decode())
    assert len(worker.file.read()) == 1 << 20
