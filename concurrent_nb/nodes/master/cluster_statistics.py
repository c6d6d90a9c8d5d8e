"""The statistics of a job and of the cluster, for the control channel. A part of `nodes.master.core`.

All numbers are in seconds and bytes. Those of a job come from its sums, so they are exact for any number of tasks; run
times and shares that `sample` returns are those of the last tasks in the log.
"""

from collections.abc import Mapping
from typing import Any, Final

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.nodes.master.peers import Peer
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.tasks.task_log import TaskLog
from concurrent_nb.tasks.task_record import JobRecord
from concurrent_nb.telemetry.statistic import Statistic

#: most jobs that the statistics of the cluster list, the newest
LISTED_MAX: Final = 100
#: how many of the last tasks in the log a sample is taken from
SAMPLE_TASKS: Final = 20_000


def job_statistics(scheduler: Scheduler, now: float, job_id: JobId, owner: str | None) -> dict[str, Any]:
    """Return the statistics of a job.

    Args:
        scheduler: the scheduler.
        now: the time, in seconds.
        job_id: of a job that the master has, or has forgotten not long ago.
        owner: who asks, and gets its own jobs only. None: those of all owners.

    Raises ConfigurationError if there is no such job of that owner.
    """
    job = scheduler.jobs.get(job_id) or scheduler.ended_jobs.get(job_id)
    if job is None or owner not in (None, job.owner):
        raise ConfigurationError(
            f"there is no job {job_id.hex()[:32] or '(none)'} of yours: `status` lists the jobs; those that ended"
            " long ago are forgotten"
        )
    return _describe(scheduler, job, now)


def cluster_statistics(
    peers: Mapping[SessionId, Peer], scheduler: Scheduler, now: float, owner: str | None
) -> dict[str, Any]:
    """Return the statistics of each slave, and of the last jobs: of `owner`, or of all owners (None)."""
    slaves = {}
    for peer in peers.values():
        if peer.role != "slave" or not peer.joined:
            continue
        state = scheduler.slaves.get(peer.session_id)
        slaves[peer.name] = {
            "host": peer.info.host,
            "slots": peer.slots,
            "tasks": peer.done,
            "run_s": 0.0 if state is None else state.run_s,
            "uptime_s": now - peer.since,
        }
    jobs = [*scheduler.ended_jobs.values(), *scheduler.jobs.values()]
    visible = [job for job in jobs if (job.sums.ended or job.tasks) and owner in (None, job.owner)]
    visible.sort(key=lambda job: job.opened_s)
    time = scheduler.slot_time(now)
    return {
        "slaves": slaves,
        "jobs": [_describe(scheduler, job, now) for job in visible[-LISTED_MAX:]],
        "more_jobs": max(0, len(visible) - LISTED_MAX),
        "tasks": len(scheduler.task_log),
        "slot_s": time.slot_s,
        "idle_slot_s": time.idle_slot_s,
    }


def sample(log: TaskLog, job_id: JobId) -> dict[str, Any]:
    """Return run times, and shares of slaves, workers and functions, of the tasks of a job in a log."""
    run_time = Statistic()
    slaves: dict[str, list[float]] = {}
    workers: dict[str, list[float]] = {}
    functions: dict[str, list[float]] = {}
    for times in log.read():
        if times.job != job_id:
            continue
        elapsed_s = times.elapsed_s
        run_time.add(elapsed_s)
        worker = f"{times.slave}/{times.worker}" if times.slave else ""
        for shares, name in ((slaves, times.slave), (workers, worker), (functions, times.function)):
            if name:
                share = shares.setdefault(name, [0, 0.0])
                share[0] += 1
                share[1] += elapsed_s
    return {"run_time": run_time.as_dict(), "slaves": slaves, "workers": workers, "functions": functions}


def _describe(scheduler: Scheduler, job: JobRecord, now: float) -> dict[str, Any]:
    sums = job.sums
    return {
        "id": job.id.hex(),
        "name": job.name,
        "notebook": job.notebook,
        "cell": job.cell,
        "unfinished": len(job.tasks) - (sums.ended - sums.acknowledged),
        "graph": [[*pair, count] for pair, count in job.edges.items()],
        **sums.describe(scheduler.slot_time(now), now),
    }
