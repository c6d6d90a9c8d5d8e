"""The state of the cluster as the live feed shows it, with numbered changes: snapshots and deltas for any reader.

    ClusterView, TaskLog, EventLog -> FeedState.update (a tick) -> message(since, visibility), encoded once for all

A tick that changes something gets the next number, `seq`, and each entity keeps the number of the tick in which it last
changed. So a delta is all entities with a larger number than the reader's, whenever it last read; what has ended is
remembered for a minute. Called by the master, while the feed has readers. The format is in wire/PROTOCOL.md.
"""

import base64
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from concurrent_nb.ids import JobId
from concurrent_nb.tasks.event_log import EVENTS_KEPT, ClusterEvent, EventLog
from concurrent_nb.tasks.task_log import TaskColumns, TaskLog
from concurrent_nb.telemetry.task_stream import SNAPSHOT_MARKS, Run, TaskStream

#: seconds in which a reader may come back to a state that it has
RESUME_S: Final = 60.0
#: seconds for which a job that has ended is shown
ENDED_S: Final = 600.0
#: most running tasks that are listed
RUNNING_MAX: Final = 500

#: mean of the run times of tasks above which each is checked, in seconds
LONGEST_S: Final = 1e6

#: an entity as it is sent
Entity = dict[str, Any]


class Visibility(NamedTuple):
    """What a reader may see."""

    sees_all: bool  #: the jobs of all owners
    owner: str  #: whose jobs are its own, by public key; "" if it has none

    def sees(self, owner: str) -> bool:
        """Return whether jobs, tasks and events of an owner are visible."""
        return self.sees_all or owner == self.owner


class RunningTask(NamedTuple):
    """A task that its slave has reported to run."""

    owner: str
    job: str  #: id, hexadecimal
    number: int  #: its index in the job
    slave: str
    started_s: float
    worker: int = 0  #: pid; 0 if it is unknown


class ClusterView(NamedTuple):
    """The cluster now, as the master describes it."""

    totals: Entity
    slaves: Mapping[str, Entity]  #: by name
    jobs: Mapping[str, Entity]  #: by id, hexadecimal; those that have ended have `ended_s`
    owners: Mapping[str, str]  #: of these jobs
    running: Collection[RunningTask]
    other_jobs: int = 0  #: jobs that are not listed
    #: graphs of tasks that need results of others, folded by function, by id; and the owner of each
    graphs: Mapping[str, Entity] = MappingProxyType({})
    graph_owners: Mapping[str, str] = MappingProxyType({})


class _EntityTable:
    """Entities, each with the number of the tick in which it last changed, and those that have gone."""

    def __init__(self) -> None:
        self.entities: dict[str, Entity] = {}
        self.changed: dict[str, int] = {}  #: by entity, the number of the tick
        self.gone: dict[str, tuple[int, float, str]] = {}  #: number of the tick, time, owner; the oldest first
        self.owners: dict[str, str] = {}

    def update(self, entities: Mapping[str, Entity], owners: Mapping[str, str], seq: int, now: float) -> bool:
        """Take the present entities. Returns whether anything has changed."""
        before, has_changed = self.entities, False
        for key, entity in entities.items():
            if (known := before.get(key)) is not entity and known != entity:
                before[key], self.changed[key], has_changed = entity, seq, True
                if key in owners:
                    self.owners[key] = owners[key]
                self.gone.pop(key, None)
        if len(before) > len(entities):
            for key in [key for key in before if key not in entities]:
                del before[key], self.changed[key]
                self.gone[key], has_changed = (seq, now, self.owners.pop(key, "")), True
        return has_changed

    def since(self, seq: int) -> Iterator[str]:
        """Yield the entities that have changed after a tick."""
        return (key for key, changed in self.changed.items() if changed > seq)

    def forget(self, before_s: float) -> int:
        """Forget what had gone before a time. Returns the number of the last tick that needs it; 0 for none."""
        last = 0
        while self.gone and (oldest := next(iter(self.gone.items())))[1][1] < before_s:
            last = oldest[1][0]
            del self.gone[oldest[0]]
        return last


