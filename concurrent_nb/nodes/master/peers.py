"""The master's record of each registered node. A part of `nodes.master.core`."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.nodes.master.client_limits import Usage
from concurrent_nb.nodes.master.client_output import ClientOutput
from concurrent_nb.nodes.master.shared_memory import PeerMemory
from concurrent_nb.scheduling import instructions as i
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Received
from concurrent_nb.wire.session import Session


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """Where a node runs, as it reports; only shown to people, and never trusted."""

    host: str = ""
    pid: int = 0
    cores: int = 0  #: number of cores that a slave may use


@dataclass(frozen=True, slots=True)
class SlavePlace:
    """Where a launcher has started a slave, as it reports."""

    where: str  #: for people; "" if no launcher has started it
    limit_s: float | None  #: for how long slaves are there; None: unknown, or without a limit


#: most tasks that a slave may have, most slots, and most tasks of an application whose inputs it has announced
CREDIT_MAX: Final = 1_000_000
#: of a slave that no launcher has started
NO_PLACE: Final = SlavePlace("", None)
#: of a node that reports nothing
UNKNOWN_NODE: Final = NodeInfo()


@dataclass(eq=False, slots=True)
class Peer:
    """A registered node."""

    session_id: SessionId
    role: str  #: "client" or "slave"
    key: bytes  #: public key (z85) of the owner of a client's jobs; of a slave, its own
    name: str
    session: Session
    memory: PeerMemory
    link_key: bytes  #: its own CURVE public key, z85: another one than `key` for an application in a task
    secret: str = ""  #: proves on the control channel that a caller has this session
    parent: JobId | None = None  #: the job whose task an application runs in
    parent_slave: str = ""  #: name of the slave that runs this task
    functions: set[bytes] = field(default_factory=set)  #: digests that a slave has
    slots: int = 0
    credit: int = 0
    joined: bool = False  #: its first envelope has arrived, so it has the key that it has registered
    comes_back: bool = True  #: whether a client's jobs wait for it when its connection has broken
    is_alive: Callable[[], bool] = lambda: True  #: whether a client's process exists, as far as is visible
    replaces: SessionId | None = None  #: a client's former session, which ends when this one joins
    is_silent: bool = False  #: it is suspected
    usage: Usage = field(default_factory=Usage)  #: what its key makes the master hold
    output: ClientOutput = field(default_factory=ClientOutput)  #: output of tasks for a client
    #: results that must be copied for a client, until it has acknowledged earlier ones
    delayed: "deque[i.DeliverOutcomes]" = field(default_factory=deque)
    is_full: bool = False  #: a slave gets no tasks until it has acknowledged more of what was copied for it
    refused: dict[bytes, str] = field(default_factory=dict)  #: refused functions, with the reason
    #: inputs of tasks that it has announced and not submitted yet, by job and index
    inputs: dict[tuple[bytes, int], list[tuple[JobId, int]]] = field(default_factory=dict)
    done: int = 0  #: number of outcomes that it has sent or got
    is_draining: bool = False  #: a slave gets no more tasks, and leaves when its running ones have ended
    outdated: int = 0  #: workers of a slave that are still to be replaced, after a restart
    restart: int = 0  #: number of the last RestartWorkers that was sent to a slave
    info: NodeInfo = UNKNOWN_NODE
    since: float = 0.0  #: when it registered
    load: m.HostLoad | None = None  #: last report of a slave on the load of its host
    sent_s: float = 0.0  #: when the last envelope was sent to it
    next_due_s: float = inf  #: when to flush it at the latest


#: handles a message of a peer, at a time
Handler = Callable[[Peer, Any, Received, float], None]


def ids_of(peer: Peer) -> dict[str, str]:
    """Return what a line of the log about a peer is about; its role is the name of the member."""
    return {peer.role: peer.name}
