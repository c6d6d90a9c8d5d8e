"""Statistics with real processes: they equal what tasks measured themselves, and everybody gets only their own."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster, ITaskSystem, Needs, Task
from concurrent_nb.errors import AccessRefused, ConcurrentError, ConfigurationError, ProtocolError
from concurrent_nb.telemetry.statistic import Statistic
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.control_client import ControlClient
from tests import fixtures
from tests.clusters import eventually, run
from tests.kernels import Client, attached

cluster = fixtures.shared_cluster(workers=2)
app = fixtures.app
leaves_nothing_behind = fixtures.leaves_nothing_behind

ROOT = Path(__file__).parents[2]
#: how long a measured task waits and computes, in seconds, and how much its arguments and results have, in bytes
WAIT_S = 0.5
COMPUTE_S = 0.15
PAYLOAD_BYTES = 20_000


def measured(payload: bytes, number: int) -> tuple[float, float, bytes]:
    """Wait and compute; return the seconds and the CPU seconds that this took."""
    began, cpu = time.perf_counter(), time.thread_time()
    concurrent_nb.stats.add("number", number)
    with concurrent_nb.stats.timed("work"):
        while time.thread_time() - cpu < COMPUTE_S:
            pass
        time.sleep(WAIT_S + 0.1 * (number % 3))
    return time.perf_counter() - began, time.thread_time() - cpu, payload


def many_values(count: int) -> int:
    for number in range(count):
        concurrent_nb.stats.add("value", number)
    return count


def refused(value: Any) -> str:
    try:
        concurrent_nb.stats.add("value", value)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


class Measure(Task):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def __call__(self) -> int:
        concurrent_nb.stats.add("number", self.number)
        return self.number


class Measuring(ITaskSystem):
    def generate_tasks(self, master: Any) -> Any:
        return [Measure(number) for number in range(30)]

    def gather_result(self, master: Any) -> tuple[int, float]:
        values = master.stats()["values"]["number"]
        return values.count, values.total


def control(cluster: Cluster, role: str = "admin") -> ControlClient:
    assert cluster.connection_file is not None
    info = connection_file.read(cluster.connection_file)
    return ControlClient(info.endpoints, info.tokens[role], info.certificate_pem)


def test_a_jobs_statistics_equal_what_its_tasks_measured(app: ApplicationNode) -> None:
    app.start_job(measured, [(b"", 0)] * 2).results()  # now both workers have the function
    # A busy machine may stop a worker after its task and before it reads the clock, but hardly each time.
    for _ in range(3):
        job = app.start_job(
            measured, [(bytes([number]) * PAYLOAD_BYTES, number) for number in range(10)], name="measured"
        )
        own = job.results()
        stats = job.stats
        run_s, cpu_s = sum(each[0] for each in own), sum(each[1] for each in own)
        if stats.run_time.total == pytest.approx(run_s, rel=0.01):
            break
    assert stats.run_time.total == pytest.approx(run_s, rel=0.01)
    assert stats.run_time.maximum == pytest.approx(max(each[0] for each in own), rel=0.02)
    assert stats.cpu_s == pytest.approx(cpu_s, rel=0.01)
    assert stats.values["work"].total == pytest.approx(run_s, rel=0.01)
    assert stats.values["number"] == Statistic(range(10))
    assert (stats.name, stats.tasks, stats.done, stats.failed, stats.cancelled) == ("measured", 10, 10, 0, 0)
    times = stats.times
    assert times is not None
    assert times.ended == 10
    assert times.running_s == pytest.approx(stats.run_time.total, rel=0.001)
    assert times.in_bytes == pytest.approx(10 * PAYLOAD_BYTES, rel=0.01)
    assert times.out_bytes == pytest.approx(10 * PAYLOAD_BYTES, rel=0.01)
    assert times.slots == pytest.approx(2, rel=0.01)
    # The slots' time is what tasks took, what was idle, and the way between two tasks.
    assert times.running_s + times.idle_slot_s <= times.slot_s * 1.01
    assert times.busy_s <= stats.elapsed_s * 1.01


def test_slaves_and_workers_have_their_shares(app: ApplicationNode) -> None:
    job = app.start_job(measured, [(b"", number) for number in range(4)])
    job.results()
    stats = job.stats
    assert sum(share.tasks for share in stats.slaves.values()) == 4
    assert sum(share.run_s for share in stats.workers.values()) == pytest.approx(stats.run_time.total)
    assert set(stats.workers) == {f"{future.slave}/{future.worker}" for future in job.futures}
    assert sum(future.cpu_s for future in job.futures) == pytest.approx(stats.cpu_s)
    assert stats.peak_bytes == max(future.peak_bytes for future in job.futures) > 1_000_000


def test_batches_maps_and_submits_measure_too(app: ApplicationNode) -> None:
    job = app.start_job(many_values, [(n,) for n in range(1, 101)], batch=10)
    assert sum(job.results()) == job.stats.values["value"].count == 5050
    assert job.stats.run_time.count == 100
    before = app.stats().values["value"].count
    assert sum(app.map(many_values, [1, 2, 3])) == 6
    assert app.submit(many_values, 4).result() == 4
    assert app.stats().values["value"].count == before + 10


def test_a_hundred_thousand_values_are_few_notes(app: ApplicationNode) -> None:
    job = app.start_job(many_values, [(100_000,)])
    job.results()
    value = job.stats.values["value"]
    assert (value.count, value.maximum, value.total) == (100_000, 99_999, sum(range(100_000)))


@pytest.mark.parametrize(("value", "why"), [(float("nan"), "must be finite"), ("text", "is a number, not str")])
def test_nonsense_is_refused_where_it_is_added(app: ApplicationNode, value: Any, why: str) -> None:
    job = app.start_job(refused, [(value,)])
    assert why in job.results()[0]
    assert job.stats.values == {}


def test_failed_tasks_count(app: ApplicationNode, cluster: Cluster) -> None:
    job = app.start_job(measured, [(b"", "no number")] * 3)
    assert isinstance(job.exception(), TypeError)
    assert (job.stats.failed, job.stats.done) == (3, 0)
    assert job.stats.times is not None
    with control(cluster) as admin:
        answer = admin.call("stats", job=job.id.hex())
    assert (answer["ended"], answer["failed"]) == (3, 3)


def test_a_system_reads_what_its_tasks_measure(app: ApplicationNode) -> None:
    system = app.push_tasksystem(Measuring())
    assert system.result() == (30, sum(range(30)))
    values = system.progress()["values"]["number"]
    assert (values.count, values.total) == (30, sum(range(30)))
    assert (system.stats.tasks, system.stats.values["number"]) == (30, values)


def test_the_cluster_has_its_slaves_and_ones_own_jobs(app: ApplicationNode) -> None:
    app.start_job(abs, [(1,)], name="in the list").results()
    stats = app.stats()
    (slave,) = stats.slaves.values()
    assert slave["slots"] == 2
    assert "in the list" in [job["name"] for job in stats.jobs]
    assert "in the list" in repr(stats)


def test_others_get_no_statistics_of_ones_jobs(app: ApplicationNode, cluster: Cluster) -> None:
    job = app.start_job(abs, [(1,)], name="mine")
    job.results()
    assert cluster.connection_file is not None
    member = app._client_thread.member
    own = {"session": member.session_id.hex(), "secret": member.secret}
    with control(cluster, "client") as client, control(cluster) as admin, control(cluster, "slave") as slave:
        assert client.call("stats", job=job.id.hex(), **own)["name"] == "mine"
        assert admin.call("stats", job=job.id.hex())["name"] == "mine"
        for wrong in ({}, {"session": own["session"], "secret": "x"}, {"session": "zz", "secret": own["secret"]}):
            for which in (job.id.hex(), ""):
                with pytest.raises(AccessRefused):
                    client.call("stats", job=which, **wrong)
        with pytest.raises(AccessRefused):
            slave.call("stats")
        for nonsense in ("zz", "ab", "00" * 17, "\u202e" * 32):
            with pytest.raises(ConfigurationError, match="is not the id of a job, which has 32 hexadecimal digits"):
                admin.call("stats", job=nonsense)
        with pytest.raises(ConfigurationError, match="there is no job"):
            client.call("stats", job="00" * 16, **own)
        for garbage in ({"job": 3}, {"job": None}, {"job": ["x"]}, {"sample": "yes"}, {"unknown": 1}):
            with pytest.raises((ConcurrentError, ProtocolError)):
                admin.call("stats", **garbage)
        assert admin.call("ping") == "pong"


def test_another_user_gets_no_statistics_of_ones_jobs(app: ApplicationNode, cluster: Cluster, tmp_path: Any) -> None:
    job = app.start_job(abs, [(1,)], name="mine alone")
    job.results()
    assert cluster.connection_file is not None
    with concurrent_nb.connect(cluster.connection_file, tmp_path / "other.key") as other:
        with pytest.raises(ConfigurationError, match="there is no job"):
            other._client_thread.ask_statistics(job.id)
        assert "mine alone" not in [known["name"] for known in other.stats().jobs]


def test_the_command_line_shows_them(app: ApplicationNode, cluster: Cluster) -> None:
    job = app.start_job(many_values, [(n,) for n in range(20)], name="shown")
    job.results()
    path = str(cluster.connection_file)
    shown = run("stats", path)
    assert (shown.returncode, "shown" in shown.stdout) == (0, True), shown.stderr
    for which in ("shown", job.id.hex()[:8], job.id.hex()):
        shown = run("stats", path, "--job", which)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert shown.stdout.startswith("job shown: 20 tasks, 20 done")
        assert "where the time of 20 tasks went" in shown.stdout
    answer = json.loads(run("stats", path, "--job", "shown", "--json").stdout)
    assert (answer["ended"], answer["sample"]["run_time"]["count"]) == (20, 20)
    missing = run("stats", path, "--job", "nothing")
    assert (missing.returncode, "there is no job 'nothing'" in missing.stderr) == (1, True)


def test_tasks_in_threads_measure_too_and_a_cluster_that_is_gone_is_no_error() -> None:
    with Cluster(workers=2) as gone:
        app = gone.application()
        threads = app.start_job(many_values, [(n,) for n in range(1, 11)], needs=Needs(kind="thread"))
        assert sum(threads.results()) == threads.stats.values["value"].count == 55
        job = app.start_job(many_values, [(3,)])
        job.results()
    stats = job.stats
    assert stats.times is None
    assert stats.no_times
    assert (stats.done, stats.values["value"].count) == (1, 3)
    assert "is not known" in repr(stats)


@contextlib.contextmanager
def kernel_of_a_notebook(path: str) -> Iterator[Client]:
    """Start a kernel as Jupyter's server does for a notebook."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env={**os.environ, "PYTHONPATH": str(ROOT), "JPY_SESSION_NAME": path})
    try:
        with attached(Path(manager.connection_file)) as kernel:
            yield kernel
    finally:
        manager.shutdown_kernel()
        manager.context.destroy(linger=0)


