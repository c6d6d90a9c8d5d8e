"""The current cluster of a notebook: started when the first task needs one, or connected to, until it is stopped.

Used by the magics. There is one object per loaded extension.
"""

import atexit
import logging
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster, Job
from concurrent_nb.clock import monotonic
from concurrent_nb.engines.connecting import is_engine
from concurrent_nb.errors import ConcurrentError, ConfigurationError, MasterLost, MasterUnreachable
from concurrent_nb.nodes.application.futures import Presenter
from concurrent_nb.nodes.common.dashboard_link import DashboardLink, dashboard_link
from concurrent_nb.nodes.common.kernel_file import attach_command, open_kernel
from concurrent_nb.nodes.common.restarts import restart_workers
from concurrent_nb.notebook.cell_output import show
from concurrent_nb.notebook.kernel_end import is_restarting
from concurrent_nb.notebook.live.text import line_of, seconds_text
from concurrent_nb.notebook.results import plural
from concurrent_nb.notebook.tables import ProgressCell, Table
from concurrent_nb.shipping.cells.captured_names import Captured
from concurrent_nb.shipping.serialization.sizes import format_bytes
from concurrent_nb.telemetry.detached_text import detached_line
from concurrent_nb.telemetry.graph_text import graph_line
from concurrent_nb.telemetry.job_stats import aligned
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.workers.slave_side.machine import cores

if TYPE_CHECKING:
    from concurrent_nb.engines.engine_application import EngineApplication

log = logging.getLogger(__name__)

_SLAVE_COLUMNS: Final = (
    "Slave", "State", "Host", ">Workers", ">Busy", ">In flight", ">Done", ">Load", ">Memory", ">Up",
)  # fmt: skip
_JOB_COLUMNS: Final = ["State", "Name", ">Done", ">Failed", ">Cancelled", ">Time", "Id"]
NO_CLUSTER: Final = "no cluster: the next task starts one; see also %concurrent start and %concurrent connect"
#: maximum number of jobs of a notebook that `%concurrent jobs` lists
JOBS_KEPT: Final = 20
#: seconds between two looks at whether slaves wait in a queue
WAIT_FOR_SLAVE_S: Final = 0.5
#: a restart that takes longer, in seconds, prints what it waits for
RESTART_NOTICE_S: Final = 1.0


