"""Tasks that kill their slave are found out, and the innocent are not; a killed client's tasks make room for others."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

import concurrent_nb
from concurrent_nb import Cluster
from concurrent_nb.errors import PoisonTask
from tests import work
from tests.clusters import BRISK, eventually
from tests.work import PATIENCE_S


def kill_my_slave(after_s: float) -> None:
    time.sleep(after_s)
    next(parent for parent in psutil.Process().parents() if "slave" in parent.cmdline()).kill()
    time.sleep(PATIENCE_S)


@pytest.mark.parametrize("after_s", [0.0, 0.5], ids=["before its start is reported", "afterwards"])
def test_a_task_that_kills_slaves_is_quarantined_after_three_and_its_neighbours_end_right(after_s: float) -> None:
    with Cluster(workers=2, config=BRISK) as cluster:
        app = cluster.application()
        before = [app.submit(work.square, n) for n in range(20)]
        killer = app.submit(kill_my_slave, after_s)
        slow = [app.submit(work.interval, 0.3) for _ in range(4)]
        error = killer.exception(PATIENCE_S)
        assert isinstance(error, PoisonTask)
        message = str(error)
        assert "3 times the worker or the slave of task" in message
        for part in ("1. slave", "2. slave", "3. slave", "was lost (", "while the task was there alone"):
            assert part in message
        assert [future.result(PATIENCE_S) for future in before] == [n * n for n in range(20)]
        assert all(end > begin for begin, end in [future.result(PATIENCE_S) for future in slow])
        # What has lost a slave is told of until it has ended
        assert cluster.status()["suspects"] == []


CLIENT = """
    import sys, time
    import concurrent_nb
    app = concurrent_nb.connect(sys.argv[1])
    futures = [app.submit(time.sleep, 1000) for _ in range(50)]
    jobs = app.start_job(time.sleep, [(1000,)] * 50)
    print("submitted", flush=True)
    time.sleep(1000)
"""


def test_a_killed_client_s_tasks_make_room_for_others_at_once(tmp_path: Path) -> None:
    with Cluster(workers=2) as cluster:
        app = cluster.application()
        for running_s in (0.0, 0.5):  # just handed out, and said to run
            command = [sys.executable, "-c", textwrap.dedent(CLIENT), str(cluster.connection_file)]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
                assert client.stdout is not None
                assert client.stdout.readline() == b"submitted\n"
                eventually(lambda: cluster.status()["slaves"][0]["busy"] == 2, "its tasks have all slots")
                time.sleep(running_s)
                os.kill(client.pid, signal.SIGKILL)
                # Its tasks would take far longer than our patience; and nobody has waited for it yet, as for a zombie
                assert app.submit(pow, 2, 10).result(PATIENCE_S) == 1024
        assert len(cluster.status()["clients"]) == 1


def test_a_client_that_is_stopped_keeps_what_it_has(tmp_path: Path) -> None:
    with (
        Cluster(workers=2, config=BRISK) as cluster,
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CLIENT), str(cluster.connection_file)], stdout=subprocess.PIPE
        ) as client,
    ):
        assert client.stdout is not None
        client.stdout.readline()
        eventually(lambda: cluster.status()["slaves"][0]["busy"] == 2, "its tasks have all slots")
        os.kill(client.pid, signal.SIGSTOP)
        other = concurrent_nb.connect(str(cluster.connection_file))
        waits = other.submit(pow, 2, 10)
        time.sleep(3 * BRISK["MasterNode"]["lost_after_s"])
        assert not waits.done()
        os.kill(client.pid, signal.SIGKILL)
        assert waits.result(PATIENCE_S) == 1024
        other.close()
