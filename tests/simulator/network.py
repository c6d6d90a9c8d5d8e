"""A hostile network in virtual time: it loses, duplicates, delays and reorders, is cut, and stalls in one direction.

    Link (a node's end) ==Path, Path== Gate (the master's end)         call: the control channel, over the same paths

`SimulatedLink` and `SimulatedGate` replace the client and the server of `transport.compute`: a link reconnects by
itself and keeps what is sent meanwhile; the gate refuses what is for a peer without a connection. Frames are copied on
the way. Used by the simulator's actors. It does not decode frames; its `listener` is called with each that is sent.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Protocol

from concurrent_nb.errors import MasterUnreachable
from concurrent_nb.wire.codec import Buffer
from tests.simulator.virtual_clock import Action, VirtualClock

Frames = list[memoryview]

#: a link without a connection tries again after this many seconds
RECONNECT_S: Final = 0.2
#: both ends give up a connection over which nothing has arrived for this long
HEARTBEAT_TIMEOUT_S: Final = 6.0
#: most seconds by which a late envelope is late
LATE_S: Final = 8.0


@dataclass(frozen=True, slots=True)
class NetworkConditions:
    """The quality of every path, apart from faults."""

    latency_s: float = 0.0005
    jitter_s: float = 0.0  #: mean of an envelope's extra delay, which makes envelopes overtake each other
    loss: float = 0.0  #: share of envelopes that are lost
    duplicated: float = 0.0  #: share of envelopes that arrive twice
    ordered: bool = True  #: no envelope overtakes another, as in TCP
    late: float = 0.0  #: share of envelopes that take seconds


class EnvelopeListener(Protocol):
    """Observes everything that is sent."""

    def sent(self, session: bytes, upwards: bool, frames: Frames) -> None:
        """Note an envelope that was sent, whether it arrives or not."""


class Path:
    """One direction between a host and the master."""

    def __init__(self, clock: VirtualClock, chance: random.Random, conditions: NetworkConditions) -> None:
        self.conditions = conditions
        self.blocked = ""  #: "lose": all is lost; "stall": all waits until it is open again
        self._clock = clock
        self._chance = chance
        self._stalled: list[tuple[Action, bool]] = []
        self._last_arrival_s = 0.0

    def block(self, how: str) -> None:
        """Let nothing through; `how` is "lose" or "stall"."""
        self.blocked = how

    def open(self) -> None:
        """Let everything through again, and first what has stalled."""
        self.blocked = ""
        stalled, self._stalled = self._stalled, []
        for arrive, whole in stalled:
            self.carry(arrive, whole=whole)

    def carry(self, arrive: Action, *, whole: bool = False) -> None:
        """Call `arrive` at the other end: once, twice or never. `whole`: exactly once, as over TCP."""
        if self.blocked:
            if whole or self.blocked == "stall":
                self._stalled.append((arrive, whole))
            return
        conditions, chance = self.conditions, self._chance
        if not whole and conditions.loss and chance.random() < conditions.loss:
            return
        times = 2 if not whole and conditions.duplicated and chance.random() < conditions.duplicated else 1
        for _ in range(times):
            arrival_s = self._clock.now + conditions.latency_s
            if conditions.jitter_s:
                arrival_s += chance.expovariate(1 / conditions.jitter_s)
            if not whole and conditions.late and chance.random() < conditions.late:
                arrival_s += chance.uniform(0, LATE_S)
            elif conditions.ordered:
                arrival_s = self._last_arrival_s = max(arrival_s, self._last_arrival_s)
            self._clock.at(arrival_s, arrive)


@dataclass(eq=False, slots=True)
class SimulatedHost:
    """The host of a node: its two paths."""

    up: Path
    down: Path

    @property
    def paths(self) -> tuple[Path, Path]:
        """Return both directions."""
        return self.up, self.down


class SimulatedLink:
    """A node's end of the compute channel, in one session."""

    def __init__(self, network: "Network", host: SimulatedHost, session: bytes, key: bytes, wake: Action) -> None:
        self.session = session
        self.key = key
        self.host = host
        self.answered_at = -inf  #: when the master has last refused an envelope with an answer
        self.connection = 0  #: number of the connection; what was underway when one was cut is lost
        self.gate: SimulatedGate | None = None  #: the end to which it is connected
        self._network = network
        self._wake = wake
        self._inbox: deque[Frames] = deque()
        self._unsent: deque[Frames] = deque()
        self._disturbed = False
        self._closed = False
        self._connect()

    def send(self, frames: Sequence[Buffer]) -> bool:
        """Queue frames, which leave as soon as there is a connection."""
        copied = copy(frames)
        self._network.listener.sent(self.session, True, copied)
        self._unsent.append(copied)
        self._leave()
        return True

    def receive(self) -> Iterator[Frames]:
        """Yield the frames of what has arrived."""
        while self._inbox:
            yield self._inbox.popleft()

    def disturbed(self) -> bool:
        """Return whether the connection was cut since the last call."""
        disturbed, self._disturbed = self._disturbed, False
        return disturbed

    def close(self) -> None:
        """Close; what is underway still arrives, and the master notices."""
        if self._closed:
            return
        self._closed = True
        self._inbox.clear()
        if self.gate is not None:
            self.host.up.carry(self.gate.left_by(self), whole=True)
            self.gate = None

    def vanish(self) -> None:
        """Disappear, as a host whose power fails."""
        self._closed = True
        self.connection += 1
        if (gate := self.gate) is not None:
            self._network.clock.after(HEARTBEAT_TIMEOUT_S, gate.left_by(self))

    def cut(self, *, noticed: bool = True) -> None:
        """Lose the connection and everything that is underway."""
        if self.gate is None:
            return
        self.connection += 1
        if noticed:
            self.gate.left_by(self)()
            self._disturbed = True
            self._wake()
        self.gate = None
        self._network.clock.after(RECONNECT_S, self._connect)

    def arrived(self, connection: int, frames: Frames) -> None:
        """Take an envelope, if it came over the current connection."""
        if connection == self.connection and not self._closed:
            self._inbox.append(frames)
            self._wake()

    def _connect(self) -> None:
        if self._closed or self.gate is not None:
            return
        if self.host.up.blocked or self.host.down.blocked or not self._network.reaches(self.session):
            self._network.clock.after(RECONNECT_S, self._connect)
            return
        self.gate = self._network.gate
        assert self.gate is not None
        self.gate.links[self.session] = self
        self._leave()

    def _leave(self) -> None:
        gate, connection = self.gate, self.connection
        while gate is not None and self._unsent:
            frames = self._unsent.popleft()
            self.host.up.carry(lambda frames=frames: gate.arrived(self, connection, frames))  # type: ignore[misc]


