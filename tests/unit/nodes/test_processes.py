"""Whether a node's process is there, as far as can be seen from here."""

import os
import subprocess
import sys

from concurrent_nb.nodes.processes import begun, name_of_host, own_begun, seen_from_here


def test_a_process_of_this_host_is_seen_until_it_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        is_alive = seen_from_here(name_of_host(), process.pid, begun(process.pid))
        assert is_alive()
        process.kill()
    assert not is_alive()


def test_a_process_that_has_ended_and_was_not_waited_for_is_not_there() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        is_alive = seen_from_here(name_of_host(), process.pid, begun(process.pid))
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive()


def test_what_cannot_be_seen_from_here_counts_as_there() -> None:
    now = own_begun()
    assert now is not None
    assert seen_from_here("another host", os.getpid(), now)()
    assert seen_from_here(name_of_host(), os.getpid(), now - 1)()  # the same pid in another container
    assert seen_from_here(name_of_host(), os.getpid(), None)()
    assert seen_from_here(name_of_host(), -1, now)()


def test_a_pid_of_nobody_has_not_begun() -> None:
    assert begun(2**31 - 1) is None


def limited(soft: int, hard: int, code: str) -> str:
    """Run code in a process that may open so many files, and give what it prints."""
    limits = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
    command = [sys.executable, "-c", limits + code]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


RAISE = """
from concurrent_nb.nodes.processes import raise_open_files_limit
print(raise_open_files_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_a_process_raises_its_limit_of_open_files_as_far_as_it_may() -> None:
    assert limited(100, 300, RAISE).split() == ["300", "300", "300"]
    assert limited(300, 300, RAISE).split() == ["300", "300", "300"]


CHECK = """
from concurrent_nb.errors import ClusterStartFailed
from concurrent_nb.nodes.slave import check_open_files
check_open_files(1)
try:
    check_open_files(20)
except ClusterStartFailed as error:
    print(error)
"""


def test_a_slave_tells_how_many_open_files_it_needs() -> None:
    said = limited(50, 64, CHECK)
    assert "a slave with 20 workers needs 208 open files and may have 64: raise the hard limit (ulimit -Hn)" in said
