"""What the simulator's parts share: the time, the chance, the network, the judge, and how this history is set up.

Made by `simulator`, given to every actor.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final, Protocol, get_args

import msgspec

from concurrent_nb.ids import DIGEST_BYTES, ID_BYTES, SessionId
from concurrent_nb.nodes.master import function_table
from concurrent_nb.nodes.master.core import MasterCore
from concurrent_nb.scheduling import ranking, task_queue
from concurrent_nb.scheduling.strategies.by_name import BY_NAME
from concurrent_nb.scheduling.strategies.strategy import Strategy
from concurrent_nb.scheduling.task_lifecycle import COMPANY_FACTOR
from concurrent_nb.wire import codec, messages, session
from tests.simulator.agenda import Agenda
from tests.simulator.judge import Judge, Witness
from tests.simulator.network import Frames, Network, Weather
from tests.simulator.plans import Deeds

#: limits that are made so small in some histories that the ways of large ones are taken by small ones: where they are,
#: their names, and what they may be
_LIMITS: Final[tuple[tuple[ModuleType, str, tuple[int, ...]], ...]] = (
    (codec, "FRAME_BYTES", (64,)),
    (codec, "INLINE_BYTES", (24, 64)),
    (codec, "RUN_BYTES", (40, 400)),
    (codec, "RUN_ITEMS", (1, 3, 8)),
    (codec, "REFS", (1, 4)),
    (codec, "PART_BYTES", (100, 500)),
    (codec, "PART_BUFFERS", (1, 3)),
    (session, "EARLY_BYTES", (0, 500)),
    (session, "WINDOW", (1, 2, 5)),
    (session, "WINDOW_BYTES", (300, 3000)),
    (session, "ENVELOPE_BYTES", (100, 1000)),
    (session, "ACK_AFTER", (1, 3)),
    (function_table, "IDLE_FUNCTIONS", (4,)),
    (task_queue, "_SWEEP_FROM", (1,)),
    (ranking, "_SWEEP_FROM", (1,)),
)

#: of messages, by tag
_NAMES: Final = {kind.__struct_config__.tag: kind.__name__ for kind in get_args(messages.AnyMessage)}


@dataclass(frozen=True, slots=True)
class Settings:
    """How the nodes of one history are set up."""

    #: "calm": nothing goes wrong; "drowsy": applications answer nothing for a while; "windy": the network is bad;
    #: "stormy": nodes die and freeze, too
    mood: str
    strategy: type[Strategy]  #: the cluster's
    own_strategies: float  #: how likely a job asks for one of its own
    weather: Weather
    turn_s: float  #: what a turn of a node takes
    grace_s: float
    deaths_allowed: int = 3
    silence_s: float = 3.0
    kept_s: float = 30.0  #: for which an application without a connection may come back
    results_kept_bytes: int = 1 << 30  #: of results that one owner has not acknowledged
    killers: str = (
        "none"  #: tasks that kill slaves: "none", a "few", or "many", which are too many for hosts beside them
    )
    validate_each: int = 10  #: the scheduler's books are checked after every so many turns of the master, at least
    limits: tuple[tuple[ModuleType, str, int], ...] = ()

    @property
    def steady(self) -> bool:
        """Say whether every session lasts, because nothing is so bad that a node could be taken for lost."""
        # What comes late, or again and again not at all, may come after the master has lost its patience with a task.
        patient = self.mood in ("calm", "drowsy") or self.grace_s >= 10.0
        return self.mood != "stormy" and self.weather.loss <= 0.02 and not self.weather.late and patient

    def __str__(self) -> str:
        limits = ", ".join(f"{name} {value}" for _, name, value in self.limits)
        return (
            f"{self.mood}, {self.strategy.name}, own strategies {self.own_strategies}, "
            f"{self.weather}, a turn takes {self.turn_s} s, "
            f"grace_s {self.grace_s}, {self.deaths_allowed} deaths allowed, {self.killers} that kill slaves, "
            f"{self.results_kept_bytes} bytes of results kept, limits: {limits or 'as they are'}"
        )

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Set the limits, which are module constants, and put them back."""
        before = [(module, name, getattr(module, name)) for module, name, _ in self.limits]
        try:
            for module, name, value in self.limits:
                setattr(module, name, value)
            yield
        finally:
            for module, name, value in before:
                setattr(module, name, value)