class CurrentCluster:
    """At most one cluster: embedded in this notebook, or one that it is connected to.

    Args:
        configured: name or connection file of the cluster to connect to when one is needed; "" starts an embedded one.
        present: called with each exception of a task before it is raised or shown.
    """

    def __init__(self, configured: str = "", present: Presenter | None = None) -> None:
        self._configured = configured
        self._present = present
        self._connected_to = ""  # name or connection file of the cluster
        self._engine: Any = None  # what the user has named, if that is an engine and no cluster
        self._kernel_files: set[Path] = set()  # written for `%concurrent kernel`
        self._starting: threading.Thread | None = None  # starts the cluster before a task needs it
        self._cluster: Cluster | None = None
        self._cluster_name = ""  # given by the user
        self._app: ApplicationNode | None = None
        self._is_gone = False  # the cluster has ended
        self.captured: tuple[Captured, ...] = ()  #: names that were sent with the last cell
        self.jobs: deque[Job[Any]] = deque(maxlen=JOBS_KEPT)  #: the latest jobs of this notebook
        self._earlier: set[bytes | tuple[bytes, int]] = set()  # jobs and submits that cells before this one have left

    def start(
        self, workers: int | None = None, name: str | None = None, launch: Mapping[str, Any] | None = None
    ) -> str:
        """Start an embedded cluster; return a line for the user. Raises ConfigurationError if there is a cluster.

        Args:
            launch: arguments of `Cluster` about a launcher; then a slave must join before this returns.
        """
        self._wait_until_started()
        self._check_free("start")
        cluster = Cluster(workers=workers, name=name, **launch) if launch else Cluster(workers or cores(), name)
        try:
            cluster.start()
            if launch:
                self._wait_for_slave(cluster)
            self._use(cluster.application())
        except BaseException:
            cluster.close()
            raise
        self._cluster = cluster
        self._cluster_name = name or ""
        # After the application has registered its handler, so that this one runs first: the kernel does not wait for
        # tasks.
        atexit.register(self.stop)
        return f"started {self._description} (%concurrent stop stops it)"

    def connect(self, where: Any) -> str:
        """Connect to a running cluster, by name or connection file, or to an engine; return a line for the user.

        Does nothing if it is the cluster of this notebook. Raises ConfigurationError if there is another one.
        """
        self._wait_until_started()
        if self._has(where):
            return f"this notebook already uses {self._description} (%concurrent stop leaves it)"
        self._check_free("connect")
        self._join(where)
        atexit.register(self._end)
        return f"connected to {self._description} (%concurrent stop leaves it)"

    def _join(self, where: Any) -> None:
        """Run this notebook's tasks on a cluster or an engine."""
        app = concurrent_nb.connect(where)
        self._use(app)
        self._engine = where if is_engine(where) else None
        # An engine's application has a master of its own, which is asked as any other.
        self._connected_to = str(cast("EngineApplication", app).connection_file) if is_engine(where) else str(where)

    def _has(self, where: Any) -> bool:
        """Return whether this names the current cluster or engine, and it answers."""
        if self._engine is not None or is_engine(where):
            is_same = self._engine is where or (isinstance(where, str) and self._engine == where)
            return is_same and self._app is not None and not self._is_gone and _answers(self._app)
        current = self._cluster.connection_file if self._cluster is not None else self._connected_to
        if self._app is None or self._is_gone or not current:
            return False
        try:
            known, wanted = connection_file.read(current), connection_file.read(where)
        except ConcurrentError:
            return False
        return known.master_key == wanted.master_key and _answers(self._app)

    def stop(self) -> str:
        """Leave the cluster, and stop it if it is embedded. Tasks are cancelled. Return a line for the user."""
        self._wait_until_started()
        app, cluster, what = self._app, self._cluster, self._description
        engine = self._engine
        self._app, self._cluster, self._engine = None, None, None
        atexit.unregister(self.stop)
        atexit.unregister(self._end)
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
        if engine is not None:
            return f"left {what}"
        return f"left {what}, which {'is still running' if runs_on else 'has ended or does not answer'}"

    def _end(self) -> None:
        """Leave the cluster at the end of the kernel; if it is restarted, the user comes back to what runs."""
        app = self._app
        if app is not None and self._engine is None and not self._is_gone and is_restarting():
            app._quit(unattended=True)
            self._app = None
        self.stop()

    def check_outlives(self, what: str) -> None:
        """Raise ConfigurationError if the cluster ends with this notebook: nothing can stay there."""
        if self._cluster is not None or self._engine is not None:
            raise ConfigurationError(
                f"{what}: {self._description} ends with this notebook's kernel; start one with `concurrent-nb start`"
                " and use %concurrent connect"
            )

    def attach(self, which: str, known: Job[Any] | None = None, *, watched: bool) -> Job[Any]:
        """Return a job that the cluster keeps, by its name or the beginning of its id: the latest that fits.

        Args:
            which: the name or id.
            known: the job of the variable of that name, which takes precedence.
            watched: its events and notes are kept for a live display; else what it prints is printed.

        Raises ConfigurationError without a cluster, and AttachRefused.
        """
        self._wait_until_started()
        if self._app is None and self._configured:
            self.connect(self._configured)
        if self._app is None:
            raise ConfigurationError(f"%concurrent attach: {NO_CLUSTER}")
        if known is not None:
            return known
        listed = self._status_of(self._app)["jobs"]
        found = [each["id"] for each in listed if each["id"].startswith(which.lower()) or each["name"] == which]
        job = self._app.attach(found[-1] if found else which, watched=watched, prints=not watched)
        if not any(each is job for each in self.jobs):
            self.jobs.append(job)
        return job

    def application(self) -> tuple[ApplicationNode, str | None]:
        """Return the application node, and a line for the user if a cluster was started or connected to for it."""
        self._wait_until_started()
        notice = None
        if self._app is None:
            notice = self.connect(self._configured) if self._configured else self.start()
        elif self._app.is_closed:  # by a `with` of the user, for example
            cluster = self._cluster
            if cluster is None:
                self._join(self._connected_to if self._engine is None else self._engine)
            else:
                self._use(cluster.application())
        assert self._app is not None
        if self._is_gone:
            raise MasterLost(self._ended_message())
        return self._app, notice

    def names_of_setups(self) -> frozenset[str]:
        """Return the names that setup cells bind in the workers."""
        return self._app.names_of_setups if self._app is not None else frozenset()

    def application_for_functions(self) -> ApplicationNode:
        """Return the application node for a task function; print a line if a cluster was started for it."""
        app, notice = self.application()
        if notice is not None:
            print(notice)
        return app

    def handle_lost_master(self) -> None:
        """Forget an embedded cluster that is gone, so that the next task starts one; of another one, print a remedy."""
        if self._cluster is None and self._app is not None and not self._is_gone and not _answers(self._app):
            self._is_gone = True
            print(self._ended_message())
        if self._cluster is not None:
            try:
                self.stop()
            except ConcurrentError:
                return  # the rest of it is gone as well

    def status(self) -> str:
        """Return a few lines about the cluster, its slaves and its tasks."""
        self._wait_until_started()
        lines = []
        if self._app is None and self._configured:
            self.connect(self._configured)
        if self._app is None:
            lines.append(NO_CLUSTER)
        else:
            status = self._status_of(self._app)
            graphs = [f"  graph: {graph_line(graph)}" for graph in status.get("graphs", ())]
            lines += [self._description, *_describe(status), *graphs]
            if self._cluster is None and self._engine is None and "detached" in status:
                lines.append(f"  {detached_line(status['detached'])}")
        if self.captured:
            names = (f"{c.name} ({c.kind}, {format_bytes(c.size_bytes)})" for c in self.captured)
            lines.append(f"sent with the last cell: {', '.join(names)}")
        return "\n".join(lines)

    def slaves(self) -> Table | str:
        """Return a table with a line of text for each slave, or why there is none. Starts no cluster."""
        self._wait_until_started()
        if self._app is None and self._configured:
            self.connect(self._configured)
        if self._app is None:
            return NO_CLUSTER
        status = self._status_of(self._app)
        lines = _describe(status)[:-1]
        if not lines:
            return "no slave has joined yet"
        return Table("slaves", _SLAVE_COLUMNS, [_slave_cells(each) for each in status["slaves"]], "\n".join(lines))

    def cell_begins(self) -> None:
        """Note which tasks earlier cells have left running."""
        self._earlier = {*self._open_submits(), *(job.id for job in self._all_jobs() if not job.done())}

    def left_by_cell(self) -> str:
        """Return a line about the tasks that this cell has started and that still run; "" if there is none."""
        count = sum(submit not in self._earlier for submit in self._open_submits())
        for job in self._all_jobs():
            if job.id not in self._earlier and not job.done():
                counts = job.counts()
                count += max(1, counts.waiting + counts.running)  # a system may be between two tasks
        if not count:
            return ""
        run, them = ("runs", "it") if count == 1 else ("run", "them")
        return f"{plural(count, 'task')} of this cell still {run} on the cluster: %concurrent cancel stops {them}"

    def _open_submits(self) -> list[tuple[bytes, int]]:
        return [] if self._app is None or self._is_gone else self._app.open_submits()

    def _all_jobs(self) -> list[Job[Any]]:
        """Return the jobs of this notebook that are known, the latest last: those of cells, and open ones of calls."""
        known = {job.id for job in self.jobs}
        opened = [] if self._app is None or self._is_gone else self._app.open_jobs()
        return [*sorted((job for job in opened if job.id not in known), key=lambda job: -job.elapsed_s), *self.jobs]

    def list_jobs(self) -> Table | str:
        """Return a table with a line for each job: running ones first, then the latest first; then the jobs of others.

        If there is none, return a line for the user.
        """
        others = self._others()
        submits = len(self._open_submits())
        newest_first = self._all_jobs()[::-1]
        if not newest_first and not others and not submits:
            return "this notebook has started no job"
        own = sorted(newest_first, key=lambda job: job.done())
        rows = [_job_row(job) for job in own]
        cells = [_job_cells(job) for job in own]
        if submits:
            rows.insert(0, ["running", "(submits)", f"{plural(submits, 'task')} not done", "", ""])
            cells.insert(0, ["running", "(submits)", f"{plural(submits, 'task')} not done", "", "", "", ""])
        mine = len(rows)
        for job in others:
            name, age = line_of(job["name"]), seconds_text(job["age_s"])
            rows.append([job["state"], name, f"{job['done']:,} of {job['tasks']:,} done", age, job["id"][:8]])
            cells.append([job["state"], name, ProgressCell(job["done"], job["tasks"]), "", "", age, job["id"][:8]])
        columns = _JOB_COLUMNS
        if others:
            owners = ["this notebook"] * mine + [_owner_of(job) for job in others]
            rows = [[*row, owner] for row, owner in zip(rows, owners, strict=True)]
            cells = [[*row, owner] for row, owner in zip(cells, owners, strict=True)]
            columns = [*columns, "Application"]
        origins = [["", ""]] * mine + [_origin_of(job) for job in others]
        if any(line for _, line in origins):
            rows = [[*row, *origin] for row, origin in zip(rows, origins, strict=True)]
            cells = [[*row, *origin] for row, origin in zip(cells, origins, strict=True)]
            columns = [*columns, "Notebook", "Cell"]
        return Table("jobs", columns, cells, "\n".join(aligned(rows, right=(3,))))

    def trace(self, job: Job[Any] | None, path: str | None) -> str:
        """Write when and where the tasks of a job, or of all, ran to a file; return a line for the user."""
        self._wait_until_started()
        if self._app is None:
            raise ConfigurationError("%concurrent trace: no cluster, so no task has run")
        if job is None:
            return str(self._app.trace(path or "trace.json"))
        name = "".join(each if each.isalnum() or each in "-_" else "-" for each in job.name)[:60] or job.id.hex()[:8]
        return str(job.trace(path or f"trace-{name}.json"))

    def _others(self) -> list[dict[str, Any]]:
        """Return the jobs of others on this cluster that this application may see."""
        if self._app is None or self._is_gone:
            return []
        try:
            status = self._cluster.status() if self._cluster is not None else self._app.status()
        except ConcurrentError:
            return []  # the next use of the cluster reports it
        own = {job.id.hex() for job in self._all_jobs()}
        jobs = [job for job in status.get("jobs", []) if job["state"] != "idle" and job["id"] not in own]
        return [job for job in jobs if job["client"] != self._app.name]

    def work_of_others(self) -> str:
        """Describe the jobs of others that would be lost if this notebook stopped its cluster; "" if there is none."""
        if self._cluster is None or not (others := self._others()):
            return ""
        owners = sorted({str(job["client"]) for job in others})
        named = ", ".join(sorted({job["name"] or job["id"][:8] for job in others})[:3])
        runs = "is still running" if len(others) == 1 else "are still running"
        return f"{plural(len(others), 'job')} of {', '.join(owners)} {runs} here ({named})"

    def job(self, which: str | None, command: str = "show") -> Job[Any]:
        """Return the latest job of this notebook with this name or beginning of an id; None: the latest job.

        Raises ConfigurationError that names the `command` if there is none.
        """
        for known in (*self.jobs,)[::-1]:
            if which is None or which in (known.name, known.id.hex()[: len(which)]):
                return known
        what = "this notebook has started no job" if which is None else f"no job {which!r}: see %concurrent jobs"
        raise ConfigurationError(f"%concurrent {command}: {what}")

    def cancel(self, which: str | None, job: Job | None = None) -> str:
        """Cancel a job of this notebook, by name or the beginning of its id, or all; return a line for the user.

        Args:
            job: the job of the variable of that name, which takes precedence.
        """
        found = [
            job for job in self._all_jobs() if which is None or job.name == which or job.id.hex().startswith(which)
        ]
        found = found if job is None else [job]
        if which is not None and not found:
            raise ConfigurationError(f"%concurrent cancel: no job {which!r}: see %concurrent jobs")
        running = [job for job in found if not job.wait(0)]
        for job in running:
            job.cancel()
        submits = self._app.cancel_submits() if which is None and self._app is not None else 0
        if submits:
            names = [*(job.name or job.id.hex()[:8] for job in running), plural(submits, "submitted task")]
            return f"cancelled {', '.join(names)}"
        if not running:
            return "no job is running" if which is None else f"{which} has ended already"
        return f"cancelled {', '.join(job.name or job.id.hex()[:8] for job in running)}"

    def scale(self, workers: int | None = None, slaves: int | None = None) -> str:
        """Change the number of workers, or of slaves, of the cluster; return a line for the user."""
        self._wait_until_started()
        if self._app is None and slaves is None:
            return self.start(workers)
        if self._cluster is not None:
            self._cluster.scale(workers, slaves=slaves)
        else:
            self._ask_master("scale", **({"workers": workers} if slaves is None else {"slaves": slaves}))
        return f"{plural(workers or 0, 'worker') if slaves is None else plural(slaves, 'slave')} from now on"

    def adapt(self, least: int, most: int) -> str:
        """Have the number of slaves follow the queue; return a line for the user."""
        self._wait_until_started()
        if self._cluster is not None:
            self._cluster.adapt(least, most)
        else:
            self._ask_master("adapt", least=least, most=most)
        return f"from {least} to {most} slaves from now on, as the queue needs"

    def _ask_master(self, method: str, **params: object) -> None:
        """Call a method of the cluster that this notebook is connected to; its owner starts and ends the slaves."""
        if self._app is None:
            raise ConfigurationError(f"%concurrent {method}: {NO_CLUSTER}")
        info = connection_file.read(self._connected_to)
        token = info.tokens.get("admin") or next(iter(info.tokens.values()))
        with ControlClient(info.endpoints, token, info.certificate_pem) as control:
            control.call(method, **params)

    @staticmethod
    def _wait_for_slave(cluster: Cluster) -> None:
        """Wait until a slave has joined, but not for a queue: tasks wait there, too."""
        while not cluster.wait_for_slave(WAIT_FOR_SLAVE_S):
            if places := cluster.queued():
                shown = ", ".join(sorted(set(places))[:3])
                print(f"{plural(len(places), 'slave')} waiting in a queue ({shown}); tasks wait, too")
                return

    def restart(self, *, now: bool = False) -> str:
        """Replace all worker processes; return a line for the user when the new ones are ready.

        Running tasks end first; with `now` they are stopped and run again.
        """
        self._wait_until_started()
        if self._app is None:
            return "there is no cluster to restart: the next task starts one"
        where = self._cluster.connection_file if self._cluster is not None else self._connected_to
        assert where
        waits = False

        def print_progress(left: int, total: int) -> None:
            nonlocal waits
            if not waits and monotonic() > began + RESTART_NOTICE_S:
                waits = True
                print(
                    f"{left} of {plural(total, 'worker')} still to be replaced, when their tasks have ended"
                    " (the stop button ends the wait)"
                )

        began = monotonic()
        try:
            done = restart_workers(connection_file.read(where), now=now, on_progress=print_progress)
        except KeyboardInterrupt:
            print("stopped waiting: the other workers are replaced when their tasks have ended")
            raise
        return f"{plural(done.workers, 'worker')} replaced in {done.elapsed_s:.1f} s"

    def start_in_background(self) -> None:
        """Start or connect to the cluster in a thread; later uses wait until that is done."""
        self._starting = threading.Thread(target=self._start_now, name="concurrent_nb cluster start", daemon=True)
        self._starting.start()

    def _use(self, app: ApplicationNode) -> None:
        """Run this notebook's tasks through an application node."""
        app.present_errors(self._present)
        app.present_displays(show)
        self._app = app

    def _start_now(self) -> None:
        try:
            self.application()
        except ConcurrentError as error:  # the first task raises it again, in its own cell
            log.warning("no cluster yet: %s", error)

    def _wait_until_started(self) -> None:
        beginning = self._starting
        if beginning is not None and beginning is not threading.current_thread():
            beginning.join()
            self._starting = None

    def kernel(self, slave: str) -> str:
        """Open a Jupyter kernel in a slave; return lines about how to attach to it."""
        self.application()
        where = self._cluster.connection_file if self._cluster is not None else self._connected_to
        assert where
        path, is_ours = open_kernel(connection_file.read(where), slave)
        if is_ours:  # else it is the slave's own
            self._kernel_files.add(path)
        return f"opened a kernel in slave {slave}; its connection file is {path}\n{attach_command(path)}"

    def dashboard(self) -> DashboardLink:
        """Return a link to the cluster's web page, which works once. Starts or connects to the cluster if needed."""
        self.application()
        where = self._cluster.connection_file if self._cluster is not None else self._connected_to
        assert where
        return dashboard_link(connection_file.read(where))

    @property
    def current_application(self) -> ApplicationNode | None:
        """Return the application node if there is one. Unlike `application`, starts nothing and waits for nothing."""
        return self._app

    @property
    def has_cluster(self) -> bool:
        """Return whether there is a cluster, or one that is starting."""
        return self._app is not None or self._starting is not None

    @property
    def _description(self) -> str:
        """The current cluster, for messages."""
        if self._engine is not None:
            app = cast("EngineApplication", self._app)
            return f"the engine {app.engine}: {app.engine_description}"
        if self._cluster is None:
            return f"cluster {self._connected_to}"
        named = f" named {self._cluster_name}" if self._cluster_name else ""
        return f"an embedded cluster{named}: {plural(self._cluster.workers, 'worker')}"

    def _ended_message(self) -> str:
        return (
            f"{self._description} has ended or does not answer: "
            "%concurrent stop, then %concurrent start or %concurrent connect NAME"
        )

    def _status_of(self, app: ApplicationNode) -> dict[str, Any]:
        """Return the status of the cluster. Raises MasterLost with a remedy if the master does not answer."""
        try:
            return app.status()
        except MasterUnreachable as error:
            if self._cluster is not None:
                raise
            raise MasterLost(self._ended_message()) from error

    def _check_free(self, command: str) -> None:
        if self._app is None:
            return
        is_ours = self._cluster is not None
        what_to_do = "stops it, %concurrent scale N changes its number of workers" if is_ours else "leaves it"
        what = self._description.replace(": ", " of ")
        raise ConfigurationError(
            f"%concurrent {command}: this notebook already has {what}; %concurrent stop {what_to_do}"
        )


