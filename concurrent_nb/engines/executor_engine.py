"""The engine "executor": any executor of the standard library's kind, as those of MPI, loky, Parsl, executorlib, Flux.

    user's process: ExecutorEngine -- submit(run_in_executor, ...) --> executor's worker: EngineHost
                    ReportListener <-- reports; orders --> HostChannel, one per worker process and session

An executor brings back results only. So hosts connect to the user's process for everything else, with a key that
travels with the groups. Where they cannot reach it, prints come when their group ends, and running tasks cannot be
stopped, which is logged.
"""

import concurrent.futures
import contextlib
import logging
import os
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from typing import Any, Final

import msgspec

from concurrent_nb.engines.engine_interface import FACTS, EngineEvents, check_facts, with_authkey
from concurrent_nb.engines.group_messages import EngineSession, Parcel, read_group
from concurrent_nb.engines.host_table import HOSTS
from concurrent_nb.errors import EngineUnavailable
from concurrent_nb.foreign import describe
from concurrent_nb.transport.addresses import advertised, is_loopback
from concurrent_nb.wire.codec import Buffer
from concurrent_nb.workers.slave_side.machine import cores

log = logging.getLogger(__name__)

#: a worker must have answered after this time, in seconds: an executor may have to start it
ANSWER_S: Final = 60.0
#: hosts have this long to end, in seconds
END_S: Final = 5.0
#: seconds in which a connection must be made
CONNECT_S: Final = 3.0
#: seconds for each message in which a peer shows that it has the key
CHALLENGE_S: Final = 10.0
#: seconds after a connection that could not be accepted
REFUSED_S: Final = 0.5
#: attributes of executors that hold their number of workers
_SIZES: Final = ("_max_workers", "num_workers", "max_workers")

_ENCODER: Final = msgspec.msgpack.Encoder()
_PARCELS: Final = msgspec.msgpack.Decoder(list[bytes])
#: what ends a session on a connection
_END: Final = b""


def slots_of(executor: concurrent.futures.Executor) -> int:
    """Return how many calls an executor runs at the same time; the cores of this machine if it does not report it."""
    for name in _SIZES:
        count = getattr(executor, name, None)
        if type(count) is int and count > 0:
            return count
    return cores()


