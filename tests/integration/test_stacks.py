"""The stacks of running tasks, with real workers, whatever these do; and who may see them."""

import contextlib
import ctypes
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from concurrent_nb import ApplicationNode, Cluster
from concurrent_nb.errors import ConfigurationError, StackUnavailable
from concurrent_nb.outcome import Status
from concurrent_nb.transport import connection_file, keys
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.wire.messages import Needs, StackSampled, TaskRef
from concurrent_nb.workers.protocol import stacks
from tests.clusters import eventually, run, shared_cluster, slave_pids, workers_of
from tests.integration.pool_driver import Driver, driver, kinds, single
from tests.work import PATIENCE_S, loop_in_python, sleep_long, start_and_wait, write_whole

__all__ = ["driver", "kind", "single"]

kind = kinds("fork_server")
THREAD = Needs(kind="thread")


def sample(driver: Driver, ref: TaskRef) -> StackSampled:
    """Ask a pool for the stack of a task, and return the answer."""
    driver.pool.sample_stack(7, ref, time.monotonic())
    driver.until(lambda: driver.stacks)
    (answer,) = driver.stacks
    driver.stacks.clear()
    assert answer.request == 7
    return answer


def running(driver: Driver, function: Callable[..., Any], *args: Any, needs: Needs | None = None) -> TaskRef:
    """Start a task, and return when its function runs."""
    ref = driver.start(function, *args, needs=needs)
    driver.until(lambda: function.__name__ in functions_in(sample(driver, ref).stack))
    return ref


def started(driver: Driver, function: Callable[..., Any], *args: Any, needs: Needs | None = None) -> TaskRef:
    """Start a task that may have no stack, and return when it has been running for a while."""
    ref = driver.start(function, *args, needs=needs)
    driver.until(lambda: ref in driver.started)
    return ref


def functions_in(stack: str) -> list[str]:
    return re.findall(r", in (\S+)$", stack, re.MULTILINE)


# ------------------------------------------------------------------------------------------------------------ for tasks


def match_for_ever() -> None:
    re.match("(a+)+$", "a" * 60 + "b")  # holds the GIL


def count_for_ever() -> None:
    3 ** (10**10)  # holds the GIL, and looks at no signal


def wait_in_c() -> None:
    left = 1000
    while left:
        left = ctypes.PyDLL(None).sleep(left)  # keeps the GIL; a signal ends it early


def wait_for_thread() -> None:
    helper = threading.Thread(target=sleep_long, daemon=True)
    helper.start()
    helper.join()


def leave_thread() -> None:
    threading.Thread(target=sleep_long, daemon=True).start()


def recurse(depth: int = 400) -> None:
    if depth:
        recurse(depth - 1)
    time.sleep(1000)


def replace_handler(handler: str) -> None:
    if handler == "blocked":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    else:
        handlers: dict[str, Any] = {"own": lambda *_: None, "ignored": signal.SIG_IGN, "ends": signal.SIG_DFL}
        signal.signal(signal.SIGUSR2, handlers[handler])
    time.sleep(1000)


def sleep_and_return(seconds: float) -> float:
    before = time.monotonic()
    time.sleep(seconds)
    return time.monotonic() - before


# ------------------------------------------------------------------------------------------------------------- a worker


@pytest.mark.parametrize("task", [loop_in_python, sleep_long, match_for_ever, count_for_ever, wait_in_c])
def test_a_task_is_seen_whatever_it_does(single: Driver, task: Callable[[], None]) -> None:
    ref = running(single, task)
    answer = sample(single, ref)
    assert (answer.error, functions_in(answer.stack)[0]) == ("", task.__name__)
    assert answer.worker and answer.run_s > 0
    again = sample(single, ref)
    assert functions_in(again.stack)[0] == task.__name__
    assert again.worker == answer.worker and again.run_s > answer.run_s
    assert not single.ended


def test_a_worker_that_was_not_forked_is_seen() -> None:
    with Driver("spawn", slots=3) as driver:
        refs = [running(driver, count_for_ever), running(driver, sleep_long, needs=THREAD)]
        assert [functions_in(sample(driver, ref).stack)[0] for ref in refs] == ["count_for_ever", "sleep_long"]
        ends = started(driver, replace_handler, "ends")
        assert "has not written it within 2 s" in sample(driver, ends).error
        assert not driver.ended


def test_a_task_goes_on_as_if_nothing_had_happened(single: Driver) -> None:
    ref = running(single, sleep_and_return, 1.0)
    sample(single, ref)
    single.wait([ref])
    assert single.ended[ref].status is Status.OK
    assert single.ended[ref].value >= 1.0


