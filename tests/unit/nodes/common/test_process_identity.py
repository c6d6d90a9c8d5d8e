"""Whether a node's process is there, as far as can be seen from here."""

import os
import subprocess
import sys

from concurrent_nb.nodes.common.process_identity import host_name, liveness_check, own_start_time, start_time


def test_a_process_of_this_host_is_seen_until_it_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        is_alive = liveness_check(host_name(), process.pid, start_time(process.pid))
        assert is_alive()
        process.kill()
    assert not is_alive()


def test_a_process_that_has_ended_and_was_not_waited_for_is_not_there() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        is_alive = liveness_check(host_name(), process.pid, start_time(process.pid))
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive()


def test_what_cannot_be_seen_from_here_counts_as_there() -> None:
    now = own_start_time()
    assert now is not None
    assert liveness_check("another host", os.getpid(), now)()
    assert liveness_check(host_name(), os.getpid(), now - 1)()  # the same pid in another container
    assert liveness_check(host_name(), os.getpid(), None)()
    assert liveness_check(host_name(), -1, now)()


def test_a_pid_of_nobody_has_not_begun() -> None:
    assert start_time(2**31 - 1) is None
