"""A master that was started again with the rows of its journal: it answers, and continues, what it had accepted."""

from concurrent_nb.ids import SessionId
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffers
from tests.journal_in_memory import JournalInMemory
from tests.unit.nodes.master.bench import ALICE, EAST, JOB, KEYS, WEST, Bench, function

OPENED = m.OpenJob(JOB, "fits", False, False)
REJOIN_S = 10.0


def submit(*indexes: int, keep: bool = False) -> m.Submit:
    tasks = [m.TaskFrame(index, 0, b"%d" % index) for index in indexes]
    return m.Submit(JOB, function().digest, None, 0, tasks, keep=keep)


def outcomes(*indexes: int, attempt: int = 1, status: Status = Status.OK) -> m.Outcomes:
    return m.Outcomes(JOB, "", [m.OutcomeFrame(it, attempt, status, 0.1, 42, b"value %d" % it) for it in indexes])


def offer(*indexes: int, attempt: int = 1, is_last: bool = True) -> m.OfferAttempts:
    return m.OfferAttempts([m.TaskRef(JOB, index, attempt) for index in indexes], is_last)


def master(journal: JournalInMemory) -> Bench:
    bench = Bench(journal=journal)
    bench.core.recover(bench.now, REJOIN_S)
    return bench


def restarted(bench: Bench, journal: JournalInMemory) -> tuple[Bench, JournalInMemory]:
    """Return a master with the same rows; nothing else of the former one is left."""
    again = JournalInMemory(journal.rows)
    return master(again), again


def answers(messages: list[m.AnyMessage]) -> dict[int, tuple[int, bytes]]:
    return {it.index: (it.status, it.body) for each in messages if isinstance(each, m.Outcomes) for it in each.items}


def assigned(messages: list[m.AnyMessage]) -> dict[int, bytes]:
    return {task.index: task.body for each in messages if isinstance(each, m.Assign) for task in each.tasks}


def stopped(messages: list[m.AnyMessage]) -> list[int]:
    return [ref.index for each in messages if isinstance(each, m.Withdraw) and each.stop for ref in each.tasks]


def acknowledge(bench: Bench, session: SessionId = ALICE) -> None:
    """Acknowledge what the master has sent to a peer."""
    bench.all_sent()
    bench.core.received(session, KEYS[session], bench.ends[session].heartbeat(), bench.now)


def test_a_job_goes_through_the_journal_and_leaves_nothing_in_it() -> None:
    journal = JournalInMemory()
    bench = master(journal)
    bench.client(ALICE)
    bench.slave(EAST, slots=2)
    bench.send(ALICE, OPENED, function(), submit(0, 1))
    assert journal.kinds == ["SlaveKept", "JobKept", "FunctionKept", "TasksKept"]
    bench.all_sent()
    bench.send(EAST, outcomes(0, 1))
    bench.send(ALICE, m.CloseJob(JOB))
    assert journal.kinds == ["SlaveKept", "JobKept", "FunctionKept", "TasksKept", "OutcomesKept", "JobEnded"]
    acknowledge(bench)
    assert journal.kinds == ["SlaveKept"]
    bench.core.remove(EAST, "it was lost", bench.now)
    assert journal.kinds == []


def test_what_ran_goes_on_and_what_ended_is_answered() -> None:
    journal = JournalInMemory()
    bench = master(journal)
    bench.client(ALICE)
    bench.slave(EAST, slots=3)
    bench.send(ALICE, OPENED, function(), submit(*range(6)), m.Cancel(JOB, [5]))
    assert assigned(bench.sent_to(EAST)).keys() == set(range(5))
    bench.send(EAST, outcomes(0), outcomes(1, status=Status.ERROR))

    bench, journal = restarted(bench, journal)
    bench.client(ALICE)
    # A slave that was not there before gets nothing until the other one has come: it would run what that one has.
    bench.slave(WEST, slots=1)
    assert assigned(bench.sent_to(WEST)) == {}
    bench.send(ALICE, OPENED)
    assert answers(bench.sent_to(ALICE)) == {
        0: (Status.OK, b"value 0"),
        1: (Status.ERROR, b"value 1"),
        5: (Status.CANCELLED, b""),
    }
    bench.slave(EAST, slots=3)
    bench.send(EAST, offer(1, 2, is_last=False))
    sent = bench.all_sent()
    assert assigned(sent[WEST]) == {}
    assert stopped(sent[EAST]) == [1]
    bench.send(EAST, offer(3), outcomes(3))
    sent = bench.all_sent()
    assert stopped(sent[EAST]) == []
    assert assigned(sent[WEST]) | assigned(sent[EAST]) == {4: b"4"}
    assert answers(sent[ALICE]) == {3: (Status.OK, b"value 3")}
    # The application sends everything again that has no answer.
    bench.send(ALICE, function(), submit(2, 4))
    assert assigned(bench.sent_to(EAST)) == {}
    bench.send(EAST, outcomes(2), outcomes(4), outcomes(1, status=Status.CANCELLED))
    assert answers(bench.sent_to(ALICE)).keys() >= {2}


