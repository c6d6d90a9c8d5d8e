"""Virtual time for the simulator: what is to happen when, and the actors who sleep until then.

    Agenda.run --(next in time)--> any callable          Actor --(yields until when to sleep)--> Agenda

Nothing here waits: the clock jumps to whatever is next. An actor is a generator, so that a node's life reads like its
poll loop: `yield deadline` stands where the node polls. Never uses threads, the real clock or randomness.
"""

from collections.abc import Callable, Generator
from heapq import heappop, heappush
from itertools import count
from math import inf

Action = Callable[[], None]
#: yields until when to sleep, in seconds of virtual time; may be woken before
Life = Generator[float, None, None]


class Agenda:
    """The virtual clock, and everything that is to happen. Call it for the time, as any `clock.Clock`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0  #: that have happened
        self._heap: list[tuple[float, int, Action]] = []
        self._serial = count()

    def __call__(self) -> float:
        return self.now

    def at(self, when_s: float, what: Action) -> None:
        """Let something happen at a time; at once (but after what is due already) if that is past."""
        # The serial number keeps heapq from comparing callables, and equal times in order.
        heappush(self._heap, (max(when_s, self.now), next(self._serial), what))

    def after(self, wait_s: float, what: Action) -> None:
        """Let something happen after a while."""
        self.at(self.now + wait_s, what)

    def run(self, over: Callable[[], bool]) -> None:
        """Let everything happen, in order, until it is over or nothing is left to happen."""
        heap = self._heap
        while heap and not over():
            self.now, _, what = heappop(heap)
            self.events += 1
            what()


class Actor:
    """Somebody who wakes, does something, and says until when to sleep.

    Args:
        agenda: the time.
        name: for the trace.
        turn_s: seconds that a turn takes at least. What arrives meanwhile gathers, and time never stands still.
    """

    def __init__(self, agenda: Agenda, name: str, turn_s: float) -> None:
        self.agenda = agenda
        self.name = name
        self.alive = False
        self._turn_s = turn_s
        self._life: Life | None = None
        self._not_before = 0.0
        self._due = inf
        self._serial = 0

    def begin(self, life: Life) -> None:
        """Begin to live."""
        self._life = life
        self.alive = True
        self.wake()

    def wake(self) -> None:
        """Something has happened: look around as soon as the current turn is over."""
        self._schedule(self.agenda.now)

    def freeze(self, for_s: float) -> None:
        """Do nothing for a while, and know nothing of it."""
        self._not_before = max(self._not_before, self.agenda.now + for_s)

    @property
    def is_frozen(self) -> bool:
        """Say whether it does nothing now."""
        return self.agenda.now < self._not_before

    def thaw(self) -> None:
        """Go on at once."""
        self._not_before = min(self._not_before, self.agenda.now)
        self.wake()

    def end(self) -> None:
        """Stop in the middle of whatever it is, without a word."""
        self.alive = False
        life, self._life = self._life, None
        if life is not None:
            life.close()

    def _schedule(self, when_s: float) -> None:
        when_s = max(when_s, self._not_before)
        if self.alive and when_s < self._due:
            self._due = when_s
            self._serial = serial = self._serial + 1
            self.agenda.at(when_s, lambda: self._resume(serial))

    def _resume(self, serial: int) -> None:
        if serial != self._serial or self._life is None:
            return  # it was woken earlier, or has ended
        self._due = inf
        if self.agenda.now < self._not_before:
            self._schedule(self._not_before)
            return
        self._not_before = self.agenda.now + self._turn_s
        try:
            sleep_until_s = next(self._life)
        except StopIteration:
            self.end()
            return
        self._schedule(sleep_until_s)
