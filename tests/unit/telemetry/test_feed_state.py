"""Whatever happens, and whenever a reader reads: its state is what a new reader gets."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concurrent_nb.outcome import Status
from concurrent_nb.telemetry.feed_state import ENDED_S, RESUME_S, RunningTask
from concurrent_nb.telemetry.task_stream import MARK
from tests.unit.telemetry.made_up_cluster import ADMIN, ALICE, BOB, EPOCH, NOBODY, MadeUpCluster, Reader, job_id

EVERYBODY = (ADMIN, ALICE, BOB, NOBODY)
JOBS, SLAVES = st.integers(0, 4), st.sampled_from(["east", "west", "north"])
#: a job's owner does not change
OWNERS = ("alice", "bob", "alice", "carol", "bob")
ACTS = st.one_of(
    st.tuples(st.just("slave"), SLAVES, st.integers(0, 3)),
    st.tuples(st.just("slave goes"), SLAVES),
    st.tuples(st.just("job"), JOBS, st.integers(0, 3)),
    st.tuples(st.just("job ends"), JOBS),
    st.tuples(st.just("job goes"), JOBS),
    st.tuples(st.just("task"), JOBS, SLAVES, st.integers(1, 2), st.sampled_from(["square", "cube"])),
    st.tuples(st.just("running"), JOBS, st.integers(0, 2)),
    st.tuples(st.just("event"), st.sampled_from(["", "alice", "bob"])),
    st.tuples(st.just("graph"), st.integers(0, 3), st.integers(0, 2)),
    st.tuples(st.just("graph goes"), st.integers(0, 3)),
    st.tuples(st.just("tick"), st.sampled_from([0.25, 0.25, 0.25, 20.0, RESUME_S + 1, ENDED_S])),
    st.tuples(st.just("read"), st.integers(0, 7)),
)


def act(cluster: MadeUpCluster, readers: list[Reader], what: str, *details: Any) -> None:
    if what == "slave":
        name, busy = details
        cluster.slaves[name] = {"name": name, "busy": busy}
    elif what == "slave goes":
        cluster.slaves.pop(details[0], None)
    elif what == "job":
        cluster.job(details[0], OWNERS[details[0]], done=details[1], ended_s=None)
    elif what == "job ends":
        cluster.job(details[0], OWNERS[details[0]], ended_s=cluster.now)
    elif what == "job goes":
        key = cluster.job(details[0], OWNERS[details[0]])
        del cluster.jobs[key], cluster.owners[key]
    elif what == "task":
        job, slave, worker, function = details
        cluster.job(job, OWNERS[job])
        cluster.task(job, slave=slave, worker=worker, function=function)
    elif what == "running":
        job, count = details
        key = cluster.job(job, OWNERS[job])
        cluster.running = [RunningTask(OWNERS[job], key, number, "east", 1.5, 42) for number in range(count)]
    elif what == "event":
        cluster.events.add(cluster.now, "worker died", "boom", owner=details[0])
    elif what == "graph":
        number, done = details
        cluster.graphs[str(number)] = {"id": str(number), "client": OWNERS[number], "done": done}
    elif what == "graph goes":
        cluster.graphs.pop(str(details[0]), None)
    elif what == "tick":
        cluster.tick(EVERYBODY, details[0])
    elif what == "read":
        cluster.read(readers[details[0]])


def comparable(state: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is of the last message, and not of the state; a reader of old marks has more of them."""
    rest = {name: value for name, value in state.items() if name not in ("seq", "time_s", "uptime_s")}
    return {
        **rest,
        "jobs": dict(sorted(state["jobs"].items())),
        "slaves": dict(sorted(state["slaves"].items())),
        "graphs": dict(sorted(state["graphs"].items())),
    }


def played(acts: list[tuple[Any, ...]]) -> tuple[MadeUpCluster, list[Reader]]:
    """Return a cluster after these acts, and its readers."""
    cluster = MadeUpCluster()
    readers = [Reader(visibility) for visibility in EVERYBODY * 2]
    cluster.tick(EVERYBODY)
    for each in acts:
        act(cluster, readers, *each)
    cluster.tick(EVERYBODY)
    return cluster, readers


