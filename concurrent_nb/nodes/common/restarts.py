"""Fresh worker processes for a whole cluster, and how far that is. Used by Cluster, the command line and the magics."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from concurrent_nb.errors import ClusterError
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_client import ControlClient

#: the cluster is asked how far it is at first after so long, then less and less often
POLL_S: Final = 0.02
POLL_MAX_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Restarted:
    """A restart that is done."""

    workers: int  #: that were replaced
    elapsed_s: float


def restart_workers(
    info: ConnectionFile, *, now: bool = False, on_progress: Callable[[int, int], None] = lambda left, total: None
) -> Restarted:
    """Have fresh processes in the place of all workers of a cluster; return when they are ready.

    Nothing is lost and nothing fails, whosever it is: what runs ends first, or with `now` is stopped and runs again.

    Args:
        now: do not wait for what runs.
        told: called with the number of workers that are still to be replaced, and with that of all, now and then.

    What is raised while this waits (KeyboardInterrupt, say) does not end the restart. Raises MasterUnreachable, and
    AccessRefused if the connection file has no admin's token.
    """
    token = info.tokens.get("admin") or next(iter(info.tokens.values()))
    control = ControlClient(info.endpoints, token, info.certificate_pem)
    began = time.monotonic()
    pause_s = POLL_S
    try:
        total = control.call("restart_workers", now=now)
        if type(total) is not int:
            raise ClusterError(f"the master has answered {total!r} and not how many workers it restarts")
        while left := sum(slave["outdated"] for slave in control.call("status")["slaves"]):
            on_progress(min(left, total), total)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, POLL_MAX_S)
    finally:
        control.close()
    return Restarted(total, time.monotonic() - began)
