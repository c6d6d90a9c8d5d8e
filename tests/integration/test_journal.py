"""A master that was killed goes on with its journal: every future ends once, right, and what ran is not run again."""

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
            clusters.eventually(lambda: len(ran(tmp_path)) > COUNT // 10, "some have run")
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
