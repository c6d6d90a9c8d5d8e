"""What a slave does in each turn of its poll loop, without sockets, processes and clocks.

    events -> SlaveLoop.turn: link -> SlaveCore -> workers -> SlaveCore -> link -> Verdict

Called by `process`, which waits with a poller, and by the simulator, which waits in virtual time.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from typing import Final, Protocol

from concurrent_nb.nodes.common.session_loop import MasterLink, Verdict
from concurrent_nb.nodes.slave.core import SlaveCore, WorkerPool
from concurrent_nb.wire.messages import CLUSTER_STOPPED
from concurrent_nb.workers.protocol.records import ClusterAt

log = logging.getLogger(__name__)

#: unfinished tasks that a slave may accept at most; the master refuses a slave that offers more
CREDIT_MAX: Final = 1_000_000


class LoopPool(Protocol):
    """What the loop needs of the slave's workers; its core needs more (`core.WorkerPool`)."""

    @property
    def usable_slots(self) -> int:
        """Return how many tasks can run at once."""

    @property
    def unfinished(self) -> int:
        """Return how many attempts have no outcome yet."""

    def drain(self, now: float) -> None:
        """Return what has not started, now and from now on; what runs may end."""

    def next_deadline(self) -> float | None:
        """Return when the workers need a turn at the latest; None if only an event can change something."""


class SlavePool(WorkerPool, LoopPool, Protocol):
    """The workers of a slave: `workers.slave_side.pool.Pool`, or those of an engine (`engines.engine_pool`)."""

    fds_version: int  #: changes whenever `fds` does
    cluster: ClusterAt | None  #: the slave's, for applications in tasks

    @property
    def initializer_failed(self) -> bool:
        """Return whether no worker is started any more because of the user's initializer."""

    def start(self, now: float) -> None:
        """Start the workers. Tasks may be assigned immediately."""

    def fds(self) -> dict[int, int]:
        """Return the descriptors to poll, each with its events."""

    def ready(self, fd: int, events: int, now: float) -> None:
        """Handle the events of a descriptor."""

    def tick(self, now: float) -> None:
        """Handle the passing of time; called at `next_deadline`."""

    def reset(self, now: float) -> None:
        """Forget all tasks, reports, functions and shared memory: the session is over."""

    def close(self) -> None:
        """Stop what runs, and leave no process."""


@dataclass(eq=False)
class SlaveLoop:
    """The turns of a slave in one session.

    Args:
        core: the session's.
        pool: the workers.
        turn_pool: handles the events of workers; called with events by descriptor, and the time.
        link: to the master.
        silence_s: after this long without an envelope of the master, it is asked whether it still has the session.
        credit_per_slot: unfinished tasks that the slave accepts for each slot.
        slots: the number that was registered at the master.
        now: when the session begins.
    """

    core: SlaveCore
    pool: LoopPool
    turn_pool: Callable[[Mapping[int, int], float], None]
    link: MasterLink
    silence_s: float
    credit_per_slot: int
    slots: int
    now: InitVar[float]
    is_draining: bool = field(default=False, init=False)
    _received_at: float = field(init=False)

    def __post_init__(self, now: float) -> None:
        self._received_at = now

    def next_deadline(self) -> float:
        """Return when `turn` is to be called at the latest."""
        deadline = self.core.next_deadline()
        pool_deadline = self.pool.next_deadline()
        return deadline if pool_deadline is None else min(deadline, pool_deadline)

    def drain(self, now: float) -> None:
        """Accept no more tasks, and leave when those that run have ended and the master has their outcomes."""
        self.is_draining = True
        self.core.resize(0, 0)
        self.core.drain()
        self.pool.drain(now)

    def confirmed(self, now: float) -> None:
        """Go on after `Verdict.ASK`: the master still has the session."""
        self._received_at = now

    def turn(self, ready: Mapping[int, int], cut: bool, now: float) -> Verdict:
        """Handle what has happened, and send what is due.

        Return LEAVE if no worker can be kept alive (`core.degraded`) or the slave is drained, END if the cluster has
        been stopped.

        Args:
            ready: events of the workers, by descriptor.
            cut: whether the connection to the master was cut since the last turn.

        Raises what `SlaveCore` and the workers raise, ProtocolError among it; the session is over then.
        """
        core, link, pool = self.core, self.link, self.pool
        for frames in link.receive():
            self._received_at = now
            core.received(frames, now)
        if core.closed_by_master is not None:
            log.warning("the master ended the session: %s", core.closed_by_master)
            return Verdict.END if core.closed_by_master == CLUSTER_STOPPED else Verdict.REJOIN
        if core.drain_requested and not self.is_draining:
            log.info("the master has asked this slave to leave when its running tasks have ended")
            self.drain(now)
        self.turn_pool(ready, now)
        if pool.usable_slots != self.slots and not self.is_draining:
            self.slots = pool.usable_slots
            core.resize(self.slots, credit_of(self.slots, self.credit_per_slot))
        for envelope in core.step(now):
            link.send(envelope)
        if core.degraded or (self.is_draining and not pool.unfinished and core.all_acknowledged):
            return Verdict.LEAVE
        if cut or now - self._received_at > self.silence_s:
            return Verdict.ASK
        return Verdict.STAY


def credit_of(slots: int, credit_per_slot: int) -> int:
    """Return how many unfinished tasks a slave with so many slots accepts."""
    return min(CREDIT_MAX, slots * credit_per_slot)
