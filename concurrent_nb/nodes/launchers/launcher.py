"""The contract of a launcher, which starts, counts and ends slaves somewhere: with SSH, a batch system, another engine.

A launcher is a component with a short name, by which `on=` chooses it: `Cluster(on="ssh:hostA,hostB")`. Its options are
its configuration items. The owner's `Cluster` calls it in this order: `addresses`, `check`, then `launch`, `slaves` and
`end` as its supervisor decides, `close` at the end, also when starting has failed. One thread at a time calls it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from concurrent_nb.components.core import Interface
from concurrent_nb.nodes.common.exit_codes import DRAINED, NOT_INITIALIZED, REFUSED

#: what `addresses` returns if a launcher does not know from where its slaves reach the master: all of this machine
EVERY_ADDRESS: Final = ("0.0.0.0",)
#: characters of a log that a reason contains
LOG_TAIL_CHARACTERS: Final = 2000


class LaunchState(StrEnum):
    """How far the start of a slave has come."""

    QUEUED = "queued"  #: a batch system has it, and no machine has been given to it yet
    STARTING = "starting"
    RUNNING = "running"  #: its process runs; whether it has joined is what the master knows
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class LaunchedSlave:
    """What a launcher knows of one slave."""

    name: str  #: of the slave in the cluster
    state: LaunchState
    place: str  #: for people: "SSH host hostA", "Slurm job 17 on n1"
    reason: str = ""  #: of an ended one: how it ended, with the end of its log
    refused: bool = False  #: an ended one that would end in the same way again, so it is not started again
    drained: bool = False  #: an ended one that has left because it was asked to
    initializer_failed: bool = False  #: an ended one whose workers could not be initialized
    ends_in_s: float | None = None  #: time until the place takes it away; None: never, or unknown
    is_misplaced: bool = False  #: one that runs, but should be elsewhere: it leaves when another one has joined for it
    limit_s: float | None = None  #: for how long the place has it in all; None: no limit, or unknown


@dataclass(frozen=True, slots=True)
class SlaveStart:
    """What a launcher needs to start one slave.

    `connection` and `configuration` are single lines of JSON, as `concurrent-nb slave --connect -` reads them from its
    standard input, in this order. Both are secrets: they may stand in a file that only its owner can read, never in
    arguments, environments or logs.
    """

    name: str  #: of the slave, new for each start
    connection: str  #: content of the connection file for slaves
    configuration: str  #: sections of the configuration, such as {"SlaveNode": {"workers": 8}}
    log_format: str  #: "text" or "json"
    compute: str = ""  #: HOST:PORT of the compute channel, as this machine reaches it: what a tunnel leads to


class ILauncher(Interface):
    """Starts, counts and ends slaves."""

    #: the part of `on=` behind the launcher's short name and a colon; set before any method is called
    place: str
    #: the number of slaves if the user gives none; read after `check`
    slaves_default: int
    #: seconds from RUNNING in which a slave must have joined, else it has failed
    start_bound_s: float

    def addresses(self) -> Sequence[str]:
        """Return the IP addresses of this machine at which its slaves reach the master; () for loopback alone.

        Called first, while nothing runs: it may not contact other machines. Raises LaunchFailed.
        """
        raise NotImplementedError

    def check(self) -> None:
        """Look whether slaves can be started: the command is there, hosts answer. Called while the master starts.

        Raises LaunchFailed, within the launcher's own bound.
        """
        raise NotImplementedError

    def launch(self, start: SlaveStart) -> None:
        """Begin to start one slave, within about a second.

        Raises LaunchFailed, and ConfigurationError if it would fail again.
        """
        raise NotImplementedError

    def slaves(self) -> Sequence[LaunchedSlave]:
        """Return all slaves that were launched and not forgotten.

        Called twice a second, more often while slaves start: a launcher that asks another program keeps the answer.
        """
        raise NotImplementedError

    def end(self, names: Collection[str]) -> None:
        """End these slaves at once, and forget them. Names that it does not know are left out."""
        raise NotImplementedError

    def close(self) -> None:
        """End all slaves, wait until they have ended (for seconds, not for ever), and leave no file or process."""
        raise NotImplementedError


def ended_slave(name: str, place: str, exit_code: int, log: str) -> LaunchedSlave:
    """Return what is known of a slave whose process has ended with an exit code, negative for a signal."""
    if exit_code == DRAINED:
        return LaunchedSlave(name, LaunchState.ENDED, place, "it has left, as it was asked to", drained=True)
    how = f"was ended by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
    tail = log.strip()[-LOG_TAIL_CHARACTERS:]
    reason = f"it {how}; its log ends:\n{tail}" if tail else f"it {how}, and its log is empty"
    refused, failed = exit_code in (REFUSED, NOT_INITIALIZED), exit_code == NOT_INITIALIZED
    return LaunchedSlave(name, LaunchState.ENDED, place, reason, refused=refused, initializer_failed=failed)
