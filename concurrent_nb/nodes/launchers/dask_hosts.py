"""The hosts of a Dask cluster, on which slaves run. Part of a pilot's helper process.

A slave on a host keeps each thread of that host's workers busy with a task of Dask's: one of them runs the slave, the
others wait. So Dask gives nothing else to these workers, and counts them as busy.
"""

import asyncio
import concurrent.futures
import queue
import secrets
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from time import sleep
from typing import Any, Final
from urllib.parse import urlsplit

from distributed import Client, Future, get_worker
from distributed.security import Security

from concurrent_nb.clock import monotonic
from concurrent_nb.errors import LaunchFailed
from concurrent_nb.foreign import describe
from concurrent_nb.nodes.launchers.dask_pilot import tls_remedy
from concurrent_nb.nodes.launchers.engine_port import check_listens
from concurrent_nb.nodes.launchers.held_slaves import SealedStart, end_held, hold_cores, hold_slave
from concurrent_nb.nodes.launchers.launcher import LaunchedSlave, LaunchState, SlaveStart, ended_slave
from concurrent_nb.nodes.launchers.own_address import why_out_of_reach
from concurrent_nb.nodes.launchers.pilot_hosts import FACTS, PilotHost, differences
from concurrent_nb.nodes.launchers.pilot_messages import ConnectPilot

#: seconds for which the facts of workers are awaited: of those that are there at first, and of later ones
FACTS_S: Final = 10.0
LATER_FACTS_S: Final = 1.0
#: seconds in which orders to end a slave must be delivered; its other workers notice within a second that their tasks
#: are cancelled
TELL_S: Final = 2.0
#: seconds in which slaves end when the pilot is closed
CLOSE_S: Final = 5.0
#: the states of a task in its worker while it is wanted
_WANTED_STATES: Final = ("executing", "long-running")


@dataclass(frozen=True, slots=True)
class _WorkerGroup:
    """Workers of a host that one slave holds."""

    host: PilotHost
    threads: dict[str, int]  #: number of threads by the address of a worker; the first one runs the slave


