"""The engine "ray": groups run in actors of a Ray cluster, one actor for each slot.

    user's process: RayEngine -- actor.run.remote(...) --> RayHost, an actor: EngineHost
                              <-- actor.next_reports.remote() -- reports
                              -- actor.order.remote(...) --> orders

Ray places the actors, each on one CPU. Making one takes a second, and a call of it a few hundred microseconds, so they
are made once and get groups.

Ray answers in a thread of its own. Ray's client (`ray://`) waits for ever if an actor is called in that thread, so
answers are handled in one of ours.

Calls that ask Ray's head (the GCS) wait for ever if it hangs, and some if it has died. So each has a thread of its own
(`asking`), and none is called with a lock held. Ray ends a process that is connected to a GCS that died a minute ago,
the user's, too; so this process leaves such a Ray before.
"""

import contextlib
import importlib.util
import logging
import os
import queue
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, Final, TypeVar

import ray
import ray.exceptions

from concurrent_nb import foreign
from concurrent_nb.engines.engine_interface import FACTS, EngineEvents, check_facts, with_authkey
from concurrent_nb.engines.group_messages import EngineSession, Parcel
from concurrent_nb.engines.host_table import HOSTS
from concurrent_nb.errors import ConfigurationError, EngineUnavailable, LaunchFailed, VersionMismatch
from concurrent_nb.foreign import describe
from concurrent_nb.nodes.launchers.engine_port import check_listens
from concurrent_nb.nodes.launchers.ray_pilot import RAY_PORT, ray_address
from concurrent_nb.transport.addresses import is_loopback
from concurrent_nb.wire.codec import Buffer

log = foreign.Log(__name__)

#: a server for Ray's clients must answer within this time, in seconds
CONNECT_S: Final = 10.0
#: Ray must have started a process of ours within this time, in seconds
START_S: Final = 60.0
#: an actor answers a question for reports after this time at the latest, in seconds
POLL_S: Final = 5.0
#: seconds between two looks at whether Ray answers, and within which it should
LOOK_S: Final = 2.0
ANSWER_S: Final = 1.0
#: a Ray that has not answered for SILENT_S seconds is logged, or given up if its head does not accept connections,
#: because Ray ends this process 60 s after the death of its GCS; one that hangs is given up after HANGS_S
SILENT_S: Final = 10.0
HANGS_S: Final = 30.0
#: an actor that Ray was asked to kill and has not killed after this time, in seconds, ends by itself
KILLED_S: Final = 0.5
#: CPUs are waited for so long, in seconds: when some are free, and when none is
SETTLE_S: Final = 2.0
FREE_S: Final = 10.0
#: an engine of which Ray has placed no actor for so long, in seconds, runs nothing any more
UNPLACED_S: Final = 30.0
#: hosts have this long to end, in seconds; likewise the connection
END_S: Final = 3.0
LEAVE_S: Final = 10.0

Answer = TypeVar("Answer")


def asking(question: Callable[[], Answer]) -> "Future[Answer]":
    """Call a function of Ray that may never return, in a daemon thread; return its future."""
    future: Future[Answer] = Future()

    def ask() -> None:
        try:
            answer = question()
        except BaseException as error:  # noqa: BLE001  (it is the future's)
            future.set_exception(error)
        else:
            future.set_result(answer)

    threading.Thread(target=ask, name="concurrent_nb ray asks", daemon=True).start()
    return future


