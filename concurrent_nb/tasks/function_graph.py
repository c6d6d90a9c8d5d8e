"""The task graph of an owner, folded by function: a node for each function, with the number of its tasks by state.

    a task is linked --> FunctionGraphs.of --> FunctionGraph.node, connect      its state changes --> FunctionNode

Only tasks that need results of others, or whose results others need, are in it. It takes a fixed time for each task and
edge, and its size depends on the number of functions alone, which is limited. A graph is over when none of its tasks
was unfinished for a while; the next one that is linked begins another graph. Pure: called by the scheduler.
"""

from collections.abc import Iterator
from typing import Any, Final

from concurrent_nb.outcome import SUCCESSES, Status

#: most functions of a graph; tasks of all others are summed in one node
FUNCTIONS_MAX: Final = 100
#: most pairs of functions whose edges are counted, of a graph or of a job; those of all others are summed
PAIRS_MAX: Final = 500
#: name of the node, and of both ends of the pair, in which the others are summed
OTHER: Final = "other functions"
#: seconds without an unfinished task after which a graph is over
REST_S: Final = 2.0
#: graphs that are over, and kept to be shown; each owner has one graph
OVER_MAX: Final = 100
#: what a function's name begins with that was defined in another one, up to its own name
_LOCALS: Final = "<locals>."
#: how the name of a cell's function begins
_CELL: Final = "<cell "
#: digests of functions whose nodes are remembered
_REMEMBERED_MAX: Final = 1000
# Numbers, which are found in sets faster than members of an enumeration.
_SUCCESSES: Final = frozenset(map(int, SUCCESSES))


class FunctionNode:
    """The tasks of one function in a graph, by state. All but the blocked and ended ones wait for a worker, or run."""

    __slots__ = ("blocked", "cancelled", "done", "failed", "graph", "name", "tasks")

    def __init__(self, graph: "FunctionGraph", name: str) -> None:
        self.graph = graph
        self.name = name
        self.tasks = 0
        self.blocked = 0  #: they need results of tasks that have not ended
        self.done = 0
        self.failed = 0  #: also because an input has failed
        self.cancelled = 0

    @property
    def unfinished(self) -> int:
        """How many tasks have not ended."""
        return self.tasks - self.done - self.failed - self.cancelled

    def add(self, status: int | None) -> None:
        """Add a task; `status` is that of its outcome, None if it has not ended."""
        self.tasks += 1
        if status is None:
            self.graph.unfinished += 1
        else:
            self._count(status)

    def end(self, status: int, now: float) -> None:
        """Note that a task, which was not blocked, has ended with this status at a time, in seconds."""
        if status in _SUCCESSES:
            self.done += 1
        else:
            self._count(status)
        self.graph.leave(now)

    def remove(self, now: float) -> None:
        """Remove an unblocked task that was handed back to its application, or dropped with its job."""
        self.tasks -= 1
        self.graph.leave(now)

    def _count(self, status: int) -> None:
        if status in _SUCCESSES:
            self.done += 1
        elif status == Status.CANCELLED:
            self.cancelled += 1
        else:
            self.failed += 1


