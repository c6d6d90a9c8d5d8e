"""A second host: network namespaces joined by a cable, TLS on the control channel, a copied connection file."""

import json
import re
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest

from concurrent_nb.transport import connection_file
from tests.clusters import command, eventually, running, workers_of
from tests.second_host import MASTERS_ADDRESS, NAME, OTHER_ADDRESS, Host, copy, hosts
from tests.work import PATIENCE_S

#: fixtures
__all__ = ["copy", "hosts"]

pytestmark = pytest.mark.netns
ITEMS = 3000

PROGRAM = """
    import json, sys
    import concurrent_nb
    from tests import work

    path, items, *marks = sys.argv[1:]
    with concurrent_nb.connect(path) as app:
        done = []
        for square, pid in app.map(work.slow_square, range(int(items))):
            done.append((square, pid))
            if str(len(done)) in marks:
                print("progress", len(done), flush=True)
        print(json.dumps(done))
"""


class User:
    """A Python on the second host that maps many items."""

    def __init__(self, host: Host, copy: Path, marks: tuple[int, ...]) -> None:
        program = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(copy), str(ITEMS), *map(str, marks)]
        self._process = subprocess.Popen(
            [*host.prefix, *program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=host.env
        )

    def __enter__(self) -> "User":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def await_progress(self, count: int) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == f"progress {count}\n", line or self._process.communicate()[1]

    def results(self) -> list[tuple[int, int]]:
        """Give the (square, pid) of each item."""
        out, errors = self._process.communicate(timeout=PATIENCE_S)
        assert self._process.returncode == 0, errors
        return [(square, pid) for square, pid in json.loads(out)]


def assert_each_once(done: list[tuple[int, int]]) -> None:
    assert [square for square, _ in done] == [n * n for n in range(ITEMS)]


def share_of(pids: set[int], done: list[tuple[int, int]]) -> int:
    by_pid = Counter(pid for _, pid in done)
    return sum(count for pid, count in by_pid.items() if pid in pids)


def test_a_late_slave_on_another_host_gets_its_share_and_its_death_loses_nothing(
    hosts: tuple[Host, Host], copy: Path
) -> None:
    there = hosts[1]
    # The copy of the file holds all that another host needs, and nothing that is true on the first one only.
    info = connection_file.read(copy)
    assert info.endpoints
    assert all(endpoint.startswith(f"https://{MASTERS_ADDRESS}:") for endpoint in info.endpoints)
    assert info.certificate_pem is not None
    assert "127.0.0.1" not in copy.read_text()
    assert "localhost" not in copy.read_text()
    with User(there, copy, (300, 1500)) as user:
        user.await_progress(300)
        # When a slave of the second host joins, and dies when it has done some work
        arguments = ("slave", "--connect", str(copy), "--workers", "1", "--name", "late")
        with running(
            *arguments, says=f"slave late has joined cluster {NAME}", prefix=there.prefix, env=there.env
        ) as late:
            eventually(lambda: len(workers_of([late.pid])) == 1, "the late slave has its worker")
            late_workers = workers_of([late.pid])
            user.await_progress(1500)
            late.kill()
            done = user.results()
    # Then
    assert_each_once(done)
    assert 200 < share_of(late_workers, done) < ITEMS


@pytest.mark.parametrize(
    ("copy", "cut_s"),
    [
        pytest.param((), 1.0, id="shorter than the patience of the nodes"),
        pytest.param(
            ("--MasterNode.interval_s=0.2", "--MasterNode.suspect_after_s=0.5", "--MasterNode.lost_after_s=1.0"),
            2.5,
            id="longer",
        ),
    ],
    indirect=["copy"],
)
def test_a_cable_that_is_cut_for_a_moment_loses_nothing(hosts: tuple[Host, Host], copy: Path, cut_s: float) -> None:
    there = hosts[1]
    arguments = ("slave", "--connect", str(copy), "--workers", "1", "--name", "far")
    with (
        running(*arguments, says="has joined", prefix=there.prefix, env=there.env) as far,
        User(there, copy, (300,)) as user,
    ):
        user.await_progress(300)
        far_workers = workers_of([far.pid])
        # When neither the slave nor the user can be reached for a moment
        there.cable("down")
        time.sleep(cut_s)
        there.cable("up")
        # Then
        done = user.results()
        assert_each_once(done)
        far_workers |= workers_of([far.pid])
        assert share_of(far_workers, done) > 0
        # ... and the slave is there again, or still.
        status = [*there.prefix, *command("status", str(copy))]
        eventually(
            lambda: re.search(r"slave far on .*: active", subprocess.check_output(status, env=there.env, text=True)),
            "the slave is back",
        )
        assert far.poll() is None


LOOK_IN = """
    import json, sys
    from jupyter_client.blocking.client import BlockingKernelClient

    client = BlockingKernelClient(connection_file=sys.argv[1])
    client.load_connection_file()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    seen = []
    client.execute_interactive("import os; print(os.getpid())", timeout=60, output_hook=seen.append)
    print("".join(message["content"]["text"] for message in seen if message["msg_type"] == "stream"))
    client.stop_channels()
"""


def test_a_slave_on_another_host_is_looked_into_and_never_in_plain(hosts: tuple[Host, Host], copy: Path) -> None:
    here, there = hosts
    arguments = ("slave", "--connect", str(copy), "--workers", "1", "--name", "far")
    with running(*arguments, says="has joined", prefix=there.prefix, env=there.env) as far:
        told = subprocess.check_output(
            [*here.prefix, *command("kernel", "--connect", NAME, "far")], env=here.env, text=True, timeout=PATIENCE_S
        )
        path = here.home / "runtime" / told.split()[-1]
        assert path.stat().st_mode & 0o777 == 0o600
        access = json.loads(path.read_text())
        assert access["ip"] == OTHER_ADDRESS
        assert len(access["curve_publickey"]) == len(access["curve_secretkey"]) == 40
        look_in = [*here.prefix, sys.executable, "-c", textwrap.dedent(LOOK_IN), str(path)]
        assert int(subprocess.check_output(look_in, env=here.env, text=True, timeout=PATIENCE_S)) == far.pid
        # It listens nowhere else (on loopback ipykernel has a pipe for forks). Its own copy of the file is the same.
        program = "import psutil; print(*{c.laddr.ip for c in psutil.net_connections('tcp') if c.status == 'LISTEN'})"
        listening = subprocess.check_output([*there.prefix, sys.executable, "-c", program], text=True)
        assert set(listening.split()) <= {OTHER_ADDRESS, "127.0.0.1"}
        assert (there.home / "runtime" / path.name).read_text() == path.read_text()
    assert not (there.home / "runtime" / path.name).exists()