class RayConnection:
    """The connection of this process to Ray, which Ray has once: engines share it, and the last one ends it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._is_ours = False

    def join(self, connect: Callable[[], None]) -> None:
        """Use the connection that there is, or the one that `connect` makes. Raises what `connect` raises."""
        if not self._lock.acquire(timeout=START_S):
            raise EngineUnavailable("this process does not get rid of its last connection to Ray, which hangs")
        try:
            if not ray.is_initialized():
                connect()
                self._users, self._is_ours = 0, True
            elif not self._users:
                self._is_ours = False
            self._users += 1
        finally:
            self._lock.release()

    def leave(self) -> None:
        """End the connection if it was made here and no other engine uses it. Waits for ever if Ray hangs."""
        with self._lock:
            self._users = max(0, self._users - 1)
            if self._is_ours and not self._users:
                self._is_ours = False
                if ray.is_initialized():
                    ray.shutdown()


class RayJoining:
    """An attempt to connect to Ray. One that was given up ends the connection that it makes all the same."""

    _one = threading.Lock()  # Ray makes one connection at a time

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._given_up = threading.Event()
        self._has_joined = False

    def run(self) -> None:
        """Connect. Raises what Ray raises."""
        with self._one:
            if self._given_up.is_set():
                return
            logger = logging.getLogger("ray._private.worker")
            logger.addFilter(_is_not_about_signals)
            try:
                ray.init(address=self._address, log_to_driver=False, configure_logging=False)
            finally:
                logger.removeFilter(_is_not_about_signals)
            with self._lock:
                self._has_joined = True
                is_late = self._given_up.is_set()
            if is_late:
                ray.shutdown()

    def give_up(self) -> None:
        """End the connection, if it was made, or as soon as it is."""
        with self._lock:
            self._given_up.set()
            is_made = self._has_joined
        if is_made:
            ray.shutdown()


#: the connection of this process
CONNECTION: Final = RayConnection()


class RayHost:
    """An actor that runs groups, one at a time."""

    def __init__(self) -> None:
        self._reports: queue.SimpleQueue[Parcel] = queue.SimpleQueue()

    def is_placed(self) -> bool:
        """Return True: Ray has found a CPU for this actor, and it runs."""
        return True

    def run(self, parcel: Sequence[Buffer], objects: Sequence[Sequence[Buffer]], *stored: Sequence[Buffer]) -> Parcel:
        """Run a group; return its last report."""
        return HOSTS.run(parcel, [*objects, *stored], self._reports.put)

    def next_reports(self) -> list[Parcel]:
        """Return the reports since the last call; wait for one, for `POLL_S` at most."""
        found = []
        with contextlib.suppress(queue.Empty):
            found.append(self._reports.get(timeout=POLL_S))
            while True:
                found.append(self._reports.get_nowait())
        return found

    def order(self, token: bytes, parcel: Sequence[Buffer]) -> None:
        """Give orders to the host of a group."""
        HOSTS.order(token, parcel)

    def end(self, token: bytes) -> None:
        """End the hosts of a session, and soon this process, which Ray does not kill if it is shut down meanwhile."""
        HOSTS.end_session(token)
        timer = threading.Timer(KILLED_S, os._exit, (0,))
        timer.daemon = True
        timer.start()


class _RayActor:
    """An actor as the user's process sees it."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.group: int | None = None  #: that it runs
        self.is_polled = False
        self.is_placed = False  #: Ray has found a CPU for it, which may take for ever
        self.failure = ""  #: why it is dead


