"""A made-up cluster with a feed, for the web page and the Lab extension without a master.

    .venv/bin/python -m tests.browser.made_up_cluster --port 8999 --slaves 8 --jobs 12

It sends what the contract of the feed allows: many tasks, running ones, failures, events, texts that no page may run.
"""

import argparse
import asyncio
import base64
import json
import random
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import tornado.httpserver
import tornado.web
import tornado.websocket

from concurrent_nb.transport.web_files import WebFile, read_files
from tests.browser.made_up_graphs import graphs_at
from tests.browser.made_up_views import EVIL, errors_of, view_of

STATIC: Final = Path(__file__).parents[2] / "concurrent_nb/web/static"
POLICY: Final = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:"
FUNCTIONS: Final = ("column", "search_range", "simulate", "resample", "fit_model")
INTERVAL_S: Final = 0.25
_OK, _ERROR, _DIED = 0, 2, 5
_GIB: Final = 1024**3


@dataclass
class Job:
    """A job whose tasks run for about the same time."""

    id: str
    name: str
    tasks: int
    task_s: float
    opened_s: float
    failing: float = 0.0
    notebook: str = ""
    cell: str = ""
    begun: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    assigned: int = 0
    ended_s: float | None = None
    run_s: float = 0.0
    in_bytes: int = 0
    out_bytes: int = 0

    @property
    def view_version(self) -> int:
        """The version of its view, which is new whenever a task has ended; 0: it shares none."""
        return 0 if view_of(self.id, 0, 1) is None else self.done + 1

    def as_dict(self) -> dict[str, Any]:
        """Return the entity of the feed."""
        state = "ended" if self.ended_s is not None else "running" if self.assigned else "waiting"
        return {
            "id": self.id, "name": self.name, "client": "demo.ipynb (pid 4711)", "mine": True, "state": state,
            "tasks": self.tasks, "done": self.done, "failed": self.failed, "cancelled": self.cancelled,
            "assigned": self.assigned, "opened_s": self.opened_s, "ended_s": self.ended_s, "notebook": self.notebook,
            "cell": self.cell, "in_bytes": self.in_bytes, "out_bytes": self.out_bytes, "run_s": self.run_s,
            "view_version": self.view_version,
        }  # fmt: skip


@dataclass
class Worker:
    """A worker with at most one task."""

    slave: str
    lane: int
    free_s: float
    task: tuple[Job, int, float, float, int] | None = None  #: job, index, started, ends, status


