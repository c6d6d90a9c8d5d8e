"""The master's record of each registered node. A part of `master_core`."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Final

from concurrent_nb.ids import SessionId
from concurrent_nb.nodes.master.client_limits import Usage
from concurrent_nb.nodes.master.client_output import ClientOutput
from concurrent_nb.nodes.master.shared_memory import PeerMemory
from concurrent_nb.scheduling import instructions as i
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.session import Session


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """Where a node is, as it says: shown to people, believed by nobody."""

    host: str = ""
    pid: int = 0
    cores: int = 0  #: that a slave may use


#: of a node that tells nothing
UNKNOWN_NODE: Final = NodeInfo()


@dataclass(eq=False, slots=True)
class Peer:
    """A registered node."""

    session_id: SessionId
    role: str  #: "client" or "slave"
    key: bytes  #: its CURVE public key, z85; a client's principal
    name: str
    session: Session
    memory: PeerMemory
    secret: str = ""  #: what proves on the control channel that a caller has this session
    functions: set[bytes] = field(default_factory=set)  #: digests that a slave has
    slots: int = 0
    credit: int = 0
    joined: bool = False  #: it has said something on the compute channel, so it has the key that it has registered
    comes_back: bool = True  #: if a client's connection has broken, its jobs wait for it
    is_alive: Callable[[], bool] = lambda: True  #: whether a client's process is there, as far as can be seen from here
    replaces: SessionId | None = None  #: a client's former session, until this one is heard
    is_silent: bool = False  #: nothing was heard of it for a while
    usage: Usage = field(default_factory=Usage)  #: what its key makes the master hold
    output: ClientOutput = field(default_factory=ClientOutput)  #: what tasks have written for a client
    delayed: "deque[i.DeliverOutcomes]" = field(
        default_factory=deque
    )  #: what has to be copied for a client, when it has room
    is_full: bool = False  #: so much is copied for a slave, and not taken yet, that it gets no more tasks
    refused: dict[bytes, str] = field(default_factory=dict)  #: functions that were not taken, and why
    done: int = 0  #: outcomes that it has sent or got
    outdated: int = 0  #: workers of a slave that are still to be replaced, after a restart
    info: NodeInfo = UNKNOWN_NODE
    since: float = 0.0  #: when it registered
    load: m.HostLoad | None = None  #: how busy a slave's host is, as it last said
    sent_s: float = 0.0  #: when we last said something to it
    next_due_s: float = inf  #: when to look at it again at the latest
