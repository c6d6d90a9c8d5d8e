"""A master that was killed goes on with its journal: every future ends once, right, and what ran is not run again."""

import contextlib
import os
import time
from collections import Counter
from pathlib import Path

import psutil

import concurrent_nb
from concurrent_nb.transport import connection_file
from tests import clusters
from tests.work import PATIENCE_S

NAME = "journalled"
OPTIONS = ("--name", NAME, "--MasterNode.journal=sqlite", "--MasterNode.rejoin_s=60")
COUNT = 3000


def note(index: int, folder: str, seconds: float = 0.0) -> int:
    """Note that this has run; a file that is written by several processes has a line of each."""
    with open(os.path.join(folder, "ran"), "a") as file:
        file.write(f"{index}\n")
    if seconds:
        time.sleep(seconds)
    return index * index


def echo(index: int, data: bytes, folder: str) -> bytes:
    """Return large data."""
    note(1000 + index, folder)
    return data


def wait_for(path: str) -> int:
    """Note that this has begun, and wait for a file."""
    with open(f"{path}.begun", "a") as file:
        file.write("x")
    while not os.path.exists(path):
        time.sleep(0.01)
    return os.path.getsize(f"{path}.begun")


def ran(folder: Path) -> Counter[int]:
    path = folder / "ran"
    return Counter(int(line) for line in path.read_text().split()) if path.exists() else Counter()


def wait_until_ran(folder: Path, count: int) -> None:
    clusters.eventually(lambda: len(ran(folder)) > count, f"more than {count} have run")


def kill(pid: int) -> None:
    process = psutil.Process(pid)
    process.kill()
    process.wait(PATIENCE_S)


def test_a_killed_master_goes_on(tmp_path: Path) -> None:
    large = bytes(range(256)) * 1024
    with clusters.running("master", *OPTIONS, says="is running"):
        first = connection_file.read(NAME)
        with clusters.running("slave", "--connect", NAME, "--workers", "2", says="joined"):
            app = concurrent_nb.connect(NAME)
            go = tmp_path / "go"
            running = app.submit(wait_for, str(go))
            clusters.eventually(running.running, "it runs")
            sizes = [app.submit(len, large + bytes(index)) for index in range(3)]
            futures = [app.submit(note, index, str(tmp_path)) for index in range(COUNT)]
            wait_until_ran(tmp_path, COUNT // 10)
            kill(first.pid)
            with clusters.running("master", *OPTIONS, says="is running"):
                second = connection_file.read(NAME)
                assert (second.endpoints, second.tokens) == (first.endpoints, first.tokens)
                assert second.pid != first.pid and second.epoch > first.epoch
                assert [future.result(PATIENCE_S) for future in futures] == [index * index for index in range(COUNT)]
                assert [future.result(PATIENCE_S) for future in sizes] == [len(large) + index for index in range(3)]
                assert not running.done()
                go.touch()
                assert running.result(PATIENCE_S) == 1
                assert set(ran(tmp_path).values()) == {1}
                app.close()


def test_it_goes_on_again_and_again_while_large_data_travels(tmp_path: Path) -> None:
    data = [os.urandom(300_000) for _ in range(4)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(clusters.running("master", *OPTIONS, says="is running"))
        stack.enter_context(clusters.running("slave", "--connect", NAME, "--workers", "2", says="joined"))
        app = concurrent_nb.connect(NAME)
        # Arguments and results are larger than what is in a row.
        echoes = [app.submit(echo, index, data[index % 4], str(tmp_path)) for index in range(120)]
        sums = app.map(note, range(200), [str(tmp_path)] * 200, [0.005] * 200)
        for round_ in range(3):
            wait_until_ran(tmp_path, 60 * (round_ + 1))
            kill(connection_file.read(NAME).pid)
            stack.enter_context(clusters.running("master", *OPTIONS, says="is running"))
        assert list(sums) == [index * index for index in range(200)]
        assert [future.result(PATIENCE_S) for future in echoes] == [data[index % 4] for index in range(120)]
        assert set(ran(tmp_path).values()) == {1}
        clusters.eventually(lambda: clusters.status_of(NAME)["journal"]["stalled"] == "", "it is well")
        app.close()

    # Nothing of that is left, and a cluster that was stopped leaves an empty journal: no job is open.
    with clusters.running("master", *OPTIONS, says="is running"):
        assert clusters.status_of(NAME)["tasks"]["jobs"] == 0
        assert "is in use by process" in clusters.run("journal", "check", NAME).stderr
        app = concurrent_nb.connect(NAME)
        app.submit(abs, 1)
        clusters.eventually(lambda: clusters.status_of(NAME)["tasks"]["waiting"] == 1, "it waits for a slave")
        assert clusters.run("stop", NAME).returncode == 0
        app.close()
    clusters.eventually(lambda: not connection_file.default_path(NAME).exists(), "it has ended")
    assert "0 records of 0 open jobs" in clusters.run("journal", "check", NAME).stdout
