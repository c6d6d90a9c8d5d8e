"""Failures for which this machine is short of something, told apart from others."""

import errno

import pytest

from concurrent_nb.errors import LaunchFailed
from concurrent_nb.nodes.launchers.shortage import shortage


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "no more processes"),
        (MemoryError(), "short of memory"),
        (RuntimeError("can't start new thread"), "threads"),
    ],
)
def test_a_shortage_is_named_with_what_helps(error: Exception, words: str) -> None:
    assert words in shortage(error)
    failed = LaunchFailed("no slave")
    failed.__context__ = error  # as `raise ... from None` leaves it
    assert words in shortage(failed)


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "no such file"), RuntimeError("no"), LaunchFailed("")]
)
def test_another_failure_is_none(error: Exception) -> None:
    assert shortage(error) == ""