def _answers(app: ApplicationNode) -> bool:
    try:
        app.status()
    except ConcurrentError:
        return False
    return True


def _owner_of(job: dict[str, Any]) -> str:
    """Return the application of a job, as it is listed."""
    return "(detached)" if job.get("detached") else line_of(job["client"] or "?")


def _origin_of(job: dict[str, Any]) -> list[str]:
    """Return the notebook of a job, and the first line of its cell, as they are listed."""
    return [line_of(job.get("notebook") or ""), line_of(job.get("line") or "")]


def _slave_cells(slave: dict[str, Any]) -> list[str | ProgressCell]:
    used, total = slave.get("memory_used_bytes"), slave.get("memory_total_bytes")
    load, up_s = slave.get("load"), slave.get("uptime_s")
    return [
        line_of(slave["name"]),
        slave["state"],
        line_of(slave.get("place") or slave.get("host") or ""),
        f"{slave['slots']:,}",
        f"{slave.get('busy', 0):,}",
        f"{slave['in_flight']:,}",
        f"{slave['done']:,}",
        "" if load is None else f"{load:.1f}",
        f"{format_bytes(used)} of {format_bytes(total)}" if used is not None and total else "",
        "" if up_s is None else seconds_text(up_s),
    ]


def _job_cells(job: Job) -> list[str | ProgressCell]:
    state, name, _, age, job_id = _job_row(job)
    counts = job.counts()
    ended = [f"{number:,}" if number else "" for number in (counts.failed, counts.cancelled)]
    return [state, name, ProgressCell(counts.done, counts.total), *ended, age, job_id]


