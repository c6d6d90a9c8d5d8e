"""The jobs of Slurm's launcher: what squeue's answers mean, and when it is asked."""

import re

import pytest

from concurrent_nb.nodes.launchers.launcher import LaunchedSlave, LaunchState
from concurrent_nb.nodes.launchers.slurm_queue import (
    UNCLAIMED_S,
    SlurmQueue,
    SqueueRow,
    exit_code_of,
    is_hopeless,
    is_wrong_request,
    read_look,
)


def submitted_queue(poll_s: float = 10.0, now: float = 0.0) -> SlurmQueue:
    """Give a queue with the slave "a", whose job 17 was submitted."""
    queue = SlurmQueue(poll_s)
    queue.submitting("a")
    queue.submitted("a", "17", now)
    return queue


def seen(row: str) -> LaunchedSlave:
    """Give what is known of the slave after squeue's answer."""
    queue = submitted_queue()
    queue.looked(read_look(row), 1.0)
    slave = queue.slave("a")
    assert slave is not None
    return slave


def test_an_answer_of_squeue_is_read_by_job() -> None:
    text = "17|RUNNING|n1|9:30|10:00|None\n18|PENDING||10:00|10:00|Resources\n\nslurm_load_jobs error\n"
    assert read_look(text) == {
        "17": SqueueRow("RUNNING", "n1", 570.0, 600.0, "None"),
        "18": SqueueRow("PENDING", "", None, 600.0, "Resources"),
    }


def test_a_waiting_job_says_why_it_waits() -> None:
    slave = seen("17|PENDING||10:00|10:00|Resources")
    assert (slave.state, slave.place) == (LaunchState.QUEUED, "Slurm job 17: PENDING (Resources)")


def test_a_job_gets_a_node_then_runs_then_ends() -> None:
    queue = submitted_queue()
    states = []
    for state in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "COMPLETED"):
        for name in queue.looked(read_look(f"17|{state}|n1|9:00|10:00|None"), 1.0):
            assert queue.slaves(1.0)[0].state is LaunchState.RUNNING  # until it is known why
            queue.explained(name, seen("17|FAILED|n1|0:00|10:00|None"))
        states.append(queue.slaves(1.0)[0].state)
    assert states == ["queued", "starting", "running", "running", "ended"]


def test_the_time_that_is_left_passes_between_two_looks() -> None:
    queue = submitted_queue()
    queue.looked(read_look("17|RUNNING|n1|2:00|10:00|None"), 5.0)
    assert queue.slaves(15.0)[0].ends_in_s == pytest.approx(110.0)
    queue.looked(read_look("17|RUNNING|n1|UNLIMITED|UNLIMITED|None"), 16.0)
    assert queue.slaves(20.0)[0].ends_in_s is None


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("17|TIMEOUT|n1|0:00|10:00|TimeLimit", "its time limit was reached"),
        ("17|NODE_FAIL|n1|0:00|10:00|None", "Slurm has ended it as NODE_FAIL"),
        ("17|CANCELLED|n1|0:00|10:00|None", "as CANCELLED"),
        ("17|FAILED|n1|0:00|10:00|NonZeroExitCode", r"as FAILED \(NonZeroExitCode\)"),
        ("", "does not know the job any more"),
    ],
)
def test_an_ended_job_may_be_replaced(row: str, words: str) -> None:
    slave = seen(row)
    assert slave.state is LaunchState.ENDED and not slave.refused
    assert re.search(words, slave.reason)


@pytest.mark.parametrize("reason", ["PartitionTimeLimit", "InvalidAccount", "QOSNotAllowed"])
def test_a_job_that_would_wait_for_ever_is_not_replaced(reason: str) -> None:
    slave = seen(f"17|PENDING||10:00|10:00|{reason}")
    assert slave.state is LaunchState.ENDED and slave.refused
    assert reason in slave.reason


@pytest.mark.parametrize("row", ["17|RUNNING|n1|1:00|1:00|None", "17|PENDING||1:00|1:00|Priority"])
def test_a_time_limit_that_leaves_no_time_for_tasks_is_refused(row: str) -> None:
    slave = seen(row)
    assert slave.state is LaunchState.ENDED and slave.refused
    assert "its time limit is 60 s" in slave.reason


def test_looks_get_rarer_after_a_submission() -> None:
    queue, at = submitted_queue(), []
    now = queue.next_look_at()
    while now is not None and now < 50.0:
        at.append(now)
        queue.looked({"17": SqueueRow("RUNNING", "n1", None, None, "None")}, now)
        now = queue.next_look_at()
    assert at == [1.0, 3.0, 7.0, 15.0, 25.0, 35.0, 45.0]


def test_further_submissions_bring_no_more_looks_than_one_a_second() -> None:
    queue = submitted_queue()
    for number in range(100):
        queue.submitting(f"b{number}")
        queue.submitted(f"b{number}", str(100 + number), number / 200)
    assert queue.next_look_at() == 1.0


def test_nobody_is_asked_when_there_is_nothing_to_see() -> None:
    queue = SlurmQueue(10.0)
    assert queue.next_look_at() is None
    queue.submitting("a")
    assert queue.next_look_at() is None
    queue.submitted("a", "17", 2.0)
    queue.looked(read_look("17|COMPLETED|n1|0:00|10:00|None"), 3.0)
    assert queue.next_look_at() is None