@settings(max_examples=300)
@given(st.lists(ACTS, max_size=60))
def test_deltas_of_any_pacing_give_what_a_new_reader_gets(acts: list[tuple[Any, ...]]) -> None:
    cluster, readers = played(acts)
    for reader in readers:
        cluster.read(reader)
        assert comparable(reader.state) == comparable(cluster.fresh(reader.visibility))
        assert cluster.feed.message(reader.since, reader.visibility) is None


@given(st.lists(ACTS, max_size=40))
def test_readers_see_only_what_is_theirs(acts: list[tuple[Any, ...]]) -> None:
    cluster, _ = played(acts)
    for visibility in (ALICE, BOB, NOBODY):
        state = cluster.fresh(visibility)
        own = {job_id(number).hex() for number, owner in enumerate(OWNERS) if owner == visibility.owner}
        assert set(state["jobs"]) <= own
        assert {task[0] for task in state["running"]} <= own
        assert all(job["mine"] for job in state["jobs"].values())
        assert all(graph["client"] == visibility.owner and graph["mine"] for graph in state["graphs"].values())


def test_the_first_message_is_a_snapshot_and_the_next_ones_are_deltas() -> None:
    cluster, reader = MadeUpCluster(), Reader(ADMIN)
    cluster.slaves["east"] = {"name": "east", "busy": 0}
    cluster.slaves["west"] = {"name": "west", "busy": 0}
    cluster.tick()
    assert set(cluster.read(reader)["slaves"]) == {"east", "west"}
    cluster.slaves["east"] = {"name": "east", "busy": 1}
    cluster.tick()
    delta = cluster.read(reader)
    assert delta == {
        "epoch": EPOCH,
        "seq": 2,
        "since": 1,
        "time_s": 0.5,
        "slaves": {"east": {"name": "east", "busy": 1}},
    }


def test_nothing_is_sent_when_nothing_has_changed_but_a_heartbeat() -> None:
    cluster, reader = MadeUpCluster(), Reader(ADMIN)
    cluster.tick()
    cluster.read(reader)
    cluster.tick()
    assert cluster.feed.message(reader.since, ADMIN) is None
    assert reader.since is not None
    assert reader.take(cluster.feed.heartbeat(reader.since)) == {"epoch": EPOCH, "seq": 1, "since": 1, "time_s": 0.5}


@pytest.mark.parametrize("since", [(EPOCH, -1), (EPOCH, 99), (EPOCH + 1, 1), (EPOCH - 1, 1), (2**70, 2**70)])
def test_a_state_that_never_was_gets_a_snapshot(since: tuple[int, int]) -> None:
    cluster = MadeUpCluster()
    cluster.tick()
    message = cluster.feed.message(since, ADMIN)
    assert message is not None
    assert msgspec.json.decode(message)["method"] == "snapshot"


def test_one_who_comes_back_within_a_minute_resumes_and_later_gets_a_snapshot() -> None:
    for away_s, kinds in ((RESUME_S - 1, ["snapshot", "delta"]), (RESUME_S + 1, ["snapshot", "snapshot"])):
        cluster, reader = MadeUpCluster(), Reader(ADMIN)
        cluster.slaves["east"] = {"name": "east"}
        cluster.tick()
        cluster.read(reader)
        cluster.slaves.clear()
        cluster.tick()
        cluster.tick(after_s=away_s)
        cluster.read(reader)
        assert reader.kinds == kinds
        assert reader.state["slaves"] == {}


def test_jobs_that_have_ended_go_after_ten_minutes() -> None:
    cluster, reader = MadeUpCluster(), Reader(ADMIN)
    key = cluster.job(1, "alice", ended_s=0.0)
    cluster.tick()
    cluster.read(reader)
    assert set(reader.state["jobs"]) == {key}
    cluster.tick(after_s=ENDED_S)
    assert cluster.read(reader)["gone"] == {"slaves": [], "jobs": [key], "graphs": []}
    assert reader.state["jobs"] == {}


def test_a_job_keeps_the_name_of_the_client_that_has_left() -> None:
    cluster = MadeUpCluster()
    key = cluster.job(1, "alice", client="alice's notebook")
    cluster.tick()
    cluster.job(1, "alice", client=None, ended_s=cluster.now)
    cluster.tick()
    assert cluster.fresh(ADMIN)["jobs"][key]["client"] == "alice's notebook"