def test_threads_of_a_task_are_seen_and_those_of_former_tasks_are_not(single: Driver) -> None:
    answer = sample(single, running(single, wait_for_thread))
    mine, beside = answer.stack.split("\nThread 1 beside it:\n")
    assert functions_in(mine)[0] == "wait_for_thread"
    assert "sleep_long" in functions_in(beside)


def test_threads_that_former_tasks_have_left_are_not_shown(single: Driver) -> None:
    single.run(leave_thread)
    answer = sample(single, running(single, sleep_long))
    assert functions_in(answer.stack) == ["sleep_long"]


def test_of_a_deep_stack_the_last_calls_are_seen(single: Driver) -> None:
    ref = running(single, recurse)
    stack = sample(single, ref).stack
    assert stack.startswith("  (the 100 most recent calls)\n")
    assert functions_in(stack) == ["recurse"] * 100


@pytest.mark.parametrize("handler", ["own", "ignored", "ends", "blocked"])
def test_a_task_that_handles_the_signal_itself_is_not_harmed(single: Driver, handler: str) -> None:
    ref = started(single, replace_handler, handler)
    answer = sample(single, ref)
    assert answer.stack == ""
    assert re.search(r"worker \d+ has not written it within 2 s\. It does so at SIGUSR2, unless a task", answer.error)
    single.turn(0.1)
    assert not single.ended


def test_tasks_in_threads_are_seen_one_by_one(driver: Driver) -> None:
    refs = [running(driver, task, needs=THREAD) for task in (loop_in_python, sleep_long)]
    assert [functions_in(sample(driver, ref).stack) for ref in refs] == [["loop_in_python"], ["sleep_long"]]


