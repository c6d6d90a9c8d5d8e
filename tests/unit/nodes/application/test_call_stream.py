"""Calls that come one by one: how many are sent, and how they end. No cluster, no thread."""

from collections.abc import Callable, Sequence
from typing import Any, cast

from concurrent_nb.errors import MasterLost
from concurrent_nb.ids import JobId, digest_of, new_job_id
from concurrent_nb.nodes.application.call_stream import CallStream
from concurrent_nb.nodes.application.client_tasks import ClientJob, FunctionPayload, Payload, TaskEntry
from concurrent_nb.nodes.application.client_thread import ClientThread
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.nodes.application.task_options import TaskOptions
from concurrent_nb.nodes.application.task_packer import TaskPacker

ARGUMENTS = Payload(b"")


class NothingPacked:
    """Packs nothing."""

    def function_payload(self, fn: Callable[..., Any]) -> FunctionPayload:
        return FunctionPayload(digest_of(b"f"), Payload(b"f"))


class RecordingThread:
    """A client thread that is the test's own."""

    def __init__(self) -> None:
        self.sent: list[TaskEntry[TaskHandle]] = []
        self.cancelled: list[Sequence[int] | None] = []
        self.error: Exception | None = None

    def post(self, tasks: Sequence[TaskEntry[TaskHandle]]) -> None:
        if self.error is not None:
            raise self.error
        self.sent += tasks

    def cancel(self, job: JobId, indexes: Sequence[int] | None) -> None:
        self.cancelled.append(indexes)

    def end(self, position: int, value: Any = None) -> None:
        self.sent[position].handle.end(value, None)


class Stream:
    """A stream, and what became of its calls."""

    def __init__(self, unanswered_max: int | None = None) -> None:
        self.thread = RecordingThread()
        record: ClientJob[TaskHandle] = ClientJob(new_job_id())
        packer, thread = cast(TaskPacker, NothingPacked()), cast(ClientThread, self.thread)
        self.stream = CallStream(packer, thread, record, TaskOptions(), unanswered_max)
        self.ended: list[int] = []

    def send(self, count: int = 1) -> list[TaskFuture[Any]]:
        return [self.stream.send(abs, ARGUMENTS, lambda future: self.ended.append(future.index)) for _ in range(count)]


def test_without_a_limit_all_calls_are_sent_at_once_and_reported_as_they_end() -> None:
    own = Stream()
    futures = own.send(5)
    assert [entry.index for entry in own.thread.sent] == [0, 1, 2, 3, 4]
    own.thread.end(3, "three")
    own.thread.end(1)
    assert own.ended == [3, 1] and futures[3].result() == "three" and not futures[0].done()


def test_calls_above_the_limit_are_sent_as_others_end() -> None:
    own = Stream(unanswered_max=2)
    own.send(4)
    assert len(own.thread.sent) == 2
    own.thread.end(1)
    assert [entry.index for entry in own.thread.sent] == [0, 1, 2]
    for position in (0, 2, 3):
        own.thread.end(position)
    assert own.ended == [1, 0, 2, 3]
    own.send(3)
    assert len(own.thread.sent) == 6


def test_cancelling_ends_what_was_held_back_and_what_comes_later() -> None:
    own = Stream(unanswered_max=1)
    first, held = own.send(2)
    own.stream.cancel()
    assert own.thread.cancelled == [None] and held.cancelled() and not first.done()
    (late,) = own.send()
    assert late.cancelled() and len(own.thread.sent) == 1 and own.ended == [1, 2]


def test_a_job_that_is_cancelled_elsewhere_sends_nothing_more() -> None:
    own = Stream(unanswered_max=1)
    _, held = own.send(2)
    own.thread.sent[0].handle.end_cancelled()
    assert held.cancelled() and len(own.thread.sent) == 1 and sorted(own.ended) == [0, 1]


def test_a_call_that_cannot_be_sent_ends_with_the_reason_and_so_do_those_that_wait() -> None:
    own = Stream(unanswered_max=1)
    futures = own.send(2000)
    own.thread.error = MasterLost("it is gone")
    own.thread.end(0)
    assert all(isinstance(future.exception(), MasterLost) for future in futures[1:])
    assert len(own.ended) == 2000
    assert isinstance(own.send()[0].exception(), MasterLost)
