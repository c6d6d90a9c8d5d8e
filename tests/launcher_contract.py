"""What holds for every launcher, in one go on one cluster, for the tests of each launcher."""

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from concurrent_nb import Cluster
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.control_client import ControlClient
from tests import work
from tests.clusters import BRISK, eventually


def slaves_of(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Give the slaves that have joined and stay, by name."""
    return {each["name"]: each for each in cluster.status()["slaves"] if each["state"] == "active"}


def kill_here(slave: dict[str, Any]) -> None:
    """Kill a slave on this machine as the system does that lacks memory."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(slave["pid"], signal.SIGKILL)


def check_launcher(
    on: str,
    place: str,
    kill: Callable[[dict[str, Any]], None] = kill_here,
    config: dict[str, dict[str, Any]] | None = None,
    **options: Any,
) -> None:
    """Start two slaves of one worker each, use, kill, scale and replace them.

    Args:
        on: the launcher.
        place: what the place of each slave must contain.
        kill: kills a slave that the status describes.
        config: configuration besides the usual.
        options: of the launcher.
    """
    with Cluster(on=on, slaves=2, workers=1, config={**BRISK, **(config or {})}, **options) as cluster:
        app = cluster.application()
        assert app.submit(pow, 2, 10).result() == 1024
        eventually(lambda: len(slaves_of(cluster)) == 2, "both slaves have joined")
        slaves = slaves_of(cluster)
        assert all(place in slave["place"] for slave in slaves.values()), slaves
        eventually(lambda: cluster.workers == 2, "the owner knows their workers")
        assert app.submit(work.sum_in_tasks, 3).result() == 5  # a task there has an application
        pids = {pid for _, pid in app.map(work.slow_square, range(20), chunksize=1)}
        assert len(pids) == 2  # both work

        futures = [app.submit(work.slow_square, n) for n in range(50)]
        for slave in slaves.values():
            kill(slave)
        assert [future.result()[0] for future in futures] == [n * n for n in range(50)]
        eventually(lambda: len(slaves_of(cluster)) == 2, "others have been started")
        assert not slaves.keys() & slaves_of(cluster).keys()

        cluster.scale(slaves=3)
        eventually(lambda: len(slaves_of(cluster)) == 3, "one more has joined")
        cluster.scale(workers=1)
        eventually(lambda: len(slaves_of(cluster)) == 1, "two have left")
        eventually(lambda: not cluster.status()["launched"], "the launcher has forgotten them")
        assert app.submit(pow, 2, 11).result() == 2048

        (name,) = slaves_of(cluster)
        restart = _restart(cluster, name)
        assert restart["workers"] == 1
        eventually(lambda: slaves_of(cluster) and name not in slaves_of(cluster), "another one is there in its place")
        assert app.submit(socket.gethostname).result()


def _restart(cluster: Cluster, name: str) -> dict[str, Any]:
    assert cluster.connection_file is not None
    info = connection_file.read(cluster.connection_file)
    with ControlClient(info.endpoints, info.tokens["admin"], info.certificate_pem) as control:
        answer = control.call("restart_slave", slave=name)
    assert isinstance(answer, dict)
    return answer