def test_what_is_known_stays_when_slurm_does_not_answer() -> None:
    queue = submitted_queue()
    queue.looked(read_look("17|RUNNING|n1|9:00|10:00|None"), 1.0)
    queue.not_looked(3.0)
    assert queue.slaves(3.0)[0].state is LaunchState.RUNNING
    assert queue.next_look_at() == 7.0


def test_a_refused_submission_ends_the_slave() -> None:
    queue = SlurmQueue(10.0)
    queue.submitting("a")
    queue.not_submitted("a", "sbatch refuses: invalid partition", refused=True)
    assert queue.slaves(0.0) == [
        LaunchedSlave("a", LaunchState.ENDED, "Slurm", "sbatch refuses: invalid partition", refused=True)
    ]


def test_a_job_whose_submission_was_not_answered_is_a_stray() -> None:
    queue = submitted_queue()
    queue.submitting("b")
    queue.unanswered("b", "sbatch did not end within 60 s", 60.0)
    ended = queue.slave("b")
    assert ended is not None and ended.state is LaunchState.ENDED and not ended.refused
    rows = read_look("17|COMPLETED|n1|0:00|10:00|None\n18|PENDING||10:00|10:00|Priority\n19|CANCELLED||0:00|10:00|None")
    assert queue.unclaimed(rows) == ["18"]
    queue.looked(rows, 61.0)
    assert queue.next_look_at() is not None  # it may come late
    queue.looked(rows, 60.0 + UNCLAIMED_S)
    assert queue.next_look_at() is None


def test_a_forgotten_slave_is_no_more_and_its_job_is_to_be_cancelled() -> None:
    queue = submitted_queue()
    queue.submitting("b")
    queue.submitted("b", "18", 0.0)
    queue.looked(read_look("17|RUNNING|n1|9:00|10:00|None\n18|FAILED|n1|0:00|10:00|None"), 1.0)
    assert queue.forget(["a", "b", "unknown"]) == ["17"]
    assert queue.slaves(2.0) == []
    assert queue.forget(["a"]) == []


def test_a_slave_that_was_forgotten_before_its_job_was_submitted_stays_forgotten() -> None:
    queue = SlurmQueue(10.0)
    queue.submitting("a")
    assert queue.forget(["a"]) == []
    queue.submitted("a", "17", 0.0)
    assert queue.slave("a") is None and queue.next_look_at() is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("JobId=17 JobName=x\n   Requeue=0 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=2:0\n", 2),
        ("   ExitCode=0:15", -15),
        ("   DerivedExitCode=1:0", None),
        ("slurm_load_jobs error: Invalid job id specified", None),
    ],
)
def test_the_exit_code_is_read_from_scontrol(text: str, code: int | None) -> None:
    assert exit_code_of(text) == code


@pytest.mark.parametrize(
    "said",
    [
        "error: invalid partition specified: x error: Batch job submission failed: Invalid partition name specified",
        "Batch job submission failed: Invalid account or account/partition combination specified",
        "Batch job submission failed: Invalid qos specification",
        "Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
        "Batch job submission failed: Requested node configuration is not available",
        "Batch job submission failed: More processors requested than permitted",
        "error: CPU count per node can not be satisfied",
        "error: Memory specification can not be satisfied",
        "Batch job submission failed: User's group not permitted to use this partition",
        "error: QOSMaxCpuPerJobLimit Batch job submission failed: Job violates accounting/QOS policy (job submit limit,"
        " user's size and/or time limits)",
        "unrecognized option '--no-such-option' Try \"sbatch --help\" for more information",
    ],
)
def test_a_request_that_slurm_refuses_is_not_made_again(said: str) -> None:
    assert is_wrong_request(f"sbatch refuses: {said}")


@pytest.mark.parametrize(
    "said",
    [
        "error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "error: Batch job submission failed: Socket timed out on send/recv operation",
        "error: Slurm temporarily unable to accept job, sleeping and retrying",
        "error: Batch job submission failed: Resource temporarily unavailable",
        "error: Batch job submission failed: Zero Bytes were transmitted or received",
        "error: Batch job submission failed: Invalid authentication credential",
        "error: Batch job submission failed: Requested partition configuration not available now",
        "error: QOSMaxSubmitJobPerUserLimit error: Batch job submission failed: Job violates accounting/QOS policy (job"
        " submit limit, user's size and/or time limits)",
        "error: AssocGrpSubmitJobsLimit error: Batch job submission failed: Job violates accounting/QOS policy",
        "it ended with exit code 1",
        "sbatch did not end within 60 s (Slurm.command_s): Slurm's controller is busy or does not answer",
        "there is no command sbatch on this machine",
    ],
)
def test_a_submission_that_fails_for_the_moment_is_made_again(said: str) -> None:
    assert not is_wrong_request(f"sbatch refuses: {said}")


@pytest.mark.parametrize(
    ("code", "text", "hopeless"),
    [
        (127, "bash: line 5: /nowhere/python: No such file or directory", True),
        (126, "", True),
        (1, "/usr/bin/python3: No module named concurrent_nb", True),
        (1, "MasterUnreachable", False),
        (None, "", False),
    ],
)
def test_a_slave_that_would_fail_again_is_recognised(code: int | None, text: str, hopeless: bool) -> None:
    assert is_hopeless(code, text) is hopeless