@dataclass
class MadeUpCluster:
    """Runs tasks in made-up time, which is real time that may begin in the past."""

    name: str = "demo"
    slaves: int = 4
    workers: int = 4
    jobs: list[Job] = field(default_factory=list)
    seed: int = 1
    queued: bool = False  #: whether a slave waits for a machine

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.epoch = self.random.randrange(1, 2**31)
        self.seq = 0
        self.begun_s = time.monotonic() - 3600
        self.now_s = time.monotonic()
        self.functions = list(dict.fromkeys(job.name for job in self.jobs))
        self.lanes = [
            f"{self.slave(at)}/{40_000 + 7 * at + w}" for at in range(self.slaves) for w in range(self.workers)
        ]
        self.pool = [
            Worker(self.slave(lane // self.workers), lane, self.now_s) for lane in range(self.slaves * self.workers)
        ]
        self.marks: list[bytes] = []
        self.events: list[dict[str, Any]] = []
        self.ended = {"done": 0, "failed": 0, "cancelled": 0, "in_bytes": 0, "out_bytes": 0}
        self.drained: set[str] = set()
        self.strategy = "stealing"
        self.calls: list[tuple[str, dict[str, Any]]] = []
        for at in range(self.slaves):
            self.event("slave joined", f"{self.slave(at)} joined with {self.workers} workers", slave=self.slave(at))

    def slave(self, at: int) -> str:
        """Return the name of a slave."""
        return f"node{at + 1:02d}"

    def place(self, at: int) -> str:
        """Return where a launcher has started a slave; the first one has joined by itself."""
        host = f"{self.slave(at)}.cluster.example"
        return (
            "",
            f"SSH host {host}",
            f"Slurm job {1700 + at} on {self.slave(at)}",
            "Dask worker tcp://10.0.0.7:41023",
        )[at % 4]

    def event(self, kind: str, text: str, slave: str = "", job: str = "") -> None:
        """Add an event."""
        number = len(self.events)
        self.events.append(
            {"number": number, "at_s": self.now_s, "kind": kind, "text": text, "slave": slave, "job": job}
        )

    def run_until(self, now_s: float) -> None:
        """Let time pass."""
        for worker in self.pool:
            while True:
                if worker.task is None and not self._begin(worker, now_s):
                    break
                assert worker.task is not None
                if worker.task[3] > now_s:
                    break
                self._end(worker)
        self.now_s = now_s
        self.seq += 1

    def _begin(self, worker: Worker, now_s: float) -> bool:
        if worker.slave in self.drained:
            return False
        open_jobs = [
            job for job in self.jobs if job.ended_s is None and job.begun < job.tasks and job.opened_s <= now_s
        ]
        if not open_jobs:
            worker.free_s = now_s
            return False
        job = open_jobs[worker.lane % min(3, len(open_jobs))]
        started_s = max(worker.free_s, job.opened_s) + self.random.random() * job.task_s * 0.15
        if started_s > now_s:
            return False
        ran_s = job.task_s * self.random.lognormvariate(0, 0.45)
        status = _ERROR if self.random.random() < job.failing else _OK
        if self.random.random() < job.failing * 0.05:
            status = _DIED
        worker.task = (job, job.begun, started_s, started_s + ran_s, status)
        job.begun += 1
        job.assigned += 1
        return True

    def _end(self, worker: Worker) -> None:
        assert worker.task is not None
        job, _, started_s, ends_s, status = worker.task
        worker.task, worker.free_s = None, ends_s
        waited_s = self.random.random() * 0.3 * job.task_s
        code = self.functions.index(job.name)
        self.marks.append(
            struct.pack(
                "<HHB3xdfff", worker.lane, code, status, started_s, ends_s - started_s, waited_s, 0.3 * waited_s
            )
        )
        job.done += 1
        job.assigned -= 1
        job.run_s += ends_s - started_s
        sizes = self.random.randrange(2_000, 40_000), self.random.randrange(1_000, 300_000)
        job.in_bytes += sizes[0]
        job.out_bytes += sizes[1]
        self.ended["done"] += 1
        self.ended["in_bytes"] += sizes[0]
        self.ended["out_bytes"] += sizes[1]
        if status != _OK:
            job.failed += 1
            self.ended["failed"] += 1
        if status == _DIED:
            self.now_s = ends_s
            self.event("worker died", f"worker of {worker.slave} was killed: memory", worker.slave, job.id)
        if job.done == job.tasks and job.ended_s is None:
            job.ended_s = ends_s

    def cancel(self, job_id: str) -> int:
        """Cancel what has not ended."""
        for job in self.jobs:
            if job.id == job_id and job.ended_s is None:
                left = job.tasks - job.done
                for worker in self.pool:
                    if worker.task is not None and worker.task[0] is job:
                        worker.task = None
                job.cancelled += left
                job.done, job.begun, job.assigned, job.ended_s = job.tasks, job.tasks, 0, self.now_s
                self.ended["cancelled"] += left
                self.ended["done"] += left
                return left
        return 0

    def call(self, method: str, params: dict[str, Any]) -> Any:
        """Answer a call of the control channel."""
        self.calls.append((method, params))
        if method == "cancel_job":
            return self.cancel(params["job"])
        if method == "drain_slave":
            self.drained.add(params["slave"])
            self.event("slave drains", f"{params['slave']} gets no new tasks", slave=params["slave"])
            return True
        if method == "scale":
            return {"asked": params["workers"], "before": len(self.pool), "slots": len(self.pool)}
        if method == "restart_slave":
            return {"slave": params["slave"], "tasks": 2, "workers": self.workers}
        if method == "trace":
            (name,) = [job.name for job in self.jobs if job.id == params["job"]]
            times = {f"{at}_s": self.now_s for at in ("accepted", "assigned", "started", "finished", "ended")}
            numbers = dict.fromkeys(("number", "index", "status", "cpu_s", "peak_bytes", "in_bytes", "out_bytes"), 0)
            task = {**numbers, **times, "job": params["job"], "attempt": 1, "function": name, "slave": "east"}
            task |= {"worker": 7, "in_thread": False}
            jobs = {params["job"]: {"name": name, "application": "fit.ipynb"}}
            page = {"name": "demo", "host": "east.example", "pid": 7, "dropped": 0, "next": None}
            return {**page, "tasks": [task], "jobs": jobs}
        if method == "config":
            return {"MasterNode.strategy": {"value": self.strategy, "help": "which slave gets a task", "hot": True}}
        if method == "set_config":
            self.strategy = str(params["value"])
            return self.strategy
        if method == "job_view":
            job = next((job for job in self.jobs if job.id == params["job"]), None)
            if job is None:
                return {"version": 0, "view": None}
            is_known = params.get("since") == job.view_version
            return {"version": job.view_version, "view": None if is_known else view_of(job.id, job.done, job.tasks)}
        if method == "stats":
            spent = [job.run_s for job in self.jobs if job.id == params.get("job")]
            times = {"waiting_s": 0.4, "shipping_s": 0.03, "running_s": 1.0, "fetching_s": 0.02, "cpu_s": 0.9}
            names = ("total", "average", "minimum", "maximum", "p50", "p90", "p99")
            values = {"<b>rows</b>": {"count": 40, **dict.fromkeys(names, 12.5)}}
            if not params.get("job"):
                whole = {
                    "jobs": 2,
                    "count": 4_720,
                    "total": 59_000.0,
                    "average": 12.5,
                    "minimum": 0.25,
                    "maximum": 96.0,
                }
                is_evil = any(job.name == EVIL for job in self.jobs)
                return {"values": {"<b>rows</b>" if is_evil else "rows": whole, "reading (s)": {**whole, "jobs": 1}}}
            return {
                "slot_s": 100.0,
                "idle_slot_s": 7.0,
                "values": values,
                "errors": errors_of(params["job"]),
                **{name: share * sum(spent) for name, share in times.items()},
            }
        return {}

    def state(self) -> dict[str, Any]:
        """Return everything but marks and events."""
        busy = dict.fromkeys(map(self.slave, range(self.slaves)), 0)
        running: list[list[Any]] = []
        for worker in self.pool:
            if worker.task is not None:
                busy[worker.slave] += 1
                if self.now_s - worker.task[2] > 0.05 and len(running) < 500:
                    pid = int(self.lanes[worker.lane].rpartition("/")[2])
                    running.append([worker.task[0].id, worker.task[1], worker.slave, worker.task[2], pid])
        slaves = {
            name: {
                "name": name, "host": f"{name}.cluster.example", "place": self.place(at),
                "pid": 4000 + at, "cores": self.workers,
                "slots": self.workers, "busy": busy[name], "in_flight": busy[name] + 2,
                "done": len(self.marks) // self.slaves,
                "state": "draining" if name in self.drained else "active",
                "load": round(busy[name] * 0.93 + 0.2 * self.random.random(), 2),
                "memory_used_bytes": int((1.8 + 0.5 * busy[name] + 0.02 * at) * _GIB), "memory_total_bytes": 16 * _GIB,
                "since_s": self.begun_s,
            }
            for at, name in enumerate(busy)
        }  # fmt: skip
        if self.queued:
            slaves["slurm-9"] = {
                "name": "slurm-9",
                "host": "",
                "place": "Slurm job 1712: PENDING (Resources)",
                "state": "queued",
            }
        jobs = {job.id: job.as_dict() for job in self.jobs if job.opened_s <= self.now_s}
        waiting = sum(job["tasks"] - job["done"] - job["assigned"] for job in jobs.values())
        assigned = sum(job["assigned"] for job in jobs.values())
        slots = self.slaves * self.workers
        totals = {
            "waiting": waiting, "assigned": assigned, "kept": 0, **self.ended, "slots": slots,
            "busy": sum(busy.values()), "clients": 1, "measured": 7, "other_jobs": 2,
        }  # fmt: skip
        graphs = graphs_at(self.now_s, is_evil=any(job.name == EVIL for job in self.jobs))
        return {"totals": totals, "slaves": slaves, "jobs": jobs, "graphs": graphs, "running": running}


class Reader:
    """What one reader has got."""

    def __init__(self, cluster: MadeUpCluster) -> None:
        self.cluster = cluster
        self._sent: dict[str, Any] = {}
        self._marks = self._events = self._seq = 0

    def snapshot(self) -> dict[str, Any]:
        """Return all there is."""
        cluster, state = self.cluster, self.cluster.state()
        first = max(0, len(cluster.marks) - 10_000)
        tables = {"lanes": cluster.lanes, "functions": cluster.functions}
        message = {
            **self._head(), "name": cluster.name, "uptime_s": cluster.now_s - cluster.begun_s, **state,
            "stream": {**tables, **_packed(first, cluster.marks[first:], 0)},
            "events": cluster.events[-100:],
        }  # fmt: skip
        self._remember(state)
        return message

    def delta(self) -> dict[str, Any]:
        """Return what has changed."""
        cluster, state = self.cluster, self.cluster.state()
        message = {**self._head(), "since": self._seq}
        for name in ("totals", "running"):
            if state[name] != self._sent[name]:
                message[name] = state[name]
        gone = {}
        for name in ("slaves", "jobs", "graphs"):
            before = self._sent[name]
            if changed := {key: value for key, value in state[name].items() if before.get(key) != value}:
                message[name] = changed
            gone[name] = [key for key in before if key not in state[name]]
        if any(gone.values()):
            message["gone"] = gone
        if new := cluster.marks[self._marks :]:
            step = -(-len(new) // 2000)
            taken = new[::step]
            message["stream"] = _packed(self._marks, taken, len(new) - len(taken))
        if events := cluster.events[self._events :]:
            message["events"] = events
        self._remember(state)
        return message

    def _head(self) -> dict[str, Any]:
        return {"epoch": self.cluster.epoch, "seq": self.cluster.seq, "time_s": self.cluster.now_s}

    def _remember(self, state: dict[str, Any]) -> None:
        self._sent, self._seq = state, self.cluster.seq
        self._marks, self._events = len(self.cluster.marks), len(self.cluster.events)


def _packed(first: int, marks: Sequence[bytes], skipped: int) -> dict[str, Any]:
    return {"first": first, "skipped": skipped, "marks": base64.b64encode(b"".join(marks)).decode()}


def demo_jobs(now_s: float, count: int, is_evil: bool) -> list[Job]:
    """Return jobs as people have them: a long one, short ones, one that fails; and one with an evil name."""
    path, other = "notebooks/02_mandelbrot.ipynb", "notebooks/train.ipynb"
    jobs = [
        *([Job("dd" * 8, EVIL, 4_000, 0.8, now_s - 170, failing=0.2)] if is_evil else []),
        Job("aa" * 8, "column", 60_000, 0.12, now_s - 240, notebook=path, cell="c0ffee01"),
        Job("bb" * 8, "fit_model", 900, 6.0, now_s - 200, failing=0.02, notebook=other, cell="c0ffee02"),
        Job("cc" * 8, "search_range", 4_000, 0.5, now_s - 120, failing=0.01, notebook=path, cell="c0ffee03"),
    ]  # fmt: skip
    for at in range(max(0, count - len(jobs))):
        name = FUNCTIONS[at % len(FUNCTIONS)]
        tasks = 200 if count < 100 else 5
        jobs.append(Job(f"{at:016x}", name, tasks, 0.05, now_s - 230 + at % 100, notebook=path, cell=f"c{at}"))
    return jobs


class FeedSocket(tornado.websocket.WebSocketHandler):
    """GET /feed."""

    def initialize(self, cluster: MadeUpCluster, feeds: "set[FeedSocket]") -> None:
        self.reader, self.feeds = Reader(cluster), feeds
        self.is_watching = False

    def on_message(self, message: str | bytes) -> None:
        call = json.loads(message)
        self.write_message(json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": {"interval_s": INTERVAL_S}}))
        self.tell("snapshot", self.reader.snapshot())
        self.is_watching = True
        self.feeds.add(self)

    def tell(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification."""
        self.write_message(json.dumps({"jsonrpc": "2.0", "method": method, "params": params}))

    def on_close(self) -> None:
        self.feeds.discard(self)


class PageFile(tornado.web.RequestHandler):
    """The page and its files, as a master serves them, under its policy."""

    def initialize(self, files: dict[str, WebFile]) -> None:
        self.files = files

    def get(self, name: str) -> None:
        """Answer with a file."""
        if (file := self.files.get(name or "page.html")) is None:
            raise tornado.web.HTTPError(404)
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Content-Type", file.mime_type)
        self.write(file.data)


class Api(tornado.web.RequestHandler):
    """POST /api/1."""

    def initialize(self, cluster: MadeUpCluster) -> None:
        self.cluster = cluster

    def post(self) -> None:
        call = json.loads(self.request.body)
        self.write({"jsonrpc": "2.0", "id": call["id"], "result": self.cluster.call(call["method"], call["params"])})


class MadeUpMaster:
    """Serves the web page of a made-up cluster on a loop of asyncio."""

    def __init__(self, cluster: MadeUpCluster) -> None:
        self.cluster = cluster
        self.feeds: set[FeedSocket] = set()
        self._server: tornado.httpserver.HTTPServer | None = None
        self._clock: asyncio.Task[None] | None = None

    def start(self, port: int) -> None:
        """Bind to 127.0.0.1 and let time pass."""
        files = {"files": read_files(STATIC)}
        application = tornado.web.Application(
            [
                ("/feed", FeedSocket, {"cluster": self.cluster, "feeds": self.feeds}),
                ("/api/1", Api, {"cluster": self.cluster}),
                ("/()", PageFile, files),
                ("/static/(.+)", PageFile, files),
            ],
            log_function=lambda handler: None,
        )
        self._server = application.listen(port, "127.0.0.1")
        self._clock = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            self.cluster.run_until(time.monotonic())
            for feed in list(self.feeds):
                feed.tell("delta", feed.reader.delta())

    async def stop(self) -> None:
        """Close everything."""
        if self._clock is not None:
            self._clock.cancel()
        for feed in list(self.feeds):
            feed.close()
        if self._server is not None:
            self._server.stop()
            await self._server.close_all_connections()


def lived(slaves: int, workers: int, jobs: int, is_evil: bool = False, lived_s: float = 230.0) -> MadeUpCluster:
    """Return a cluster that has run its jobs for a while."""
    now_s = time.monotonic()
    cluster = MadeUpCluster(slaves=slaves, workers=workers, jobs=demo_jobs(now_s, jobs, is_evil))
    for worker in cluster.pool:
        worker.free_s = now_s - lived_s
    cluster.now_s = now_s - lived_s
    for event in cluster.events:
        event["at_s"] = cluster.now_s
    for step in range(1, 201):
        cluster.run_until(now_s - lived_s + lived_s * step / 200)
    return cluster


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8999)
    parser.add_argument("--slaves", type=int, default=4)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=9)
    parser.add_argument("--evil", action="store_true", help="add a job whose name would run if it were markup")
    options = parser.parse_args()
    master = MadeUpMaster(lived(options.slaves, options.workers, options.jobs, options.evil))
    master.start(options.port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
