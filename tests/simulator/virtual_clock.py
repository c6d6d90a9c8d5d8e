"""Virtual time for the simulator: a queue of future events, and actors that sleep until an event wakes them.

    VirtualClock.run --(next in time)--> any callable          Actor --(yields until when to sleep)--> VirtualClock

Nothing here waits: the clock jumps to the next event. An actor is a generator, so that its code reads like a poll loop:
`yield deadline` is where the node polls. Uses no threads, no real clock and no random numbers.
"""

from collections.abc import Callable, Generator
from heapq import heappop, heappush
from itertools import count
from math import inf

Action = Callable[[], None]
#: yields until when to sleep, in seconds of virtual time; may be woken before
Steps = Generator[float, None, None]


class VirtualClock:
    """The virtual time, and the queue of events. Call it for the time, as any `clock.Clock`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0  #: number of events so far
        self._heap: list[tuple[float, int, Action]] = []
        self._serial = count()

    def __call__(self) -> float:
        return self.now

    def at(self, when_s: float, what: Action) -> None:
        """Call `what` at a time; if that is past, now, but after the events that are due already."""
        # The serial number keeps equal times in order, and heapq from comparing callables.
        heappush(self._heap, (max(when_s, self.now), next(self._serial), what))

    def after(self, wait_s: float, what: Action) -> None:
        """Call `what` after a while."""
        self.at(self.now + wait_s, what)

    def run(self, over: Callable[[], bool]) -> None:
        """Call everything in order of time, until `over` returns True or the queue is empty."""
        heap = self._heap
        while heap and not over():
            self.now, _, what = heappop(heap)
            self.events += 1
            what()


class Actor:
    """A node: it wakes, takes a turn, and yields until when to sleep.

    Args:
        clock: the time.
        name: for the trace.
        turn_s: seconds that a turn takes at least. What arrives meanwhile waits for the next one, so time advances.
    """

    def __init__(self, clock: VirtualClock, name: str, turn_s: float) -> None:
        self.clock = clock
        self.name = name
        self.alive = False
        self._turn_s = turn_s
        self._steps: Steps | None = None
        self._not_before = 0.0
        self._due = inf
        self._serial = 0

    def begin(self, steps: Steps) -> None:
        """Start with the first turn."""
        self._steps = steps
        self.alive = True
        self.wake()

    def wake(self) -> None:
        """Take a turn as soon as the current one is over."""
        self._schedule(self.clock.now)

    def freeze(self, for_s: float) -> None:
        """Take no turn for a while."""
        self._not_before = max(self._not_before, self.clock.now + for_s)

    @property
    def is_frozen(self) -> bool:
        """Return whether it takes no turns now."""
        return self.clock.now < self._not_before

    def thaw(self) -> None:
        """Go on now."""
        self._not_before = min(self._not_before, self.clock.now)
        self.wake()

    def end(self) -> None:
        """Stop in the middle of a turn, and send nothing."""
        self.alive = False
        steps, self._steps = self._steps, None
        if steps is not None:
            steps.close()

    def _schedule(self, when_s: float) -> None:
        when_s = max(when_s, self._not_before)
        if self.alive and when_s < self._due:
            self._due = when_s
            self._serial = serial = self._serial + 1
            self.clock.at(when_s, lambda: self._resume(serial))

    def _resume(self, serial: int) -> None:
        if serial != self._serial or self._steps is None:
            return  # it was woken earlier, or has ended
        self._due = inf
        if self.clock.now < self._not_before:
            self._schedule(self._not_before)
            return
        self._not_before = self.clock.now + self._turn_s
        try:
            sleep_until_s = next(self._steps)
        except StopIteration:
            self.end()
            return
        self._schedule(sleep_until_s)