class SimulatedGate:
    """The master's end of the compute channel, in one of its lives."""

    def __init__(self, network: "Network", wake: Action) -> None:
        self.links: dict[bytes, SimulatedLink] = {}
        self.closed = False
        self._network = network
        self._wake = wake
        self._inbox: deque[tuple[SimulatedLink, bytes, Frames]] = deque()
        self._left: list[bytes] = []

    def receive(self) -> Iterator[tuple[SimulatedLink, bytes, Frames]]:
        """Yield the link, its session and the frames of what has arrived."""
        while self._inbox:
            yield self._inbox.popleft()

    def bind(self, session: bytes, connection: SimulatedLink) -> None:
        """Do nothing: a link has one session."""

    def answer(self, connection: SimulatedLink, frames: Sequence[Buffer]) -> bool:
        """Send frames over a link. False if it is not connected."""
        return self.send(connection.session, frames)

    def send(self, session: bytes, frames: Sequence[Buffer]) -> bool:
        """Send frames to a peer. False if it is not connected."""
        copied = copy(frames)
        self._network.listener.sent(session, False, copied)
        link = self.links.get(session)
        if link is None:
            return False
        connection = link.connection
        link.host.down.carry(lambda: link.arrived(connection, copied))
        return True

    def take_left(self, has_news: bool = True) -> list[bytes]:
        """Return the sessions whose connection has ended since the last call."""
        left, self._left = self._left, []
        return left

    def arrived(self, link: SimulatedLink, connection: int, frames: Frames) -> None:
        """Take an envelope, unless its connection was cut meanwhile."""
        if not self.closed and connection == link.connection:
            self._inbox.append((link, link.session, frames))
            self._wake()

    def left_by(self, link: SimulatedLink) -> Action:
        """Return what is to be called when a link ends."""

        def left() -> None:
            if self.links.get(link.session) is link:
                del self.links[link.session]
                self._left.append(link.session)
                self._wake()

        return left


