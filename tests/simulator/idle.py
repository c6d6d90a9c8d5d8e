"""When the simulated cluster is idle, and what it may keep then.

`busy_reasons` lists what nodes still wait for; `leftovers` lists, in an idle cluster, what a node should have dropped.
Both only read. Called by `simulation`.
"""

from collections.abc import Sequence

from concurrent_nb.nodes.master.core import MasterCore
from tests.simulator.actors import ApplicationActor, SlaveActor


def busy_reasons(core: MasterCore, slaves: Sequence[SlaveActor], apps: Sequence[ApplicationActor]) -> list[str]:
    """Return why the cluster is not idle; an empty list if it is."""
    scheduler = core.scheduler
    reasons = [f"{app.name} waits for {len(app.core.entries())} tasks" for app in apps if not app.is_idle]
    reasons += [f"the master keeps job {job.id.hex()[:4]}" for job in scheduler.jobs.values()]
    for peer in core.peers.values():
        if peer.session.in_flight or peer.session.backlog:
            reasons.append(f"{peer.name} has not acknowledged {peer.session.in_flight} + {peer.session.backlog}")
    reasons += [f"{slave.name} has {slave.load} attempts" for slave in scheduler.slaves.values() if slave.load]
    for node in (*slaves, *apps):
        if node.alive and (node.session_id not in core.peers or not core.peers[node.session_id].joined):
            reasons.append(f"{node.name} is not registered")
    for slave in slaves:
        if slave.alive and slave.core is None:
            reasons.append(f"{slave.name} searches for the master")
        if slave.alive and slave.pool.unfinished:
            reasons.append(f"the pool of {slave.name} has {slave.pool.unfinished} attempts")
        if slave.alive and slave.core is not None and (slave.core.session.in_flight or slave.core.session.backlog):
            reasons.append(f"{slave.name} has envelopes without an acknowledgement")
    return reasons


def leftovers(core: MasterCore, slaves: Sequence[SlaveActor]) -> list[str]:
    """Return what is kept although it is not needed any more."""
    kept = []
    # Private state: it may contain only what the next job needs.
    kept += core._functions.leftovers()
    if core.scheduler.blamed or core.scheduler.paused:
        kept.append(f"{core.scheduler.blamed} are blamed and {core.scheduler.paused} paused, and there is no job")
    if core.scheduler.waiting:
        kept.append(f"{core.scheduler.waiting} tasks wait, and belong to no job")
    if core.scheduler.retained:
        kept.append(f"{core.scheduler.retained} are retained, and no task needs them")
    kept += [f"{peer.name} has announced {peer.inputs}" for peer in core.peers.values() if peer.inputs]
    for slave in slaves:
        peer = None if slave.session_id is None else core.peers.get(slave.session_id)
        if slave.alive and peer is not None and peer.functions != slave.pool.functions.keys():
            kept.append(
                f"{slave.name} has {len(slave.pool.functions)} functions, the master lists {len(peer.functions)}"
            )
    return kept
