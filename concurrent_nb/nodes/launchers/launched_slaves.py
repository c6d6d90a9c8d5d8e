"""The slaves of a cluster that a launcher starts: a thread that does what the supervisor decides.

    launcher.slaves -> master `supervise` -> Supervisor.turn -> launcher.launch, launcher.end, master `drain_slave`

The thread alone calls the launcher, from `begin` until `close` has ended it.
"""

import dataclasses
import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from concurrent_nb.clock import monotonic
from concurrent_nb.errors import (
    ClusterError,
    ClusterStartFailed,
    ConcurrentError,
    ConfigurationError,
    InitializerFailed,
    LaunchFailed,
    MasterUnreachable,
)
from concurrent_nb.foreign import describe
from concurrent_nb.nodes.common.launch_lines import write_configuration
from concurrent_nb.nodes.launchers.adapt import WAIT_BEFORE_DOWN_S, Adaptation, ClusterLoad
from concurrent_nb.nodes.launchers.catalogue import choose_launcher, make_launcher
from concurrent_nb.nodes.launchers.launcher import LaunchedSlave, LaunchState, SlaveStart
from concurrent_nb.nodes.launchers.shortage import shortage
from concurrent_nb.nodes.launchers.supervisor import (
    SHORTAGE_TURN_S,
    TURN_S,
    DrainSlave,
    EndSlaves,
    GiveUp,
    Instruction,
    MemberSlave,
    ReportFailure,
    StartSlave,
    Supervisor,
)
from concurrent_nb.transport.connection_file import ConnectionFile, in_one_line
from concurrent_nb.transport.control_client import ControlClient

log = logging.getLogger(__name__)

#: after slaves have only waited in a queue for this long, the start does not wait for them
QUEUED_S: Final = 3.0


