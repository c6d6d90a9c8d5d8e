"""The engine "dask": groups are tasks of an existing Dask cluster.

    user's process: DaskEngine -- client.submit(run_in_dask, ...) --> a thread of a Dask worker: EngineHost
                               <-- events of a topic, by worker.log_event -- reports
                               -- client.run(give_orders, ...) --> orders

All messages go over the connections that Dask has. Where workers cannot reach each other, which Dask needs for what it
stores, large objects travel with the groups, through the scheduler. Dask cannot stop a running task, although `cancel`
returns True; a host can, because the task runs in a process of its own. When a Dask worker dies, Dask runs its groups
again elsewhere, three times at most.
"""

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Collection, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import distributed

from concurrent_nb.engines.engine_interface import FACTS, EngineEvents, check_facts, own_facts, with_authkey
from concurrent_nb.engines.group_messages import EngineSession, Parcel, read_group
from concurrent_nb.engines.host_table import HOSTS
from concurrent_nb.errors import ConfigurationError, EngineUnavailable, VersionMismatch
from concurrent_nb.foreign import describe
from concurrent_nb.nodes.launchers.dask_pilot import DASK_PORT, dask_address, tls_remedy
from concurrent_nb.transport.addresses import is_loopback
from concurrent_nb.wire.codec import Buffer

log = logging.getLogger(__name__)

#: a scheduler must answer within this time, in seconds, and have a worker within WORKERS_S
CONNECT_S: Final = 10.0
WORKERS_S: Final = 5.0
#: all workers must have reported their versions within FACTS_S seconds, and received an order within ORDER_S
FACTS_S: Final = 30.0
ORDER_S: Final = 30.0
#: seconds between two looks at the workers
LOOK_S: Final = 1.0
#: a worker must reach others within this time, in seconds; each tries so many of them
REACH_S: Final = 3.0
REACHED_MAX: Final = 8
#: a scheduler that has had no worker for so long, in seconds, runs nothing any more; likewise one whose connection
#: fails, or that hangs, as when its process is stopped or busy
NO_WORKERS_S: Final = 30.0
SILENT_S: Final = 10.0
HANGS_S: Final = 60.0
#: an object must be stored within this time, in seconds, and one for each PUT_BYTES of it
PUT_S: Final = 30.0
PUT_BYTES: Final = 1_000_000
#: hosts have this long to end, in seconds
END_S: Final = 5.0
#: the scheduler keeps the last thousand events of each topic; it is asked to drop them after so many bytes of reports
EVENTS_BYTES: Final = 8 << 20
#: an expression, which any Python evaluates in the scheduler's process
IN_BROKER: Final = "[scheduler._broker.{call} for scheduler in __import__('distributed').Scheduler._instances] and None"
#: the states of a task in its worker while it is wanted
_WANTED_STATES: Final = ("executing", "long-running")


class _DaskGroup:
    """A group that Dask has."""

    def __init__(self, future: Any) -> None:
        self.future = future
        self.worker: str | None = None  #: address of the one that runs it, as soon as it has reported something


