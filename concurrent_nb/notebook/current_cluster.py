"""The notebook's current cluster: started when the first task needs one, or connected to, until it is stopped.

Used by the magics; one object per loaded extension, and the only place that knows which cluster is the current one.
"""

import atexit
import logging
import threading
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster, Job
from concurrent_nb.clock import monotonic
from concurrent_nb.errors import ConcurrentError, ConfigurationError, MasterLost, MasterUnreachable
from concurrent_nb.nodes.application.futures import Presenter
from concurrent_nb.nodes.common.kernel_file import attach_command, open_kernel
from concurrent_nb.nodes.common.restarts import restart_workers
from concurrent_nb.notebook.cell_output import show
from concurrent_nb.notebook.live.text import seconds_text
from concurrent_nb.notebook.results import plural
from concurrent_nb.shipping.cells.captured_names import Captured
from concurrent_nb.shipping.serialization.sizes import format_bytes
from concurrent_nb.transport import connection_file
from concurrent_nb.workers.slave_side.machine import cores

log = logging.getLogger(__name__)

NO_CLUSTER: Final = "no cluster: the next task starts one, or %concurrent start | connect"
#: so many of a notebook's jobs are listed by %concurrent jobs
JOBS_KEPT: Final = 20
#: a restart that takes longer says what it waits for
RESTART_TOLD_S: Final = 1.0


