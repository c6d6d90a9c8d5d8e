"""Decides how a pool handles hosts that cannot start: it pauses, and gives the engine up if no host can. Pure."""

from typing import Final

#: seconds without new groups after each failure; after the last one, the engine is lost if nothing runs on it
PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0)


class FailingHosts:
    """Counts the failures since a host has last worked.

    A host that fails takes milliseconds, and would get the next group before those that work are free again. So no
    group is sent for a while, and failures in that time count as the same one: the groups were sent before it.
    """

    def __init__(self) -> None:
        self._count = 0
        self._until = 0.0

    @property
    def due_at(self) -> float | None:
        """Return when groups may be sent again; None if there has been no failure."""
        return self._until if self._count else None

    @property
    def is_hopeless(self) -> bool:
        """Return whether no host has worked in spite of all pauses."""
        return self._count > len(PAUSES_S)

    def failed(self, now: float) -> None:
        """Note that a host could not begin."""
        if not self._count or now >= self._until:
            self._count += 1
            self._until = now + PAUSES_S[min(self._count, len(PAUSES_S)) - 1]

    def worked(self) -> None:
        """Note that a host runs, or has run, a group."""
        self._count, self._until = 0, 0.0

    def may_send(self, now: float) -> bool:
        """Return whether groups may be sent now."""
        return now >= self._until