class DaskEngine:
    """Runs groups on a Dask cluster. Implements `engine_interface.Engine`.

    Args:
        where: "dask://HOST:PORT" of a scheduler, or a client of one, which stays the user's.
    """

    name = "dask"
    slots = 0  #: known when it is open

    def __init__(self, where: "str | distributed.Client") -> None:
        self._where = where
        self._client: Any = None if isinstance(where, str) else where
        self._known_address = str(where)
        self._is_open = False
        self._session: EngineSession | None = None
        self._topic = ""
        self._groups: dict[int, _DaskGroup] = {}  # by number
        self._event_bytes = 0  # of reports, since the scheduler has dropped them
        self._connection: Any = None  # of the client to the scheduler, to which the topic was subscribed
        self._stores = True  # whether workers can get what another one stores
        self._reaching: set[str] = set()  # workers of which that is known
        self._closing = threading.Event()
        self._watcher: threading.Thread | None = None

    def open(self, session: EngineSession, events: EngineEvents) -> EngineSession:
        """Connect, check the workers' versions, and listen to reports."""
        self._events, self._session = events, session
        if self._client is None:
            self._client = _client_of(_address_of(str(self._where)))
        self._check_client()
        threads = self._wait_for_workers()
        ours = own_facts()
        for worker, facts in self._facts_of_workers().items():
            if isinstance(facts, BaseException):
                raise EngineUnavailable(f"the Dask worker {worker} does not run functions: {describe(facts)}")
            check_facts(facts, f"the Dask worker {worker}", ours)
        self.slots = sum(threads.values())
        self._check_reach(threads)
        if all(map(_is_here, [self._address, *threads])):
            session = self._session = with_authkey(session)
        self._topic = f"concurrent_nb-{session.token.hex()}"
        self._subscribe()
        self._is_open = True
        self._watcher = threading.Thread(target=self._watch, name="concurrent_nb dask", daemon=True)
        self._watcher.start()
        return session

    def _check_client(self) -> None:
        """Raise EngineUnavailable if the user's client cannot be used here."""
        if self._client.asynchronous:
            raise EngineUnavailable(
                f"the client of {self.describe()} is asynchronous, and an engine waits for answers: give a client that"
                " was made without asynchronous=True"
            )
        if self._client.status not in ("running", "connecting"):
            raise EngineUnavailable(
                f"the client of {self.describe()} is {self._client.status}: give one that is connected"
            )

    def _subscribe(self) -> None:
        """Have reports brought here, over the connection that there is now."""
        self._connection = getattr(self._client, "scheduler_comm", None)
        self._client.subscribe_topic(self._topic, self._on_event)

    def _wait_for_workers(self) -> dict[str, int]:
        """Return the number of threads of each worker, as soon as there is one."""
        deadline = time.monotonic() + WORKERS_S
        while not (threads := self._threads_of_workers()):
            if time.monotonic() > deadline:
                raise EngineUnavailable(
                    f"{self.describe()} has no workers: start one (`dask worker {self._address}`), or give an adaptive"
                    " cluster a minimum of one"
                )
            time.sleep(0.1)
        return threads

    def _threads_of_workers(self) -> dict[str, int]:
        try:
            return dict(self._client.nthreads(callback_timeout=CONNECT_S))
        except (OSError, TimeoutError) as error:
            raise EngineUnavailable(f"{self.describe()} does not answer: {describe(error)}") from error

    def _facts_of_workers(self) -> dict[str, Any]:
        """Return the facts of each worker, or what it has raised."""
        try:
            found: dict[str, Any] = self._client.sync(
                self._client._run, eval, FACTS, on_error="return", callback_timeout=FACTS_S
            )
        except TimeoutError:
            raise EngineUnavailable(
                f"not all workers of {self.describe()} have reported their versions within {FACTS_S:g} s: end those"
                " that hang, or that cannot be reached from the scheduler"
            ) from None
        return found

    def _check_reach(self, workers: Collection[str]) -> None:
        """Store nothing on workers from now on if they cannot reach each other, and say so."""
        if not self._stores or self._reaching.issuperset(workers):
            return
        found: dict[str, Any] = {}
        if len(workers) > 1:
            try:
                found = self._client.sync(
                    self._client._run, reach, sorted(workers), REACH_S, on_error="return", callback_timeout=REACH_S + 1
                )
            except TimeoutError:  # one of them hangs: they are asked again
                return
            there = self._client.nthreads(callback_timeout=SILENT_S)
            if not all(isinstance(to, dict) and to.keys() <= there.keys() for to in found.values()):
                return  # some have gone meanwhile: the others are asked again
        self._reaching = set(workers)
        failures = [f"{worker} does not reach {to}: {why}" for worker, tos in found.items() for to, why in tos.items()]
        if failures:
            self._stores = False
            log.warning(
                "Dask workers cannot reach each other (%s%s): large arguments travel with each group of tasks, through"
                " the scheduler. Give workers addresses that all others reach (`dask worker --interface` or"
                " --contact-address)",
                failures[0],
                f", and {len(failures) - 1} more" if failures[1:] else "",
            )

    @property
    def _address(self) -> str:
        scheduler = getattr(self._client, "scheduler", None)  # None once the client is closed
        self._known_address = str(getattr(scheduler, "address", self._known_address))
        return self._known_address

    def put(self, parcel: Parcel) -> Any:
        """Store an object on a worker, from where others get it; return None if they cannot, or it takes too long."""
        if not self._stores:
            return None
        within_s = PUT_S + sum(map(len, parcel)) / PUT_BYTES
        try:
            (future,) = self._client.sync(self._client._scatter, [parcel], hash=False, callback_timeout=within_s)
        except OSError:  # the worker that was to have it hangs, or the scheduler, or the connection is lost for now
            return None
        return future

    def drop(self, handle: Any) -> None:
        """Release a stored object."""
        handle.release()

    def submit(self, number: int, parcel: Parcel, objects: list[Parcel], handles: list[Any]) -> None:
        """Submit a group as a task."""
        assert self._session is not None
        future = self._client.submit(
            run_in_dask,
            parcel,
            objects,
            *(handles if self._stores else ()),  # what a host lacks comes when it has said so
            key=f"concurrent_nb-{self._session.token.hex()[:8]}-{number}-{time.monotonic_ns()}",
            pure=False,
            fifo_timeout="0 ms",
        )
        self._groups[number] = _DaskGroup(future)
        future.add_done_callback(lambda ended: self._ended(number, ended))

    def _ended(self, number: int, future: Any) -> None:
        """Take the last report of a group. Called in a thread of Dask's."""
        group = self._groups.get(number)
        if group is not None and group.future is future:
            del self._groups[number]
        try:
            self._events.ended(number, future.result())
        except distributed.KilledWorker as error:
            self._events.lost(number, f"its Dask worker died ({describe(error)})")
        except BaseException as error:  # any error of Dask
            if not self._closing.is_set():
                if self._client.status == "closed":
                    self._events.gone(f"{self.describe()} is gone")
                else:  # if it is "connecting", the connection may come back; the watcher gives it up otherwise
                    self._events.lost(number, f"Dask has lost its task ({describe(error)})")
            if not isinstance(error, Exception):
                raise
        finally:
            future.release()

    def _on_event(self, event: Any) -> None:
        """Take a report. Called in Dask's event loop."""
        _, message = event
        group = self._groups.get(message["number"])
        if group is not None:  # else it has ended: its last report was faster
            group.worker = message["worker"]
        self._event_bytes += sum(map(len, message["parcel"]))
        self._events.reported(message["parcel"])

    def recall(self, number: int) -> None:
        """Cancel the task of a group. A host that runs it all the same notices that."""
        group = self._groups.pop(number, None)
        if group is not None:
            self._client.loop.add_callback(self._cancel, group.future)

    async def _cancel(self, future: Any) -> None:
        """Cancel a task. In Dask's event loop, because a scheduler that hangs does not answer."""
        with contextlib.suppress(Exception):  # the scheduler may be gone, and the task with it
            await asyncio.wait_for(self._client._cancel([future]), ORDER_S)

    def order(self, number: int, parcel: Parcel) -> None:
        """Bring orders to the worker that runs a group, or to all if that is not known."""
        group = self._groups.get(number)
        workers = None if group is None or group.worker is None else [group.worker]
        self._client.loop.add_callback(self._bring_orders, parcel, workers)

    async def _bring_orders(self, parcel: Parcel, workers: list[str] | None) -> None:
        """Bring orders. In Dask's event loop, because a worker that hangs does not answer."""
        assert self._session is not None
        bringing = self._client._run(give_orders, self._session.token, parcel, workers=workers, wait=False)
        try:
            await asyncio.wait_for(bringing, ORDER_S)
        except Exception as error:  # noqa: BLE001  (Dask's: the group goes on, and what it does is still reported)
            if not self._closing.is_set():
                log.warning("orders cannot be brought to the engine dask: %s", describe(error))

    def _watch(self) -> None:
        """Watch how many workers there are, and whether the scheduler answers."""
        slots, fine_at, had_workers_at, has_warned = self.slots, time.monotonic(), time.monotonic(), False
        while not self._closing.wait(LOOK_S):
            try:
                if self._client.status != "running":
                    raise OSError(f"its connection is {self._client.status}")
                threads = dict(self._client.nthreads(callback_timeout=SILENT_S))
                found = sum(threads.values())
                self._check_reach(threads)
                if self._client.scheduler_comm is not self._connection:
                    self._subscribe()  # the client has connected again, perhaps to a scheduler that knows no topic
                if self._event_bytes > EVENTS_BYTES:
                    self._event_bytes = 0
                    self._drop_events(f"truncate({self._topic!r})", SILENT_S)
            except Exception as error:  # noqa: BLE001  (Dask raises various errors when its scheduler is gone)
                if self._closing.is_set():
                    return
                hangs = isinstance(error, TimeoutError)
                silent_s = time.monotonic() - fine_at
                if self._client.status == "closed" or silent_s > (HANGS_S if hangs else SILENT_S):
                    why = f"it has hung for {silent_s:.0f} s" if hangs else describe(error)
                    self._events.gone(f"{self.describe()} does not answer: {why}")
                    return
                if hangs and not has_warned:
                    has_warned = True
                    log.warning("%s has not answered for %.0f s: tasks wait for it", self.describe(), silent_s)
                continue
            fine_at = now = time.monotonic()
            has_warned = False
            if found:
                had_workers_at = now
            elif now - had_workers_at > NO_WORKERS_S:
                self._events.gone(f"{self.describe()} has had no worker for {NO_WORKERS_S:g} s")
                return
            if found != slots:
                slots = found
                self._events.resized(found)

    def _drop_events(self, call: str, within_s: float) -> None:
        """Have the scheduler drop reports that it has brought, by a call of its broker. Raises what Dask raises."""
        text = IN_BROKER.format(call=call)
        self._client.sync(self._client._run_on_scheduler, eval, text, callback_timeout=within_s)

    def describe(self) -> str:
        """Return the address of the scheduler."""
        return f"the Dask scheduler at {self._address}"

    def close(self) -> None:
        """End all hosts; close the client if it was made here."""
        self._closing.set()
        if self._watcher is not None:
            self._watcher.join(END_S)
        if self._is_open and self._client.status == "running":
            assert self._session is not None
            with contextlib.suppress(Exception):  # the scheduler may be gone meanwhile; hosts end by themselves then
                self._client.subscribe_topic(self._topic, ignore_event)  # the client keeps what handles a topic
                self._client.unsubscribe_topic(self._topic)
                futures = [group.future for group in self._groups.values()]
                self._client.sync(self._client._cancel, futures, callback_timeout=END_S)
                self._client.sync(self._client._run, end_hosts, self._session.token, callback_timeout=END_S)
                self._drop_events(f"_topics.pop({self._topic!r}, None)", END_S)
        self._groups.clear()
        if isinstance(self._where, str) and self._client is not None:
            try:
                self._client.close(timeout=END_S)
            except TimeoutError:  # the scheduler hangs
                self._client._loop_runner.stop()
                self._client.status = "closed"