def test_tasks_in_threads_are_refused_where_no_single_thread_can_be_asked(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concurrent_nb.workers.slave_side.pool.can_choose_thread", lambda: False)
    ref = started(driver, sleep_long, needs=THREAD)
    assert sample(driver, ref).error == "it runs in a thread, and this system cannot ask a single thread"


def test_a_system_without_the_signal_is_named(single: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("concurrent_nb.workers.slave_side.pool.STACK_SIGNAL", 0)
    assert "as Windows does not" in sample(single, started(single, sleep_long)).error


def test_a_task_system_is_seen(single: Driver) -> None:
    ref = running(single, sleep_long, needs=Needs(kind="system_host"))
    assert functions_in(sample(single, ref).stack) == ["sleep_long"]


def test_tasks_that_do_not_run_are_said_to_be_where_they_are(single: Driver) -> None:
    digest = single.add(sleep_and_return)
    (ended,) = single.assign(digest, [(0.0,)])
    single.wait([ended])
    assert sample(single, ended).error == "it has ended"
    first = running(single, sleep_long)
    (waiting,) = single.assign(digest, [(0.0,)])
    where = r"it has not begun: it (waits for a worker|is next in worker \d+, behind others)"
    assert re.fullmatch(where, sample(single, waiting).error)
    assert functions_in(sample(single, first).stack) == ["sleep_long"]


def test_a_worker_that_dies_meanwhile_is_named(single: Driver) -> None:
    ref = started(single, replace_handler, "own")
    worker = sample(single, ref).worker
    single.pool.sample_stack(7, ref, time.monotonic())
    os.kill(worker, signal.SIGKILL)
    single.until(lambda: single.stacks)
    (answer,) = single.stacks
    assert answer.stack == ""
    assert answer.error.startswith(f"its worker {worker} died of SIGKILL")
    single.wait([ref])
    assert single.ended[ref].status is Status.DIED


def test_a_stopped_worker_is_named_and_goes_on() -> None:
    with Driver("fork_server", slots=1, stopped_s=0) as single:
        sample_a_stopped_worker(single)


def sample_a_stopped_worker(single: Driver) -> None:
    ref = running(single, sleep_long)
    worker = sample(single, ref).worker
    os.kill(worker, signal.SIGSTOP)
    assert "has not written it within 2 s" in sample(single, ref).error
    os.kill(worker, signal.SIGCONT)
    assert functions_in(sample(single, ref).stack) == ["sleep_long"]


def test_the_signal_goes_to_processes_that_handle_it_only() -> None:
    victim = os.fork()
    if not victim:
        signal.pause()
        os._exit(1)
    try:
        stacks.send_stack_signal(victim, 0)
        stacks.send_stack_signal(victim, victim)
        assert os.waitpid(victim, os.WNOHANG) == (0, 0)
    finally:
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)


# ------------------------------------------------------------------------------------------------------------ a cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with shared_cluster(name="stacks") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def app(cluster: Cluster) -> ApplicationNode:
    return cluster.application()


@pytest.fixture
def other(cluster: Cluster) -> Iterator[ApplicationNode]:
    """Return an application of another user."""
    assert cluster.connection_file is not None
    with ApplicationNode(cluster.connection_file, keys.fresh(), "another-user") as other:
        yield other


@pytest.fixture
def admin(cluster: Cluster) -> Iterator[ControlClient]:
    info = connection_file.read("stacks")
    with ControlClient(info.endpoints, info.tokens["admin"], info.certificate_pem, timeout_s=PATIENCE_S) as control:
        yield control


def stack_of(ask: Callable[[], Any]) -> Any:
    """Return a stack, as soon as the task runs."""
    found: list[Any] = []

    def is_there() -> bool:
        with contextlib.suppress(StackUnavailable):
            found.append(ask())
        return bool(found)

    eventually(is_there, "the task has a stack")
    return found[0]


def test_a_job_shows_the_stack_of_its_task(cluster: Cluster, app: ApplicationNode, tmp_path: Path) -> None:
    job = app.start_job(start_and_wait, [(tmp_path / "started", tmp_path / "go")] * 3, name="watched")
    texts = list[str]()

    def is_waiting() -> bool:
        texts.append(stack_of(lambda: job.stack(0)))
        return "wait_for" in texts[-1]

    eventually(is_waiting, "the task waits")
    first, stack = texts[-1].split("\n", 1)
    found = re.fullmatch(r"task 0 has run for \d+\.\d s in worker (\d+) of slave (.*)", first)
    assert found and int(found[1]) in workers_of(slave_pids(cluster))
    assert functions_in(stack)[:2] == ["start_and_wait", "wait_for"]
    with pytest.raises(StackUnavailable, match="it has not begun"):
        job.stack(2)
    with pytest.raises(IndexError, match="has 3 tasks, none of them is number 3"):
        job.stack(3)
    write_whole(tmp_path / "go", "")
    job.results(PATIENCE_S)
    with pytest.raises(StackUnavailable, match="task 0 of job watched has ended"):
        job.stack(0)


def test_items_of_a_batch_show_the_one_that_runs(app: ApplicationNode, tmp_path: Path) -> None:
    calls = [(tmp_path / "started", tmp_path / "go")] * 4
    job = app.start_job(start_and_wait, calls, name="batched", batch=4)
    assert "start_and_wait" in functions_in(stack_of(lambda: job.stack(3)))
    write_whole(tmp_path / "go", "")
    assert len(job.results(PATIENCE_S)) == 4


def test_an_admin_sees_all_and_a_user_what_is_theirs(
    app: ApplicationNode, other: ApplicationNode, admin: ControlClient, tmp_path: Path
) -> None:
    job = app.start_job(start_and_wait, [(tmp_path / "started", tmp_path / "go")], name="private")
    theirs = other.start_job(pow, [(2, 10)], name="theirs")
    assert theirs.results(PATIENCE_S) == [1024]
    sample = stack_of(lambda: admin.call("stack_sample", job=job.id.hex(), index=0))
    assert sample.keys() == {"slave", "worker", "seconds", "stack"}
    assert functions_in(sample["stack"])[0] == "start_and_wait"
    assert theirs.ask is not None
    with pytest.raises(ConfigurationError, match=r"there is no job .* that this caller may see"):
        theirs.ask("stack_sample", job=job.id.hex(), index=0)
    write_whole(tmp_path / "go", "")
    job.results(PATIENCE_S)


def test_the_command_prints_the_stack(app: ApplicationNode, tmp_path: Path) -> None:
    job = app.start_job(start_and_wait, [(tmp_path / "started", tmp_path / "go")], name="printed")
    stack_of(lambda: job.stack(0))
    shown = run("stack", "stacks", "printed", "0")
    assert shown.returncode == 0, shown.stderr
    head, *lines = shown.stdout.splitlines()
    assert re.fullmatch(r"task 0 of job printed \([0-9a-f]{8}\) has run for \d+\.\d s in worker \d+ of slave \S+", head)
    assert functions_in("\n".join(lines))[:2] == ["start_and_wait", "wait_for"]
    sample = json.loads(run("stack", "stacks", "printed", "0", "--json").stdout)
    assert (sample["job"], sample["index"]) == (job.id.hex(), 0)
    write_whole(tmp_path / "go", "")
    job.results(PATIENCE_S)
    refused = run("stack", "stacks", "printed", "5")
    assert refused.returncode == 1
    assert "concurrent-nb stack: " in refused.stderr
