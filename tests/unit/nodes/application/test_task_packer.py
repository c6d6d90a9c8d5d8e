"""What is kept of a function that was pickled for a task, and of values that were put once for many tasks."""

import gc
import weakref
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from concurrent_nb.errors import NotPicklable
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.task_packer import TaskPacker
from concurrent_nb.nodes.application.worker_setups import WorkerSetups
from concurrent_nb.object_store.segments import is_available
from concurrent_nb.object_store.store import ObjectStore


class Home:
    """What a future knows of its application."""

    def cancel(self, job: JobId, indexes: object) -> None:
        """Cancel nothing."""


def capturing(future: object) -> Callable[[], object]:
    return lambda: future


def test_a_function_that_was_sent_keeps_no_future_alive_that_it_captures() -> None:
    home = Home()
    store = ObjectStore()
    packer = TaskPacker(store, WorkerSetups(cast("Any", None), lambda: 1, lambda *_: None), home=home)
    future: TaskFuture[Any] = TaskFuture(JobId(b"j" * 16), 0, home.cancel)
    function = packer.function_payload(capturing(future))
    assert function.payload.inputs == (future,)
    is_there = weakref.ref(future)
    del function, future
    gc.collect()
    assert is_there() is None
    store.close()


@pytest.mark.skipif(not is_available(), reason="this system has no anonymous files in memory")
@pytest.mark.parametrize("releases", [True, False])
def test_the_memory_of_a_value_that_was_released_is_used_again(releases: bool) -> None:
    setups: Any = None  # calls and values need none
    store = ObjectStore()
    packer = TaskPacker(store, setups)
    shared = packer.put(np.arange(20_000))
    segments = set(store._handles)
    task = packer.call_payload(len, (shared,), {})
    if releases:
        shared.release()
    del shared
    assert task.lease is not None and store.tidy() == [], "a task still needs it"
    task.lease.end(clean=True)
    packer.put(np.ones(20_000))
    assert (set(store._handles) == segments) is releases
    store.close()


def test_a_value_that_was_released_is_no_argument_any_more() -> None:
    setups: Any = None  # calls and values need none
    store = ObjectStore()
    packer = TaskPacker(store, setups)
    shared = packer.put(np.arange(20_000))
    shared.release()
    with pytest.raises(NotPicklable, match="bytes> was released: put the value again"):
        packer.call_payload(len, (shared,), {})
    store.close()