def _address_of(where: str) -> str:
    """Return the address of a scheduler as Dask writes it. Raises ConfigurationError.

    >>> _address_of("dask://host"), _address_of("dask://tls://host:8787")
    ('tcp://host:8786', 'tls://host:8787')
    """
    try:
        return dask_address(where.removeprefix("dask:"))
    except ConfigurationError:
        raise ConfigurationError(
            f"{where!r} is no address of a Dask scheduler: give dask://HOST:{DASK_PORT} or dask://tls://HOST:{DASK_PORT}"
        ) from None


def _is_here(address: str) -> bool:
    """Return whether a scheduler or worker can be reached from this machine only."""
    return address.startswith("inproc:") or is_loopback(urlsplit(address).hostname or "")


class BoundedClient(distributed.Client):  # type: ignore[misc]
    """A client whose connection fails after a time if the scheduler accepts it and sends nothing."""

    async def _start(self, timeout: float, **options: Any) -> Any:
        return await asyncio.wait_for(super()._start(timeout=timeout, **options), timeout)


def _client_of(address: str) -> Any:
    """Connect to a scheduler. Raises EngineUnavailable or VersionMismatch."""
    place = urlsplit(address)
    try:
        socket.create_connection((place.hostname, place.port), CONNECT_S).close()  # a client takes longer to fail
        return BoundedClient(address, timeout=CONNECT_S, set_as_default=False, name="concurrent_nb")
    except BaseException as error:
        _close_begun(error)
        if isinstance(error, ImportError):  # the scheduler's words about other versions
            raise VersionMismatch(
                f"{describe(error)}: install the same version of distributed as the scheduler at {address} has"
            ) from error
        if not isinstance(error, OSError | ValueError | TypeError | TimeoutError):  # an interrupt
            raise
        # TypeError: there are no files for TLS.
        remedy = tls_remedy(address, "distributed.comm.tls in Dask's configuration, or give a distributed.Client")
        raise EngineUnavailable(
            f"no Dask scheduler answers at {address}: {describe(error)}. Start one (`dask scheduler`), or check the"
            f" address; {remedy}"
        ) from error


