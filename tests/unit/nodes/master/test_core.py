"""What the master does with messages of peers: which it accepts, what it keeps, what it passes on."""

import pytest

from concurrent_nb.errors import AccessRefused
from concurrent_nb.ids import JobId, SessionId, digest_of
from concurrent_nb.nodes.master import function_table
from concurrent_nb.nodes.master.client_output import OUTPUT_KEPT_BYTES
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import decode_error
from concurrent_nb.wire.messages import CLUSTER_STOPPED
from concurrent_nb.wire.session import Session
from tests.unit.nodes.master.bench import ALICE, BOB, EAST, JOB, KEYS, Bench, function, with_two_clients


def submit(*indexes: int, digest: bytes = function().digest) -> m.Submit:
    return m.Submit(JOB, digest, None, 0, [m.TaskFrame(index, 0, b"arguments") for index in indexes])


def opened() -> m.OpenJob:
    return m.OpenJob(JOB, "job", False, False)


def bench_with_task() -> Bench:
    """Return a master with a client whose task is with a slave."""
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST)
    bench.send(ALICE, m.OpenJob(JOB, "", False, False), function(), submit(0))
    bench.all_sent()
    return bench


def test_a_task_travels_with_its_function_and_its_function_only_once() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST, slots=2)
    bench.send(ALICE, opened(), function(), submit(0))
    assert bench.sent_to(EAST) == [
        function(),
        m.Assign(JOB, function().digest, None, [m.TaskFrame(0, 1, b"arguments")]),
    ]
    bench.send(ALICE, submit(1))
    assert bench.sent_to(EAST) == [m.Assign(JOB, function().digest, None, [m.TaskFrame(1, 1, b"arguments")])]


def test_a_task_keeps_its_kind_on_its_way_to_the_slave() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST, slots=5)
    bench.send(ALICE, opened(), function())
    sent = [m.TaskFrame(kind, 0, b"arguments", (), kind) for kind in m.TaskKind]
    bench.send(ALICE, m.Submit(JOB, function().digest, None, 0, sent))
    _, assign = bench.sent_to(EAST)
    assert isinstance(assign, m.Assign)
    assert [(frame.index, frame.kind) for frame in assign.tasks] == [(kind, kind) for kind in m.TaskKind]


def test_a_job_is_placed_by_the_strategy_that_it_asks_for() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST, slots=2)
    bench.send(ALICE, m.OpenJob(JOB, "job", False, False, "stealing"), function(), submit(*range(10)))
    # By the cluster's own strategy it would get two for each slot.
    assert [len(message.tasks) for message in bench.sent_to(EAST) if isinstance(message, m.Assign)] == [10]


def test_a_strategy_that_the_wire_does_not_know_ends_the_session() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.send(ALICE, m.OpenJob(JOB, "job", False, False, "fair"))  # type: ignore[arg-type]
    assert ALICE not in bench.core.peers


def test_an_outcome_reaches_its_owner_under_the_name_that_the_master_gave_the_slave() -> None:
    bench = Bench()
    bench.client(ALICE)
    assert bench.slave(EAST) == "east"
    bench.send(ALICE, opened(), function(), submit(0))
    bench.sent_to(EAST)
    outcome = m.OutcomeFrame(0, 1, Status.OK, 0.1, 42, b"value")
    bench.send(EAST, m.Outcomes(JOB, "a name of its own choice", [outcome]))
    assert bench.sent_to(ALICE) == [m.Outcomes(JOB, "east", [outcome])]


def test_two_slaves_never_have_the_same_name() -> None:
    bench = Bench()
    assert bench.slave(EAST) == "east"
    assert bench.core.add_slave(BOB, KEYS[BOB], "east", 1, 1, 0.0) == "east-2"


def test_an_envelope_with_anothers_key_is_dropped() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.send(ALICE, opened(), key=KEYS[BOB])
    assert bench.core.status(bench.now)["tasks"]["jobs"] == 0
    assert ALICE in bench.core.peers


