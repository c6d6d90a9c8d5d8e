"""Replace all worker processes of a cluster. Used by Cluster, the command line and the magics."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from concurrent_nb.errors import ClusterError
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_client import ControlClient

#: seconds until the first query of the progress, then longer and longer until POLL_MAX_S
POLL_S: Final = 0.02
POLL_MAX_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Restarted:
    """A finished restart."""

    workers: int  #: that were replaced
    elapsed_s: float


def restart_workers(
    info: ConnectionFile, *, now: bool = False, on_progress: Callable[[int, int], None] = lambda left, total: None
) -> Restarted:
    """Replace all worker processes of a cluster; return when the new ones are ready.

    No task of any application fails: running tasks end first, or with `now` are stopped and run again.

    Args:
        now: do not wait for running tasks.
        on_progress: called from time to time with the number of workers that are still to be replaced, and of all.

    The restart goes on if this function raises an error while it waits, KeyboardInterrupt for example. Raises
    MasterUnreachable, and AccessRefused if the connection file has no admin's token.
    """
    token = info.tokens.get("admin") or next(iter(info.tokens.values()))
    control = ControlClient(info.endpoints, token, info.certificate_pem)
    began = time.monotonic()
    pause_s = POLL_S
    try:
        total = control.call("restart_workers", now=now)
        if type(total) is not int:
            raise ClusterError(f"the master has answered {total!r} instead of the number of workers that it restarts")
        while left := sum(slave["outdated"] for slave in control.call("status")["slaves"]):
            on_progress(min(left, total), total)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, POLL_MAX_S)
    finally:
        control.close()
    return Restarted(total, time.monotonic() - began)
