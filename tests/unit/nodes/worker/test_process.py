"""Results in shared memory are announced, whenever a task is interrupted."""

import os
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import pytest

from concurrent_nb.nodes.worker.process import TaskRunner
from concurrent_nb.object_store.segments import is_available
from concurrent_nb.shipping.environment.entering import Environments
from concurrent_nb.wire.messages import Slice
from concurrent_nb.workers.protocol.records import AddSegment, RemoveSegments

pytestmark = pytest.mark.skipif(not is_available(), reason="this system has no anonymous files in memory")


def store(runner: TaskRunner) -> bytes:
    """Store a result; return its segment."""
    _, (slice_,) = runner._store_result(b"", [memoryview(bytearray(300_000))])
    assert isinstance(slice_, Slice)
    return slice_.segment


def announced(changes: Sequence[AddSegment | RemoveSegments]) -> list[bytes]:
    return [change.segment for change in changes if isinstance(change, AddSegment)]


def interrupted_at(runner: TaskRunner, line: int) -> bool:
    """Store a result, and interrupt that before a line of `_announce`, counted from 1. Return whether there is one."""
    left = line

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_code is not TaskRunner._announce.__code__:
            return trace if event == "call" else None
        if event in ("line", "return"):
            left -= 1
            if not left:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        store(runner)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


@pytest.fixture
def environments() -> Iterator[Environments]:
    environments = Environments()
    yield environments
    os.close(environments._folder)


def test_a_segment_is_announced_once_whatever_interrupts_that(environments: Environments) -> None:
    line, is_interrupted = 0, True
    while is_interrupted:
        line += 1
        runner = TaskRunner(environments)
        is_interrupted = interrupted_at(runner, line)
        segment = store(runner)
        assert announced(runner.memory_changes()) == [segment]
        assert store(runner) == segment
        assert announced(runner.memory_changes()) == []
        assert runner._store is not None
        runner._store.close()
    assert line > 3


def test_what_tasks_have_left_does_not_become_a_part_of_what_setups_have_changed(environments: Environments) -> None:
    before = sys.getswitchinterval()
    for _ in range(2):  # two tasks of a function with setups
        environments.restore_for(b"job", b"function", True)
        environments.keep_changes()
        sys.setswitchinterval(before + 1)
    environments.restore_for(b"other", b"function")
    assert sys.getswitchinterval() == before