def test_a_node_without_a_session_has_to_register() -> None:
    bench = Bench()
    stranger = Session(7, "to_client")
    bench.core.received(BOB, KEYS[BOB], stranger.heartbeat(), 0.0)
    ((session, frames),) = bench.core.step(0.0)
    stranger.receive(frames, 0.0)
    assert session == BOB
    assert stranger.closed_by_peer == "this session is over: register again"


def test_a_function_with_a_wrong_digest_ends_the_session() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.send(ALICE, m.Function(function().digest, b"another function"))
    assert ALICE not in bench.core.peers
    bench.sent_to(ALICE)
    assert "does not have the digest" in (bench.ends[ALICE].closed_by_peer or "")


def test_a_function_in_buffers_is_checked_as_a_whole() -> None:
    bench = Bench()
    bench.client(ALICE)
    body, rest = b"b" * 40_000, b"r" * 70_000
    bench.send(ALICE, m.Function(digest_of(body + rest), b"", (len(body), len(rest))), buffers=[[body, rest]])
    assert ALICE in bench.core.peers
    bench.send(ALICE, m.Function(digest_of(rest + body), b"", (len(body), len(rest))), buffers=[[body, rest]])
    assert ALICE not in bench.core.peers


def test_a_task_whose_function_was_never_sent_is_refused_and_the_session_lives() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.send(ALICE, opened(), submit(3))
    (refusal,) = bench.sent_to(ALICE)
    assert isinstance(refusal, m.Outcomes)
    (item,) = refusal.items
    assert (item.index, item.status) == (3, Status.REFUSED)
    assert "was never sent" in decode_error(item.body).message
    assert ALICE in bench.core.peers


def test_who_touches_anothers_job_is_shown_out() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.client(BOB)
    bench.send(ALICE, opened(), function(), submit(0))
    bench.send(BOB, m.Cancel(JOB, None))
    assert BOB not in bench.core.peers
    assert ALICE in bench.core.peers
    assert bench.core.status(bench.now)["tasks"]["waiting"] == 1


@pytest.mark.parametrize(("slots", "credit"), [(2, 1), (-1, 5)])
def test_a_capacity_that_makes_no_sense_ends_the_session(slots: int, credit: int) -> None:
    bench = Bench()
    bench.slave(EAST)
    bench.send(EAST, m.Capacity(slots, credit))
    assert EAST not in bench.core.peers


def test_output_is_passed_on_for_the_current_attempt_only() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST)
    bench.send(ALICE, opened(), function(), submit(0))
    bench.sent_to(EAST)
    current, former = m.Output(m.TaskRef(JOB, 0, 1), 1, b"now"), m.Output(m.TaskRef(JOB, 0, 0), 1, b"then")
    bench.send(EAST, former, current)
    assert bench.sent_to(ALICE) == [current]


def test_unused_functions_are_dropped_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function_table, "IDLE_FUNCTIONS", 2)
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST)
    bench.send(ALICE, opened(), function(), submit(0), m.CloseJob(JOB))
    bench.sent_to(EAST)
    bench.send(EAST, m.Outcomes(JOB, "", [m.OutcomeFrame(0, 1, Status.OK, 0.1, 42, b"value")]))
    bench.sent_to(ALICE)
    bench.send(ALICE)  # acknowledges: the job is over, and its function idle
    bench.send(ALICE, function(b"second"))
    assert bench.sent_to(EAST) == []
    bench.send(ALICE, function(b"third"))
    assert bench.sent_to(EAST) == [m.DropFunctions([function().digest])]
    assert bench.core.status(bench.now)["functions"] == 2


def test_large_idle_functions_are_dropped_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function_table, "IDLE_BYTES", 10)
    bench = Bench()
    bench.client(ALICE)
    bench.send(ALICE, function(b"eight by"), function(b"and more"))
    assert bench.core.status(bench.now)["functions"] == 1


