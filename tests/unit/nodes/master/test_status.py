"""The status of the cluster, and which parts of it each caller gets."""

import pytest

from concurrent_nb.ids import SessionId
from concurrent_nb.nodes.master import status
from concurrent_nb.nodes.master.peers import NodeInfo
from concurrent_nb.nodes.slave.core import HOST_LOAD_S, SlaveCore
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import decode
from concurrent_nb.wire.session import Session
from tests.inline_pool import InlinePool
from tests.unit.nodes.master.bench import ALICE, BOB, EAST, JOB, Bench, function

OTHER = b"k" * 16
WEST = SessionId(b"west's session..")


def submit(job: bytes, count: int) -> m.Submit:
    return m.Submit(job, function().digest, None, 0, [m.TaskFrame(index, 0, b"") for index in range(count)])


def shared() -> Bench:
    """A cluster with a job of Alice and one of Bob."""
    bench = Bench()
    bench.client(ALICE)
    bench.client(BOB)
    bench.slave(EAST, slots=2)
    bench.send(ALICE, m.OpenJob(JOB, "alice's fits", False, False), function(), submit(JOB, 5))
    bench.now = 3.0
    bench.send(BOB, m.OpenJob(OTHER, "bob's plans", False, False), submit(OTHER, 1))
    return bench


def test_one_sees_ones_own_jobs_and_how_many_others_there_are() -> None:
    bench = shared()
    for session, name in ((ALICE, "alice's fits"), (BOB, "bob's plans")):
        answer = bench.core.status(bench.now, session)
        assert [(job["name"], job["mine"]) for job in answer["jobs"]] == [(name, True)]
        assert answer["other_jobs"] == 1


def test_who_names_no_session_sees_no_job() -> None:
    bench = shared()
    for session in (None, b"nobody's session", EAST):
        answer = bench.core.status(bench.now, session)  # type: ignore[arg-type]
        assert answer["jobs"] == []
        assert answer["other_jobs"] == 2


def test_an_admin_sees_all_jobs_and_which_are_his() -> None:
    bench = shared()
    answer = bench.core.status(bench.now, BOB, sees_all=True)
    assert [(job["name"], job["mine"]) for job in answer["jobs"]] == [("alice's fits", False), ("bob's plans", True)]
    assert answer["other_jobs"] == 0
    assert {job["client"] for job in answer["jobs"]} == {"somebody"}


def test_a_job_has_its_progress() -> None:
    bench = shared()
    bench.sent_to(EAST)
    outcome = m.OutcomeFrame(0, 1, 0, 0.1, 42, b"")
    bench.send(EAST, m.Outcomes(JOB, "", [outcome]))
    (job,) = bench.core.status(bench.now, ALICE)["jobs"]
    assert (job["state"], job["tasks"], job["done"], job["age_s"]) == ("running", 5, 0, 3.0)
    bench.send(ALICE)  # else it is silent, and gets nothing
    assert len(bench.sent_to(ALICE)) == 1
    bench.send(ALICE)  # which acknowledges the outcome
    (job,) = bench.core.status(bench.now, ALICE)["jobs"]
    assert (job["tasks"], job["done"]) == (5, 1)
    bench.send(ALICE, m.Cancel(JOB, None))
    assert bench.core.status(bench.now, ALICE)["jobs"][0]["state"] == "stopping"


def test_a_job_waits_without_slaves_and_is_idle_without_tasks() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.send(ALICE, m.OpenJob(JOB, "fits", False, False), m.OpenJob(OTHER, "plans", False, False), function())
    bench.send(ALICE, submit(JOB, 2))
    answer = bench.core.status(bench.now, ALICE)["jobs"]
    assert [(job["state"], job["assigned"]) for job in answer] == [("waiting", 0), ("idle", 0)]


def test_a_job_whose_owner_is_away_has_no_client() -> None:
    bench = shared()
    bench.core.remove(ALICE, "it was silent for too long", bench.now, linger_s=10.0)
    answer = bench.core.status(bench.now, sees_all=True)
    assert [job["client"] for job in answer["jobs"]] == [None, "somebody"]


def test_slaves_have_their_host_and_its_load() -> None:
    bench = shared()
    (slave,) = bench.core.status(bench.now)["slaves"]
    assert (slave["load"], slave["memory_used_bytes"], slave["memory_total_bytes"]) == (None, None, None)
    assert slave["uptime_s"] == 3.0
    assert slave["busy"] == 2
    assert slave["in_flight"] > 2
    bench.send(EAST, m.HostLoad(1.5, 3, 8))
    bench.core.add_slave(WEST, b"west's key", "west", 4, 8, bench.now, NodeInfo("host-7", 42, 16))
    assert len(bench.core.status(bench.now)["slaves"]) == 1  # which may be fake
    bench.core.received(WEST, b"west's key", Session(7, "to_slave").heartbeat(), bench.now)
    east, west = bench.core.status(bench.now)["slaves"]
    assert (east["load"], east["memory_used_bytes"], east["memory_total_bytes"]) == (1.5, 3, 8)
    assert (west["host"], west["pid"], west["cores"], west["state"]) == ("host-7", 42, 16, "active")


def test_a_client_cannot_report_the_load_of_a_host() -> None:
    bench = shared()
    bench.send(ALICE, m.HostLoad(1.5, 3, 8))
    assert ALICE not in bench.core.peers


def test_a_slave_reports_the_load_of_its_host_every_few_seconds() -> None:
    loads = iter(range(100))
    slave = SlaveCore("east", 7, InlinePool(), 1.0, host_load=lambda: m.HostLoad(next(loads), 1, 2))
    loads_sent: set[float | None] = set()  # unacknowledged ones are sent again
    for after_s, count in ((0.0, 1), (0.1, 1), (HOST_LOAD_S - 0.1, 1), (HOST_LOAD_S, 2), (HOST_LOAD_S + 0.1, 2)):
        for frames in slave.step(100.0 + after_s):
            loads_sent |= {
                item.message.load for item in decode(frames, "from_slave")[1] if type(item.message) is m.HostLoad
            }
        assert len(loads_sent) == count


def test_long_lists_are_cut_and_what_is_left_out_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "LISTED_MAX", 3)
    bench = shared()
    for number in range(5):
        session = SessionId(bytes([number]) * 16)
        bench.core.add_client(session, b"k" * 40, f"client {number}", bench.now)
        bench.core.received(session, b"k" * 40, Session(7, "to_client").heartbeat(), bench.now)
        bench.send(ALICE, m.OpenJob(bytes([number]) * 16, f"job {number}", False, False))
    answer = bench.core.status(bench.now, sees_all=True)
    assert [client["name"] for client in answer["clients"]][2:] == ["client 0"]
    assert answer["more_clients"] == 4
    assert [job["name"] for job in answer["jobs"]] == ["job 2", "job 3", "job 4"]
    assert answer["more_jobs"] == 4
    assert answer["other_jobs"] == 0
