"""What a master still holds of a session that is over, or of its key: it should be nothing.

For tests and fuzzers. It only reads.
"""

from concurrent_nb.ids import SessionId
from concurrent_nb.nodes.master.core import MasterCore


def held_for(core: MasterCore, session_id: SessionId, key: bytes) -> list[str]:
    """Return what the master's state holds of a session, or of its key; an empty list if it holds nothing.

    A key with another session, or with an application whose jobs wait for its return, is held.
    """
    scheduler, owner = core.scheduler, key.decode(errors="replace")
    state = scheduler._state
    found = {
        "a peer": session_id in core.peers,
        "a place among peers without an envelope": any(session_id in role for role in core._not_joined.values()),
        "a place among silent peers": session_id in core._silent,
        "a usage": key in core._usages,
        "a check that is scheduled": session_id in core._deadlines,
        "an envelope to be sent": session_id in core._dispatch.touched,
        "a liveness entry": session_id in core._liveness._nodes,
        "requests for a kernel": sum(asked.slave == session_id for asked in core.kernels._pending.values()),
        "questions for a stack": sum(asked.slave == session_id for asked in core.stacks._pending.values()),
        "jobs": sum(job.owner == owner or job.client == session_id for job in scheduler.jobs.values()),
        "a slave": session_id in scheduler.slaves,
        "tasks on it": sum(task.slave == session_id for job in scheduler.jobs.values() for task in job.tasks.values()),
        "tasks that wait": sum(task.job.owner == owner for queue in state.queues for task in queue),
        "tasks on slaves": sum(task.job.owner == owner for slave in scheduler.slaves.values() for task in slave.tasks),
        "an owner's name": session_id in state.owners,
        "an owner who is busy": owner in state.busy,
        "results that are kept": session_id in state.undelivered or owner in state.kept_bytes,
        "an owner who is paused": owner in state.paused,
        "tasks that are blamed": sum(task.job.owner == owner for task in state.blamed),
        "events that it has caused": len(core._peer_events),
        "what others wait for": sum(
            deliver.client == session_id for peer in core.peers.values() for deliver in peer.delayed
        ),
    }
    kept = [f"{count} {what}" if count is not True else what for what, count in found.items() if count]
    return kept + core._functions.held_for(key) + core._memory.held_for(session_id, key)