class ExecutorEngine:
    """Runs groups on an executor, which stays the user's. Implements `engine_interface.Engine`.

    Args:
        executor: the executor.
        workers: calls that it runs at the same time; None: the number that it reports.
    """

    name = "executor"

    def __init__(self, executor: concurrent.futures.Executor, workers: int | None = None) -> None:
        self._executor = executor
        self.slots = workers or slots_of(executor)
        self._listener: ReportListener | None = None
        self._open: dict[int, concurrent.futures.Future[Parcel]] = {}  # by group

    def open(self, session: EngineSession, events: EngineEvents) -> EngineSession:
        """Check a worker's versions, and listen for hosts."""
        self._events = events
        asked: concurrent.futures.Future[dict[str, str]] | None = None
        try:
            asked = self._executor.submit(eval, FACTS)
            facts = asked.result(ANSWER_S)
        except TimeoutError:
            raise EngineUnavailable(
                f"no worker of {self.describe()} has answered within {ANSWER_S:g} s: it may have none, or all are busy"
            ) from None
        except Exception as error:
            raise EngineUnavailable(f"{self.describe()} does not run tasks: {describe(error)}") from error
        finally:
            if asked is not None:
                asked.cancel()  # if it has not begun, the executor need not run it
        check_facts(facts, f"a worker of {self.describe()}")
        # The workers of these are on this machine; those of others may be anywhere.
        is_local = isinstance(
            self._executor, (concurrent.futures.ProcessPoolExecutor, concurrent.futures.ThreadPoolExecutor)
        )
        self._listener = ReportListener("127.0.0.1" if is_local else "0.0.0.0", events.reported)
        if is_local:
            session = with_authkey(session)
        return msgspec.structs.replace(session, addresses=self._listener.addresses, secret=self._listener.secret)

    def put(self, parcel: Parcel) -> None:
        """Return None: executors store nothing."""

    def drop(self, handle: Any) -> None:
        """Do nothing."""

    def submit(self, number: int, parcel: Parcel, objects: list[Parcel], handles: list[Any]) -> None:
        """Submit a group. Raises what the executor raises, as RuntimeError after its shutdown."""
        future = self._executor.submit(run_in_executor, parcel, objects)
        self._open[number] = future
        future.add_done_callback(lambda ended: self._ended(number, ended))

    def _ended(self, number: int, future: "concurrent.futures.Future[Parcel]") -> None:
        was_recalled = self._open.pop(number, None) is None
        if future.cancelled():
            if was_recalled:
                self._events.lost(number, "its call was cancelled")
            else:
                self._events.gone(f"{self.describe()} has cancelled its tasks")
        elif (error := future.exception()) is None:
            self._events.ended(number, future.result())
        elif isinstance(error, concurrent.futures.BrokenExecutor):
            self._events.gone(f"{self.describe()} is broken: {describe(error)}")
        else:
            self._events.lost(number, f"a worker of {self.describe()} has failed ({describe(error)})")

    def recall(self, number: int) -> None:
        """Cancel the call of a group, if it has not begun."""
        future = self._open.pop(number, None)
        if future is not None and not future.cancel():
            self._open[number] = future
            if future.done():
                self._open.pop(number, None)

    def order(self, number: int, parcel: Parcel) -> None:
        """Send orders to all hosts; the one that runs the group carries them out."""
        if self._listener is not None:
            self._listener.send(_ENCODER.encode(parcel))

    def describe(self) -> str:
        """Return the class of the executor, and its number of workers."""
        return f"{type(self._executor).__name__} with {self.slots} worker{'s' if self.slots != 1 else ''}"

    def close(self) -> None:
        """End all hosts, and wait until they have ended."""
        for future in list(self._open.values()):
            future.cancel()
        if self._listener is not None:
            self._listener.close()
        concurrent.futures.wait(list(self._open.values()), END_S)


class ReportListener:
    """Accepts the connections of hosts and takes their reports.

    Args:
        address: IP address to listen on; 0.0.0.0 for all.
        take: called with each report, in a thread of its connection.
    """

    def __init__(self, address: str, take: Callable[[Parcel], None]) -> None:
        self.secret = secrets.token_hex(32)
        self._take = take
        # Without a key, because a peer that does not answer would hold up the others; each thread asks for it.
        self._listener = Listener((address, 0), "AF_INET", backlog=64)
        self.addresses = advertised(self._listener._listener._socket)  # type: ignore[attr-defined]
        if address == "0.0.0.0":
            port = self._listener.address[1]
            self.addresses = [f"127.0.0.1:{port}", *self.addresses]
        self._lock = threading.Lock()
        self._connections: dict[Connection, threading.Thread] = {}
        self._admitted: set[Connection] = set()  # those that have shown the key
        self._pause = threading.Event()  # set when it closes
        self._thread = threading.Thread(target=self._accept, name="concurrent_nb hosts", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError as error:  # too many open files, or a peer that has gone
                log.warning("a host could not connect: %s", describe(error))
                if self._pause.wait(REFUSED_S):
                    return
                continue
            if self._pause.is_set():
                connection.close()
                return
            thread = threading.Thread(target=self._read, args=(connection,), name="concurrent_nb host", daemon=True)
            with self._lock:
                self._connections[connection] = thread
            thread.start()

    def _read(self, connection: Connection) -> None:
        try:
            _set_receive_timeout(connection, CHALLENGE_S)  # else a peer that sends nothing would keep a thread
            deliver_challenge(connection, self.secret.encode())
            answer_challenge(connection, self.secret.encode())
            _set_receive_timeout(connection, 0.0)
            with self._lock:
                self._admitted.add(connection)
            while True:
                self._take(_PARCELS.decode(connection.recv_bytes()))
        except (EOFError, OSError):
            return
        except (AuthenticationError, msgspec.MsgspecError) as error:
            log.error("a connection is cut that is no host's: %s", describe(error))
        finally:
            with self._lock:
                self._connections.pop(connection, None)
                self._admitted.discard(connection)
            connection.close()

    def send(self, data: bytes) -> None:
        """Send orders to all hosts."""
        with self._lock:
            connections = list(self._admitted)
        for connection in connections:
            with contextlib.suppress(OSError):  # it has ended meanwhile
                connection.send_bytes(data)

    def close(self) -> None:
        """End the sessions of all hosts, and wait for them."""
        self._pause.set()
        with contextlib.suppress(OSError):  # wakes the thread that accepts
            socket.create_connection(("127.0.0.1", self._listener.address[1]), CONNECT_S).close()
        self._thread.join(END_S)
        self._listener.close()
        self.send(_END)
        with self._lock:
            waiting = dict(self._connections)
            strangers = [connection for connection in waiting if connection not in self._admitted]
        for connection in strangers:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as peer:
                peer.shutdown(socket.SHUT_RDWR)  # wakes its thread
        for thread in waiting.values():
            thread.join(END_S)


def _set_receive_timeout(connection: Connection, seconds: float) -> None:
    """Have receiving raise OSError after that time; 0: never."""
    with socket.socket(fileno=os.dup(connection.fileno())) as peer:
        timeout = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)


