"""The graphs of tasks that need results of others, folded by function, for `status` and the live feed."""

from collections import Counter
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

from concurrent_nb.ids import SessionId
from concurrent_nb.nodes.master.peers import Peer
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.tasks.function_graph import FunctionGraph, FunctionNode

#: seconds for which a graph is shown whose tasks have ended, and most graphs that are shown: the newest
SHOWN_S: Final = 600.0
SHOWN_MAX: Final = 50
#: so many tasks of a slave, more than can run there, are looked at to find those that run
_LOOKED_AT: Final = 100


def shown_graphs(scheduler: Scheduler, now: float) -> list[FunctionGraph]:
    """Return the graphs that are shown, the oldest first: those with unfinished tasks, and others for a while."""
    shown = [graph for graph in scheduler.graphs if graph.unfinished or now - graph.rested_s <= SHOWN_S]
    return shown[-SHOWN_MAX:]


def describe_graphs(
    peers: Mapping[SessionId, Peer], scheduler: Scheduler, graphs: list[FunctionGraph]
) -> list[dict[str, Any]]:
    """Return the graphs as builtin values; `client` is the name of an application of the owner, null if it has left."""
    if not graphs:
        return []
    running = _count_running(scheduler) if any(graph.unfinished for graph in graphs) else Counter[FunctionNode]()
    owners = {graph.owner for graph in graphs}
    clients: dict[str, str] = {}
    for peer in peers.values():
        if peer.role == "client" and peer.joined and peer.parent is None and (key := peer.key.decode()) in owners:
            clients[key] = peer.name
    return [
        {"id": str(graph.number), "client": clients.get(graph.owner), **graph.describe(running)} for graph in graphs
    ]


def _count_running(scheduler: Scheduler) -> Counter[FunctionNode]:
    """Count the tasks of each function that were reported to run."""
    running: Counter[FunctionNode] = Counter()
    for slave in scheduler.slaves.values():
        if not slave.started:
            continue
        # Slaves start tasks in the order in which they got them, so those that run are among the first.
        for task in islice(slave.tasks, 8 * slave.slots + _LOOKED_AT):
            if task.started and task.links is not None and task.links.node is not None:
                running[task.links.node] += 1
    return running
