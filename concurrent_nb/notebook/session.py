"""The notebook's current cluster: started when the first task needs one, or connected to, until it is stopped.

Used by the magics; one object per loaded extension, and the only place that knows which cluster is the current one.
"""

import atexit
import os
from pathlib import Path
from typing import Any

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster
from concurrent_nb.errors import ConcurrentError, ConfigurationError
from concurrent_nb.nodes.kernels import open_kernel
from concurrent_nb.notebook.results import plural
from concurrent_nb.shipping.capture import Captured
from concurrent_nb.shipping.sizes import write_bytes
from concurrent_nb.transport import connection_file


class Session:
    """At most one cluster, embedded in this notebook or connected to.

    Args:
        home: the cluster to connect to when one is needed, by name or connection file; "" starts an embedded one.
    """

    def __init__(self, home: str = "") -> None:
        self._home = home
        self._where = ""  # the cluster that we are connected to
        self._kernel_files: set[Path] = set()  # that we have written
        self._cluster: Cluster | None = None
        self._app: ApplicationNode | None = None
        self._what = ""
        self.captured: tuple[Captured, ...] = ()  #: what the last cell sent along

    def start(self, workers: int | None = None, name: str | None = None) -> str:
        """Start an embedded cluster. Return a line that says so. Raises ConfigurationError if there is one already."""
        self._check_free("start")
        count = workers or _cores()
        cluster = Cluster(workers=count, name=name)
        try:
            cluster.start()
            self._app = cluster.application()
        except BaseException:
            cluster.close()
            raise
        self._cluster = cluster
        self._what = f"an embedded cluster{f' named {name}' if name else ''}: {plural(count, 'worker')}"
        # After the application has registered its own, so that this comes first: the kernel does not wait for tasks.
        atexit.register(self.stop)
        return f"started {self._what} (%concurrent stop ends it)"

    def connect(self, where: str) -> str:
        """Connect to a running cluster, by name or connection file. Return a line that says so."""
        self._check_free("connect")
        self._app = concurrent_nb.connect(where)
        self._where = where
        self._what = f"cluster {where}"
        atexit.register(self.stop)
        return f"connected to {self._what} (%concurrent stop leaves it)"

    def stop(self) -> str:
        """Leave the cluster, and end it if it is ours. What runs is stopped. Return a line that says so."""
        app, cluster, what = self._app, self._cluster, self._what
        self._app, self._cluster, self._what = None, None, ""
        atexit.unregister(self.stop)
        while self._kernel_files:
            self._kernel_files.pop().unlink(missing_ok=True)
        if app is None:
            return "there is no cluster to stop"
        try:
            app.close()
        finally:
            if cluster is not None:
                cluster.close()
        return f"stopped {what}" if cluster is not None else f"left {what}, which runs on"

    def application(self) -> tuple[ApplicationNode, str | None]:
        """Give the application node, and the line to show if a cluster had to be started for it."""
        notice = None
        if self._app is None:
            notice = self.connect(self._home) if self._home else self.start()
        assert self._app is not None
        return self._app, notice

    def lost(self) -> None:
        """Forget an embedded cluster that is gone; the next task starts a new one."""
        if self._cluster is not None:
            try:
                self.stop()
            except ConcurrentError:
                return  # what is left of it is gone as well

    def status(self) -> str:
        """Say what there is, in a few lines."""
        lines = []
        if self._app is None and self._home:
            self.connect(self._home)
        if self._app is None:
            lines.append("no cluster: the next task starts one, or %concurrent start | connect")
        else:
            lines += [self._what, *_describe(self._app.status())]
        if self.captured:
            names = (f"{c.name} ({c.kind}, {write_bytes(c.size_bytes)})" for c in self.captured)
            lines.append(f"the last cell sent along: {', '.join(names)}")
        return "\n".join(lines)

    def kernel(self, slave: str) -> str:
        """Have a slave be a Jupyter kernel. Return lines that say how to attach to it."""
        self.application()
        where = self._cluster.connection_file if self._cluster is not None else self._where
        assert where
        path, is_ours = open_kernel(connection_file.read(where), slave)
        if is_ours:  # else it is the slave's own
            self._kernel_files.add(path)
        return f"slave {slave} is a kernel; its connection file is {path}\njupyter console --existing {path.name}"

    def _check_free(self, command: str) -> None:
        if self._app is not None:
            raise ConfigurationError(f"%concurrent {command}: there is {self._what} already; %concurrent stop first")


def _cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _describe(status: dict[str, Any]) -> list[str]:
    slaves = status.get("slaves", [])
    tasks = status.get("tasks", {})
    lines = [
        f"  slave {slave['name']}: {plural(slave['slots'], 'worker')}, {slave['state']}, "
        f"{slave['in_flight']} in flight, {slave['done']} done"
        for slave in slaves
    ]
    lines.append(f"  tasks: {tasks.get('waiting', 0)} waiting, {tasks.get('assigned', 0)} with slaves")
    return lines
