"""The nodes of a Ray cluster, on which slaves run. Part of a pilot's helper process.

A slave on a node is the child of an actor that holds cores of that node, so Ray gives them to nothing else. The actors
end with this process, as they are not detached.
"""

import importlib.util
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from concurrent_nb.clock import monotonic
from concurrent_nb.errors import LaunchFailed
from concurrent_nb.foreign import describe
from concurrent_nb.nodes.launchers.engine_port import check_listens
from concurrent_nb.nodes.launchers.held_slaves import SealedStart, end_held, hold_slave
from concurrent_nb.nodes.launchers.launcher import LaunchedSlave, LaunchState, SlaveStart, ended_slave
from concurrent_nb.nodes.launchers.own_address import why_out_of_reach
from concurrent_nb.nodes.launchers.pilot_hosts import FACTS, PilotHost, differences
from concurrent_nb.nodes.launchers.pilot_messages import ConnectPilot

#: seconds in which a node must report its facts: Ray may have to start a process for that
FACTS_S: Final = 30.0
#: seconds in which slaves end when the pilot is closed; then their actors are killed
CLOSE_S: Final = 4.0


class RaySlave:
    """An actor that runs one slave."""

    def __init__(self) -> None:
        self._begun = threading.Event()

    def run(self, sealed: SealedStart, cores: int) -> tuple[int, str]:
        """Run the slave until it ends; return its exit code and the end of its log."""
        return hold_slave(sealed.start, cores, lambda: True, self._begun.set)

    def begun(self) -> None:
        """Return when the slave's process runs."""
        self._begun.wait()

    def end(self, name: str) -> None:
        """End the slave."""
        end_held(name)


class RayHosts:
    """Starts slaves on the nodes of a Ray cluster.

    Raises LaunchFailed if it does not answer.
    """

    engine = "Ray"

    def __init__(self, connect: ConnectPilot) -> None:
        self.unfit = ""
        self._address = connect.address
        self._is_local = connect.is_local
        self._cores = int(connect.options["cores"])
        if connect.address.startswith("ray://") and importlib.util.find_spec("grpc") is None:
            raise LaunchFailed(
                f"{connect.address} needs Ray's client: run `{sys.executable} -m pip install 'ray[client]'`, or start"
                " the cluster on a machine of Ray's with on=ray"
            )
        if connect.address != "auto":
            check_listens("Ray cluster", connect.address, connect.connect_s)
        try:
            ray.init(connect.address, log_to_driver=False, configure_logging=False, ignore_reinit_error=False)
        except (OSError, RuntimeError, ValueError, ImportError, RayError) as error:
            raise LaunchFailed(_why_not_connected(connect.address, error)) from None
        self._here = eval(FACTS)
        self._facts = ray.remote(num_cpus=0, max_retries=0)(lambda text: eval(text))
        self._fit: dict[str, bool] = {}  # by the id of a node
        self._actors: dict[str, tuple[Any, Any]] = {}  # by slave: its actor, and the result of `run`
        self._beginning: dict[str, Any] = {}  # by slave: the result of `begun`

    def hosts(self) -> Sequence[PilotHost]:
        """Return the nodes that are alive and have enough cores."""
        nodes = {each["NodeID"]: each for each in self._nodes() if each["Alive"]}
        self._fit = {key: is_fit for key, is_fit in self._fit.items() if key in nodes}
        self._compare({key: str(node["NodeManagerAddress"]) for key, node in nodes.items() if key not in self._fit})
        hosts = []
        for key, node in nodes.items():
            cores = int(node["Resources"].get("CPU", 0))
            if self._fit[key] and cores >= max(1, self._cores):
                hosts.append(
                    PilotHost(key, f"Ray node {node['NodeManagerHostname']} ({key[:8]})", self._cores or cores)
                )
        return hosts

    def start(self, start: SlaveStart, host: PilotHost) -> None:
        """Start an actor with the slave."""
        made = ray.remote(
            num_cpus=host.cores,
            max_restarts=0,
            max_concurrency=3,
            scheduling_strategy=_on(host.key),
            max_task_retries=0,
        )(RaySlave)
        actor = made.remote()
        self._actors[start.name] = (actor, actor.run.remote(SealedStart(start), host.cores))
        self._beginning[start.name] = actor.begun.remote()

    def begun(self) -> Sequence[str]:
        """Return the slaves whose actors have reported that they run."""
        done = [name for name, answer in self._beginning.items() if _is_ready(answer)]
        for name in done:
            del self._beginning[name]
        return done

    def ended(self) -> Sequence[LaunchedSlave]:
        """Return the slaves whose actors have ended."""
        ended = []
        for name, (actor, answer) in list(self._actors.items()):
            if not _is_ready(answer):
                continue
            try:
                code, log = ray.get(answer)
                ended.append(ended_slave(name, "", code, log))
            except RayError as error:
                reason = f"its Ray actor has ended: {describe(error)}"
                ended.append(LaunchedSlave(name, LaunchState.ENDED, "", reason))
            ray.kill(actor)
            del self._actors[name]
            self._beginning.pop(name, None)
        return ended

    def end(self, name: str) -> None:
        """End a slave and its actor."""
        if name in self._actors:
            self._end([name])

    def close(self) -> None:
        """End all slaves, wait for that, and leave the cluster."""
        try:
            self._end(list(self._actors))
        finally:
            ray.shutdown()  # leaves the cluster; this process has not started it

    def _end(self, names: Sequence[str]) -> None:
        """End slaves gracefully; kill their actors, upon which the rest ends."""
        known = {name: self._actors.pop(name) for name in names}
        running = {name: each for name, each in known.items() if self._beginning.pop(name, None) is None}
        try:
            for name, (actor, _) in running.items():
                actor.end.remote(name)
            if running:
                ray.wait([answer for _, answer in running.values()], num_returns=len(running), timeout=CLOSE_S)
        finally:
            for actor, _ in known.values():
                ray.kill(actor)

    def _nodes(self) -> list[dict[str, Any]]:
        try:
            nodes = ray.nodes()
        except (OSError, RuntimeError, RayError) as error:
            raise LaunchFailed(f"the Ray cluster at {self._address} has gone: {describe(error)}") from None
        assert isinstance(nodes, list)
        return nodes

    def _compare(self, addresses: Mapping[str, str]) -> None:
        """Find out on which of these nodes slaves can run.

        Args:
            addresses: of the nodes, by id.
        """
        answers = {key: self._facts.options(scheduling_strategy=_on(key)).remote(FACTS) for key in addresses}
        deadline = monotonic() + FACTS_S
        for key, answer in answers.items():
            try:
                why = differences(self._here, ray.get(answer, timeout=max(0.0, deadline - monotonic())))
            except RayError as error:
                why = f"it does not report its versions: {describe(error)}"
            if self._is_local and not why:
                why = why_out_of_reach(addresses[key])
            self._fit[key] = not why
            if why:
                self.unfit = f"Ray node {key[:8]}: {why}"


def _on(key: str) -> Any:
    return NodeAffinitySchedulingStrategy(key, soft=False)


def _is_ready(answer: Any) -> bool:
    return bool(ray.wait([answer], timeout=0)[0])


def _why_not_connected(address: str, error: Exception) -> str:
    said = " ".join(str(error).split())
    if "ersion mismatch" in said:
        return f"this Ray cannot connect to the one at {address}; install the same versions: {said}"
    if address == "auto":
        return f"no Ray runs on this machine, or RAY_ADDRESS names none that answers: {said}"
    return f"no Ray cluster answers at {address}: {said}"