def test_a_job_of_a_cell_has_its_notebook_and_cell(cluster: Cluster) -> None:
    with kernel_of_a_notebook("plans/fits.ipynb") as kernel, control(cluster) as admin:

        def origin_of(name: str) -> tuple[str, str]:
            job = [job for job in admin.call("stats")["jobs"] if job["name"] == name][-1]
            return job["notebook"], job["cell"]

        def run_cell(source: str, cell: str) -> None:
            content = {
                "code": source,
                "silent": False,
                "store_history": True,
                "user_expressions": {},
                "allow_stdin": False,
            }
            message = kernel.client.session.msg("execute_request", content, metadata={"cellId": cell} if cell else None)
            kernel.client.shell_channel.send(message)
            answer = kernel.finish(message["header"]["msg_id"])
            assert answer.error is None, answer

        run_cell(f"%load_ext concurrent_nb\n%concurrent connect {cluster.connection_file}", "c-0")
        run_cell('%%concurrent_task --for "n in range(2)" --name magic\nn', "c-1")
        run_cell("import concurrent_nb\n@concurrent_nb.task\ndef f(x): return x\nlist(f.map([1, 2]).results())", "c-2")
        run_cell("app = concurrent_nb.task_functions.application()\napp.submit(abs, 1).result()", "c-3")
        run_cell("app.options(name='elsewhere').submit(abs, 1).result()", "")
        assert origin_of("magic") == ("plans/fits.ipynb", "c-1")
        assert origin_of("f") == ("plans/fits.ipynb", "c-2")
        assert ("plans/fits.ipynb", "c-3") in [(job["notebook"], job["cell"]) for job in admin.call("stats")["jobs"]]
        assert origin_of("elsewhere") == ("plans/fits.ipynb", "")  # of a cell without an id
        run_cell("%concurrent stop", "c-4")
        eventually(lambda: len(admin.call("status")["clients"]) <= 1, "the notebook has left")
