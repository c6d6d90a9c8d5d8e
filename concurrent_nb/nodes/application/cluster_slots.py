"""How many tasks a cluster can run at the same time, as its master reports. A part of `nodes.application.node`."""

import math
import time
from collections.abc import Sequence
from typing import Final

from concurrent_nb import foreign
from concurrent_nb.errors import AccessRefused, ClusterError, ProtocolError
from concurrent_nb.nodes.application.client_thread import ClientThread

log = foreign.Log(__name__)

#: seconds for which a number is used by which the tasks of a call are divided
PLACES_KNOWN_S: Final = 1.0
#: seconds between two questions for the slaves of a cluster that has just started
SLAVES_ASKED_EVERY_S: Final = 0.05


class ClusterSlots:
    """The slots of each slave, which are asked for again when they are needed and were reported too long ago."""

    def __init__(self, client_thread: ClientThread) -> None:
        self._client_thread = client_thread
        self._slots: Sequence[int] = (1,)  # of each slave
        self._known_at_s = -math.inf

    def count(self, known_s: float = 10.0) -> int:
        """Return the number of tasks that the cluster can run at the same time, at most `known_s` seconds old."""
        now = time.monotonic()
        if now - self._known_at_s > known_s or not any(self._slots):
            try:
                self._slots = self._ask()
                self._known_at_s = now
                self._client_thread.member.control.close()  # the next request comes much later
            except (ClusterError, ProtocolError, AccessRefused, OSError) as error:
                # Tasks can wait for a master that is away, and no result depends on the sizes of chunks.
                log.warning("the master does not report its slots, continuing with %d: %s", sum(self._slots), error)
        return sum(self._slots)

    def count_places(self, cores: int, *, within_s: float = 5.0) -> int:
        """Return how many tasks of so many cores (0: all of a slave) the cluster can run at the same time.

        Waits up to `within_s` seconds for the slaves of a cluster that has just started.
        """
        deadline = time.monotonic() + within_s
        while not self.count(PLACES_KNOWN_S) and time.monotonic() < deadline:
            time.sleep(SLAVES_ASKED_EVERY_S)
        return len(self._slots) if cores == 0 else sum(slots // cores for slots in self._slots)

    def count_now(self) -> int:
        """Return the number of slots now, or 0 if the master does not report it."""
        try:
            return sum(self._ask())
        except (ClusterError, ProtocolError, AccessRefused, OSError):
            return 0

    def _ask(self) -> list[int]:
        return [slave["slots"] for slave in self._client_thread.member.status()["slaves"]]
