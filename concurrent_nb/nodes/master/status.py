"""The status of a cluster, for people and for the control channel. A part of `nodes.master.core`."""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final

from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.nodes.master.detached_jobs import DetachedJob, DetachedJobs
from concurrent_nb.nodes.master.graph_view import describe_graphs, shown_graphs
from concurrent_nb.nodes.master.peers import Peer
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.tasks.task_record import JobRecord, TaskRecord
from concurrent_nb.wire.codec import size_of

#: most clients, and most jobs, that a status lists; it contains the number of the others
LISTED_MAX: Final = 500
#: most tasks with deaths of their workers or slaves that a status lists
SUSPECTS_MAX: Final = 100


def describe(
    peers: Mapping[SessionId, Peer],
    scheduler: Scheduler,
    detached: DetachedJobs,
    now: float,
    asker: Peer | None,
    *,
    sees_all: bool,
) -> dict[str, Any]:
    """Return slaves, clients, jobs, graphs and task counts, without nodes that have not joined: they may be fake.

    Args:
        peers: the registered nodes.
        scheduler: the scheduler.
        detached: the detached jobs, of which those that have ended are listed, too.
        now: the time, in seconds.
        asker: the application that asks: the jobs and the graph of its owner are listed.
        sees_all: list those of all owners.
    """
    joined = [peer for peer in peers.values() if peer.joined]
    clients = [peer for peer in joined if peer.role == "client"]
    owner = asker.key.decode() if asker is not None and asker.role == "client" else None
    jobs = [job for job in scheduler.jobs.values() if sees_all or job.owner == owner]
    over = [job for job in detached.jobs.values() if job.id not in scheduler.jobs and (sees_all or job.owner == owner)]
    graphs = [graph for graph in shown_graphs(scheduler, now) if sees_all or graph.owner == owner]
    paused = scheduler.paused
    assigned = Counter(task.job.id for slave in scheduler.slaves.values() for task in slave.tasks)
    return {
        "slaves": [
            {
                "name": peer.name,
                "slots": peer.slots,
                "done": peer.done,
                "fetched_bytes": peer.memory.fetched_bytes,
                "outdated": peer.outdated,
                "cores": peer.info.cores,
                **_whereabouts(peer, now),
                **load_of(peer, scheduler),
            }
            for peer in joined
            if peer.role == "slave"
        ],
        "clients": [{"name": peer.name, "done": peer.done, **_whereabouts(peer, now)} for peer in clients[:LISTED_MAX]],
        "more_clients": max(0, len(clients) - LISTED_MAX),
        "jobs": [
            *(_describe_kept(detached, job, owner, now) for job in over[-LISTED_MAX:]),
            *(
                {
                    **_describe_job(peers, job, assigned[job.id], owner, now, paused.get(job.owner, 0)),
                    **_describe_if_detached(detached, job, now),
                }
                for job in jobs[-LISTED_MAX:]
            ),
        ],
        "more_jobs": max(0, len(jobs) - LISTED_MAX) + max(0, len(over) - LISTED_MAX),
        "detached": detached.describe(),
        "other_jobs": len(scheduler.jobs) - len(jobs),
        "graphs": describe_graphs(peers, scheduler, graphs),
        "suspects": _describe_suspects(scheduler, {job.id for job in jobs}),
        "tasks": _count_tasks(scheduler, scheduler.jobs.values()),
    }


def _whereabouts(peer: Peer, now: float) -> dict[str, Any]:
    return {"host": peer.info.host, "pid": peer.info.pid, "uptime_s": now - peer.since}


def load_of(peer: Peer, scheduler: Scheduler) -> dict[str, Any]:
    """Return state and load of a slave, and the load of its host as it has reported it."""
    slave, load = scheduler.slaves.get(peer.session_id), peer.load
    host = {
        "load": None if load is None else load.load,
        "memory_used_bytes": None if load is None else load.memory_used_bytes,
        "memory_total_bytes": None if load is None else load.memory_total_bytes,
    }
    if slave is None:
        return {"in_flight": 0, "busy": 0, "state": "joining", **host}
    state = "draining" if not slave.slots else "active" if slave.trusted else "suspected"
    busy = min(slave.load, slave.slots)
    return {"in_flight": len(slave.tasks) + len(slave.unconfirmed), "busy": busy, "state": state, **host}


def _describe_job(
    peers: Mapping[SessionId, Peer], job: JobRecord, assigned: int, owner: str | None, now: float, untaken_bytes: int
) -> dict[str, Any]:
    client = peers.get(job.client) if job.client is not None else None
    left = len(job.tasks)
    kept = [task for task in job.kept.values() if task.outcome is not None]
    at_rest = "keeping" if kept else "idle"
    state = at_rest if not left else "stopping" if job.ended else "running" if assigned else "waiting"
    return {
        "id": job.id.hex(),
        "name": job.name,
        "client": None if client is None else client.name,
        "mine": job.owner == owner,
        "state": state,
        "tasks": job.accepted,
        "done": job.accepted - left,
        "assigned": assigned,
        "untaken_bytes": untaken_bytes,  # of results, if its tasks wait until these are acknowledged; else 0
        "kept": len(kept),  # results that stay in the cluster
        "kept_bytes": sum(map(_bytes_of, kept)),
        "age_s": now - job.opened_s,
        "notebook": job.notebook,
        "line": job.line,
    }


def _describe_if_detached(detached: DetachedJobs, job: JobRecord, now: float) -> dict[str, Any]:
    kept = detached.jobs.get(job.id)
    return {"detached": False} if kept is None else detached.describe_job(kept, now)


def _describe_kept(detached: DetachedJobs, job: DetachedJob, owner: str | None, now: float) -> dict[str, Any]:
    """Describe a detached job that has ended."""
    return {
        "id": job.id.hex(),
        "name": job.name,
        "client": None,
        "mine": job.owner == owner,
        "state": "kept",
        "tasks": job.tasks,
        "done": job.tasks,
        "assigned": 0,
        "untaken_bytes": 0,
        "age_s": now - job.opened_s,
        "notebook": job.notebook,
        "line": job.line,
        **detached.describe_job(job, now),
    }


def _bytes_of(task: TaskRecord) -> int:
    """Return the size of a kept result, 0 while there is none."""
    outcome = task.outcome
    return 0 if outcome is None else len(outcome.body) + sum(map(size_of, outcome.sizes))


def _describe_suspects(scheduler: Scheduler, jobs: set[JobId]) -> list[dict[str, Any]]:
    """Describe unfinished tasks of these jobs with deaths of their workers or slaves."""
    suspects = []
    for task in islice((task for task in scheduler.blamed if task.job.id in jobs), SUSPECTS_MAX):
        slave = None if task.slave is None else scheduler.slaves[task.slave].name
        does = "waits for a slave" if slave is None else f"is on slave {slave}"
        alone = "alone, because one of its deaths cost a slave" if task.suspect else "beside others"
        suspects.append({"task": task.name, "state": f"{does}, to run {alone}", "deaths": list(task.deaths)})
    return suspects


def _count_tasks(scheduler: Scheduler, jobs: Iterable[JobRecord]) -> dict[str, int]:
    assigned = sum(len(slave.tasks) for slave in scheduler.slaves.values())
    unforgotten = sum(len(job.tasks) for job in jobs)
    waiting = scheduler.waiting
    blocked = scheduler.blocked
    return {
        "jobs": len(scheduler.jobs),
        "waiting": waiting,
        "blocked": blocked,
        "assigned": assigned,
        "kept": unforgotten - waiting - blocked - assigned,
    }
