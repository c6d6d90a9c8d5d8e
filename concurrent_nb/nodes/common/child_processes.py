"""Child processes that end when their standard input ends: nodes, and the helpers of launchers."""

import contextlib
import subprocess
import time
from collections.abc import Sequence
from typing import Any


def write_line(process: "subprocess.Popen[str]", line: str) -> None:
    """Write a line to a child. If it has ended, which its supervisor notices, the line is lost."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(line + "\n")
        process.stdin.flush()


def close_input(process: "subprocess.Popen[Any]") -> None:
    """Close the standard input of a child, upon which it ends."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def end_children(processes: "Sequence[subprocess.Popen[Any]]", terminate_after_s: float, kill_after_s: float) -> None:
    """End children, and wait until they have ended: close their inputs, terminate those that go on, then kill them.

    A child may go on because a process that was forked meanwhile holds its pipe open.

    Args:
        processes: the children.
        terminate_after_s: a child that is alive this long after its input was closed gets SIGTERM.
        kill_after_s: ... and this long after it was closed, SIGKILL.
    """
    for process in processes:
        close_input(process)
    closed_at = time.monotonic()
    stages = ((terminate_after_s, subprocess.Popen.terminate), (kill_after_s, subprocess.Popen.kill))
    for patience_s, end in stages:
        for process in processes:
            try:
                process.wait(max(0.05, closed_at + patience_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                end(process)
    for process in processes:
        process.wait()