class SimulatedCall:
    """A question over the control channel, on its way to the master and back."""

    def __init__(self, question: Callable[[float], Any], host: SimulatedHost, wake: Action) -> None:
        self.done = False
        self._question = question
        self._host = host
        self._wake = wake
        self._answer: Any = None
        self._error: Exception | None = None

    def ask(self, now: float) -> None:
        """Answer it; for the master."""
        answer = self._question(now)
        self._host.down.carry(lambda: self._settle(answer, None), whole=True)

    def refuse(self) -> None:
        """End with MasterUnreachable: no process listens at the other end."""
        self._settle(None, MasterUnreachable("connection refused"))

    def result(self) -> Any:
        """Return the answer. Raises MasterUnreachable if there is none."""
        if self._error is not None or not self.done:
            raise self._error or MasterUnreachable("no answer")
        return self._answer

    def _settle(self, answer: Any, error: Exception | None) -> None:
        if not self.done:
            self.done, self._answer, self._error = True, answer, error
            self._wake()


class Network:
    """All links, and the gate of the current master."""

    def __init__(
        self, clock: VirtualClock, chance: random.Random, conditions: NetworkConditions, listener: EnvelopeListener
    ) -> None:
        self.clock = clock
        self.listener = listener
        self.gate: SimulatedGate | None = None
        self.hosts: list[SimulatedHost] = []
        self.refuses_calls_until_s = 0.0  #: the control channel refuses all calls until then
        self._chance = chance
        self._conditions = conditions
        self._asked: Callable[[SimulatedCall], None] | None = None
        self._known: set[bytes] = set()

    def host(self) -> SimulatedHost:
        """Add a host."""
        paths = [Path(self.clock, self._chance, self._conditions) for _ in range(2)]
        host = SimulatedHost(*paths)
        self.hosts.append(host)
        return host

    def heal(self) -> None:
        """End all faults: every path is good from now on."""
        self._conditions = NetworkConditions()
        self.refuses_calls_until_s = 0.0
        for host in self.hosts:
            for path in host.paths:
                path.conditions = self._conditions
                path.open()

    # --------------------------------------------------------------------------------------------------- the master

    def listen(self, wake: Action, asked: Callable[[SimulatedCall], None], *, same_port: bool) -> SimulatedGate:
        """Start a master. With `same_port`, links to the former master connect to this one."""
        if not same_port:
            self._known.clear()
        self.gate = SimulatedGate(self, wake)
        self._asked = asked
        return self.gate

    def hang_up(self, *, noticed: bool) -> None:
        """End a master. `noticed`: its system closes the connections, because only the process has died."""
        gate, self.gate, self._asked = self.gate, None, None
        if gate is not None:
            gate.closed = True
            for link in list(gate.links.values()):
                link.cut(noticed=noticed)

    def reaches(self, session: bytes) -> bool:
        """Return whether there is a master at the address of a session's link."""
        return self.gate is not None and session in self._known

    # ----------------------------------------------------------------------------------------------------- the nodes

    def connect(self, host: SimulatedHost, session: bytes, key: bytes, wake: Action) -> SimulatedLink:
        """Return a link to the master for a session that has just been registered."""
        self._known.add(session)
        return SimulatedLink(self, host, session, key, wake)

    def call(self, host: SimulatedHost, question: Callable[[float], Any], wake: Action) -> SimulatedCall:
        """Ask the master something over the control channel. `wake` is called when it is `done`."""
        call = SimulatedCall(question, host, wake)

        def arrive() -> None:
            if self._asked is None or self.clock.now < self.refuses_calls_until_s:
                host.down.carry(call.refuse, whole=True)
            else:
                self._asked(call)

        host.up.carry(arrive, whole=True)
        return call


def copy(frames: Sequence[Buffer]) -> Frames:
    """Copy frames, as a network does."""
    return [memoryview(bytes(frame)) for frame in frames]
