"""The jobs that an application has started. A part of `nodes.application.node`."""

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.batched_job import BatchedJob
from concurrent_nb.nodes.application.client_tasks import ClientJob
from concurrent_nb.nodes.application.client_thread import ClientThread
from concurrent_nb.nodes.application.cluster_slots import ClusterSlots
from concurrent_nb.nodes.application.job import Job
from concurrent_nb.nodes.application.kept_futures import KeptFuture
from concurrent_nb.nodes.application.master_calls import MasterCalls
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.nodes.application.task_options import JobOptions, batch_of, checked_calls
from concurrent_nb.nodes.application.task_packer import TaskPacker
from concurrent_nb.tasks.chunk_size import AdaptiveSize
from concurrent_nb.wire.messages import JobAttached

R = TypeVar("R")
J = TypeVar("J", bound=Job[Any])


class JobStarter:
    """Starts jobs, and keeps those that have not ended.

    Args:
        packer: pickles functions and arguments.
        client_thread: sends the tasks.
        ask: asks the master about jobs.
        slots: the size of the cluster, for batches whose size measured times decide.
    """

    def __init__(self, packer: TaskPacker, client_thread: ClientThread, ask: MasterCalls, slots: ClusterSlots) -> None:
        self._packer = packer
        self._client_thread = client_thread
        self._ask = ask
        self._slots = slots
        self._jobs: weakref.WeakSet[Job[Any]] = weakref.WeakSet()

    def add(self, job: J) -> J:
        """Return a job of this application, which can ask the master about itself."""
        job.ask = self._ask
        job._ask_statistics = self._client_thread.ask_statistics
        self._jobs.add(job)
        return job

    def open_jobs(self) -> list[Job[Any]]:
        """Return the jobs that have not ended."""
        return [job for job in list(self._jobs) if not job.done()]

    def start(
        self,
        function: Callable[..., R],
        calls: Sequence[tuple[Any, ...]],
        options: JobOptions,
        *,
        batch: Any,
        keep: bool,
        default_size: int | None,
    ) -> Job[R]:
        """Start a job as `ApplicationNode.start_job` does.

        Args:
            function: what to run.
            calls: the positional arguments of each task.
            options: of the job.
            batch: how many tasks travel together, as `start_job` is given it.
            keep: whether the results stay in the cluster.
            default_size: what "auto" stands for; None: measured times decide.
        """
        calls = checked_calls(calls)
        size = batch_of(batch)
        if options.detach and (keep or size is not None):
            raise ConfigurationError("the master keeps each result of a detached job: leave out keep and batch")
        if options.detach and self._client_thread.kept is not None:
            raise ConfigurationError("a task cannot start a detached job: leave out detach")
        if options.detach and self._client_thread.member.journal:
            raise ConfigurationError(
                "the master of this cluster has a journal, in which detached jobs are not kept yet: leave out detach"
            )
        if keep and (options.until or size is not None):
            raise ConfigurationError("keep leaves each result in the cluster: leave out until and batch")
        if size == "auto" and default_size is not None:
            size = batch_of(default_size)
        if size is not None:
            per_task = AdaptiveSize(self._slots.count()) if size == "auto" else size
            return self.add(BatchedJob(self._packer, self._client_thread, function, calls, per_task, options).start())
        record = options.new_record()
        job: Job[R] = self.add(Job(record.id, record.name, self._client_thread.cancel, options.watched, options.prints))
        if keep:
            job._new_kept = lambda index: KeptFuture(record, index, self._client_thread, job)
            options = dataclasses.replace(options, limits=replace(options.limits, keep=True))
        entries = self._packer.job_entries(job, record, function, calls, options)
        if options.detach and record.is_linked:
            raise ConfigurationError("a detached job cannot wait for other tasks: give it their results")
        self._client_thread.post(entries)
        self._client_thread.close_job(record)
        if options.detach and entries:
            try:
                self._client_thread.confirm_job(record)
            except BaseException:
                job.cancel()
                raise
        return job

    def attach(self, job_id: JobId, *, watched: bool, prints: bool) -> Job[Any]:
        """Return a job that the master keeps, as `ApplicationNode.attach` does."""
        for known in list(self._jobs):
            if known.id == job_id:
                return known
        job: Job[Any] = Job(job_id, "", self._client_thread.cancel, watched, prints, is_open=True)
        record: ClientJob[TaskHandle] = ClientJob(job_id, new_handle=job._new_handle)

        def found(answer: JobAttached) -> None:
            job._found(answer.name, answer.age_s)

        self._client_thread.read_job(record, found)
        return self.add(job)
