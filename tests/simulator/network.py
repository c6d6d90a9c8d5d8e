"""A hostile network in virtual time: it loses, doubles, delays and reorders, is cut, and stands still in one direction.

    Link (a node's end) ==Path, Path== Gate (the master's end)         call: the control channel, over the same paths

`SimulatedLink` and `SimulatedGate` stand for the client and the server of `transport.compute`: a link connects by
itself, again and again, and keeps what is sent meanwhile; the gate refuses what is for a peer without a connection.
Frames are copied on the way. Used by the simulator's actors. It never looks into a frame; its `ear` hears each one
that is sent.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Protocol

from concurrent_nb.errors import MasterUnreachable
from concurrent_nb.wire.codec import Buffer
from tests.simulator.agenda import Action, Agenda

Frames = list[memoryview]

#: a link without a connection tries again after this many seconds
RECONNECT_S: Final = 0.2
#: a connection over which nothing has come for this long is given up by both ends
HEARTBEAT_TIMEOUT_S: Final = 6.0
#: what is late is late by so many seconds, at most
LATE_S: Final = 8.0


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad every path is, faults aside."""

    latency_s: float = 0.0005
    jitter_s: float = 0.0  #: mean of what an envelope may take longer; overtaking follows from it
    loss: float = 0.0  #: part of the envelopes that are lost
    doubled: float = 0.0  #: part of the envelopes that come twice
    ordered: bool = True  #: none overtakes another, as in TCP
    late: float = 0.0  #: part of the envelopes that take seconds


class Ear(Protocol):
    """Who is told of everything that is sent."""

    def sent(self, session: bytes, upwards: bool, frames: Frames) -> None:
        """Hear an envelope that leaves, whatever becomes of it."""


class Path:
    """One direction between a host and the master."""

    def __init__(self, agenda: Agenda, chance: random.Random, weather: Weather) -> None:
        self.weather = weather
        self.blocked = ""  #: "lose": all is lost; "stall": all waits until it is open again
        self._agenda = agenda
        self._chance = chance
        self._stalled: list[tuple[Action, bool]] = []
        self._last_arrival_s = 0.0

    def block(self, how: str) -> None:
        """Let nothing through."""
        self.blocked = how

    def open(self) -> None:
        """Let everything through again, and first what has waited."""
        self.blocked = ""
        stalled, self._stalled = self._stalled, []
        for arrive, whole in stalled:
            self.carry(arrive, whole=whole)

    def carry(self, arrive: Action, *, whole: bool = False) -> None:
        """Let `arrive` happen at the other end: once, twice or never. `whole`: once, if late; TCP sees to that."""
        if self.blocked:
            if whole or self.blocked == "stall":
                self._stalled.append((arrive, whole))
            return
        weather, chance = self.weather, self._chance
        if not whole and weather.loss and chance.random() < weather.loss:
            return
        times = 2 if not whole and weather.doubled and chance.random() < weather.doubled else 1
        for _ in range(times):
            arrival_s = self._agenda.now + weather.latency_s
            if weather.jitter_s:
                arrival_s += chance.expovariate(1 / weather.jitter_s)
            if not whole and weather.late and chance.random() < weather.late:
                arrival_s += chance.uniform(0, LATE_S)
            elif weather.ordered:
                arrival_s = self._last_arrival_s = max(arrival_s, self._last_arrival_s)
            self._agenda.at(arrival_s, arrive)