class RayEngine:
    """Runs groups on a Ray cluster. Implements `engine_interface.Engine`.

    Args:
        where: "ray" for the one that this process uses, or that runs on this machine; or "ray://HOST:PORT".
    """

    name = "ray"
    slots = 0  #: known when it is open

    def __init__(self, where: str) -> None:
        self._where = where
        self._has_joined = False
        self._session: EngineSession | None = None
        self._actors: list[_RayActor] = []
        self._actor_of: dict[int, _RayActor] = {}  # by group
        self._waiting: deque[tuple[int, Parcel, list[Parcel], list[Any]]] = deque()
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._look = threading.Event()  # set when the watcher has something to do
        self._head: tuple[str, int] | None = None  # where Ray's GCS listens, if this process reaches it
        self._placed = threading.Event()  # set once the first actor is, or has failed
        self._watcher: threading.Thread | None = None
        self._answers: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._handler = threading.Thread(target=self._handle_answers, name="concurrent_nb ray answers", daemon=True)

    def open(self, session: EngineSession, events: EngineEvents) -> EngineSession:
        """Connect, check the versions of a worker, and make the actors."""
        self._events, self._session = events, session
        if self._where != "ray" and ray.is_initialized():
            raise EngineUnavailable(
                "this process is connected to a Ray already: connect to 'ray' to use that one, or call ray.shutdown()"
                f" before you connect to {self._where}"
            )
        CONNECTION.join(self._connect)
        self._has_joined = True
        try:
            # By value, because a worker may have none of ours.
            facts = ray.remote(lambda text: eval(text)).options(num_cpus=0)
            found = self._ask(lambda: ray.get(facts.remote(FACTS), timeout=START_S))
        except EngineUnavailable:
            raise
        except Exception as error:
            raise EngineUnavailable(f"{self.describe()} does not run functions: {describe(error)}") from error
        check_facts(found, f"a worker of {self.describe()}")
        if all(is_loopback(node["NodeManagerAddress"]) for node in self._ask(ray.nodes)):  # else another may join it
            session = self._session = with_authkey(session)
        self._head = self._ask(_reachable_head)
        self.slots = self._ask(self._free_cpus)
        if not self.slots:
            raise EngineUnavailable(
                f"{self.describe()} has no free CPU: add a node, or end what runs there (`ray status` shows it)"
            )
        self._handler.start()
        self._ask(self._make_actors)
        self._await_first_actor()
        self._watcher = threading.Thread(target=self._watch, name="concurrent_nb ray", daemon=True)
        self._watcher.start()
        return session

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        """Return Ray's answer. Raises what the question raises, and EngineUnavailable if Ray hangs."""
        future = asking(question)
        try:
            return future.result(START_S)
        except TimeoutError:
            if future.done():  # it was raised by Ray
                raise
            raise EngineUnavailable(
                f"{self.describe()} has not answered for {START_S:g} s: its head may hang, or have died (`ray status`)"
            ) from None

    def _free_cpus(self) -> int:
        """Return how many CPUs are free. Ray keeps those of tasks that have ended for a moment, so wait for all."""
        begun = time.monotonic()
        while True:
            free, waited_s = int(ray.available_resources().get("CPU", 0)), time.monotonic() - begun
            if free >= int(ray.cluster_resources().get("CPU", 0)) or waited_s > (SETTLE_S if free else FREE_S):
                return free
            time.sleep(0.05)

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = "auto"
        if self._where != "ray":
            address = _client_address(self._where)
            _check_client(address)
        joining = RayJoining(address)
        try:
            self._await_connection(asking(joining.run))
        except BaseException:  # an interrupt, too
            joining.give_up()
            raise

    def _await_connection(self, connecting: "Future[None]") -> None:
        try:
            connecting.result(START_S)
        except Exception as error:
            if not connecting.done():
                raise EngineUnavailable(
                    f"{self.describe()} has not answered for {START_S:g} s: its head may hang (`ray status`)"
                ) from None
            text = str(error)
            if "ersion mismatch" in text:
                raise VersionMismatch(f"{text.strip()} Use an environment with the same versions") from error
            what = "no Ray runs on this machine" if self._where == "ray" else f"no Ray answers at {self._where}"
            raise EngineUnavailable(
                f"{what}: {describe(error)}. Start one (`ray start --head`), or call ray.init() in this process"
            ) from error

    def _make_actors(self) -> None:
        made = [self._make_actor() for _ in range(self.slots)]
        with self._lock:
            self._actors = made
            self._note_slots()  # some may be placed already
        self._give()

    def _make_actor(self) -> _RayActor:
        kind = ray.remote(RayHost).options(num_cpus=1, max_concurrency=8, max_restarts=0)
        actor = _RayActor(kind.remote())
        self._when_answered(actor.handle.is_placed.remote(), partial(self._is_placed, actor))
        return actor

    def _await_first_actor(self) -> None:
        """Return when Ray has placed an actor. Raises EngineUnavailable."""
        until = time.monotonic() + START_S
        while self._placed.wait(until - time.monotonic()):
            self._placed.clear()
            with self._lock:
                if any(actor.is_placed for actor in self._actors):
                    return
                failures = [actor.failure for actor in self._actors if actor.failure]
            if len(failures) == self.slots:
                raise EngineUnavailable(f"our actors do not start on {self.describe()}: {failures[0]}")
        raise EngineUnavailable(
            f"{self.describe()} has started no actor within {START_S:g} s: its free CPUs may have been taken"
            " (`ray status` shows it)"
        )

    def _when_answered(self, ref: Any, handle: Callable[[Any], object]) -> None:
        """Have `handle` called with the future of an answer when it has come, in the thread for that."""
        ref.future().add_done_callback(lambda answered: self._answers.put(partial(handle, answered)))

    def _handle_answers(self) -> None:
        while (handle := self._answers.get()) is not None:
            foreign.call(log, "an answer of Ray cannot be handled", handle)
            del handle  # it holds results

    def _is_placed(self, actor: _RayActor, future: Any) -> None:
        """Let an actor have groups, now that it has a CPU."""
        error = future.exception()
        if self._closing.is_set():
            return
        if error is None:
            with self._lock:
                actor.is_placed = not actor.failure
                self._note_slots()
            self._give()
        else:  # the watcher makes another one, at its own pace
            actor.failure = _first_line(error)
        self._placed.set()

    def _note_slots(self) -> None:
        """Report how many actors have a CPU. With the lock, so that the last report has the last number."""
        self._events.resized(sum(actor.is_placed for actor in self._actors))

    def put(self, parcel: Parcel) -> Any:
        """Store an object in Ray's store."""
        return ray.put(parcel)

    def drop(self, handle: Any) -> None:
        """Do nothing: Ray drops an object with its last reference."""

    def submit(self, number: int, parcel: Parcel, objects: list[Parcel], handles: list[Any]) -> None:
        """Give a group to the next actor that has none."""
        with self._lock:
            self._waiting.append((number, parcel, objects, handles))
        self._give()

    def _give(self) -> None:
        """Give waiting groups to idle actors: one each, so that none waits behind a slow one."""
        while True:
            with self._lock:
                actor = next((each for each in self._actors if each.group is None and each.is_placed), None)
                if actor is None or not self._waiting:
                    return
                number, parcel, objects, handles = self._waiting.popleft()
                actor.group = number
                self._actor_of[number] = actor
            try:
                answer = actor.handle.run.remote(parcel, objects, *handles)
            except Exception as error:  # noqa: BLE001  (Ray raises various errors when it is gone)
                self._events.gone(f"{self.describe()} takes no group: {_first_line(error)}")
                return
            self._when_answered(answer, partial(self._ended, number, actor))
            self._poll(actor)

    def _ended(self, number: int, actor: _RayActor, future: Any) -> None:
        """Take the last report of a group."""
        error: BaseException | None = None
        try:
            parcel = future.result()
        except BaseException as raised:  # noqa: BLE001  (whatever it is, the group has ended)
            error = raised
        death = _first_line(error) if isinstance(error, ray.exceptions.RayActorError) else ""
        with self._lock:
            actor.group = None
            if self._actor_of.get(number) is actor:
                del self._actor_of[number]
            if death and not actor.failure:
                actor.failure, actor.is_placed = death, False
                self._note_slots()
        if error is None:
            self._events.ended(number, parcel)
        elif not self._closing.is_set():
            self._events.lost(number, f"its Ray actor failed ({_first_line(error)})")
        if not self._closing.is_set():
            if death:
                self._look.set()
            self._give()

    def _replace_dead(self) -> None:
        """Make other actors in the place of dead ones. Only the watcher calls it, as it may wait for Ray."""
        for dead in [actor for actor in self._actors if actor.failure]:
            made = self._make_actor()
            with self._lock:
                self._actors[self._actors.index(dead)] = made
                self._note_slots()
        self._give()

    def _poll(self, actor: _RayActor) -> None:
        """Ask an actor for reports, while it has groups."""
        with self._lock:
            if actor.is_polled or actor.group is None or actor.failure or self._closing.is_set():
                return
            actor.is_polled = True
        self._when_answered(actor.handle.next_reports.remote(), partial(self._polled, actor))

    def _polled(self, actor: _RayActor, future: Any) -> None:
        """Take reports."""
        actor.is_polled = False
        if future.exception() is None:  # else the actor is dead, which its groups report
            for parcel in future.result():
                self._events.reported(parcel)
            self._poll(actor)

    def recall(self, number: int) -> None:
        """Forget a group that no actor has."""
        with self._lock:
            others = deque(each for each in self._waiting if each[0] != number)
            is_forgotten = len(others) < len(self._waiting)
            self._waiting = others
        if is_forgotten:
            self._events.lost(number, "it was recalled")

    def order(self, number: int, parcel: Parcel) -> None:
        """Bring orders to the actor that runs a group."""
        assert self._session is not None
        actor = self._actor_of.get(number)
        if actor is not None:
            actor.handle.order.remote(self._session.token, parcel)

    def _watch(self) -> None:
        """Watch whether Ray answers, and has a CPU for us; replace dead actors."""
        fine_at = placed_at = time.monotonic()
        answer: Future[bool] | None = None
        has_warned = False
        while not self._closing.is_set():
            self._look.wait(LOOK_S)
            self._look.clear()
            if answer is None and self._head is not None:
                try:
                    socket.create_connection(self._head, ANSWER_S).close()
                except OSError as error:  # Ray is not asked then: a question that waits keeps it in this process
                    if time.monotonic() - fine_at > SILENT_S and not self._closing.is_set():
                        self._events.gone(f"{self.describe()} is gone: its head does not listen: {describe(error)}")
                        return
                    continue
            answer = answer or asking(self._look_at_ray)
            try:
                is_there, why = answer.result(ANSWER_S), "it was shut down"
            except Exception as error:  # noqa: BLE001  (Ray raises various errors when it is gone)
                if not answer.done():
                    silent_s = time.monotonic() - fine_at
                    if silent_s > HANGS_S:
                        self._events.gone(f"{self.describe()} does not answer: it has hung for {silent_s:.0f} s")
                        return
                    if silent_s > SILENT_S and not has_warned and not self._closing.is_set():
                        has_warned = True
                        log.warning("%s has not answered for %.0f s", self.describe(), silent_s)
                    continue
                is_there, why = False, _first_line(error)
            answer = None
            if not is_there and not self._closing.is_set():
                self._events.gone(f"{self.describe()} is gone: {why}")
                return
            fine_at, has_warned = time.monotonic(), False
            if any(actor.is_placed for actor in self._actors):
                placed_at = fine_at
            elif fine_at - placed_at > UNPLACED_S:
                self._events.gone(f"{self.describe()} has had no CPU for our actors for {UNPLACED_S:g} s")
                return

    def _look_at_ray(self) -> bool:
        """Return whether Ray is there; replace dead actors if it is. Waits for ever if it hangs."""
        is_there = bool(ray.is_initialized() and ray.nodes())
        if is_there and not self._closing.is_set():
            self._replace_dead()
        return is_there

    def describe(self) -> str:
        """Return which Ray it is."""
        return "the Ray of this machine" if self._where == "ray" else f"the Ray at {self._where}"

    def close(self) -> None:
        """End all hosts and actors; leave Ray if it was joined here, and no other engine uses it."""
        self._closing.set()
        self._look.set()
        self._answers.put(None)
        for thread in (self._watcher, self._handler):
            if thread is not None and thread.is_alive():
                thread.join(END_S)
        if not self._has_joined:
            return
        self._has_joined = False
        ending = asking(self._end_actors)
        wait([ending], 2 * END_S)
        leaving = asking(CONNECTION.leave)
        wait([leaving], LEAVE_S)
        if not leaving.done():
            log.warning("%s does not let this process go, nor end before it answers: it hangs", self.describe())

    def _end_actors(self) -> None:
        """End all hosts, then their actors. Waits for ever if Ray hangs."""
        actors, self._actors = self._actors, []
        if not ray.is_initialized():
            return
        assert self._session is not None
        with contextlib.suppress(Exception):  # an actor may be dead, or Ray; hosts end with their actors
            until = time.monotonic() + END_S
            ends = [actor.handle.end.remote(self._session.token) for actor in actors if actor.is_placed]
            ray.wait(ends, num_returns=len(ends), timeout=max(0.0, until - time.monotonic()))
        for actor in actors:
            with contextlib.suppress(Exception):  # likewise
                ray.kill(actor.handle)