def draw_settings(chance: random.Random) -> Settings:
    """Draw how the nodes of a history are set up."""
    mood = chance.choices(("calm", "drowsy", "windy", "stormy"), (2, 1, 2, 6))[0]
    weather = Weather(latency_s=chance.choice((0.0001, 0.002, 0.03)))
    if mood in ("windy", "stormy") and chance.random() < 0.7:
        weather = Weather(
            latency_s=weather.latency_s,
            jitter_s=chance.choice((0.0, 0.001, 0.05)),
            loss=chance.choice((0.0, 0.02, 0.15)),
            doubled=chance.choice((0.0, 0.05, 0.3)),
            ordered=chance.random() < 0.5,
            late=chance.choice((0.0, 0.0, 0.02)),
        )
    limits = [(module, name, chance.choice(values)) for module, name, values in _LIMITS if chance.random() < 0.3]
    return Settings(
        mood=mood,
        strategy=chance.choice(tuple(BY_NAME.values())),
        weather=weather,
        own_strategies=chance.choice((0.0, 0.3, 1.0)),
        turn_s=chance.choice((0.00001, 0.0005, 0.005)),
        grace_s=chance.choice((1.0, 10.0)),
        results_kept_bytes=chance.choice((0, 3000, 1 << 30)),
        deaths_allowed=chance.choices((3, 2, 1, 5), (6, 2, 1, 1))[0],
        killers=chance.choices(("none", "few", "many"), (5, 3, 2))[0],
        validate_each=chance.choices((1, 10, 30), (1, 2, 2))[0],
        limits=tuple(limits) if chance.random() < 0.5 else (),
    )


class SimulatedMaster(Protocol):
    """The master that lives now, or lived last."""

    name: str
    alive: bool

    @property
    def core(self) -> MasterCore:
        """Return its core."""

    def crash(self, *, noticed: bool) -> None:
        """Be gone."""

    def stop(self) -> None:
        """Stop the cluster."""

    def freeze(self, for_s: float) -> None:
        """Do nothing for a while."""

    def thaw(self) -> None:
        """Go on."""

    def register(self, role: str, key: bytes, name: str, **facts: Any) -> Callable[[float], tuple[SessionId, int, str]]:
        """Give what registers a node when it is called."""


class Trace:
    """What has happened, in order, to be printed or hashed.

    Args:
        agenda: the time.
        envelopes: write envelopes down, too, which makes it ten times as long.
    """

    def __init__(self, agenda: Agenda, *, envelopes: bool) -> None:
        self._agenda = agenda
        self._envelopes = envelopes
        self._lines: list[tuple[float, str, Any]] = []

    def __call__(self, who: str, what: str) -> None:
        """Write down what somebody does."""
        self._lines.append((self._agenda.now, who, what))

    def sent(self, session_id: bytes, upwards: bool, header: bytes) -> None:
        """Write down an envelope's header, which is spelled out when it is read."""
        if self._envelopes:
            self._lines.append((self._agenda.now, f"{session_id.hex()[2:6]} {'up' if upwards else 'down'}", header))

    def lines(self) -> list[str]:
        """Return all lines."""
        return [f"{when_s:12.6f} {who:>10} {spell(what)}" for when_s, who, what in self._lines]


def spell(what: str | bytes) -> str:
    """Write an envelope's header as text: the messages' names, and what they are about."""
    if isinstance(what, str):
        return what
    _, epoch, seq, ack, body = msgspec.msgpack.decode(what)
    return " ".join([f"{epoch}.{seq} ack {ack}", *(f"{_NAMES[tag]}({_spell(fields)})" for tag, *fields in body)])


def _spell(field: Any) -> str:
    if isinstance(field, bytes):
        return field.hex()[:4] if len(field) in (ID_BYTES, DIGEST_BYTES) else f"{len(field)} bytes"
    if isinstance(field, list):
        parts = [_spell(part) for part in field]
        return "/".join(parts) if field and isinstance(field[0], int | bytes) else " ".join(parts)
    return f"{field:.3f}" if isinstance(field, float) else str(field)


@dataclass(eq=False)
class World:
    """One history's parts."""

    settings: Settings
    chance: random.Random
    agenda: Agenda
    deeds: Deeds
    judge: Judge
    witness: Witness
    trace: Trace
    network: Network = field(init=False)
    master: SimulatedMaster = field(init=False)
    slave_killed: Callable[[Any], None] = field(init=False)  #: called with a slave that a task kills
    kills_left: int = field(init=False)  #: slaves that tasks may still plan to kill

    def __post_init__(self) -> None:
        self.network = Network(self.agenda, self.chance, self.settings.weather, self)
        # A host on the only slave is there each time, and is not spared more often than this.
        few = self.settings.deaths_allowed * COMPANY_FACTOR - 1
        self.kills_left = {"none": 0, "few": few, "many": 40}[self.settings.killers]

    def sent(self, session_id: bytes, upwards: bool, frames: Frames) -> None:
        """Hear what is sent: the network's `Ear`."""
        self.witness.sent(session_id, upwards, frames)
        self.trace.sent(session_id, upwards, bytes(frames[0]))