class DaskHosts:
    """Starts slaves in the workers of a Dask cluster.

    Raises LaunchFailed if its scheduler does not answer.
    """

    engine = "Dask"

    def __init__(self, connect: ConnectPilot) -> None:
        self.unfit = ""
        self._address = connect.address
        self._is_local = connect.is_local
        check_listens("Dask scheduler", connect.address, connect.connect_s)
        try:
            self._client = Client(
                connect.address,
                timeout=connect.connect_s,
                set_as_default=False,
                security=_security(connect.options),
                name="concurrent_nb",
            )
        except (OSError, ValueError, TypeError, ImportError) as error:  # a timeout is an OSError
            remedy = tls_remedy(connect.address, "--ca-file, --cert-file and --key-file, or Dask's configuration")
            raise LaunchFailed(
                f"no Dask scheduler answers at {connect.address}: {describe(error)}. Is there one? If so, {remedy}"
            ) from None
        self._here = eval(FACTS)
        self._topic = f"concurrent_nb-{secrets.token_hex(8)}"
        self._begun: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._client.subscribe_topic(self._topic, lambda event: self._begun.put(str(event[1])))
        self._fit: dict[str, bool] = {}  # by the address of a worker that has reported its facts
        self._asked: dict[str, concurrent.futures.Future[Any]] = {}  # by that of a worker that has not yet
        self._has_looked = False
        self._there: dict[str, dict[str, Any]] = {}  # the workers at the last look
        self._groups: dict[str, _WorkerGroup] = {}  # by the key of the host; those with a slave
        self._offered: dict[str, _WorkerGroup] = {}  # the same for those without one
        self._futures: dict[str, tuple[_WorkerGroup, list[Future]]] = {}  # by slave; the first future is the slave's

    def hosts(self) -> Sequence[PilotHost]:
        """Return a host for each group of workers that has a slave, and for the free workers of each machine."""
        self._there = workers = self._workers()
        self._compare(workers)
        held = {address for group in self._groups.values() for address in group.threads}
        free: dict[str, dict[str, int]] = defaultdict(dict)
        busy = {address for address, worker in workers.items() if _executes(worker)}
        for address, worker in sorted(workers.items()):
            if self._fit.get(address) and address not in held:
                free[worker["host"]][address] = worker["nthreads"]
        groups = [_group(host, threads, busy) for host, threads in free.items()]
        self._offered = {group.host.key: group for group in groups}
        return [*(group.host for group in self._groups.values()), *(group.host for group in groups)]

    def start(self, start: SlaveStart, host: PilotHost) -> None:
        """Give a task to each thread of the host's workers."""
        group = self._groups[host.key] = self._offered[host.key]
        options = {"pure": False, "retries": 0, "allow_other_workers": False, "priority": 1000}
        futures: list[Future] = []
        for address, threads in group.threads.items():
            for _ in range(threads):
                key = f"concurrent_nb-{start.name}-{secrets.token_hex(8)}"
                if futures:
                    call: tuple[Any, ...] = (_hold_core, start.name)
                else:
                    call = (_hold_slave, SealedStart(start), host.cores, self._topic)
                futures.append(self._client.submit(*call, key=key, workers=[address], **options))
        self._futures[start.name] = (group, futures)

    def begun(self) -> Sequence[str]:
        """Return the slaves whose workers have reported that they run."""
        names = []
        while not self._begun.empty():
            names.append(self._begun.get())
        return names

    def ended(self) -> Sequence[LaunchedSlave]:
        """Return the slaves whose tasks have ended, or whose workers have gone."""
        ended = []
        for name, (group, futures) in list(self._futures.items()):
            first = next(iter(group.threads))
            if futures[0].done():
                ended.append(_ended(name, futures[0]))
            elif first not in self._there:
                reason = f"its Dask worker {first} has gone"
                ended.append(LaunchedSlave(name, LaunchState.ENDED, "", reason))
            else:
                continue
            self.end(name)
        return ended

    def end(self, name: str) -> None:
        """End a slave, and free the threads that it holds."""
        group, futures = self._futures.pop(name, (None, []))
        if group is not None:
            self._groups.pop(group.host.key, None)
            _await(self._begin_end(name, group), TELL_S)
            self._client.cancel(futures, force=True)

    def _begin_end(self, name: str, group: _WorkerGroup) -> list[concurrent.futures.Future[Any]]:
        there = self._workers()
        return [self._ask(address, end_held, name) for address in group.threads if address in there]

    def close(self) -> None:
        """End all slaves, wait for that, and leave the cluster."""
        try:
            told = [self._begin_end(name, group) for name, (group, _) in self._futures.items()]
            _await([each for answers in told for each in answers], TELL_S)
            leaving = [futures[0] for _, futures in self._futures.values()]
            deadline = monotonic() + CLOSE_S
            while monotonic() < deadline and not all(future.done() for future in leaving):
                sleep(0.02)
        except LaunchFailed:
            return  # the scheduler has gone, and its workers end with it
        finally:
            _await(self._asked.values(), 0.0)
            self._client.close(timeout=CLOSE_S)

    def _workers(self) -> dict[str, dict[str, Any]]:
        if self._client.status not in ("running", "newly-created"):
            raise LaunchFailed(f"the Dask scheduler at {self._address} has gone")
        try:
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TimeoutError) as error:
            raise LaunchFailed(f"the Dask scheduler at {self._address} does not answer: {describe(error)}") from None
        assert isinstance(workers, dict)
        return workers

    def _compare(self, workers: Collection[str]) -> None:
        """Find out on which workers slaves can run. One that does not answer, as it is frozen, holds up no other."""
        for address in set(self._asked).difference(workers):
            self._asked.pop(address).cancel()
        self._fit = {address: is_fit for address, is_fit in self._fit.items() if address in workers}
        new = [address for address in workers if address not in self._fit and address not in self._asked]
        self._asked.update({address: self._ask(address, eval, FACTS) for address in new})
        bound_s = LATER_FACTS_S if self._has_looked else FACTS_S
        concurrent.futures.wait([self._asked[address] for address in new], bound_s)
        self._has_looked = True
        for address in list(self._asked):
            if not self._asked[address].done():
                if address in new:
                    self.unfit = f"Dask worker {address}: it has not reported its versions within {bound_s:g} s"
                continue
            why = self._why_unfit(self._asked.pop(address))
            if self._is_local and not why:
                why = why_out_of_reach(urlsplit(address).hostname or "")
            self._fit[address] = not why
            if why:
                self.unfit = f"Dask worker {address}: {why}"

    def _why_unfit(self, answer: concurrent.futures.Future[Any]) -> str:
        try:
            there = answer.result()
        except Exception as error:  # noqa: BLE001  (any error of Dask is the reason)
            return f"it does not report its versions: {describe(error)}"
        if not isinstance(there, dict):
            return f"it does not report its versions: {there!r}"
        return differences(self._here, there)

    def _ask(self, address: str, function: Callable[..., Any], *arguments: Any) -> concurrent.futures.Future[Any]:
        """Have a worker call a function beside its tasks. Returns at once, as Dask sets no bound for the answer."""

        async def ask() -> Any:
            answers = await self._client.run(
                function, *arguments, workers=[address], on_error="return", asynchronous=True
            )
            return answers.get(address)

        return asyncio.run_coroutine_threadsafe(ask(), self._client.loop.asyncio_loop)