class CurrentCluster:
    """At most one cluster, embedded in this notebook or connected to.

    Args:
        home: the cluster to connect to when one is needed, by name or connection file; "" starts an embedded one.
        present: called with each exception of a task before anybody sees it.
    """

    def __init__(self, home: str = "", present: Presenter | None = None) -> None:
        self._home = home
        self._present = present
        self._where = ""  # the cluster that we are connected to
        self._kernel_files: set[Path] = set()  # that we have written
        self._beginning: threading.Thread | None = None  # has the cluster come up before a task needs it
        self._cluster: Cluster | None = None
        self._cluster_name = ""  # as the user has said it
        self._app: ApplicationNode | None = None
        self._is_gone = False  # the cluster that we are connected to has ended
        self.captured: tuple[Captured, ...] = ()  #: what the last cell sent along
        self.jobs: deque[Job[Any]] = deque(maxlen=JOBS_KEPT)  #: of this notebook, the last ones

    def start(self, workers: int | None = None, name: str | None = None) -> str:
        """Start an embedded cluster. Return a line that says so. Raises ConfigurationError if there is one already."""
        self._await_beginning()
        self._check_free("start")
        count = workers or cores()
        cluster = Cluster(workers=count, name=name)
        try:
            cluster.start()
            self._use(cluster.application())
        except BaseException:
            cluster.close()
            raise
        self._cluster = cluster
        self._cluster_name = name or ""
        # After the application has registered its own, so that this comes first: the kernel does not wait for tasks.
        atexit.register(self.stop)
        return f"started {self._what} (%concurrent stop ends it)"

    def connect(self, where: str) -> str:
        """Connect to a running cluster, by name or connection file. Return a line that says so."""
        self._await_beginning()
        self._check_free("connect")
        self._use(concurrent_nb.connect(where))
        self._where = where
        atexit.register(self.stop)
        return f"connected to {self._what} (%concurrent stop leaves it)"

    def stop(self) -> str:
        """Leave the cluster, and end it if it is ours. What runs is stopped. Return a line that says so."""
        self._await_beginning()
        app, cluster, what = self._app, self._cluster, self._what
        self._app, self._cluster = None, None
        atexit.unregister(self.stop)
        while self._kernel_files:
            self._kernel_files.pop().unlink(missing_ok=True)
        if app is None:
            return "there is no cluster to stop"
        runs_on = cluster is None and not self._is_gone and _answers(app)
        self._is_gone = False
        try:
            app.close()
        finally:
            if cluster is not None:
                cluster.close()
        if cluster is not None:
            return f"stopped {what}"
        return f"left {what}, which {'runs on' if runs_on else 'has ended, or does not answer'}"

    def application(self) -> tuple[ApplicationNode, str | None]:
        """Give the application node, and the line to show if a cluster had to be started for it."""
        self._await_beginning()
        notice = None
        if self._app is None:
            notice = self.connect(self._home) if self._home else self.start()
        elif self._app.is_closed:  # by a `with` of the user's, say
            self._use(concurrent_nb.connect(self._where) if self._cluster is None else self._cluster.application())
        assert self._app is not None
        if self._is_gone:
            raise MasterLost(self._ended())
        return self._app, notice

    def names_of_setups(self) -> frozenset[str]:
        """Give the names that setup cells bind in the workers; none where there is no cluster."""
        return self._app.names_of_setups if self._app is not None else frozenset()

    def application_for_functions(self) -> ApplicationNode:
        """Give the application node to a task function; say so if a cluster had to be started for it."""
        app, notice = self.application()
        if notice is not None:
            print(notice)
        return app

    def lost(self) -> None:
        """Forget an embedded cluster that is gone: the next task starts a new one. Of another one, say what to do."""
        if self._cluster is None and self._app is not None and not self._is_gone and not _answers(self._app):
            self._is_gone = True
            print(self._ended())
        if self._cluster is not None:
            try:
                self.stop()
            except ConcurrentError:
                return  # what is left of it is gone as well

    def status(self) -> str:
        """Say what there is, in a few lines."""
        self._await_beginning()
        lines = []
        if self._app is None and self._home:
            self.connect(self._home)
        if self._app is None:
            lines.append(NO_CLUSTER)
        else:
            lines += [self._what, *_describe(self._ask(self._app))]
        if self.captured:
            names = (f"{c.name} ({c.kind}, {format_bytes(c.size_bytes)})" for c in self.captured)
            lines.append(f"the last cell sent along: {', '.join(names)}")
        return "\n".join(lines)

    def slaves(self) -> str:
        """Say who works, a line for each slave. Starts no cluster."""
        self._await_beginning()
        if self._app is None and self._home:
            self.connect(self._home)
        if self._app is None:
            return NO_CLUSTER
        lines = _describe(self._ask(self._app))[:-1]
        return "\n".join(lines) if lines else "no slave has joined yet"

    def list_jobs(self) -> str:
        """Say how jobs are, a line for each: those that run first, then the last one first; then those of others."""
        others = self._others()
        if not self.jobs and not others:
            return "this notebook has started no job"
        newest_first = [*self.jobs]
        newest_first.reverse()
        rows = [_job_row(job) for job in sorted(newest_first, key=lambda job: job.done())]
        rows += [
            [
                job["state"],
                job["name"],
                f"{job['done']:,} of {job['tasks']:,} done",
                seconds_text(job["age_s"]),
                job["id"][:8],
            ]
            for job in others
        ]
        if others:
            owners = ["this notebook"] * (len(rows) - len(others)) + [job["client"] or "?" for job in others]
            rows = [[*row, owner] for row, owner in zip(rows, owners, strict=True)]
        return "\n".join(aligned(rows, right=(3,)))

    def _others(self) -> list[dict[str, Any]]:
        """Ask for the jobs that others run on this cluster, as far as one may see them."""
        if self._app is None or self._is_gone:
            return []
        try:
            told = self._cluster.status() if self._cluster is not None else self._app.status()
        except ConcurrentError:
            return []  # whoever uses the cluster next hears of it
        own = {job.id.hex() for job in self.jobs}
        jobs = [job for job in told.get("jobs", []) if job["state"] != "idle" and job["id"] not in own]
        return [job for job in jobs if job["client"] != self._app.name]

    def work_of_others(self) -> str:
        """Say what others would lose if this notebook ended its cluster; "" if nothing."""
        if self._cluster is None or not (others := self._others()):
            return ""
        owners = sorted({str(job["client"]) for job in others})
        named = ", ".join(sorted({job["name"] or job["id"][:8] for job in others})[:3])
        runs = "still runs" if len(others) == 1 else "still run"
        return f"{plural(len(others), 'job')} of {', '.join(owners)} {runs} here ({named})"

    def job(self, which: str | None) -> Job[Any]:
        """Give a job of this notebook by name or the beginning of its id, the last one of them; None: the last one."""
        for known in (*self.jobs,)[::-1]:
            if which is None or which in (known.name, known.id.hex()[: len(which)]):
                return known
        what = "this notebook has started no job" if which is None else f"no job {which!r}; %concurrent jobs lists them"
        raise ConfigurationError(f"%concurrent show: {what}")

    def cancel(self, which: str | None, job: Job | None = None) -> str:
        """Cancel a job of this notebook, by name or the beginning of its id, or all that run. Say which.

        Args:
            job: the one that a variable of that name has; it comes first.
        """
        found = [job for job in self.jobs if which is None or job.name == which or job.id.hex().startswith(which)]
        found = found if job is None else [job]
        if which is not None and not found:
            raise ConfigurationError(f"%concurrent cancel: no job {which!r}; %concurrent jobs lists them")
        running = [job for job in found if not job.wait(0)]
        for job in running:
            job.cancel()
        submits = self._app.cancel_submits() if which is None and self._app is not None else 0
        if submits:
            names = [*(job.name or job.id.hex()[:8] for job in running), plural(submits, "submitted task")]
            return f"cancelled {', '.join(names)}"
        if not running:
            return "no job runs" if which is None else f"{which} has ended already"
        return f"cancelled {', '.join(job.name or job.id.hex()[:8] for job in running)}"

    def scale(self, workers: int) -> str:
        """Have so many workers in the embedded cluster. Say so."""
        self._await_beginning()
        if self._app is None:
            return self.start(workers)
        if self._cluster is None:
            raise ConfigurationError(
                f"%concurrent scale: {self._what} is not this notebook's own; start slaves where it runs:"
                " concurrent-nb slave --connect NAME"
            )
        self._cluster.scale(workers)
        return f"{plural(workers, 'worker')} from now on"

    def restart(self, *, now: bool = False) -> str:
        """Have fresh worker processes, and return when they are ready. Say how many, and after how long.

        What runs ends first, or with `now` is stopped and runs again.
        """
        self._await_beginning()
        if self._app is None:
            return "there is no cluster to restart: the next task starts one"
        where = self._cluster.connection_file if self._cluster is not None else self._where
        assert where
        waits = False

        def told(left: int, total: int) -> None:
            nonlocal waits
            if not waits and monotonic() > began + RESTART_TOLD_S:
                waits = True
                print(
                    f"{left} of {plural(total, 'worker')} still to come: what they run ends first (stop: do not wait)"
                )

        began = monotonic()
        try:
            done = restart_workers(connection_file.read(where), now=now, told=told)
        except KeyboardInterrupt:
            print("not waiting any more: the other workers are replaced when what they run has ended")
            raise
        return f"{plural(done.workers, 'fresh worker')} after {done.elapsed_s:.1f} s"

    def begin(self) -> None:
        """Have the cluster come up in the background; who needs it waits until it is up."""
        self._beginning = threading.Thread(target=self._begin, name="cluster begins", daemon=True)
        self._beginning.start()

    def _use(self, app: ApplicationNode) -> None:
        """Have this notebook's tasks go through an application node."""
        app.present_errors(self._present)
        app.present_displays(show)
        self._app = app

    def _begin(self) -> None:
        try:
            self.application()
        except ConcurrentError as error:  # the first task meets it again, in its own cell
            log.warning("no cluster yet: %s", error)

    def _await_beginning(self) -> None:
        beginning = self._beginning
        if beginning is not None and beginning is not threading.current_thread():
            beginning.join()
            self._beginning = None

    def kernel(self, slave: str) -> str:
        """Have a slave be a Jupyter kernel. Return lines that say how to attach to it."""
        self.application()
        where = self._cluster.connection_file if self._cluster is not None else self._where
        assert where
        path, is_ours = open_kernel(connection_file.read(where), slave)
        if is_ours:  # else it is the slave's own
            self._kernel_files.add(path)
        return f"slave {slave} is a kernel; its connection file is {path}\n{attach_command(path)}"

    @property
    def has_cluster(self) -> bool:
        """Say whether there is a cluster, or one on the way."""
        return self._app is not None or self._beginning is not None

    @property
    def _what(self) -> str:
        """The current cluster, in words."""
        if self._cluster is None:
            return f"cluster {self._where}"
        named = f" named {self._cluster_name}" if self._cluster_name else ""
        return f"an embedded cluster{named}: {plural(self._cluster.workers, 'worker')}"

    def _ended(self) -> str:
        return (
            f"{self._what} has ended, or does not answer any more: "
            "%concurrent stop, then %concurrent start or %concurrent connect NAME"
        )

    def _ask(self, app: ApplicationNode) -> dict[str, Any]:
        """Ask the master what there is; where it is gone, say what to do."""
        try:
            return app.status()
        except MasterUnreachable as error:
            if self._cluster is not None:
                raise
            raise MasterLost(self._ended()) from error

    def _check_free(self, command: str) -> None:
        if self._app is None:
            return
        is_ours = self._cluster is not None
        what_to_do = "ends it, %concurrent scale N changes how many workers it has" if is_ours else "leaves it"
        what = self._what.replace(": ", " of ")
        raise ConfigurationError(
            f"%concurrent {command}: this notebook has {what} already; %concurrent stop {what_to_do}"
        )


def _answers(app: ApplicationNode) -> bool:
    try:
        app.status()
    except ConcurrentError:
        return False
    return True


def _job_row(job: Job) -> list[str]:
    counts = job.counts()
    ended = {"failed": counts.failed, "cancelled": counts.cancelled}
    others = "".join(f", {number:,} {way}" for way, number in ended.items() if number)
    done = f"{counts.done:,}" if counts.done == counts.total else f"{counts.done:,} of {counts.total:,}"
    state = "running" if counts.waiting + counts.running or job.is_open else "ended"
    return [state, job.name, f"{done} done{others}", seconds_text(job.elapsed_s), job.id.hex()[:8]]


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Write rows as lines whose columns stand below each other, those of the numbers in `right` right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [
                "",
                *(
                    cell.rjust(w) if at in right else cell.ljust(w)
                    for at, (cell, w) in enumerate(zip(row, widths, strict=True))
                ),
            ]
        ).rstrip()
        for row in rows
    ]


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