def test_a_silent_slave_is_suspected_and_lost_and_its_task_waits_again() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST)
    bench.send(ALICE, opened(), function(), submit(0))
    states = []
    for _ in range(6):
        bench.now += 1.0
        bench.send(ALICE)
        bench.core.step(bench.now)
        states.append([slave["state"] for slave in bench.core.status(bench.now)["slaves"]])
    assert states == [["active"], ["active"], ["suspected"], ["suspected"], [], []]
    assert bench.core.status(bench.now)["tasks"]["waiting"] == 1


def test_owners_of_its_tasks_are_told_that_a_slave_is_lost_and_nobody_else_is() -> None:
    bench = with_two_clients(slots=2)
    bench.send(ALICE, opened(), function(), submit(0, 1))
    bench.send(EAST, m.Started("east", [m.StartedTask(JOB, 1, 1, 77)]))
    bench.all_sent()
    told: list[tuple[SessionId, m.AnyMessage]] = []
    for _ in range(6):
        bench.now += 1.0
        bench.send(ALICE)
        bench.send(BOB)
        told += [(session, each) for session, sent in bench.all_sent().items() for each in sent]
    ((session, output),) = [(session, each) for session, each in told if isinstance(each, m.Output)]
    assert session == ALICE
    text = b"concurrent_nb: slave east does not answer: it has died, is frozen or cut off; its tasks run elsewhere\n"
    assert output == m.Output(m.TaskRef(JOB, 1, 1), 2, text)


def test_a_slave_that_drains_gets_nothing_and_is_not_suspected() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST)
    bench.send(EAST, m.Capacity(0, 0))
    bench.send(ALICE, opened(), function(), submit(0))
    assert bench.sent_to(EAST) == []
    assert bench.core.status(bench.now)["slaves"][0]["slots"] == 0
    bench.core.unreachable(EAST, bench.now)
    bench.core.step(bench.now)
    assert [slave["state"] for slave in bench.core.status(bench.now)["slaves"]] == ["draining"]


def test_a_slave_without_a_connection_is_lost_sooner() -> None:
    bench = Bench()
    bench.slave(EAST)
    bench.core.unreachable(EAST, bench.now)
    bench.core.step(bench.now)
    assert bench.core.status(bench.now)["slaves"][0]["state"] == "suspected"
    bench.now += 1.1
    bench.core.step(bench.now)
    assert EAST not in bench.core.peers


def test_a_slave_that_has_not_connected_yet_gets_nothing_and_is_not_lost_for_it() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.core.add_slave(EAST, KEYS[EAST], "east", 1, 10, bench.now)
    bench.send(ALICE, opened(), function(), submit(0))
    assert [session for session, _ in bench.core.step(bench.now) if session == EAST] == []
    bench.core.unreachable(EAST, bench.now)
    bench.now += 1.5
    bench.core.step(bench.now)
    assert EAST in bench.core.peers


def test_all_nodes_get_a_bye_when_the_cluster_is_stopped() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST)
    for session, frames in bench.core.stop():
        bench.ends[session].receive(frames, 0.0)
    assert {end.closed_by_peer for end in bench.ends.values()} == {CLUSTER_STOPPED}


@pytest.mark.parametrize(("comes_back", "jobs"), [(True, 1), (False, 0)])
def test_the_jobs_of_a_client_that_is_lost_wait_for_it_if_it_may_come_back(comes_back: bool, jobs: int) -> None:
    bench = Bench()
    bench.client(ALICE, comes_back)
    bench.send(ALICE, m.OpenJob(JOB, "", False, False), function(), submit(0))
    assert bench.core.status(bench.now)["tasks"]["jobs"] == 1
    bench.core.unreachable(ALICE, bench.now)
    for _ in range(3):  # a client without a connection is lost after a second
        bench.core.step(bench.now)
        bench.now += 0.6
    assert bench.core.status(bench.now)["tasks"]["jobs"] == jobs


