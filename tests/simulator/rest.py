"""When the simulator's cluster is at rest, and what it may have kept by then.

`unrest` tells who still waits for what; `leftovers`, once there is none, what somebody has forgotten to forget. Both
only look. Called by `simulator`.
"""

from collections.abc import Sequence

from concurrent_nb.nodes.master.core import MasterCore
from tests.simulator.actors import ApplicationActor, SlaveActor


def unrest(core: MasterCore, slaves: Sequence[SlaveActor], apps: Sequence[ApplicationActor]) -> list[str]:
    """Tell who does not rest, and why."""
    scheduler = core.scheduler
    restless = [f"{app.name} waits for {len(app.ledger.entries())} tasks" for app in apps if not app.at_rest]
    restless += [f"the master keeps job {job.id.hex()[:4]}" for job in scheduler.jobs.values()]
    for peer in core.peers.values():
        if peer.session.in_flight or peer.session.backlog:
            restless.append(f"{peer.name} has not taken {peer.session.in_flight} + {peer.session.backlog}")
    restless += [f"{slave.name} has {slave.load} attempts" for slave in scheduler.slaves.values() if slave.load]
    for node in (*slaves, *apps):
        if node.alive and (node.session_id not in core.peers or not core.peers[node.session_id].joined):
            restless.append(f"{node.name} is no member")
    for slave in slaves:
        if slave.alive and slave.core is None:
            restless.append(f"{slave.name} looks for the master")
        if slave.alive and slave.crew.unfinished:
            restless.append(f"the crew of {slave.name} has {slave.crew.unfinished} attempts")
        if slave.alive and slave.core is not None and (slave.core.session.in_flight or slave.core.session.backlog):
            restless.append(f"{slave.name} has not been heard")
    return restless


def leftovers(core: MasterCore, slaves: Sequence[SlaveActor]) -> list[str]:
    """Tell what is kept although nobody needs it."""
    kept = []
    # Books that nobody may look into but us: what is there must be there for the next job, and no more.
    kept += core._functions.leftovers()
    if core.scheduler.blamed or core.scheduler.paused:
        kept.append(f"{core.scheduler.blamed} are blamed and {core.scheduler.paused} paused, and there is no job")
    if core.scheduler.waiting:
        kept.append(f"{core.scheduler.waiting} tasks wait, and belong to no job")
    for slave in slaves:
        peer = None if slave.session_id is None else core.peers.get(slave.session_id)
        if slave.alive and peer is not None and peer.functions != slave.crew.functions.keys():
            kept.append(
                f"{slave.name} has {len(slave.crew.functions)} functions, the master thinks {len(peer.functions)}"
            )
    return kept
