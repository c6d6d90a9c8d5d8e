"""Whether a master that has ended is started again. Pure: time is an argument."""

from enum import Enum

from concurrent_nb.nodes.common.exit_codes import REFUSED
from concurrent_nb.restart_limit import RestartLimit


class MasterEnd(Enum):
    """What the end of a master means for its cluster."""

    STOPPED = "stopped"  #: it was asked to end: the cluster ends
    AGAIN = "again"  #: it has died: another one is started
    REFUSED = "refused"  #: it does not start like this, as the next one would not
    TOO_OFTEN = "too often"  #: it has died again and again


class MasterRestarts:
    """Decides about each end of a master.

    Args:
        limit: how many deaths are too many.
    """

    def __init__(self, limit: RestartLimit) -> None:
        self._limit = limit

    def ended(self, exit_code: int, now: float) -> MasterEnd:
        """Return what follows from an end, with an exit code or the negative number of a signal."""
        if exit_code == 0:
            return MasterEnd.STOPPED
        if exit_code == REFUSED:
            return MasterEnd.REFUSED
        return MasterEnd.TOO_OFTEN if self._limit.died(now) else MasterEnd.AGAIN
