"""What callers of the control channel ask of slaves and jobs. Pure, a part of `nodes.master.core`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from concurrent_nb.errors import ConfigurationError, StackUnavailable
from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.nodes.master.detached_jobs import DetachedJobs
from concurrent_nb.nodes.master.dispatch import Dispatch
from concurrent_nb.nodes.master.kernel_requests import KernelRequests
from concurrent_nb.nodes.master.peers import NodeInfo, Peer
from concurrent_nb.nodes.master.stack_requests import StackRequests, why_not_running
from concurrent_nb.nodes.master.task_pages import TaskPage, page_of
from concurrent_nb.scheduling import events as e
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.tasks.task_record import JobRecord
from concurrent_nb.wire import messages as m


@dataclass(eq=False, slots=True)
class ControlRequests:
    """Carries out what admins and owners ask.

    Args:
        peers: the registered peers.
        scheduler: which jobs and tasks there are.
        dispatch: sends messages to slaves.
        kernels: keeps the requests for kernels.
        stacks: keeps the questions for stacks.
        emit: called with events for the scheduler.
        decide: passes them to the scheduler, at a time.
        detached: the detached jobs.
    """

    peers: Mapping[SessionId, Peer]
    scheduler: Scheduler
    dispatch: Dispatch
    kernels: KernelRequests
    stacks: StackRequests
    emit: Callable[[e.Event], None]
    decide: Callable[[float], None]
    detached: DetachedJobs
    log_level: m.LogLevel | None = field(default=None, init=False)  #: of slaves, if it was set
    _restarts: int = field(default=0, init=False)  # number of the last RestartWorkers

    def open_kernel(self, slave: str, now: float) -> int:
        """Have a slave open a Jupyter kernel. Returns the request number under which `kernels` settles it.

        Raises ConfigurationError, which lists the slaves, if there is none of that name.
        """
        session_id = self._slave_named(slave).session_id
        message = self.kernels.ask(session_id, slave, now)
        self.dispatch.send(session_id, message)
        return message.request

    def _slave_named(self, name: str) -> Peer:
        """Return a slave that has joined. Raises ConfigurationError, which lists the slaves, if there is none."""
        slaves = {peer.name: peer for peer in self.peers.values() if peer.role == "slave" and peer.joined}
        if name not in slaves:
            there = ", ".join(sorted(slaves)) or "none"
            raise ConfigurationError(f"there is no slave {name[:100]!r}; the slaves are: {there}")
        return slaves[name]

    def drain_slave(self, name: str, now: float) -> int:
        """Assign nothing to a slave any more; it ends when its running tasks have ended. Returns how many tasks it has.

        Those that have not started run elsewhere. Raises ConfigurationError if there is no slave of that name.
        """
        peer = self._slave_named(name)
        slave = self.scheduler.slaves.get(peer.session_id)
        if not peer.is_draining:
            peer.is_draining, peer.slots = True, 0
            self.dispatch.send(peer.session_id, m.Drain())
            self.emit(e.SlaveResized(peer.session_id, 0, 0))
            self.decide(now)
        return 0 if slave is None else len(slave.tasks)

    def find_slave(self, name: str) -> tuple[NodeInfo, int]:
        """Return where a slave runs, and how many tasks it has. Raises as `drain_slave`."""
        peer = self._slave_named(name)
        slave = self.scheduler.slaves.get(peer.session_id)
        return peer.info, 0 if slave is None else len(slave.tasks)

    def cancel(self, job_id: JobId, indexes: Sequence[int] | None, owner: str | None, now: float) -> int:
        """Cancel tasks of a job, or with `indexes` None all, those that still come included.

        Args:
            job_id: the job.
            indexes: of its tasks.
            owner: whose job it must be; None for an admin.
            now: the time.

        Returns how many tasks are being cancelled. Of a detached job that has ended, results and output are dropped.
        Raises ConfigurationError if there is no such job, or task without an outcome, or if the job is another's, which
        looks the same.
        """
        if indexes is None and self.detached.free(job_id, owner):
            self.decide(now)
            return 0
        job = self._job_of(job_id, owner, "cancel")
        tasks = job.tasks.values() if indexes is None else [job.tasks[at] for at in indexes if at in job.tasks]
        open_tasks = [task for task in tasks if task.outcome is None]
        if indexes is not None and not open_tasks:
            raise ConfigurationError(
                f"job {job_id.hex()} has no task {', '.join(map(str, indexes))} at the master that has not ended"
            )
        self.emit(e.CancelRequested(None, job_id, indexes))
        self.decide(now)
        return len(open_tasks)

    def _job_of(self, job_id: JobId, owner: str | None, may: str) -> JobRecord:
        """Return a job. Raises ConfigurationError if there is none, or with `owner`, none of this principal."""
        job = self.scheduler.jobs.get(job_id)
        if job is None or owner not in (None, job.owner):
            raise ConfigurationError(
                f"there is no job {job_id.hex()} that this caller may {may}: it has ended and its results are taken, "
                "it is another user's, or it never was; `concurrent-nb jobs` lists the jobs"
            )
        return job

    def sample_stack(self, job_id: JobId, index: int, owner: str | None, now: float) -> int:
        """Ask what a running task is doing. Returns the request number under which `stacks` settles it.

        Args:
            job_id: the job.
            index: of the task in it.
            owner: whose job it must be; None for an admin.
            now: the time.

        Raises ConfigurationError as `cancel`, and StackUnavailable if no slave has the task.
        """
        job = self._job_of(job_id, owner, "see")
        task = job.tasks.get(index)
        if task is None:
            raise StackUnavailable(
                f"job {job_id.hex()} has no task {index} at the master: it has ended and its result is taken, or its"
                " application has not sent it yet"
            )
        if why := why_not_running(task):
            raise StackUnavailable(f"task {task.name} does not run: {why}")
        assert task.slave is not None
        message = self.stacks.ask(task, self.scheduler.slaves[task.slave].name, now)
        self.dispatch.send(task.slave, message)
        return message.request

    def read_tasks(self, job_id: JobId | None, since: int, owner: str | None) -> TaskPage:
        """Return records of the task log from number `since` on: those of a job, or with None of all jobs.

        With `owner`, only of jobs of this owner. Raises ConfigurationError for a job that is another's, or unknown.
        """
        clients = [peer for peer in self.peers.values() if peer.role == "client" and peer.parent is None]
        names = {peer.key.decode(): peer.name for peer in clients}
        ended = self.scheduler.ended_jobs
        return page_of(self.scheduler.task_log, self.scheduler.jobs, ended, job_id, owner, since, names)

    def set_log_level(self, level: m.LogLevel) -> int:
        """Have all slaves, later ones too, log what is at least as severe. Returns how many slaves there are."""
        self.log_level = level
        slaves = [peer for peer in self.peers.values() if peer.role == "slave" and peer.joined]
        for peer in slaves:
            self.dispatch.send(peer.session_id, m.SetLogLevel(level))
        return len(slaves)

    def restart_workers(self, *, stop: bool) -> int:
        """Have all slaves replace their workers. Returns how many those are; `status` reports the progress.

        A running task ends first; with `stop` it is stopped and runs again.
        """
        self._restarts += 1
        workers = 0
        for peer in self.peers.values():
            if peer.role == "slave" and peer.slots and peer.joined:
                peer.outdated, peer.restart = peer.slots, self._restarts
                workers += peer.slots
                self.dispatch.send(peer.session_id, m.RestartWorkers(self._restarts, stop))
        return workers