def ignore_event(event: Any) -> None:
    """Do nothing with an event of a session that has ended."""


def _close_begun(error: BaseException) -> None:
    """End the thread of a client whose constructor has raised this, so that no variable refers to the client."""
    traceback = error.__traceback__
    while traceback is not None:
        client = traceback.tb_frame.f_locals.get("self")
        if isinstance(client, distributed.Client):
            client._loop_runner.stop()  # `close` does not, as it has not come so far
            client.status = "closed"  # else it closes itself on that loop when it is collected
            return
        traceback = traceback.tb_next


# ------------------------------------------------------------------------------------------------ in Dask's workers


def run_in_dask(parcel: Sequence[Buffer], objects: Sequence[Sequence[Buffer]], *stored: Sequence[Buffer]) -> Parcel:
    """Run a group in this thread of a Dask worker; return its last report."""
    worker = distributed.get_worker()
    group, _ = read_group(parcel)
    topic = f"concurrent_nb-{group.session.token.hex()}"

    def report(reported: Parcel) -> None:
        worker.log_event(topic, {"number": group.number, "worker": worker.address, "parcel": reported})

    key = worker.get_current_task()

    def is_wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state in _WANTED_STATES

    return HOSTS.run(parcel, [*objects, *stored], report, is_wanted)


async def reach(workers: list[str], within_s: float, dask_worker: Any) -> dict[str, str]:
    """Connect to the workers behind this one in the list, REACHED_MAX at most; return which of them fail, and why."""
    own = dask_worker.contact_address or dask_worker.address
    at = workers.index(own) if own in workers else 0
    behind = [worker for worker in workers[at:] + workers[:at] if worker != own][:REACHED_MAX]
    failures = {}

    async def connect(worker: str) -> None:
        try:
            comm = await asyncio.wait_for(dask_worker.rpc.connect(worker), within_s)
        except Exception as error:  # noqa: BLE001  (an address may be of any kind)
            failures[worker] = describe(error)
        else:
            dask_worker.rpc.reuse(worker, comm)

    await asyncio.gather(*map(connect, behind))
    return failures


async def give_orders(token: bytes, parcel: Sequence[Buffer]) -> None:
    """Give orders to the host of a group, if it is in this worker."""
    HOSTS.order(token, parcel)


def end_hosts(token: bytes) -> None:
    """End the hosts of a session in this worker."""
    HOSTS.end_session(token)