def test_jobs_and_totals_have_the_sums_of_their_tasks() -> None:
    cluster = MadeUpCluster()
    first, second = cluster.job(1, "alice"), cluster.job(2, "bob")
    for _ in range(2):
        for job in (1, 1, 2, 1):
            cluster.task(job)
        cluster.tick()
    state = cluster.fresh(ADMIN)
    sums = [[state["jobs"][key][name] for name in ("in_bytes", "out_bytes", "run_s")] for key in (first, second)]
    assert sums == [[24, 30, 6.0], [8, 10, 2.0]]
    assert (state["totals"]["in_bytes"], state["totals"]["out_bytes"]) == (32, 40)


@pytest.mark.parametrize("elapsed_s", [float("nan"), float("inf"), -float("inf"), -1.0, 1e300])
def test_a_slave_cannot_spoil_the_sums(elapsed_s: float) -> None:
    cluster = MadeUpCluster()
    key = cluster.job(1, "alice")
    cluster.task(1, elapsed_s=elapsed_s)
    cluster.task(1)
    cluster.tick()
    assert 0.0 <= cluster.fresh(ADMIN)["jobs"][key]["run_s"] <= 4.0


def test_the_jobs_of_others_are_counted() -> None:
    cluster, reader = MadeUpCluster(), Reader(ALICE)
    cluster.job(1, "alice")
    cluster.job(2, "bob")
    cluster.tick([ALICE])
    cluster.read(reader)
    assert reader.state["totals"]["other_jobs"] == 1
    cluster.job(1, "alice", ended_s=0.0)
    cluster.job(3, "carol")
    cluster.tick([ALICE])
    cluster.read(reader)
    assert reader.state["totals"]["other_jobs"] == 2


def test_equal_readers_get_the_same_bytes_and_change_nothing_for_each_other() -> None:
    cluster = MadeUpCluster()
    cluster.job(1, "alice")
    cluster.tick((ADMIN, ALICE))
    assert cluster.feed.message(None, ADMIN) is cluster.feed.message(None, ADMIN)
    assert cluster.feed.message(None, ADMIN) != cluster.feed.message(None, ALICE)


def test_who_begins_to_watch_gets_the_last_tasks_of_before() -> None:
    cluster = MadeUpCluster()
    cluster.job(1, "alice")
    cluster.job(2, "bob")
    for number in range(25_000):
        cluster.task(1 + number % 2, function="mine" if number % 2 == 0 else "secret")
    cluster.tick((ADMIN,))
    cluster.tick((ADMIN, ALICE))
    admin, alice = cluster.fresh(ADMIN)["stream"], cluster.fresh(ALICE)["stream"]
    assert [len(stream["marks"]) // MARK.size for stream in (admin, alice)] == [10_000, 10_000]
    assert admin["functions"] == ["mine", "secret"] and alice["functions"] == ["mine"]


def test_tasks_that_ran_nowhere_have_no_mark() -> None:
    cluster = MadeUpCluster()
    cluster.job(1, "alice")
    cluster.tick((ADMIN, ALICE))
    cluster.task(1, slave="", worker=0, status=Status.CANCELLED)
    cluster.task(1)
    cluster.tick((ADMIN, ALICE))
    for visibility in (ADMIN, ALICE):
        stream = cluster.fresh(visibility)["stream"]
        assert stream["lanes"] == ["east/1"] and len(stream["marks"]) == MARK.size


def test_the_stream_of_an_owner_who_does_not_watch_any_more_is_dropped() -> None:
    cluster = MadeUpCluster()
    cluster.tick((ADMIN, ALICE))
    cluster.tick((ADMIN,), after_s=RESUME_S - 1)
    assert cluster.feed.is_watched(ALICE)
    cluster.tick((ADMIN,), after_s=2.0)
    assert not cluster.feed.is_watched(ALICE) and cluster.feed.is_watched(ADMIN)


def test_texts_travel_as_they_are() -> None:
    name = "<script>alert(1)</script> \x1b[31m \u202e \ud7ff \U0001f600 \x00"
    cluster, reader = MadeUpCluster(), Reader(ADMIN)
    key = cluster.job(1, "alice", name=name)
    cluster.events.add(0.0, "job failed", name * 1000)
    cluster.tick()
    cluster.read(reader)
    assert reader.state["jobs"][key]["name"] == name
    assert reader.state["events"][0]["text"].startswith(name) and len(reader.state["events"][0]["text"]) == 500