class FunctionGraph:
    """The tasks of one owner that are linked, folded by function.

    Args:
        number: of the graph; no other one of the master has it.
        owner: the public key to which its tasks belong.
        now: when it begins, in seconds.
    """

    def __init__(self, number: int, owner: str, now: float) -> None:
        self.number = number
        self.owner = owner
        self.began_s = now
        self.rested_s = now  #: when its last unfinished task has ended
        self.unfinished = 0  #: tasks
        self.nodes: dict[str, FunctionNode] = {}  #: by name, in the order in which they came
        self.by_digest: dict[bytes, FunctionNode] = {}  #: the last ones, for those who look for a node again
        self.edges: dict[tuple[FunctionNode, FunctionNode], int] = {}  #: from a function to the one that needs it
        self.other_edges = 0  #: edges between further pairs

    def node(self, name: str) -> FunctionNode:
        """Return the node of a function, which is new if it is the first time."""
        node = self.nodes.get(name)
        if node is None:
            if len(self.nodes) >= FUNCTIONS_MAX:
                name = OTHER
            node = self.nodes.setdefault(name, FunctionNode(self, name))
        return node

    def remember(self, digest: bytes, node: FunctionNode) -> None:
        """Note the node of a function, by its digest: one name may be that of thousands of closures."""
        if len(self.by_digest) >= _REMEMBERED_MAX:
            self.by_digest.clear()
        self.by_digest[digest] = node

    def connect(self, source: FunctionNode, target: FunctionNode, count: int) -> None:
        """Add edges: tasks of `target` need results of tasks of `source`."""
        pair = source, target
        if pair in self.edges or len(self.edges) < PAIRS_MAX:
            self.edges[pair] = self.edges.get(pair, 0) + count
        else:
            self.other_edges += count

    def leave(self, now: float) -> None:
        """Note that a task is not unfinished any more."""
        self.unfinished -= 1
        if not self.unfinished:
            self.rested_s = now

    def is_over(self, now: float) -> bool:
        """Return whether no task was unfinished for a while."""
        return not self.unfinished and now - self.rested_s > REST_S

    def describe(self, running: "dict[FunctionNode, int]") -> dict[str, Any]:
        """Return it as builtin values, as `status` and the feed have it; wire/PROTOCOL.md describes them.

        Args:
            running: the number of tasks that are known to run, of each node that has some.
        """
        numbers = {node: number for number, node in enumerate(self.nodes.values())}
        functions = []
        for node in numbers:
            runs = running.get(node, 0)
            waiting = max(0, node.unfinished - node.blocked - runs)
            functions.append(
                [node.name, node.tasks, node.blocked, waiting, runs, node.done, node.failed, node.cancelled]
            )
        return {
            "functions": functions,
            "edges": [[numbers[source], numbers[target], count] for (source, target), count in self.edges.items()],
            "other_edges": self.other_edges,
            "began_s": self.began_s,
            "ended_s": None if self.unfinished else self.rested_s,
        }


class FunctionGraphs:
    """The graph of each owner that has linked tasks: the present one, or the last one."""

    def __init__(self) -> None:
        self._graphs: dict[str, FunctionGraph] = {}
        self._count = 0

    def __iter__(self) -> Iterator[FunctionGraph]:
        return iter(self._graphs.values())

    def of(self, owner: str, now: float) -> FunctionGraph:
        """Return the graph to which a task belongs that an owner links now."""
        graph = self._graphs.get(owner)
        if graph is None or (not graph.unfinished and graph.is_over(now)):
            self._graphs.pop(owner, None)
            if len(self._graphs) >= OVER_MAX:
                self._drop_oldest(now)
            graph = self._graphs[owner] = FunctionGraph(self._count, owner, now)
            self._count += 1
        return graph

    def _drop_oldest(self, now: float) -> None:
        over = next((owner for owner, graph in self._graphs.items() if graph.is_over(now)), None)
        if over is not None:
            del self._graphs[over]


def is_cell(function: str) -> bool:
    """Return whether this is the name of a cell's function."""
    return function.startswith(_CELL)


def node_name(function: str, job: str) -> str:
    """Return the name of a function's node: without the functions around it; of a cell the name of its job.

    >>> node_name("make.<locals>.clean", "a job"), node_name("<cell In[3]>", "In[3]")
    ('clean', 'In[3]')
    """
    return (job or function) if is_cell(function) else function.rpartition(_LOCALS)[2]


def count_edges(edges: dict[tuple[str, str], int], source: str, target: str, count: int) -> None:
    """Add edges to those of a job by the names of both functions; those of too many pairs are summed."""
    pair = source, target
    if pair not in edges and len(edges) >= PAIRS_MAX:
        pair = OTHER, OTHER
    edges[pair] = edges.get(pair, 0) + count
