"""Children end with their input; those that go on are terminated, then killed."""

import signal
import subprocess
import sys

from concurrent_nb.nodes.common.child_processes import end_children, write_line

READS = "import sys; sys.stdin.read()"
GOES_ON = "import signal; signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"


def child(code: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_child_ends_with_its_input_is_terminated_or_killed() -> None:
    children = [child(READS), child(GOES_ON), child(STUBBORN)]
    with children[0], children[1], children[2]:
        assert children[2].stdout is not None
        children[2].stdout.readline()  # it ignores SIGTERM from now on
        end_children(children[:1], 60.0, 60.0)
        end_children(children[1:], 0.0, 0.5)
        assert [each.returncode for each in children] == [0, -signal.SIGTERM, -signal.SIGKILL]


def test_a_line_for_a_child_that_has_ended_is_lost() -> None:
    with child("") as ended:
        ended.wait()
        write_line(ended, "hello")
        write_line(ended, "and again")
        end_children([ended], 60.0, 60.0)
        assert ended.returncode == 0