class LaunchedSlaves:
    """Starts slaves with a launcher, and keeps the wanted number of them.

    Args:
        cluster: its name.
        on: the launcher and its place, as users write them.
        items: configuration items of the launcher.
        count: how many slaves; None: the launcher's default.
        adapt: least and most slaves, if their number is to follow the queue.
        on_failure: called in the thread when no slave runs and none is started any more.

    Raises ConfigurationError.
    """

    def __init__(
        self,
        cluster: str,
        on: str,
        items: Mapping[str, Any],
        count: int | None,
        adapt: tuple[int, int] | None,
        on_failure: Callable[[ClusterStartFailed], None],
    ) -> None:
        self._cluster = cluster
        self._on = on
        chosen = choose_launcher(on)
        self._launcher = make_launcher(chosen, items)
        # Names of slaves are names of jobs, pods and tasks, too, among which are those of the user's other clusters.
        self.prefix = f"{chosen.on.launcher}-{secrets.token_hex(3)}"
        self._count = count
        self._adaptation = None if adapt is None else Adaptation(*adapt)
        self._on_failure = on_failure
        self._supervisor: Supervisor | None = None  # from `begin` on
        self._start: SlaveStart | None = None  # without a name
        self._configured_slots = 0
        self._members: dict[str, MemberSlave] = {}  # at the master
        self._lock = threading.Lock()  # of the supervisor and what it reads
        self._wake = threading.Event()
        self._has_joined = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._checking: threading.Thread | None = None
        self._check_error: BaseException | None = None
        self._control: ControlClient | None = None
        self._reported: list[dict[str, str | float | None]] | None = None  # to the master
        self._queued: list[str] = []  # places of slaves, if all of them wait in a queue
        self._queued_since = 0.0

    # --------------------------------------------------------------------------------------------------- start and end

    def addresses(self) -> list[str]:
        """Return the addresses on which the master must listen; [] for loopback. Raises LaunchFailed."""
        return list(self._launcher.addresses())

    def begin_check(self) -> None:
        """Begin to look whether slaves can be started; `finish_check` waits for the result."""
        self._checking = threading.Thread(target=self._check, name=f"cluster {self._cluster} check", daemon=True)
        self._checking.start()

    def finish_check(self) -> None:
        """Raise what the check has found: LaunchFailed or ConfigurationError."""
        if self._checking is not None:
            self._checking.join()
        if self._check_error is not None:
            raise self._check_error

    def begin(self, info: ConnectionFile, slave_items: Mapping[str, Any], initializer: bytes, log_format: str) -> None:
        """Begin to start slaves.

        Args:
            info: the master's connection file.
            slave_items: configuration of the slaves.
            initializer: a pickled call, or b"".
            log_format: of the slaves' logs.
        """
        self._control = ControlClient(info.endpoints, info.tokens["admin"], info.certificate_pem)
        # A launcher gives it to machines where others may read memory or files; a slave needs no more.
        for_slaves = msgspec.structs.replace(info, tokens={"slave": info.tokens["slave"]})
        configuration = write_configuration({"SlaveNode": dict(slave_items)}, initializer)
        compute = str(self._control.call("supervise", launched=[])["compute"])
        self._start = SlaveStart("", in_one_line(for_slaves), configuration, log_format, compute)
        self._configured_slots = int(slave_items.get("workers", 0) or 0)
        wanted = self._launcher.slaves_default if self._count is None else self._count
        if self._adaptation is not None:
            wanted = self._adaptation.least if self._count is None else self._count
        self._supervisor = Supervisor(self.prefix, wanted, self._launcher.start_bound_s)
        self._thread = threading.Thread(target=self._run, name=f"cluster {self._cluster} launcher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Start no more slaves. They run on until `close`."""
        self._stopping = True
        self._wake.set()
        if self._checking is not None:
            self._checking.join()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def close(self) -> None:
        """End all slaves, and what the launcher has left anywhere. Must follow `stop`."""
        try:
            self._launcher.close()
        except ConcurrentError as error:
            log.warning("launcher %s could not remove everything: %s", self._on, error)
        finally:
            if self._control is not None:
                self._control.close()

    # ---------------------------------------------------------------------------------------------------- for the owner

    def wait_joined(self, timeout_s: float) -> bool:
        """Wait until a slave has joined; at once if none is wanted. Return False after `timeout_s` seconds."""
        with self._lock:
            if self._supervisor is not None and not self._supervisor.wanted and not self._supervisor.has_given_up:
                return True
        return self._has_joined.wait(timeout_s)

    def queued(self) -> list[str]:
        """Return the places of the slaves, if all of them have only waited in a queue for a while; else []."""
        with self._lock:
            return self._queued if monotonic() - self._queued_since >= QUEUED_S else []

    @property
    def workers(self) -> int:
        """The number of workers of the slaves that have joined and stay."""
        with self._lock:
            return sum(each.slots for each in self._members.values() if not each.is_draining)

    @property
    def wanted(self) -> int:
        """The number of slaves that there should be."""
        with self._lock:
            return self._require().wanted

    def scale(self, slaves: int) -> None:
        """Have so many slaves; an adaptation ends."""
        with self._lock:
            self._adaptation = None
            self._require().want(slaves)
        self._wake.set()

    def adapt(self, least: int, most: int, wait_s: float = WAIT_BEFORE_DOWN_S) -> None:
        """Have the number of slaves follow the queue."""
        with self._lock:
            supervisor = self._require()
            self._adaptation = Adaptation(least, most, wait_s)
            supervisor.want(min(most, max(least, supervisor.wanted)))
        self._wake.set()

    def slaves_for(self, workers: int) -> int:
        """Return how many slaves have so many workers. Raises ConfigurationError if that is not known."""
        with self._lock:
            slots = self._slots_per_slave()
        if not slots:
            raise ConfigurationError(
                "how many workers a slave will have is not known before one has joined: give a number of slaves,"
                " with scale(slaves=N) or `concurrent-nb scale NAME --slaves N`"
            )
        return -(-workers // slots)

    def replace(self, name: str) -> int:
        """Start another slave for this one, which then leaves; return its workers. Raises ClusterError if it leaves."""
        with self._lock:
            member = self._members.get(name)
            if member is None or not self._require().replace(name):
                raise ClusterError(
                    f"slave {name!r} is not one that cluster {self._cluster!r} runs, or it leaves already"
                )
        self._wake.set()
        return member.slots

    def master_restarted(self) -> None:
        """Report everything again: the master is a new one, which knows nothing."""
        with self._lock:
            self._reported = None

    def has(self, name: str) -> bool:
        """Return whether a slave of this name was started here."""
        return name.rpartition("-")[0] == self.prefix

    # ------------------------------------------------------------------------------------------------------- the thread

    def _check(self) -> None:
        try:
            self._launcher.check()
        except BaseException as error:  # noqa: BLE001  (raised by `finish_check`)
            self._check_error = error

    def _require(self) -> Supervisor:
        if self._supervisor is None:
            raise ClusterError(f"cluster {self._cluster!r} has not been started")
        return self._supervisor

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            pause_s = TURN_S
            try:
                pause_s = self._turn(monotonic())
            except Exception as error:  # of a launcher, which may be a plug-in
                if short := shortage(error):
                    log.warning("cluster %s: its slaves cannot be checked now, because %s", self._cluster, short)
                    pause_s = SHORTAGE_TURN_S
                elif not isinstance(error, MasterUnreachable):  # it has ended, which the owner notices, or is busy
                    log.exception("launcher %s has failed", self._on)
                    self._fail(LaunchFailed(f"launcher {self._on} has failed: {describe(error)}"))
                    return
            self._wake.wait(pause_s)

    def _turn(self, now: float) -> float:
        """Do what the supervisor decides; return the seconds until the next turn."""
        launched = self._launcher.slaves()
        answer = self._report(launched)
        members = {
            slave["name"]: MemberSlave(slave["name"], slave["slots"], slave["in_flight"], slave["is_draining"])
            for slave in answer["slaves"]
            if self.has(slave["name"])
        }
        with self._lock:
            self._note_queued(now, launched, members)
            self._members = members
            supervisor = self._require()
            if self._adaptation is not None:
                load = ClusterLoad(answer["waiting"], answer["assigned"], self._slots_per_slave() or 1)
                supervisor.follow(self._adaptation.wanted(now, supervisor.wanted, load))
            instructions = supervisor.turn(now, launched, members)
            next_turn_s = supervisor.next_turn_s(instructions)
            if members:
                self._has_joined.set()
        for instruction in instructions:
            if self._stopping:
                break
            self._obey(instruction)
        return next_turn_s

    def _note_queued(self, now: float, launched: Sequence[LaunchedSlave], members: Mapping[str, MemberSlave]) -> None:
        is_queued = not members and all(each.state is LaunchState.QUEUED for each in launched)
        before, self._queued = self._queued, [each.place for each in launched] if is_queued else []
        if self._queued and not before:
            self._queued_since = now

    def _report(self, launched: Sequence[LaunchedSlave]) -> Any:
        """Report changed places of slaves to the master; return its members and the length of its queue."""
        assert self._control is not None
        rows = [_row(each) for each in launched]
        answer = self._control.call("supervise", launched=None if rows == self._reported else rows)
        self._reported = rows
        return answer

    def _obey(self, instruction: Instruction) -> None:
        match instruction:
            case StartSlave(name):
                assert self._start is not None
                try:
                    self._launcher.launch(dataclasses.replace(self._start, name=name))
                except Exception as error:
                    short, is_ours = shortage(error), isinstance(error, ConcurrentError)
                    if not short and not isinstance(error, (LaunchFailed, ConfigurationError)):
                        raise
                    reason = str(error) if is_ours else f"it cannot be started: {describe(error)}: {short}"
                    refused = isinstance(error, ConfigurationError) and not short
                    with self._lock:
                        self._require().launch_failed(name, reason, refused=refused, is_shortage=bool(short))
            case EndSlaves(names):
                self._end(names)
            case DrainSlave(name):
                self._drain(name)
            case ReportFailure(text):
                log.warning("cluster %s: %s", self._cluster, text)
            case GiveUp(reason, initializer_failed):
                text = f"cluster {self._cluster!r} ({self._on}): {reason}"
                self._fail(InitializerFailed(text) if initializer_failed else LaunchFailed(text))

    def _end(self, names: tuple[str, ...]) -> None:
        try:
            self._launcher.end(names)
        except Exception as error:
            if not isinstance(error, LaunchFailed) and not shortage(error):
                raise
            log.warning("cluster %s: slaves %s may still run: %s", self._cluster, ", ".join(names), describe(error))

    def _drain(self, name: str) -> None:
        assert self._control is not None
        try:
            self._control.call("drain_slave", slave=name)
        except MasterUnreachable:
            raise
        except ConcurrentError as error:  # it has left meanwhile
            log.info("slave %s is not drained: %s", name, error)

    def _fail(self, failure: ClusterStartFailed) -> None:
        self._on_failure(failure)
        self._has_joined.set()  # waiting threads raise the failure

    def _slots_per_slave(self) -> int:
        """Return the workers of a slave: as configured, or else as those that have joined have; 0: not known."""
        return self._configured_slots or max((each.slots for each in self._members.values()), default=0)


def _row(slave: LaunchedSlave) -> dict[str, str | float | None]:
    texts = {"name": slave.name, "state": slave.state.value, "place": slave.place, "reason": slave.reason}
    return {**texts, "limit_s": slave.limit_s}