@dataclass(eq=False, slots=True)
class SimulatedHost:
    """Where a node is: its two paths."""

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
        self.connection = 0  #: counts connections; what was underway when one was cut is lost
        self.gate: SimulatedGate | None = None  #: where it is connected to
        self._network = network
        self._wake = wake
        self._inbox: deque[Frames] = deque()
        self._unsent: deque[Frames] = deque()
        self._disturbed = False
        self._closed = False
        self._connect()

    def send(self, frames: Sequence[Buffer]) -> bool:
        """Hand frames to the queue, from where they leave as soon as there is a connection."""
        copied = copy(frames)
        self._network.ear.sent(self.session, True, copied)
        self._unsent.append(copied)
        self._leave()
        return True

    def receive(self) -> Iterator[Frames]:
        """Yield the frames of what has arrived."""
        while self._inbox:
            yield self._inbox.popleft()

    def disturbed(self) -> bool:
        """Say whether the connection was cut since the last call."""
        disturbed, self._disturbed = self._disturbed, False
        return disturbed

    def close(self) -> None:
        """Close; what is underway still arrives. The master notices."""
        if self._closed:
            return
        self._closed = True
        self._inbox.clear()
        if self.gate is not None:
            self.host.up.carry(self.gate.left_by(self), whole=True)
            self.gate = None

    def vanish(self) -> None:
        """Be gone without a word, as a host whose power fails."""
        self._closed = True
        self.connection += 1
        if (gate := self.gate) is not None:
            self._network.agenda.after(HEARTBEAT_TIMEOUT_S, gate.left_by(self))

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
        self._network.agenda.after(RECONNECT_S, self._connect)

    def arrived(self, connection: int, frames: Frames) -> None:
        """Take what has come, if it came over the connection that there is."""
        if connection == self.connection and not self._closed:
            self._inbox.append(frames)
            self._wake()

    def _connect(self) -> None:
        if self._closed or self.gate is not None:
            return
        if self.host.up.blocked or self.host.down.blocked or not self._network.reaches(self.session):
            self._network.agenda.after(RECONNECT_S, self._connect)
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
        self._network.ear.sent(session, False, copied)
        link = self.links.get(session)
        if link is None:
            return False
        connection = link.connection
        link.host.down.carry(lambda: link.arrived(connection, copied))
        return True

    def take_left(self, has_news: bool = True) -> list[bytes]:
        """Give the sessions whose connection has ended since the last call."""
        left, self._left = self._left, []
        return left

    def arrived(self, link: SimulatedLink, connection: int, frames: Frames) -> None:
        """Take what has come, unless its connection was cut meanwhile."""
        if not self.closed and connection == link.connection:
            self._inbox.append((link, link.session, frames))
            self._wake()

    def left_by(self, link: SimulatedLink) -> Action:
        """Give what happens here when a link ends."""

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
        """Nobody listens at the other end."""
        self._settle(None, MasterUnreachable("connection refused"))

    def result(self) -> Any:
        """Give the answer. Raises MasterUnreachable if there is none."""
        if self._error is not None or not self.done:
            raise self._error or MasterUnreachable("no answer")
        return self._answer

    def _settle(self, answer: Any, error: Exception | None) -> None:
        if not self.done:
            self.done, self._answer, self._error = True, answer, error
            self._wake()


class Network:
    """All links, and the gate of the master that lives now."""

    def __init__(self, agenda: Agenda, chance: random.Random, weather: Weather, ear: Ear) -> None:
        self.agenda = agenda
        self.ear = ear
        self.gate: SimulatedGate | None = None
        self.hosts: list[SimulatedHost] = []
        self.deaf_until_s = 0.0  #: the control channel refuses all calls until then
        self._chance = chance
        self._weather = weather
        self._asked: Callable[[SimulatedCall], None] | None = None
        self._known: set[bytes] = set()

    def host(self) -> SimulatedHost:
        """Add a host."""
        paths = [Path(self.agenda, self._chance, self._weather) for _ in range(2)]
        host = SimulatedHost(*paths)
        self.hosts.append(host)
        return host

    def calm(self) -> None:
        """Heal everything; the weather is good from now on."""
        self._weather = Weather()
        self.deaf_until_s = 0.0
        for host in self.hosts:
            for path in host.paths:
                path.weather = self._weather
                path.open()

    # --------------------------------------------------------------------------------------------------- the master

    def listen(self, wake: Action, asked: Callable[[SimulatedCall], None], *, same_port: bool) -> SimulatedGate:
        """Begin a master's life. With `same_port` links of sessions with the one before connect to this one."""
        if not same_port:
            self._known.clear()
        self.gate = SimulatedGate(self, wake)
        self._asked = asked
        return self.gate

    def hang_up(self, *, noticed: bool) -> None:
        """End a master's life. `noticed`: its system tells the others, because only the process has died."""
        gate, self.gate, self._asked = self.gate, None, None
        if gate is not None:
            gate.closed = True
            for link in list(gate.links.values()):
                link.cut(noticed=noticed)

    def reaches(self, session: bytes) -> bool:
        """Say whether there is a master at the address that a session's link has."""
        return self.gate is not None and session in self._known

    # ----------------------------------------------------------------------------------------------------- the nodes

    def connect(self, host: SimulatedHost, session: bytes, key: bytes, wake: Action) -> SimulatedLink:
        """Make a link to the master of a session that has just been registered."""
        self._known.add(session)
        return SimulatedLink(self, host, session, key, wake)

    def call(self, host: SimulatedHost, question: Callable[[float], Any], wake: Action) -> SimulatedCall:
        """Ask the master something over the control channel. See whether it is `done` when woken, and when not."""
        call = SimulatedCall(question, host, wake)

        def arrive() -> None:
            if self._asked is None or self.agenda.now < self.deaf_until_s:
                host.down.carry(call.refuse, whole=True)
            else:
                self._asked(call)

        host.up.carry(arrive, whole=True)
        return call


def copy(frames: Sequence[Buffer]) -> Frames:
    """Copy frames, as a network does."""
    return [memoryview(bytes(frame)) for frame in frames]
