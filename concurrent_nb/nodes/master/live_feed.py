"""Sends the state of the cluster to the readers of its feed, tick by tick. Without readers it does nothing.

    compute thread: MasterCore.view, TaskLog -> FeedState.update   main thread: FeedState.message -> each drained reader

Both run in turns of one coroutine, so the state needs no lock. A tick is at most every INTERVAL_S seconds, and so much
later that ticks take at most a SHARE of the time, however large the cluster and however many watch.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from concurrent_nb.clock import monotonic
from concurrent_nb.errors import AccessRefused
from concurrent_nb.ids import SessionId
from concurrent_nb.nodes.master.core import MasterCore
from concurrent_nb.telemetry.feed_state import FeedState, Visibility
from concurrent_nb.transport.feed_handler import INTERNAL_ERROR, POLICY_VIOLATION, FeedConnection, frame_of

log = logging.getLogger(__name__)

#: shortest and longest time between two ticks, in seconds
INTERVAL_S, LONGEST_INTERVAL_S = 0.25, 2.0
#: most of the time of one core that ticks take, until the longest interval is reached
SHARE: Final = 0.02
#: most of the processor time of a busy master that they take, until BUSY_INTERVAL_S is reached; a master is busy if it
#: takes BUSY of a core. A quiet one has time for the feed, and people want to see each change there
SHARE_OF_BUSY, BUSY, BUSY_INTERVAL_S = 0.025, 0.05, 0.5
#: seconds after which a reader gets a message although nothing has changed
HEARTBEAT_S: Final = 2.0
#: seconds in which a reader must take what it was sent
DRAINED_WITHIN_S: Final = 30.0
#: most bytes of messages that slow readers have not taken; a message for several of them counts once
HELD_BYTES_MAX: Final = 64 * 1024 * 1024
#: seconds of sending after which calls of others are answered
SLICE_S: Final = 0.002

#: asks the compute thread, as `Master._ask`
Ask = Callable[[Callable[[float], Any]], Awaitable[Any]]


class LiveFeed:
    """The readers of a master's feed, and the ticks that serve them. To be used in the loop's thread.

    Args:
        core: of the master; only the compute thread touches it.
        name: of the cluster.
        began_s: when the master began.
        ask: asks the compute thread.
        launched: returns state and place of the slaves that a launcher has started, by name; called in that thread.
    """

    def __init__(
        self,
        core: MasterCore,
        name: str,
        began_s: float,
        ask: Ask,
        launched: Callable[[], Mapping[str, Mapping[str, str]]] = dict,
    ) -> None:
        self.interval_s = INTERVAL_S
        self._core = core
        self._ask = ask
        self._launched = launched
        self._name = name
        self._began_s = began_s
        self._state = FeedState(core.epoch, name, began_s)
        self._readers: dict[FeedConnection, Visibility] = {}
        self._ticks: asyncio.Task[None] | None = None
        self._cost_s = 0.0  # of processor time, of the current tick
        self._busy = 0.0  # of one core, during the last tick and the pause after it
        self._spent_s = 0.0  # of processor time, of all ticks so far

    async def watch(self, connection: FeedConnection, session: str, secret: str) -> None:
        """Serve a reader from the next tick on. Raises AccessRefused if it names a session that it does not have."""
        owner = await self._ask(lambda _: self._owner_of(session, secret)) if session else ""
        if owner is None:
            raise AccessRefused("there is no application with this session and secret: its session may be over")
        self._readers[connection] = Visibility(connection.role == "admin", owner)
        if self._ticks is None or self._ticks.done():
            self._ticks = asyncio.create_task(self._tick_while_watched())

    def leave(self, connection: FeedConnection) -> None:
        """Forget a reader."""
        self._readers.pop(connection, None)

    def describe(self) -> dict[str, Any]:
        """Return how many watch, and the seconds of processor time that all ticks have taken, for `status`."""
        return {"readers": len(self._readers), "cpu_s": self._spent_s}

    async def stop(self) -> None:
        """End the ticks."""
        self._readers.clear()
        if self._ticks is not None:
            self._ticks.cancel()
            await asyncio.wait([self._ticks])

    def _owner_of(self, session: str, secret: str) -> str | None:
        try:
            own = SessionId(bytes.fromhex(session))
        except ValueError:
            return None
        return self._core.peers[own].key.decode() if self._core.is_session(own, "client", secret) else None

    async def _tick_while_watched(self) -> None:
        while self._readers:
            began_s, used_s = monotonic(), time.process_time()
            try:
                await self._ask(self._update)
                await self._serve()
            except Exception:
                log.exception("the live feed has failed; it begins anew when its readers come back")
                self._begin_anew()
            self._spent_s += self._cost_s
            pause_s = pause_after(self._cost_s, self._busy)
            await asyncio.sleep(max(0.0, began_s + pause_s - monotonic()))
            self._busy = (time.process_time() - used_s) / (monotonic() - began_s)

    def _begin_anew(self) -> None:
        """Drop the state, so that one bad tick does not end the feed for ever."""
        self._state = FeedState(self._core.epoch, self._name, self._began_s, self._state.seq + 1)
        for connection in list(self._readers):
            connection.close(INTERNAL_ERROR, "the feed has failed, the log of the master has the details")
        self._readers.clear()

    def _update(self, now: float) -> None:
        """Take the state of the cluster; in the compute thread."""
        began_s = time.thread_time()
        scheduler, state, watched = self._core.scheduler, self._state, set(self._readers.values())
        view = self._core.view(now, state.ended, self._launched())
        state.update(view, scheduler.task_log, scheduler.event_log, now, watched)
        self._cost_s = time.thread_time() - began_s

    async def _serve(self) -> None:
        """Send each reader what it lacks, if it has taken what it was sent before."""
        self._cut_slow()
        frames: dict[bytes, bytes] = {}  # by message
        slice_s = time.thread_time()
        for connection, visibility in list(self._readers.items()):
            if connection in self._readers:
                self._serve_one(connection, visibility, frames)
            if (spent_s := time.thread_time() - slice_s) > SLICE_S:
                self._cost_s += spent_s
                await asyncio.sleep(0)
                slice_s = time.thread_time()
        self._cost_s += time.thread_time() - slice_s

    def _serve_one(self, connection: FeedConnection, visibility: Visibility, frames: dict[bytes, bytes]) -> None:
        state, since = self._state, connection.since
        if connection.unsent or not state.is_watched(visibility):
            return  # in the latter case it has come in this tick, and is served in the next
        message = state.message(since, visibility)
        if message is None:
            if since is None or monotonic() - connection.served_s < HEARTBEAT_S:
                return
            message = state.heartbeat(since)
        if (frame := frames.get(message)) is None:
            frame = frames[message] = frame_of(message)
        connection.serve(frame, (state.epoch, state.seq))

    def _cut_slow(self) -> None:
        """End connections of readers that do not read, and more of them while they hold too much memory."""
        now = monotonic()
        slow = sorted((each for each in self._readers if each.unsent), key=lambda each: each.served_s)
        held = Counter(id(each.frame) for each in slow)
        held_bytes = sum({id(each.frame): len(each.frame) for each in slow}.values())
        for connection in slow:
            is_overdue = now - connection.served_s > DRAINED_WITHIN_S
            if not is_overdue and held_bytes <= HELD_BYTES_MAX:
                break
            held[id(connection.frame)] -= 1
            if not held[id(connection.frame)]:
                held_bytes -= len(connection.frame)
            why = f"nothing was read for {DRAINED_WITHIN_S:.0f} s" if is_overdue else "too many readers are slow"
            connection.close(POLICY_VIOLATION, why)


def pause_after(cost_s: float, busy: float) -> float:
    """Return the seconds from the beginning of a tick to the next one.

    Args:
        cost_s: the processor time of the tick.
        busy: the processor time that the master takes, as a share of one core.
    """
    pause_s = max(INTERVAL_S, min(cost_s / SHARE, LONGEST_INTERVAL_S))
    return max(pause_s, min(cost_s / (SHARE_OF_BUSY * busy), BUSY_INTERVAL_S)) if busy > BUSY else pause_s