def _await(answers: Collection[concurrent.futures.Future[Any]], bound_s: float) -> None:
    """Wait for answers; do without those that have not come."""
    concurrent.futures.wait(answers, bound_s)
    for each in answers:
        each.cancel()


def _executes(worker: dict[str, Any]) -> bool:
    """Return whether a worker executes tasks, of us or of others."""
    counts = worker.get("metrics", {}).get("task_counts", {})
    return any(counts.get(state) for state in _WANTED_STATES)


def _group(host: str, threads: dict[str, int], busy: set[str]) -> _WorkerGroup:
    addresses = " ".join(threads)
    place = f"Dask worker {addresses}" if len(threads) == 1 else f"Dask workers {addresses}"
    return _WorkerGroup(
        PilotHost(f"{host} {addresses}", place, sum(threads.values()), not busy.isdisjoint(threads)), threads
    )


def _ended(name: str, future: Future) -> LaunchedSlave:
    """Return what is known of a slave whose task has ended."""
    if future.status == "finished":
        code, log = future.result()
        return ended_slave(name, "", code, log)
    why = describe(future.exception()) if future.status == "error" else f"its task is {future.status}"
    return LaunchedSlave(name, LaunchState.ENDED, "", f"Dask has ended it: {why}")


def _security(options: dict[str, str | int]) -> Security | None:
    """Return the files for tls://; None for Dask's own configuration."""
    if not options:
        return None
    return Security(
        tls_ca_file=options["ca_file"] or None,
        tls_client_cert=options["cert_file"] or None,
        tls_client_key=options["key_file"] or None,
        require_encryption=True,
    )


# ----------------------------------------------------------------------------------------------- in the worker of Dask


def _hold_slave(sealed: SealedStart, cores: int, topic: str) -> tuple[int, str]:
    worker, start = get_worker(), sealed.start
    return hold_slave(start, cores, _is_wanted(), lambda: worker.log_event(topic, start.name))


def _hold_core(name: str) -> None:
    hold_cores(name, _is_wanted())


def _is_wanted() -> Any:
    """Return a function that returns whether Dask still wants this task: its client may have gone."""
    worker = get_worker()
    key = worker.get_current_task()

    def is_wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state in _WANTED_STATES

    return is_wanted
