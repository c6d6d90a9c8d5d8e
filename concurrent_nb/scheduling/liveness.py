"""Liveness of nodes: a silent node is suspected first, and lost later.

Called by the master's poll loop: `seen` for each message, `tick` when `next_deadline` has come. Pure: it never reads a
clock and never sends. Times are seconds of one monotonic clock.

    watch --> trusted --silent for suspect_after_s, or unreachable--> suspected --still silent--> lost (and forgotten)
                 ^----------------------seen------------------------------'

After `keep` a node is never lost because of silence, only when its connection has been gone for long.
"""

from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import NamedTuple

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import SessionId
from concurrent_nb.scheduling.ranking import Ranking


class NodeState(Enum):
    """How alive a node is."""

    TRUSTED = "trusted"  #: it has sent something recently
    SUSPECTED = "suspected"  #: it has been silent for a while, or its connection is gone: send it nothing new
    LOST = "lost"  #: it is gone for good and no longer watched; if it comes back, it must register again


class NodeChange(NamedTuple):
    """The new state of a node."""

    node: SessionId
    state: NodeState


@dataclass(slots=True, eq=False)
class _NodeContact:
    seen_s: float  #: when something came from it last
    unreachable_s: float | None = None  #: since when it has had no connection
    suspected: bool = False
    kept_s: float | None = None  #: after `keep`: it is lost when it has had no connection for this long


class Liveness:
    """Judge nodes by when they sent something last.

    Args:
        interval_s: interval of a node's heartbeats.
        suspect_after_s: silence after which a node is suspected.
        lost_after_s: silence after which it is lost.
        unreachable_after_s: time without a connection after which it is lost, unless it sends something.

    Raises ConfigurationError for times that are not in this order.
    """

    def __init__(
        self,
        interval_s: float = 1.0,
        suspect_after_s: float = 3.0,
        lost_after_s: float = 5.0,
        unreachable_after_s: float = 1.0,
    ) -> None:
        _require_less("interval_s", interval_s, "suspect_after_s", suspect_after_s)
        _require_less("suspect_after_s", suspect_after_s, "lost_after_s", lost_after_s)
        if not interval_s > 0 or not unreachable_after_s >= 0:
            raise ConfigurationError(
                f"interval_s is {interval_s}, unreachable_after_s is {unreachable_after_s}: neither may be negative, "
                "and the first not 0"
            )
        self._interval_s = interval_s
        self._suspect_after_s = suspect_after_s
        self._lost_after_s = lost_after_s
        self._unreachable_after_s = unreachable_after_s
        self._nodes: dict[SessionId, _NodeContact] = {}
        self._checks: Ranking[SessionId] = Ranking()  # when to judge which node again

    def watch(self, node: SessionId, now: float) -> None:
        """Begin to watch a node; it counts as seen now."""
        self._nodes[node] = _NodeContact(now)
        self._checks.set(node, now + self._suspect_after_s)

    def keep(self, node: SessionId, for_s: float | None = None) -> None:
        """From now on, lose a node not for silence, but only when it has had no connection for `for_s` seconds.

        None: for `unreachable_after_s`.
        """
        if (record := self._nodes.get(node)) is not None:
            record.kept_s = self._unreachable_after_s if for_s is None else for_s
            if (
                record.suspected and record.unreachable_s is not None
            ):  # it is to be checked at the time that held before
                self._checks.set(node, record.unreachable_s + record.kept_s)

    def forget(self, node: SessionId) -> None:
        """Stop watching a node, without a verdict."""
        self._nodes.pop(node, None)
        self._checks.discard(node)

    def seen(self, node: SessionId, now: float) -> None:
        """Note that a node is alive. One that is not watched (it was lost, for example) is ignored."""
        record = self._nodes.get(node)
        if record is None:
            return
        # Called for every message, so the check that is due after the silence is not moved: it will find no silence.
        record.seen_s = now
        record.unreachable_s = None
        if record.suspected:
            self._checks.set(node, now)

    def unreachable(self, node: SessionId, now: float) -> None:
        """Note that a node's connection is gone, as the transport reports."""
        record = self._nodes.get(node)
        if record is not None and record.unreachable_s is None:
            record.unreachable_s = now
            self._checks.set(node, now)

    def tick(self, now: float) -> list[NodeChange]:
        """Return the states that have changed by now."""
        changes: list[NodeChange] = []
        if now < self._checks.soonest:
            return changes
        while (first := self._checks.first()) is not None and first[0] <= now:
            due_s, node = first
            if now - due_s > self._interval_s:
                # This process itself has slept, and messages that came meanwhile are still unread: read them before
                # a node counts as silent.
                self._checks.set(node, now + self._interval_s)
            elif (change := self._judge(node, now)) is not None:
                changes.append(change)
        return changes

    def next_deadline(self) -> float | None:
        """Return when `tick` must be called at the latest, None if no node is watched."""
        soonest_s = self._checks.soonest
        return None if soonest_s == inf else soonest_s

    def _judge(self, node: SessionId, now: float) -> NodeChange | None:
        """Judge one node, and set when to judge it again."""
        record = self._nodes[node]
        suspect_s, lost_s = self._deadlines(record)
        if lost_s <= now:
            self.forget(node)
            return NodeChange(node, NodeState.LOST)
        was_suspected, record.suspected = record.suspected, suspect_s <= now
        self._checks.set(node, lost_s if record.suspected else suspect_s)
        if record.suspected == was_suspected:
            return None
        return NodeChange(node, NodeState.SUSPECTED if record.suspected else NodeState.TRUSTED)

    def _deadlines(self, record: _NodeContact) -> tuple[float, float]:
        """Return when the node will be suspected, and when it will be lost."""
        suspect_s, lost_s = record.seen_s + self._suspect_after_s, record.seen_s + self._lost_after_s
        if record.kept_s is not None:
            gone_s = record.unreachable_s
            return (suspect_s, inf) if gone_s is None else (gone_s, gone_s + record.kept_s)
        if record.unreachable_s is None:
            return suspect_s, lost_s
        return record.unreachable_s, min(lost_s, record.unreachable_s + self._unreachable_after_s)


def _require_less(name: str, value_s: float, limit_name: str, limit_s: float) -> None:
    if not value_s < limit_s:
        raise ConfigurationError(f"{name} is {value_s} s, but {limit_name} is {limit_s} s: it must be less")