# ------------------------------------------------------------------------------------------ in the executor's workers


class HostChannel:
    """A worker process's connection to the user's process, for one session."""

    def __init__(self, session: EngineSession) -> None:
        self._token = session.token
        self._lock = threading.Lock()
        self._connection = _connect(session)
        threading.Thread(target=self._read, name="concurrent_nb orders", daemon=True).start()

    def send(self, parcel: Parcel) -> None:
        """Send a report. Raises OSError."""
        with self._lock:
            self._connection.send_bytes(_ENCODER.encode(parcel))

    def _read(self) -> None:
        """Pass orders on, until the session ends."""
        try:
            while data := self._connection.recv_bytes():
                HOSTS.order(self._token, _PARCELS.decode(data))
        except (EOFError, OSError) as error:  # the user's process has ended
            log.debug("a session of hosts has ended: %s", error)
        finally:
            CHANNELS.forget(self._token)
            HOSTS.end_session(self._token)
            self._connection.close()


def _connect(session: EngineSession) -> Connection:
    """Connect to the first address that answers. Raises OSError."""
    failures = []
    for address in session.addresses:
        host, _, port = address.rpartition(":")
        place = host.strip("[]"), int(port)
        if is_loopback(place[0]) and session.host_name != socket.gethostname():
            continue
        try:
            socket.create_connection(place, CONNECT_S).close()  # first, because `Client` waits for minutes
            return Client(place, authkey=session.secret.encode())
        except Exception as error:  # noqa: BLE001  (also AuthenticationError: another process has this port there)
            failures.append(f"{address}: {describe(error)}")
    raise OSError(f"the user's process cannot be reached ({'; '.join(failures)})")


class ChannelTable:
    """The channels of this process, by session; None where the user's process cannot be reached."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channels: dict[bytes, HostChannel | None] = {}
        self._pid = os.getpid()

    def open(self, session: EngineSession) -> HostChannel | None:
        """Return the channel of a session, which is opened the first time."""
        with self._lock:
            if os.getpid() != self._pid:  # forked: threads and connections belong to the parent
                self._channels, self._pid = {}, os.getpid()
            if session.token not in self._channels:
                try:
                    self._channels[session.token] = HostChannel(session)
                except OSError as error:
                    log.warning("prints come late and running tasks cannot be stopped: %s", error)
                    self._channels[session.token] = None
            return self._channels[session.token]

    def forget(self, token: bytes) -> None:
        """Forget a channel that has ended."""
        with self._lock:
            self._channels.pop(token, None)


#: the channels of this process
CHANNELS: Final = ChannelTable()


def run_in_executor(parcel: Sequence[Buffer], objects: Sequence[Sequence[Buffer]]) -> Parcel:
    """Run a group in this worker of an executor; return its last report."""
    channel = CHANNELS.open(read_group(parcel)[0].session)
    return HOSTS.run(parcel, objects, None if channel is None else channel.send)