class FeedState:
    """The state that readers follow.

    Args:
        epoch: number of this run of the master; a reader of another one gets a snapshot.
        name: of the cluster.
        began_s: when the master began.
        seq: the number of the first state; larger than those of a former `FeedState` of the epoch.
    """

    def __init__(self, epoch: int, name: str, began_s: float, seq: int = 0) -> None:
        self.epoch = epoch
        self.seq = seq  #: number of the last tick that has changed something
        self.ended: dict[str, Entity] = {}  #: jobs that have ended; a view may have the same objects again
        self._name = name
        self._began_s = began_s
        self._now = began_s
        self._resumable = seq  # states before this tick cannot be resumed
        self._slaves, self._jobs, self._graphs = _EntityTable(), _EntityTable(), _EntityTable()
        self._totals: Entity = {}
        self._totals_seq = 0
        self._unlisted = 0  # jobs
        self._live: Counter[str] = Counter()  # listed jobs that have not ended, by owner
        self._running: dict[str, tuple[int, list[RunningTask]]] = {}  # by owner, with the tick of the last change
        self._events: deque[tuple[int, ClusterEvent]] = deque(maxlen=EVENTS_KEPT)  # with the tick
        self._events_read = 0
        self._streams: dict[str | None, TaskStream] = {}  # by owner; None: of all tasks
        self._sums: dict[str, list[float]] = {}  # by job: bytes of arguments, of results, seconds of run time
        self._in_bytes = self._out_bytes = 0
        self._read = 0  # number of the next task in the log
        self._cache: dict[tuple[int | None, Visibility], bytes | None] = {}

    # ---------------------------------------------------------------------------------------------------- what comes in

    def update(
        self, view: ClusterView, log: TaskLog, events: EventLog, now: float, watched: Iterable[Visibility]
    ) -> None:
        """Take the state of the cluster: a tick.

        Args:
            view: the cluster now; the entities must not be changed later.
            log: the tasks that have ended.
            events: the last events.
            now: the time, in seconds, never less than before.
            watched: what the present readers may see.
        """
        seq, self._now, live_before = self.seq + 1, now, self._live
        self._cache.clear()
        has_changed = self._read_tasks(view, log, seq, now, {None if v.sees_all else v.owner for v in watched})
        has_changed |= self._update_jobs(view, seq, now)
        has_changed |= self._slaves.update(view.slaves, {}, seq, now)
        has_changed |= self._graphs.update(view.graphs, view.graph_owners, seq, now)
        totals = {**view.totals, "in_bytes": self._in_bytes, "out_bytes": self._out_bytes}
        if (totals, view.other_jobs, self._live) != (self._totals, self._unlisted, live_before):
            self._totals, self._totals_seq, has_changed = totals, seq, True
            self._unlisted = view.other_jobs
        has_changed |= self._update_running(view.running, seq)
        for event in events.kept:
            if event.number >= self._events_read:
                self._events.append((seq, event))
                self._events_read, has_changed = event.number + 1, True
        if has_changed:
            self.seq = seq
        self._forget(now)

    def _update_jobs(self, view: ClusterView, seq: int, now: float) -> bool:
        """Take the jobs. Returns whether anything has changed."""
        known, shown, live = self.ended, {}, Counter[str]()
        ended: dict[str, Entity] = {}
        for key, job in view.jobs.items():
            ended_s: float | None = job["ended_s"]
            if ended_s is None:
                shown[key] = self._complete(key, job)
                live[view.owners[key]] += 1
            elif now - ended_s <= ENDED_S:
                shown[key] = ended[key] = job if known.get(key) is job else self._complete(key, job)
        has_changed = self._jobs.update(shown, view.owners, seq, now)
        if has_changed:
            self.ended = {key: self._jobs.entities[key] for key in ended}
            self._sums = {key: sums for key, sums in self._sums.items() if key in shown}
        self._live = live
        return has_changed

    def _complete(self, key: str, job: Entity) -> Entity:
        """Return a job with what its tasks add up to."""
        in_bytes, out_bytes, run_s = self._sums.get(key, (0, 0, 0.0))
        before = self._jobs.entities.get(key)
        if job["client"] is None and job["ended_s"] is not None and before is not None:
            job = {**job, "client": before["client"]}  # its client may leave before people have looked
        return {**job, "in_bytes": in_bytes, "out_bytes": out_bytes, "run_s": run_s}

    def _update_running(self, running: Collection[RunningTask], seq: int) -> bool:
        by_owner: dict[str, list[RunningTask]] = {owner: [] for owner in self._running}
        for task in running:
            by_owner.setdefault(task.owner, []).append(task)
        has_changed = False
        for owner, tasks in by_owner.items():
            if owner not in self._running or tasks != self._running[owner][1]:
                self._running[owner], has_changed = (seq, tasks), True
        return has_changed

    def _read_tasks(self, view: ClusterView, log: TaskLog, seq: int, now: float, watched: set[str | None]) -> bool:
        """Add up the tasks that have ended since the last tick, and give them to the streams that are watched."""
        fresh = list(log.columns(self._read))
        self._read = len(log)
        for columns in fresh:
            self._add_up(columns)
        has_changed = False
        for owner in watched:
            if owner in self._streams:
                self._streams[owner].used_s = now
                continue
            stream = self._streams[owner] = TaskStream(seq, now)
            stream.add(_last(_runs(log.columns(), owner, view.owners)), seq, most=SNAPSHOT_MARKS)
            has_changed = True  # so that a reader which comes back to a former stream does not take this one for it
        for owner, stream in list(self._streams.items()):
            if stream.begun_seq == seq:
                continue
            if now - stream.used_s > RESUME_S:
                del self._streams[owner]
            elif fresh and stream.add(_runs(fresh, owner, view.owners), seq):
                has_changed = True
        return has_changed

    def _add_up(self, columns: TaskColumns) -> None:
        in_bytes, out_bytes = columns.in_bytes.tolist(), columns.out_bytes.tolist()
        self._in_bytes += sum(in_bytes)
        self._out_bytes += sum(out_bytes)
        seconds = columns.elapsed_s.tolist()
        # A slave may report any time. One that is no number makes the comparison fail.
        if not 0 <= sum(seconds) <= LONGEST_S * len(seconds):
            limits = columns.assigned_ago_s.tolist()
            seconds = [time if 0 <= time <= limit else limit for time, limit in zip(seconds, limits, strict=True)]
        if len(columns.jobs) == 1:
            self._add_to(columns.jobs[0], sum(in_bytes), sum(out_bytes), sum(seconds))
            return
        # Slaves report the tasks of a job together, so there are few runs.
        numbers, first = columns.job.tolist(), 0
        while first < len(numbers):
            number, last = numbers[first], first + 1
            while last < len(numbers) and numbers[last] == number:
                last += 1
            part = slice(first, last)
            self._add_to(columns.jobs[number], sum(in_bytes[part]), sum(out_bytes[part]), sum(seconds[part]))
            first = last

    def _add_to(self, job: JobId, in_bytes: int, out_bytes: int, seconds: float) -> None:
        sums = self._sums.setdefault(job.hex(), [0, 0, 0.0])
        sums[0] += in_bytes
        sums[1] += out_bytes
        sums[2] += seconds

    def _forget(self, now: float) -> None:
        before_s = now - RESUME_S
        tables = (self._jobs, self._slaves, self._graphs)
        self._resumable = max(self._resumable, *(table.forget(before_s) for table in tables))
        for stream in self._streams.values():
            stream.forget(self._resumable)
        for owner in [owner for owner, (seq, tasks) in self._running.items() if not tasks and seq <= self._resumable]:
            del self._running[owner]

    # ---------------------------------------------------------------------------------------------------- what goes out

    def is_watched(self, visibility: Visibility) -> bool:
        """Return whether `message` can be called: it was watched in the last tick, or not long before."""
        return (None if visibility.sees_all else visibility.owner) in self._streams

    def message(self, since: tuple[int, int] | None, visibility: Visibility) -> bytes | None:
        """Return the next message for a reader, encoded; None if nothing has changed for it.

        Args:
            since: epoch and number of the state that it has; None if it has none.
            visibility: what it may see; `is_watched` must be true of it.
        """
        known = since[1] if since is not None and self._can_resume(since, visibility) else None
        key = (known, visibility)
        if key not in self._cache:
            self._cache[key] = self._encoded_snapshot(visibility) if known is None else self._delta(known, visibility)
        return self._cache[key]

    def heartbeat(self, since: tuple[int, int]) -> bytes:
        """Return a delta without changes, for a reader that has waited for a while."""
        return _notification("delta", {**self._head(), "since": since[1]})

    def snapshot(self, visibility: Visibility) -> Entity:
        """Return the whole state, with marks as bytes."""
        return {
            **self._head(),
            "name": self._name,
            "uptime_s": self._now - self._began_s,
            "totals": self._totals_for(visibility),
            "slaves": self._slaves.entities,
            "jobs": dict(_visible(self._jobs, visibility, self._jobs.entities)),
            "graphs": dict(_visible(self._graphs, visibility, self._graphs.entities)),
            "stream": self._stream_of(visibility).snapshot(),
            "running": self._running_for(visibility),
            "events": [_as_json(event) for _, event in self._events if visibility.sees(event.owner) or not event.owner],
        }

    def _can_resume(self, since: tuple[int, int], visibility: Visibility) -> bool:
        epoch, seq = since
        oldest = max(self._resumable, self._stream_of(visibility).begun_seq)
        return epoch == self.epoch and oldest <= seq <= self.seq

    def _encoded_snapshot(self, visibility: Visibility) -> bytes:
        return _notification("snapshot", self.snapshot(visibility))

    def _delta(self, since: int, visibility: Visibility) -> bytes | None:
        if since == self.seq:
            return None
        changes: Entity = {}
        if self._totals_seq > since:
            changes["totals"] = self._totals_for(visibility)
        if slaves := {name: self._slaves.entities[name] for name in self._slaves.since(since)}:
            changes["slaves"] = slaves
        if jobs := dict(_visible(self._jobs, visibility, self._jobs.since(since))):
            changes["jobs"] = jobs
        if graphs := dict(_visible(self._graphs, visibility, self._graphs.since(since))):
            changes["graphs"] = graphs
        gone = {
            "slaves": [name for name, (seq, _, _) in self._slaves.gone.items() if seq > since],
            "jobs": _gone(self._jobs, visibility, since),
            "graphs": _gone(self._graphs, visibility, since),
        }
        if any(gone.values()):
            changes["gone"] = gone
        if stream := self._stream_of(visibility).since(since):
            changes["stream"] = stream
        if any(seq > since for owner, (seq, _) in self._running.items() if visibility.sees(owner)):
            changes["running"] = self._running_for(visibility)
        if events := [
            _as_json(event)
            for seq, event in self._events
            if seq > since and (visibility.sees(event.owner) or not event.owner)
        ]:
            changes["events"] = events
        return _notification("delta", {**self._head(), "since": since, **changes}) if changes else None

    def _head(self) -> Entity:
        return {"epoch": self.epoch, "seq": self.seq, "time_s": self._now}

    def _stream_of(self, visibility: Visibility) -> TaskStream:
        return self._streams[None if visibility.sees_all else visibility.owner]

    def _totals_for(self, visibility: Visibility) -> Entity:
        others = 0 if visibility.sees_all else self._live.total() - self._live[visibility.owner]
        return {**self._totals, "other_jobs": self._unlisted + others}

    def _running_for(self, visibility: Visibility) -> list[tuple[str, int, str, float, int]]:
        visible = [task[1:] for owner, (_, tasks) in self._running.items() if visibility.sees(owner) for task in tasks]
        return visible[:RUNNING_MAX]