def _job_row(job: Job) -> list[str]:
    counts = job.counts()
    ended = {"failed": counts.failed, "cancelled": counts.cancelled}
    others = "".join(f", {number:,} {way}" for way, number in ended.items() if number)
    done = f"{counts.done:,}" if counts.done == counts.total else f"{counts.done:,} of {counts.total:,}"
    state = "running" if counts.waiting + counts.running or job.is_open else "ended"
    return [state, line_of(job.name), f"{done} done{others}", seconds_text(job.elapsed_s), job.id.hex()[:8]]


def _describe(status: dict[str, Any]) -> list[str]:
    slaves = status.get("slaves", [])
    tasks = status.get("tasks", {})
    lines = [
        f"  slave {line_of(slave['name'])}{_place_of(slave)}: {plural(slave['slots'], 'worker')}, {slave['state']}, "
        f"{slave['in_flight']} in flight, {slave['done']} done"
        for slave in slaves
    ]
    lines += [
        f"  slave {line_of(slave['name'])}{_place_of(slave)}: {slave['state']}, has not joined"
        for slave in status.get("launched", [])
    ]
    lines.append(f"  tasks: {tasks.get('waiting', 0)} waiting, {tasks.get('assigned', 0)} with slaves")
    return lines


def _place_of(slave: dict[str, Any]) -> str:
    """Return where a launcher has started a slave, in parentheses; "" if none has."""
    return f" ({line_of(slave['place'])})" if slave.get("place") else ""
