"""What a master still holds for a session that is over, or for the key that it had: nothing, if all is well.

For tests and fuzzers. It only looks.
"""

from concurrent_nb.ids import SessionId
from concurrent_nb.nodes.master.core import MasterCore


def held_for(core: MasterCore, session_id: SessionId, key: bytes) -> list[str]:
    """List what each book has of a session, or of its key; empty if the books hold nothing of it.

    Whoever has another session of that key, or an application whose jobs wait for its return, is held.
    """
    scheduler, owner = core.scheduler, key.decode(errors="replace")
    books = scheduler._state
    found = {
        "a peer": session_id in core.peers,
        "a place among those that are not heard": any(session_id in role for role in core._not_joined.values()),
        "a place among the silent": session_id in core._silent,
        "a usage": key in core._usages,
        "a look that is planned": session_id in core._deadlines,
        "something to be said": session_id in core._dispatch.touched,
        "a watch": session_id in core._liveness._nodes,
        "requests for a kernel": sum(asked.slave == session_id for asked in core.kernels._pending.values()),
        "jobs": sum(job.owner == owner or job.client == session_id for job in scheduler.jobs.values()),
        "a slave": session_id in scheduler.slaves,
        "tasks on it": sum(task.slave == session_id for job in scheduler.jobs.values() for task in job.tasks.values()),
        "tasks that wait": sum(task.job.owner == owner for queue in books.queues for task in queue),
        "tasks on slaves": sum(task.job.owner == owner for slave in scheduler.slaves.values() for task in slave.tasks),
        "an owner's name": session_id in books.owners,
        "an owner who is busy": owner in books.busy,
        "results that are kept": session_id in books.undelivered or owner in books.kept_bytes,
        "an owner who is paused": owner in books.paused,
        "tasks that are blamed": sum(task.job.owner == owner for task in books.blamed),
        "what it has said": len(core._peer_events),
        "what others wait for": sum(
            deliver.client == session_id for peer in core.peers.values() for deliver in peer.delayed
        ),
    }
    kept = [f"{count} {what}" if count is not True else what for what, count in found.items() if count]
    return kept + core._functions.held_for(key) + core._memory.held_for(session_id, key)