def test_a_client_that_is_silent_keeps_its_session_and_gets_heartbeats_only() -> None:
    bench = bench_with_task()
    for second in range(600):
        bench.now += 1.0
        bench.send(EAST)
        if second == 100:
            bench.send(EAST, m.Outcomes(JOB, "", [m.OutcomeFrame(0, 1, 0, 0.1, 42, b"six")]))
            bench.send(EAST, m.Output(m.TaskRef(JOB, 0, 1), 1, b"late"))
        assert bench.sent_to(ALICE) == [] or second < 3
    bench.send(ALICE)
    (outcomes,) = bench.sent_to(ALICE)
    assert isinstance(outcomes, m.Outcomes) and outcomes.items[0].body == b"six"
    assert bench.sent_to(ALICE) == []


def test_what_tasks_write_for_a_silent_client_is_bounded_and_the_rest_is_counted() -> None:
    bench = bench_with_task()
    bench.now += 3.0
    bench.send(EAST)
    bench.all_sent()
    piece, count = b"x" * 65536, OUTPUT_KEPT_BYTES // 65536 + 10
    for _ in range(count):
        bench.send(EAST, m.Output(m.TaskRef(JOB, 0, 1), 1, piece))
        bench.sent_to(EAST)
    sent_messages: list[m.AnyMessage] = []
    while len(sent_messages) < OUTPUT_KEPT_BYTES // 65536 + 1:
        bench.send(ALICE)
        sent_messages += bench.sent_to(ALICE)
    written = b"".join(message.data for message in sent_messages if isinstance(message, m.Output))
    assert written.count(b"x") == OUTPUT_KEPT_BYTES
    assert written.endswith(
        b"[655,360 bytes of output are left out here, and what follows: the client did not receive it]\n"
    )
    # and what follows is left out, too
    bench.send(EAST, m.Output(m.TaskRef(JOB, 0, 1), 1, b"more"))
    bench.send(ALICE)
    assert bench.sent_to(ALICE) == []


def test_a_silent_client_whose_process_has_ended_is_gone_at_once() -> None:
    bench = Bench()
    alive = [True]
    bench.core.add_client(ALICE, KEYS[ALICE], "alice", bench.now, is_alive=lambda: alive[0])
    bench.ends[ALICE] = Session(7, "to_client")
    bench.send(ALICE, m.OpenJob(JOB, "", False, False), function(), submit(0))
    alive[0] = False
    bench.core.step(bench.now)  # while it is not silent, its process is not checked
    assert bench.core.status(bench.now)["tasks"]["jobs"] == 1
    bench.core.unreachable(ALICE, bench.now)
    bench.core.step(bench.now)
    assert bench.core.status(bench.now)["tasks"]["jobs"] == 0


def test_a_process_that_takes_a_moment_to_end_is_looked_for_again_soon() -> None:
    bench = Bench()
    ends_s = 0.05
    bench.core.add_client(ALICE, KEYS[ALICE], "alice", bench.now, is_alive=lambda: bench.now < began + ends_s)
    began = bench.now
    bench.ends[ALICE] = Session(7, "to_client")
    bench.send(ALICE, m.OpenJob(JOB, "", False, False), function(), submit(0))
    bench.core.unreachable(ALICE, bench.now)
    while ALICE in bench.core.peers:
        assert bench.now - began < 0.2
        bench.core.step(bench.now)
        bench.now = max(bench.now, bench.core.next_deadline(bench.now))
    assert bench.core.status(bench.now)["tasks"]["jobs"] == 0


