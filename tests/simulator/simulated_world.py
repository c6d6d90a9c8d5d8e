"""What the parts of a simulation share: clock, random numbers, network, checkers, and the settings of this history.

Made by `simulation`, passed to every actor.
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
from tests.simulator.checkers import OutcomeChecker, SessionChecker
from tests.simulator.network import Frames, Network, NetworkConditions
from tests.simulator.plans import TaskCatalog
from tests.simulator.virtual_clock import VirtualClock

#: limits that some histories make so small that small data takes the code paths of large data: module, name, values
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

#: names of messages, by tag
_NAMES: Final = {kind.__struct_config__.tag: kind.__name__ for kind in get_args(messages.AnyMessage)}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one history."""

    #: "no faults"; "frozen applications": applications answer nothing for a while; "bad network": the network may lose,
    #: duplicate, delay and reorder; "all faults": nodes die and freeze, too
    scenario: str
    strategy: type[Strategy]  #: the cluster's
    own_strategies: float  #: how likely a job asks for another one
    conditions: NetworkConditions
    turn_s: float  #: that a turn of a node takes
    grace_s: float
    deaths_allowed: int = 3
    silence_s: float = 3.0
    kept_s: float = 30.0  #: within which an application without a connection may come back
    results_kept_bytes: int = 1 << 30  #: of results that one owner has not acknowledged
    #: tasks that kill slaves: "none", "few", or "many", which are too many for task systems to run beside them
    killers: str = "none"
    validate_each: int = 10  #: fewest turns of the master between two validations of the scheduler's state
    limits: tuple[tuple[ModuleType, str, int], ...] = ()

    @property
    def steady(self) -> bool:
        """Return whether every session lasts, because no fault is so bad that a node could be considered lost."""
        # What arrives late may arrive after the master has given up waiting for the end of a task.
        patient = self.scenario in ("no faults", "frozen applications") or self.grace_s >= 10.0
        return self.scenario != "all faults" and self.conditions.loss <= 0.02 and not self.conditions.late and patient

    def __str__(self) -> str:
        limits = ", ".join(f"{name} {value}" for _, name, value in self.limits)
        return (
            f"{self.scenario}, {self.strategy.name}, own strategies {self.own_strategies}, "
            f"{self.conditions}, a turn takes {self.turn_s} s, "
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
    """Draw the settings of a history."""
    scenario = chance.choices(("no faults", "frozen applications", "bad network", "all faults"), (2, 1, 2, 6))[0]
    conditions = NetworkConditions(latency_s=chance.choice((0.0001, 0.002, 0.03)))
    if scenario in ("bad network", "all faults") and chance.random() < 0.7:
        conditions = NetworkConditions(
            latency_s=conditions.latency_s,
            jitter_s=chance.choice((0.0, 0.001, 0.05)),
            loss=chance.choice((0.0, 0.02, 0.15)),
            duplicated=chance.choice((0.0, 0.05, 0.3)),
            ordered=chance.random() < 0.5,
            late=chance.choice((0.0, 0.0, 0.02)),
        )
    limits = [(module, name, chance.choice(values)) for module, name, values in _LIMITS if chance.random() < 0.3]
    return Settings(
        scenario=scenario,
        strategy=chance.choice(tuple(BY_NAME.values())),
        conditions=conditions,
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
    """The current master, or the last one."""

    name: str
    alive: bool

    @property
    def core(self) -> MasterCore:
        """Return its core."""

    def crash(self, *, noticed: bool) -> None:
        """Disappear, with everything in memory."""

    def stop(self) -> None:
        """Stop the cluster."""

    def freeze(self, for_s: float) -> None:
        """Take no turn for a while."""

    def thaw(self) -> None:
        """Go on after `freeze`."""

    def register(self, role: str, key: bytes, name: str, **facts: Any) -> Callable[[float], tuple[SessionId, int, str]]:
        """Return a function that registers a node."""


class Trace:
    """Everything that has happened, in order, to be printed or hashed.

    Args:
        clock: the time.
        envelopes: record envelopes, too, which makes the trace ten times as long.
    """

    def __init__(self, clock: VirtualClock, *, envelopes: bool) -> None:
        self._clock = clock
        self._envelopes = envelopes
        self._lines: list[tuple[float, str, Any]] = []

    def __call__(self, who: str, what: str) -> None:
        """Record what a node does."""
        self._lines.append((self._clock.now, who, what))

    def sent(self, session_id: bytes, upwards: bool, header: bytes) -> None:
        """Record an envelope's header, which is decoded when the trace is read."""
        if self._envelopes:
            self._lines.append((self._clock.now, f"{session_id.hex()[2:6]} {'up' if upwards else 'down'}", header))

    def lines(self) -> list[str]:
        """Return all lines."""
        return [f"{when_s:12.6f} {who:>10} {spell(what)}" for when_s, who, what in self._lines]


def spell(what: str | bytes) -> str:
    """Return an envelope's header as text: the messages' names and fields."""
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
class SimulatedWorld:
    """The parts of one history."""

    settings: Settings
    chance: random.Random
    clock: VirtualClock
    catalog: TaskCatalog
    checker: OutcomeChecker
    session_checker: SessionChecker
    trace: Trace
    network: Network = field(init=False)
    master: SimulatedMaster = field(init=False)
    slave_killed: Callable[[Any], None] = field(init=False)  #: called with a slave that a task kills
    kills_left: int = field(init=False)  #: slaves that tasks may still be planned to kill

    def __post_init__(self) -> None:
        self.network = Network(self.clock, self.chance, self.settings.conditions, self)
        # A task system on the only slave is there each time, and survives at most so many deaths of its slave.
        few = self.settings.deaths_allowed * COMPANY_FACTOR - 1
        self.kills_left = {"none": 0, "few": few, "many": 40}[self.settings.killers]

    def sent(self, session_id: bytes, upwards: bool, frames: Frames) -> None:
        """Record and check an envelope, as the network's `EnvelopeListener`."""
        self.session_checker.sent(session_id, upwards, frames)
        self.trace.sent(session_id, upwards, bytes(frames[0]))
