"""What the master shows to those who watch: jobs and their counts, slaves, running tasks, events."""

import msgspec

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.master import cluster_view
from concurrent_nb.outcome import Status
from concurrent_nb.telemetry.feed_state import ENDED_S, ClusterView
from concurrent_nb.wire import messages as m
from tests.unit.nodes.master.bench import ALICE, EAST, JOB, Bench, function


def submit(count: int) -> m.Submit:
    return m.Submit(JOB, function().digest, None, 0, [m.TaskFrame(index, 0, b"") for index in range(count)])


def with_job(count: int = 5, *, stop_on_error: bool = False) -> Bench:
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST, slots=2)
    job = m.OpenJob(JOB, "fits", False, stop_on_error, notebook="a.ipynb", cell="5f9a")
    bench.send(ALICE, job, function(), submit(count))
    bench.sent_to(EAST)
    return bench


def end(bench: Bench, *statuses: Status, first: int = 0) -> None:
    report = msgspec.msgpack.encode(m.ErrorReport("ValueError", "no such place", ""))
    items = [
        m.OutcomeFrame(index, 1, status, 0.1, 42, report if status == Status.ERROR else b"")
        for index, status in enumerate(statuses, first)
    ]
    bench.send(EAST, m.Outcomes(JOB, "", items))


def view(bench: Bench, after_s: float = 0.0) -> ClusterView:
    return bench.core.view(bench.now + after_s, {})


def kinds(bench: Bench) -> list[str]:
    return [event.kind for event in bench.core.scheduler.event_log.kept]


def test_a_job_counts_its_tasks_when_they_end() -> None:
    bench = with_job()
    end(bench, Status.OK, Status.ERROR)
    shown = view(bench)
    job = shown.jobs[JOB.hex()]
    assert (job["tasks"], job["done"], job["failed"], job["cancelled"]) == (5, 2, 1, 0)
    assert (job["state"], job["notebook"], job["cell"], job["ended_s"]) == ("running", "a.ipynb", "5f9a", None)
    assert job["client"] == "somebody"
    assert (shown.totals["done"], shown.totals["failed"], shown.totals["kept"]) == (2, 1, 2)
    bench.send(ALICE, m.Cancel(JOB, [4]))
    bench.sent_to(EAST)
    end(bench, Status.CANCELLED, first=4)
    assert view(bench).jobs[JOB.hex()]["cancelled"] == 1


def test_a_job_says_whether_all_of_it_was_cancelled() -> None:
    bench = with_job()
    bench.send(ALICE, m.Cancel(JOB, [4]))
    assert view(bench).jobs[JOB.hex()]["is_cancelled"] is False
    end(bench, Status.ERROR)
    bench.send(ALICE, m.Cancel(JOB, None))
    assert view(bench).jobs[JOB.hex()]["is_cancelled"] is True
    stopped = with_job(stop_on_error=True)
    end(stopped, Status.ERROR)
    stopped.send(ALICE, m.Cancel(JOB, None))  # as applications do then
    assert view(stopped).jobs[JOB.hex()]["is_cancelled"] is False


def test_late_and_repeated_outcomes_do_not_count() -> None:
    bench = with_job()
    end(bench, Status.OK, Status.OK)
    end(bench, Status.OK, Status.OK)
    assert view(bench).jobs[JOB.hex()]["done"] == 2
    assert view(bench).totals["done"] == 2


def test_a_job_that_has_ended_stays_for_a_while() -> None:
    bench = with_job(1)
    bench.now = 2.0
    end(bench, Status.OK)
    bench.send(ALICE, m.CloseJob(JOB))
    bench.sent_to(ALICE)
    bench.send(ALICE)  # which acknowledges the outcome
    assert JobId(JOB) not in bench.core.scheduler.jobs
    shown = view(bench)
    job = shown.jobs[JOB.hex()]
    assert (job["state"], job["ended_s"], job["done"]) == ("ended", 2.0, 1)
    assert shown.owners[JOB.hex()] == "alice's key"
    assert bench.core.view(bench.now, shown.jobs).jobs[JOB.hex()] is job, "it is not described again"
    assert view(bench, after_s=ENDED_S + 1).jobs == {}
    bench.send(ALICE, m.OpenJob(JOB, "fits again", False, False))
    assert [each["name"] for each in view(bench).jobs.values()] == ["fits again"]


def test_a_view_that_is_shared_is_news_of_its_job_also_after_its_end() -> None:
    bench = with_job(1)
    assert view(bench).jobs[JOB.hex()]["view_version"] == 0
    bench.core.shared_views.share(JobId(JOB), b"{}", None, bench.now)
    first = view(bench).jobs[JOB.hex()]["view_version"]
    assert first > 0
    end(bench, Status.OK)
    bench.send(ALICE, m.CloseJob(JOB))
    bench.sent_to(ALICE)
    bench.send(ALICE)
    shown = view(bench).jobs
    assert (shown[JOB.hex()]["state"], shown[JOB.hex()]["view_version"]) == ("ended", first)
    bench.core.shared_views.share(JobId(JOB), b"{}", None, bench.now)
    assert bench.core.view(bench.now, shown).jobs[JOB.hex()]["view_version"] > first