@pytest.mark.parametrize("ends", ["unregistered", "goodbye", "draining", "lost", "protocol"])
def test_no_task_is_to_blame_for_a_slave_that_leaves_but_for_one_that_is_lost(ends: str) -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST, slots=2)
    bench.send(ALICE, opened(), function(), submit(0, 1))
    bench.all_sent()
    if ends == "unregistered":
        bench.core.remove(EAST, "it has unregistered", bench.now, left=True)
    elif ends == "goodbye":
        bench.core.received(EAST, KEYS[EAST], bench.ends[EAST].bye("no workers"), bench.now)
    elif ends == "draining":
        bench.send(EAST, m.Capacity(0, 0))
        bench.core.remove(EAST, "it was silent for too long", bench.now)
    elif ends == "lost":
        bench.core.remove(EAST, "it was silent for too long", bench.now)
    else:
        bench.send(EAST, m.Capacity(5, -1))
    assert EAST not in bench.core.peers
    suspects = bench.core.status(bench.now, sees_all=True)["suspects"]
    if ends not in ("lost", "protocol"):
        assert suspects == []
        return
    reason = (
        "it was silent for too long" if ends == "lost" else "protocol error: capacity of 5 slots with a credit of -1"
    )
    how = f"slave east was lost ({reason}) while the task was there with 1 other, though its start was not reported"
    first = suspects[0]
    assert first == {"task": first["task"], "state": "waits for a slave, to run beside others", "deaths": [how]}
    assert len(suspects) == 2
    # A caller that may not see the job gets nothing of its tasks
    bench.client(BOB)
    assert bench.core.status(bench.now, BOB)["suspects"] == []
    assert len(bench.core.status(bench.now, ALICE)["suspects"]) == 2


def test_a_suspect_s_state_is_described() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.send(ALICE, opened(), function(), submit(0, 1))
    for _ in range(2):
        bench.slave(EAST, slots=2)
        bench.core.remove(EAST, "it was silent for too long", bench.now)
    bench.slave(EAST, slots=2)
    states = [(suspect["state"], len(suspect["deaths"])) for suspect in bench.core.status(bench.now, ALICE)["suspects"]]
    alone = "to run alone, because one of its deaths cost a slave"
    assert sorted(states) == sorted([(f"is on slave east, {alone}", 2), (f"waits for a slave, {alone}", 2)])


def test_a_client_without_a_connection_may_come_back_for_an_hour() -> None:
    for away_s, jobs in ((3599.0, 1), (3600.0, 0)):
        bench = Bench()
        bench.client(ALICE)
        bench.send(ALICE, m.OpenJob(JOB, "", False, False), function(), submit(0))
        bench.core.unreachable(ALICE, bench.now)
        bench.core.step(bench.now)
        bench.now += away_s
        bench.core.step(bench.now)
        assert bench.core.status(bench.now)["tasks"]["jobs"] == jobs


def test_a_session_that_another_replaces_ends_when_that_joins_and_its_jobs_are_the_other_s() -> None:
    bench = bench_with_task()
    same_key = KEYS[ALICE]
    bench.core.add_client(BOB, same_key, "alice", bench.now, replaces=ALICE)
    assert ALICE in bench.core.peers
    bench.ends[BOB] = Session(7, "to_client")
    bench.send(BOB, m.OpenJob(JOB, "", False, False), function(), submit(0), key=same_key)
    assert ALICE not in bench.core.peers
    bench.send(EAST, m.Outcomes(JOB, "", [m.OutcomeFrame(0, 1, 0, 0.1, 42, b"six")]))
    (outcomes,) = [message for message in bench.sent_to(BOB) if isinstance(message, m.Outcomes)]
    assert outcomes.items[0].body == b"six"


def test_no_session_replaces_that_of_another_key() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.core.add_client(BOB, KEYS[BOB], "bob", bench.now, replaces=ALICE)
    bench.ends[BOB] = Session(7, "to_client")
    bench.send(BOB)
    assert ALICE in bench.core.peers


# ------------------------------------------------------------------------------------------- applications in tasks


OWN_JOB = JobId(JOB)
OTHER_JOB = JobId(b"another job".ljust(16))
CHILD = SessionId(b"child".ljust(16))
CHILD_KEY = b"c" * 40


