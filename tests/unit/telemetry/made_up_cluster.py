"""A cluster that is made up for the tests of the live feed: entities at will, a real task log, readers of any pace."""

from collections.abc import Iterable
from typing import Any

import msgspec

from concurrent_nb.ids import Digest, JobId
from concurrent_nb.outcome import Status
from concurrent_nb.tasks.event_log import EventLog
from concurrent_nb.tasks.task_log import TaskLog
from concurrent_nb.tasks.task_record import JobRecord, TaskRecord
from concurrent_nb.telemetry.feed_state import ClusterView, FeedState, RunningTask, Visibility
from concurrent_nb.transport.feed_client import apply
from concurrent_nb.wire.messages import OutcomeFrame

ADMIN = Visibility(sees_all=True, owner="")
ALICE = Visibility(sees_all=False, owner="alice")
BOB = Visibility(sees_all=False, owner="bob")
NOBODY = Visibility(sees_all=False, owner="")
EPOCH = 7


class Reader:
    """What a reader has."""

    def __init__(self, visibility: Visibility) -> None:
        self.visibility = visibility
        self.state: dict[str, Any] = {}
        self.kinds: list[str] = []

    @property
    def since(self) -> tuple[int, int] | None:
        return (self.state["epoch"], self.state["seq"]) if self.state else None

    def take(self, message: bytes | None) -> dict[str, Any]:
        """Apply a message, and return its parameters."""
        if message is None:
            return {}
        value = msgspec.json.decode(message)
        self.kinds.append(value["method"])
        self.state = apply(self.state, value["method"], value["params"])
        params: dict[str, Any] = value["params"]
        return params


class MadeUpCluster:
    """A cluster, and the state of its feed."""

    def __init__(self, kept: int = 100_000) -> None:
        self.now = 0.0
        self.log, self.events = TaskLog(kept), EventLog()
        self.log.name_of = bytes.decode
        self.feed = FeedState(EPOCH, "made up", 0.0)
        self.slaves: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.owners: dict[str, str] = {}
        self.running: list[RunningTask] = []
        self.graphs: dict[str, dict[str, Any]] = {}

    def job(self, number: int, owner: str, **changes: Any) -> str:
        """Add or change a job, and return its id."""
        key = job_id(number).hex()
        before = self.jobs.get(key, {"id": key, "name": f"job {number}", "client": owner, "ended_s": None})
        self.jobs[key] = {**before, **changes}
        self.owners[key] = owner
        return key

    def task(
        self,
        job: int,
        *,
        slave: str = "east",
        worker: int = 1,
        function: str = "square",
        status: Status = Status.OK,
        elapsed_s: float = 1.0,
        took_s: float = 2.0,
        ago_us: int = 500_000,
    ) -> None:
        """Let a task end now."""
        self.log.now_s = self.now
        owner = self.owners.get(job_id(job).hex(), "")
        task = TaskRecord(JobRecord(job_id(job), owner), 0, Digest(function.encode()), b"body")
        task.accepted_s, task.assigned_s, task.attempt = self.now - 2 * took_s, self.now - took_s, 1
        self.log.add(task, OutcomeFrame(0, 1, status, elapsed_s, worker, b"value", (), False, ago_us), slave)

    def tick(self, watched: Iterable[Visibility] = (ADMIN,), after_s: float = 0.25) -> None:
        self.now += after_s
        view = ClusterView(
            {"waiting": 0, "done": len(self.log)},
            dict(self.slaves),
            dict(self.jobs),
            dict(self.owners),
            self.running,
            graphs=dict(self.graphs),
            graph_owners={key: graph["client"] for key, graph in self.graphs.items()},
        )
        self.feed.update(view, self.log, self.events, self.now, watched)

    def read(self, reader: Reader) -> dict[str, Any]:
        """Let a reader have its next message, and return its parameters."""
        return reader.take(self.feed.message(reader.since, reader.visibility))

    def fresh(self, visibility: Visibility) -> dict[str, Any]:
        """Return the state of a new reader."""
        reader = Reader(visibility)
        self.read(reader)
        return reader.state


def job_id(number: int) -> JobId:
    return JobId(number.to_bytes(16, "big"))
