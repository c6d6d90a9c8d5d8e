"""Asks the system what processes do: stopped, waiting for a disk, or something else."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from concurrent_nb.workers.slave_side.freeze_watch import ProcessReading, StandstillState

if TYPE_CHECKING:
    import psutil

#: states of psutil that are no progress; under a debugger a process is in another one ("tracing-stop")
_STATES: Final = {"stopped": StandstillState.STOPPED, "disk-sleep": StandstillState.DISK}


class ProcessReader:
    """Reads processes, again and again."""

    def __init__(self) -> None:
        self._known: dict[int, psutil.Process] = {}

    def read(self, pids: Iterable[int]) -> dict[int, ProcessReading]:
        """Return what the system says about these processes, without those that it does not know any more.

        Empty while this process is short of descriptors: the next look may succeed.
        """
        try:
            import psutil  # here: a slave's workers start before it is loaded
        except OSError:
            return {}

        before, self._known = self._known, {}
        readings: dict[int, ProcessReading] = {}
        for pid in pids:
            try:
                process = before.get(pid) or psutil.Process(pid)
                readings[pid] = _read(process)
            except (psutil.Error, OSError):  # it has ended, which others notice; or this process is short of something
                continue
            self._known[pid] = process
        return readings


def _read(process: "psutil.Process") -> ProcessReading:
    state = _STATES.get(process.status(), StandstillState.OTHER)
    if state is StandstillState.OTHER:
        return ProcessReading(state)
    with process.oneshot():
        times = process.cpu_times()
        switches = sum(process.num_ctx_switches()) if hasattr(process, "num_ctx_switches") else 0
    return ProcessReading(state, times.user + times.system, switches)