def test_the_jobs_of_an_application_in_a_task_belong_to_the_owner_of_the_task() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST, slots=2)
    bench.send(ALICE, m.OpenJob(JOB, "job", False, False, None, "a.ipynb", "cell"), function(), submit(0))
    bench.sent_to(EAST)
    bench.core.add_client(CHILD, CHILD_KEY, "in a task", bench.now, False, parent=(OWN_JOB, 0))
    assert [bench.core.admits(key) for key in (KEYS[ALICE], CHILD_KEY)] == [1, 1]
    assert bench.core.owner_of(CHILD) == bench.core.owner_of(ALICE)
    assert bench.core.owns_job(CHILD, OWN_JOB)
    assert not bench.core.owns_job(CHILD, OTHER_JOB)
    child = Session(bench.core.epoch, "to_client")
    child.send(m.OpenJob(OTHER_JOB, "subtasks", False, False))
    for frames in child.flush(bench.now):
        bench.core.received(CHILD, CHILD_KEY, frames, bench.now)
    jobs = bench.core.scheduler.jobs
    assert (jobs[OTHER_JOB].owner, jobs[OTHER_JOB].cell) == (jobs[OWN_JOB].owner, "cell")
    bench.core.remove(CHILD, "it has gone", bench.now)
    bench.core.step(bench.now)
    assert OTHER_JOB not in jobs
    assert [bench.core.admits(key) for key in (KEYS[ALICE], CHILD_KEY)] == [1, 0]


def test_tasks_that_an_application_in_a_task_has_run_itself_count_for_its_slave() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST, slots=2)
    bench.send(ALICE, opened(), function(), submit(0))
    bench.sent_to(EAST)
    bench.core.add_client(CHILD, CHILD_KEY, "in a task", bench.now, False, parent=(OWN_JOB, 0))
    child = Session(bench.core.epoch, "to_client")
    frames = [m.OutcomeFrame(index, 1, status, 0.5, 42, b"") for index, status in enumerate((Status.OK, Status.ERROR))]
    child.send(m.OpenJob(OTHER_JOB, "subtasks", False, False))
    child.send(m.Ran(OTHER_JOB, b"g" * 32, "square", frames))
    bench.now = 9.0
    for envelope in child.flush(bench.now):
        bench.core.received(CHILD, CHILD_KEY, envelope, bench.now)
    scheduler = bench.core.scheduler
    job = scheduler.jobs[OTHER_JOB]
    assert (job.accepted, job.sums.ended, job.sums.acknowledged, job.sums.failed, scheduler.failed) == (2, 2, 2, 1, 1)
    rows = [(row.slave, row.worker, row.function, row.started_s, row.status) for row in scheduler.task_log.read()]
    assert rows == [("east", 42, "square", 8.5, Status.OK), ("east", 42, "square", 8.5, Status.ERROR)]


def test_only_applications_in_tasks_run_tasks_themselves() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.send(ALICE, opened(), m.Ran(JOB, function().digest, "square", []))
    assert ALICE not in bench.core.peers


@pytest.mark.parametrize(("status", "elapsed_s"), [(Status.CANCELLED, 1.0), (99, 1.0), (Status.OK, -1.0)])
def test_tasks_that_cannot_have_run_end_the_session(status: int, elapsed_s: float) -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST)
    bench.send(ALICE, opened(), function(), submit(0))
    bench.core.add_client(CHILD, CHILD_KEY, "in a task", bench.now, False, parent=(OWN_JOB, 0))
    child = Session(bench.core.epoch, "to_client")
    child.send(m.OpenJob(OTHER_JOB, "subtasks", False, False))
    child.send(m.Ran(OTHER_JOB, b"g" * 32, "square", [m.OutcomeFrame(0, 1, status, elapsed_s, 42, b"")]))
    for envelope in child.flush(bench.now):
        bench.core.received(CHILD, CHILD_KEY, envelope, bench.now)
    assert CHILD not in bench.core.peers


def test_an_application_in_a_task_that_does_not_run_is_refused() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.send(ALICE, opened(), function(), submit(0))
    for parent in ((OWN_JOB, 0), (OWN_JOB, 1), (OTHER_JOB, 0)):
        with pytest.raises(AccessRefused, match="has ended, was cancelled, or never was"):
            bench.core.add_client(CHILD, CHILD_KEY, "in a task", bench.now, False, parent=parent)
    assert CHILD not in bench.core.peers
