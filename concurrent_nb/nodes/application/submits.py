"""The single tasks of an application: those of `submit` and `push_task`. A part of `nodes.application.node`.

Single tasks share a job. From time to time another job is begun, so that the master can forget the former one. A task
with a name or a strategy has a job of its own, because only jobs have these.
"""

import itertools
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, TypeVar

from concurrent_nb.errors import NotPicklable
from concurrent_nb.nodes.application.call_stream import CallStream
from concurrent_nb.nodes.application.callback_thread import CallbackThread
from concurrent_nb.nodes.application.client_tasks import NO_LIMITS, ClientJob, TaskEntry
from concurrent_nb.nodes.application.client_thread import ClientThread
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.job_origin import new_record
from concurrent_nb.nodes.application.kept_futures import KeptFuture
from concurrent_nb.nodes.application.payload import with_inputs_of
from concurrent_nb.nodes.application.pushed_tasks import assign_ids, notify_ended
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.nodes.application.task_options import TaskOptions
from concurrent_nb.nodes.application.task_packer import TaskPacker
from concurrent_nb.tasks.system import TaskOf

R = TypeVar("R")

#: single submits share a job; a new one is begun after this many, so that the master can forget the old one
SUBMITS_PER_JOB: Final = 4096
#: ... or when the functions that were pickled for it have more bytes than this
FUNCTION_BYTES_PER_JOB: Final = 16 * 1024 * 1024


class Submits:
    """Sends single tasks, and keeps the jobs of those that have not ended. May be used from many threads.

    Args:
        name: of the application; its jobs have it, unless a task's options name another.
        packer: pickles functions and arguments.
        client_thread: sends the tasks.
    """

    def __init__(self, name: str, packer: TaskPacker, client_thread: ClientThread) -> None:
        self._name = name
        self._packer = packer
        self._client_thread = client_thread
        self._canceller = client_thread.cancel  # one for all futures
        self._lock = threading.Lock()  # guards the present job
        self._indexes = itertools.count()
        self._job = new_record(name)
        # Former ones, and those of tasks with options that only a job has.
        self._other_jobs: weakref.WeakSet[ClientJob[TaskHandle]] = weakref.WeakSet()

    def submit(
        self, fn: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions | None = None
    ) -> TaskFuture[R]:
        """Submit as `ApplicationNode.submit` does, with options."""
        own = None if options is None or not (options.name or options.strategy) else self._own_job(options)
        job, index = self._next_index() if own is None else (own, 0)
        future: TaskFuture[R]
        if options is not None and options.limits.keep:
            future = KeptFuture(job, index, self._client_thread)
        else:
            future = TaskFuture(job.id, index, self._canceller)
        self._send(job, future, fn, args, kwargs, options)
        if own is not None:
            self._client_thread.close_job(own)
        return future

    def push(self, task: TaskOf[R], callbacks: CallbackThread) -> TaskFuture[R]:
        """Push a task object as `ApplicationNode.push_task` does."""
        job, index = self._next_index()
        future: TaskFuture[R] = TaskFuture(job.id, index, self._canceller)
        pushed = assign_ids(task, future, self._name)
        future.add_done_callback(lambda ended: callbacks.call(notify_ended, pushed, ended, callbacks))
        try:
            function, payload = self._packer.loader_of(type(pushed)).load(pushed)
        except NotPicklable as error:
            self._client_thread.check_open()
            future.end(None, error)
        else:
            self._client_thread.post((TaskEntry(job, index, function, payload, future),))
        return future

    def open_stream(self, options: TaskOptions, unanswered_max: int | None) -> CallStream:
        """Begin a job whose calls come one by one."""
        self._client_thread.check_open()
        return CallStream(self._packer, self._client_thread, self._own_job(options), options, unanswered_max)

    def open_tasks(self) -> list[tuple[bytes, int]]:
        """Return job and index of each task that has not ended."""
        return [(job.id, index) for job in (self._job, *self._other_jobs) for index in list(job.entries)]

    def cancel(self) -> int:
        """Cancel all tasks, stop running ones; return how many there were."""
        self.renew()
        jobs = list(self._other_jobs)
        count = sum(len(job.entries) for job in jobs)
        for job in jobs:
            self._client_thread.cancel(job.id, None)
        return count

    def renew(self) -> None:
        """Begin another job for the tasks that follow."""
        with self._lock:
            old, self._job = self._job, new_record(self._name)
            self._packer.function_bytes = 0
            self._other_jobs.add(old)
        self._client_thread.close_job(old)

    def renew_cancelled(self, job: ClientJob[TaskHandle]) -> None:
        """Begin another job if the present one was cancelled over the control channel, with what follows."""
        if job is self._job:
            self.renew()

    def _own_job(self, options: TaskOptions) -> ClientJob[TaskHandle]:
        """Return a job for a task with options that only a job has."""
        job = new_record(options.name or self._name, strategy=options.strategy)
        self._other_jobs.add(job)
        return job

    def _next_index(self) -> tuple[ClientJob[TaskHandle], int]:
        index = next(self._indexes)
        if index % SUBMITS_PER_JOB == SUBMITS_PER_JOB - 1 or self._packer.function_bytes > FUNCTION_BYTES_PER_JOB:
            self.renew()
        return self._job, index

    def _send(
        self,
        job: ClientJob[TaskHandle],
        future: TaskFuture,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: TaskOptions | None,
    ) -> None:
        try:
            payload = self._packer.call_payload(fn, args, kwargs)
            function = self._packer.function_payload(fn)
        except NotPicklable as error:
            self._client_thread.check_open()
            future.end(None, error)
            return
        if payload.inputs or function.payload.inputs:
            payload = with_inputs_of(function, payload, job)
        if options is None:
            limits, needs = NO_LIMITS, function.needs
        else:
            limits, needs = options.limits, options.needs_with(function)
        self._client_thread.post((TaskEntry(job, future.index, function, payload, future, limits, needs),))