def test_a_task_that_was_reported_to_run_is_listed() -> None:
    bench = with_job()
    bench.now = 3.0
    assert view(bench).running == []
    bench.send(EAST, m.Started("", [m.StartedTask(JOB, 1, 1, 42)]))
    assert view(bench).running == [("alice's key", JOB.hex(), 1, "east", 3.0, 42)]


def test_of_many_jobs_the_newest_are_listed() -> None:
    bench = Bench()
    bench.client(ALICE)
    count = cluster_view.JOBS_OF_OWNER_MAX + 5
    ids = [number.to_bytes(16, "big") for number in range(count)]
    bench.send(ALICE, *[m.OpenJob(job, f"job {number}", False, False) for number, job in enumerate(ids)])
    shown = view(bench)
    assert [job["name"] for job in shown.jobs.values()] == [f"job {number}" for number in range(5, count)]
    assert shown.other_jobs == 5


def test_slaves_that_come_and_go_are_events() -> None:
    bench = Bench()
    bench.slave(EAST)
    bench.core.remove(EAST, "it was silent for too long", 1.0)
    bench.slave(EAST)
    bench.core.remove(EAST, "it sent a Bye", 2.0, left=True)
    assert kinds(bench) == ["slave joined", "slave lost", "slave joined", "slave left"]
    lost = bench.core.scheduler.event_log.kept[1]
    assert (lost.text, lost.slave, lost.at_s) == ("slave east is lost: it was silent for too long", "east", 1.0)


def test_the_first_failure_of_a_job_is_an_event_of_its_owner() -> None:
    bench = with_job()
    end(bench, Status.ERROR, Status.ERROR)
    assert kinds(bench) == ["slave joined", "job failed"]
    event = bench.core.scheduler.event_log.kept[-1]
    assert event.text == f"task {JOB.hex()[:8]}/0 of job 'fits' has failed: ValueError: no such place"
    assert (event.owner, event.job, event.slave) == ("alice's key", JOB, "east")


def test_deaths_of_workers_and_quarantine_are_events() -> None:
    bench = with_job(1)
    for attempt in (1, 2, 3):
        bench.send(EAST, m.Outcomes(JOB, "", [m.OutcomeFrame(0, attempt, Status.DIED, 0.1, 42, b"")]))
        bench.sent_to(EAST)
    assert kinds(bench) == ["slave joined", *["worker died"] * 3, "task quarantined", "job failed"]
    assert view(bench).jobs[JOB.hex()]["failed"] == 1


def test_slaves_are_shown_where_a_launcher_has_started_them() -> None:
    bench = with_job()
    east = next(iter(view(bench).slaves))
    assert view(bench).slaves[east]["place"] == "", "nobody has told"
    launched = {
        east: {"name": east, "state": "running", "place": "Slurm job 17 on n1" + 300 * "x", "reason": ""},
        "slurm-2": {"name": "slurm-2", "state": "queued", "place": "Slurm job 18: PENDING", "reason": ""},
        "slurm-3": {"name": "slurm-3", "state": "running", "place": "Slurm job 19 on n2", "reason": ""},
        "slurm-4": {"name": "slurm-4", "state": "ended", "place": "Slurm job 20", "reason": "it died"},
    }
    shown = bench.core.view(bench.now, {}, launched)
    assert shown.slaves[east]["place"] == ("Slurm job 17 on n1" + 300 * "x")[: cluster_view.PLACE_MAX]
    states = {name: (slave["state"], slave["slots"]) for name, slave in shown.slaves.items() if name != east}
    assert states == {"slurm-2": ("queued", 0), "slurm-3": ("starting", 0)}, "one that has ended is not shown"
    assert {frozenset(slave) for slave in shown.slaves.values()} == {frozenset(shown.slaves[east])}
    assert shown.totals == view(bench).totals


def test_a_graph_has_its_client_and_the_tasks_that_run() -> None:
    bench = with_job(4)
    names = {function().digest: "load", function(b"clean").digest: "clean"}
    bench.core.scheduler.task_log.name_of = names.__getitem__
    assert view(bench).graphs == {}
    inputs = [m.TaskInputs(JOB, index, [m.JobTasks(JOB, [index - 10])]) for index in (10, 11, 12)]
    frames = [m.TaskFrame(index, 0, b"") for index in (10, 11, 12)]
    bench.send(ALICE, function(b"clean"), *inputs, m.Submit(JOB, function(b"clean").digest, None, 0, frames))
    bench.send(EAST, m.Started("", [m.StartedTask(JOB, 0, 1), m.StartedTask(JOB, 1, 1)]))
    end(bench, Status.OK)
    shown = view(bench)
    (graph,) = shown.graphs.values()
    assert (graph["client"], graph["ended_s"]) == ("somebody", None)
    assert {row[0]: row[1:] for row in graph["functions"]} == {
        "load": [3, 0, 1, 1, 1, 0, 0],
        "clean": [3, 2, 1, 0, 0, 0, 0],
    }
    assert list(shown.graph_owners) == [graph["id"]]
    own, others = (bench.core.status(bench.now, session)["graphs"] for session in (ALICE, EAST))
    assert (own, others) == ([graph], [])
    end(bench, Status.OK, Status.OK, first=1)
    end(bench, Status.OK, Status.OK, Status.OK, first=10)
    (graph,) = view(bench).graphs.values()
    assert graph["ended_s"] == bench.now
    assert view(bench, after_s=ENDED_S + 1).graphs == {}