def _reachable_head() -> tuple[str, int] | None:
    """Return where Ray's GCS listens; None if this process does not reach it, as Ray's client may not."""
    try:
        host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
        place = host.strip("[]"), int(port)
        socket.create_connection(place, ANSWER_S).close()
    except Exception:  # noqa: BLE001  (Ray's client raises various errors for what only its server knows)
        return None
    return place


def _is_not_about_signals(record: logging.LogRecord) -> bool:
    """Return False for the warning that only the main thread can handle SIGTERM: that is the user's."""
    return "SIGTERM handler is not set" not in record.getMessage()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _client_address(where: str) -> str:
    """Return the address of Ray's client server. Raises ConfigurationError.

    >>> _client_address("ray://host")
    'ray://host:10001'
    """
    try:
        return ray_address(where.removeprefix("ray:"))
    except ConfigurationError:
        raise ConfigurationError(
            f"{where!r} is no address of Ray: give ray://HOST:{RAY_PORT}, or 'ray' for the Ray that runs here"
        ) from None


def _check_client(address: str) -> None:
    """Raise EngineUnavailable at once if Ray's client cannot reach an address; itself it tries that for a minute."""
    if importlib.util.find_spec("grpc") is None:
        raise EngineUnavailable(
            f"{address} needs Ray's client: run `{sys.executable} -m pip install 'ray[client]'`, or connect from a"
            " machine of that cluster with connect('ray')"
        )
    try:
        check_listens("Ray client server", address, CONNECT_S)
    except LaunchFailed as error:
        raise EngineUnavailable(
            f"{error}. Start one on the head node (`ray start --head --ray-client-server-port=10001`)"
        ) from None
