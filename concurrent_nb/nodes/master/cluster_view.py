"""The cluster as its live feed shows it: slaves, jobs, graphs, running tasks. Called for each tick of the feed."""

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import islice
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final

from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.nodes.master.graph_view import describe_graphs, shown_graphs
from concurrent_nb.nodes.master.peers import Peer
from concurrent_nb.nodes.master.status import load_of
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.tasks.task_record import JobRecord
from concurrent_nb.telemetry.feed_state import ENDED_S, RUNNING_MAX, ClusterView, RunningTask

#: most jobs of one owner, and of all, that have not ended and are listed: the newest
JOBS_OF_OWNER_MAX, JOBS_MAX = 1000, 5000
#: most jobs that have ended and are listed
ENDED_MAX: Final = 200
#: most running tasks of one slave that are listed
RUNNING_OF_SLAVE_MAX: Final = 100
#: most slaves that a launcher has started and that have not joined, and most characters of the place of a slave
LAUNCHED_MAX: Final = 1000
PLACE_MAX: Final = 200
#: states of these slaves, as `nodes.launchers.launcher.LaunchState` names them
_QUEUED, _ENDED = "queued", "ended"
_JOB_OF: Final = attrgetter("job")


def view_of(
    peers: Mapping[SessionId, Peer],
    scheduler: Scheduler,
    now: float,
    ended: Mapping[str, dict[str, Any]],
    version_of: Callable[[JobId], int],
    measured: int = 0,
    launched: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> ClusterView:
    """Return what readers of the feed may see; they get the parts that are theirs.

    Args:
        peers: the registered nodes.
        scheduler: the scheduler.
        now: the time, in seconds.
        ended: jobs that have ended, as the feed has them: they are not described again.
        version_of: returns the version of the view that was shared of a job.
        measured: number of reports of what tasks have measured.
        launched: state and place of the slaves that a launcher has started, by name.
    """
    joined = [peer for peer in peers.values() if peer.joined]
    slaves = {
        peer.name: _describe_slave(peer, scheduler, launched.get(peer.name, {}).get("place", ""))
        for peer in joined
        if peer.role == "slave"
    }
    assigned, running = _count_assigned(scheduler)
    jobs: dict[str, dict[str, Any]] = {}
    owners: dict[str, str] = {}
    for job in listed_ended(scheduler, now):
        key, version = job.id.hex(), version_of(job.id)
        known = ended.get(key)
        # A job may be opened again, and end again; its last view comes after its end.
        if known is None or (known["ended_s"], known["view_version"]) != (job.forgotten_s, version):
            known = _describe_job(peers, job, 0, version)
        jobs[key] = known
        owners[key] = job.owner
    listed = _listed(scheduler)
    for job in listed:
        key = job.id.hex()
        jobs[key], owners[key] = _describe_job(peers, job, assigned[job], version_of(job.id)), job.owner
    on_slaves = sum(assigned.values())
    waiting = scheduler.waiting + scheduler.blocked
    kept = sum(len(job.tasks) for job in scheduler.jobs.values()) - waiting - on_slaves
    totals = {
        "waiting": waiting,
        "assigned": on_slaves,
        "kept": kept,
        "done": len(scheduler.task_log),
        "failed": scheduler.failed,
        "cancelled": scheduler.cancelled,
        "slots": sum(slave["slots"] for slave in slaves.values()),
        "busy": sum(slave["busy"] for slave in slaves.values()),
        "clients": sum(peer.role == "client" for peer in joined),
        "measured": measured,
    }
    for name, launch in islice(launched.items(), LAUNCHED_MAX):
        if name not in slaves and launch["state"] != _ENDED:
            slaves[name] = _describe_launched(name, launch)
    present = shown_graphs(scheduler, now)
    graphs = {graph["id"]: graph for graph in describe_graphs(peers, scheduler, present)}
    graph_owners = {str(graph.number): graph.owner for graph in present}
    others = len(scheduler.jobs) - len(listed)
    return ClusterView(totals, slaves, jobs, owners, running, others, graphs, graph_owners)


def listed_ended(scheduler: Scheduler, now: float) -> list[JobRecord]:
    """Return the newest jobs that have ended, for a while."""
    newest = [*scheduler.ended_jobs.values()][-ENDED_MAX:]
    return [job for job in newest if job.forgotten_s is not None and now - job.forgotten_s <= ENDED_S]


def _describe_slave(peer: Peer, scheduler: Scheduler, place: str) -> dict[str, Any]:
    return {
        "name": peer.name,
        "host": peer.info.host,
        "place": place[:PLACE_MAX],
        "pid": peer.info.pid,
        "cores": peer.info.cores,
        "slots": peer.slots,
        "done": peer.done,
        "since_s": peer.since,
        **load_of(peer, scheduler),
    }


def _describe_launched(name: str, launch: Mapping[str, str]) -> dict[str, Any]:
    """Return what is known of a slave that has not joined; one whose process runs is about to."""
    state = "queued" if launch["state"] == _QUEUED else "starting"
    numbers = ("pid", "cores", "slots", "done", "since_s", "in_flight", "busy")
    host = dict.fromkeys(("load", "memory_used_bytes", "memory_total_bytes"))
    place = launch["place"][:PLACE_MAX]
    return {"name": name, "host": "", "place": place, "state": state, **dict.fromkeys(numbers, 0), **host}


def _describe_job(peers: Mapping[SessionId, Peer], job: JobRecord, assigned: int, view_version: int) -> dict[str, Any]:
    client = peers.get(job.client) if job.client is not None else None
    left = job.accepted - job.sums.ended
    state = "stopping" if job.ended else "running" if assigned else "waiting"
    return {
        "id": job.id.hex(),
        "name": job.name,
        "client": None if client is None else client.name,
        "mine": False,
        "state": "ended" if job.forgotten_s is not None else state if left else "idle",
        "tasks": job.accepted,
        "done": job.sums.ended,
        "failed": job.sums.failed,
        "cancelled": job.sums.cancelled,
        "is_cancelled": job.is_cancelled,
        "assigned": assigned,
        "opened_s": job.opened_s,
        "ended_s": job.forgotten_s,
        "notebook": job.notebook,
        "cell": job.cell,
        "view_version": view_version,
    }


def _count_assigned(scheduler: Scheduler) -> tuple[Counter[JobRecord], list[RunningTask]]:
    """Return the number of assigned tasks of each job, and the tasks that were reported to run."""
    assigned: Counter[JobRecord] = Counter()
    running: list[RunningTask] = []
    busy = [job for job in scheduler.jobs.values() if job.sums.ended < job.accepted]
    if len(busy) == 1:  # as at most times: all tasks are its own, and need not be looked at
        assigned[busy[0]] = sum(len(slave.tasks) for slave in scheduler.slaves.values())
    for slave in scheduler.slaves.values():
        if len(busy) > 1:
            assigned.update(map(_JOB_OF, slave.tasks))
        most = min(len(running) + min(RUNNING_OF_SLAVE_MAX, slave.started), RUNNING_MAX)
        # Slaves start tasks in the order in which they got them, so those that run are among the first.
        for task in islice(slave.tasks, 8 * slave.slots + RUNNING_OF_SLAVE_MAX):
            if len(running) >= most:
                break
            if task.started:
                job = task.job
                running.append(
                    RunningTask(job.owner, job.id.hex(), task.index, slave.name, task.started_s, task.worker)
                )
    return assigned, running


def _listed(scheduler: Scheduler) -> list[JobRecord]:
    """Return the newest jobs of each owner, the oldest first."""
    if len(scheduler.jobs) <= JOBS_OF_OWNER_MAX:
        return list(scheduler.jobs.values())
    counts: Counter[str] = Counter()
    listed: list[JobRecord] = []
    for job in reversed(list(scheduler.jobs.values())):
        counts[job.owner] += 1
        if counts[job.owner] <= JOBS_OF_OWNER_MAX:
            listed.append(job)
            if len(listed) == JOBS_MAX:
                break
    return listed[::-1]