def _visible(table: _EntityTable, visibility: Visibility, keys: Iterable[str]) -> Iterator[tuple[str, Entity]]:
    """Yield the entities of owners that a reader sees."""
    for key in keys:
        owner = table.owners[key]
        if visibility.sees(owner):
            yield key, {**table.entities[key], "mine": owner == visibility.owner}


def _gone(table: _EntityTable, visibility: Visibility, since: int) -> list[str]:
    return [key for key, (seq, _, owner) in table.gone.items() if seq > since and visibility.sees(owner)]


def _runs(blocks: Iterable[TaskColumns], owner: str | None, owners: Mapping[str, str]) -> list[Run]:
    """Return the tasks of an owner, or of all owners, that have run."""
    runs = []
    for columns in blocks:
        positions: Sequence[int] = range(len(columns))
        if owner is not None:
            own = {number for number, job in enumerate(columns.jobs) if owners.get(job.hex()) == owner}
            if not own:
                continue
            if len(own) < len(columns.jobs):
                positions = [position for position, job in enumerate(columns.job.tolist()) if job in own]
        if "" in columns.slaves:
            nowhere = columns.slaves.index("")
            slaves = columns.slave.tolist()
            positions = [position for position in positions if slaves[position] != nowhere]
        if positions:
            runs.append(Run(columns, positions))
    return runs


def _last(runs: list[Run]) -> list[Run]:
    """Return the last tasks, as many as a snapshot has."""
    left = SNAPSHOT_MARKS
    kept: list[Run] = []
    for run in reversed(runs):
        if left <= 0:
            break
        kept.append(run._replace(positions=run.positions[-left:]))
        left -= len(kept[-1].positions)
    return kept[::-1]


def _as_json(event: ClusterEvent) -> Entity:
    return {
        "number": event.number,
        "at_s": event.at_s,
        "kind": event.kind,
        "text": event.text,
        "slave": event.slave,
        "job": event.job.hex(),
    }


def _notification(method: str, params: Entity) -> bytes:
    if "stream" in params:
        stream = params["stream"]
        params["stream"] = {**stream, "marks": base64.b64encode(stream["marks"]).decode()}
    return msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": params})