def test_slaves_that_do_not_come_are_not_waited_for_for_ever() -> None:
    journal = JournalInMemory()
    bench = master(journal)
    bench.client(ALICE)
    bench.slave(EAST)
    bench.send(ALICE, OPENED, function(), submit(0))
    assert assigned(bench.sent_to(EAST)) == {0: b"0"}
    bench, journal = restarted(bench, journal)
    assert "SlaveKept" in journal.kinds
    bench.slave(WEST)
    assert assigned(bench.sent_to(WEST)) == {}
    assert bench.core.next_deadline(bench.now) <= REJOIN_S
    for bench.now in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, REJOIN_S):
        bench.send(WEST)  # it is alive
        messages = bench.sent_to(WEST)
        assert bool(assigned(messages)) == (bench.now == REJOIN_S)
    assert function() in messages  # a restarted master has it, too
    assert journal.kinds.count("SlaveKept") == 1

    # A master with nothing to do waits for nobody.
    bench, journal = restarted(Bench(), JournalInMemory())
    bench.slave(WEST)
    bench.client(ALICE)
    bench.send(ALICE, OPENED, function(), submit(0))
    assert assigned(bench.sent_to(WEST)) == {0: b"0"}


def test_an_application_that_does_not_come_back_loses_its_jobs_in_the_end() -> None:
    journal = JournalInMemory()
    bench = master(journal)
    bench.client(ALICE, comes_back=False)
    bench.send(ALICE, OPENED, function(), submit(0))
    bench, journal = restarted(bench, journal)
    assert bench.core.status(0.0, sees_all=True)["tasks"]["jobs"] == 1
    bench.now = 11.0
    bench.core.step(bench.now)
    assert bench.core.status(bench.now, sees_all=True)["tasks"]["jobs"] == 0
    assert journal.kinds == []


def test_large_arguments_and_results_come_back() -> None:
    journal = JournalInMemory()
    bench = master(journal)
    bench.client(ALICE)
    bench.slave(EAST)
    big, other = b"b" * 100_000, b"o" * 40_000
    own: Buffers = [big, other]
    bench.send(ALICE, OPENED, function())
    task = m.TaskFrame(0, 0, b"", (len(big), len(other)))
    bench.send(ALICE, m.Submit(JOB, function().digest, None, 0, [task]), buffers=[own])
    bench.all_sent()
    frame = m.OutcomeFrame(0, 1, Status.OK, 0.1, 42, b"", (len(other),))
    bench, journal = restarted(bench, journal)
    bench.slave(EAST)
    bench.send(EAST, offer(0))
    bench.send(EAST, m.Outcomes(JOB, "", [frame]), buffers=[[other]])
    bench, journal = restarted(bench, journal)
    record = bench.core.scheduler.jobs[JOB].tasks[0]  # type: ignore[index]
    assert (record.outcome, [bytes(it) for it in record.outcome_buffers]) == (frame, [other])
    assert record.buffers == ()


def test_kept_results_can_be_fetched_after_a_restart() -> None:
    journal = JournalInMemory()
    bench = master(journal)
    bench.client(ALICE)
    bench.slave(EAST)
    bench.send(ALICE, OPENED, function(), submit(0, keep=True))
    bench.all_sent()
    bench.send(EAST, outcomes(0))
    acknowledge(bench)
    bench, journal = restarted(bench, journal)
    bench.client(ALICE)
    bench.send(ALICE, OPENED, m.FetchResults(JOB, [0]))
    assert answers(bench.sent_to(ALICE)) == {0: (Status.OK, b"value 0")}
    bench.send(ALICE, m.FreeResults(JOB, [0]), m.CloseJob(JOB))
    acknowledge(bench)
    assert journal.kinds == []


def test_a_refused_event_and_what_follows_it_are_not_in_the_journal() -> None:
    journal = JournalInMemory()
    bench = master(journal)
    bench.client(ALICE)
    bench.send(ALICE, function(), submit(0))  # no job
    assert ALICE not in bench.core.peers
    assert journal.kinds == []


def test_without_a_journal_no_record_is_made() -> None:
    bench = Bench()
    bench.core.recover(0.0, REJOIN_S)
    assert bench.core._recorder is None
    bench.client(ALICE)
    bench.slave(EAST)
    bench.send(ALICE, OPENED, function(), submit(0))
    bench.all_sent()
    bench.send(EAST, outcomes(0))
    assert answers(bench.sent_to(ALICE)).keys() == {0}
    assert bench.core.scheduler.take_concluded() == []
