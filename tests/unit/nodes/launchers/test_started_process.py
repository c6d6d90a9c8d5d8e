"""Processes of launchers: how much of their logs is kept, and machines that start none."""

import errno
import os
import sys
import tempfile
from collections.abc import Iterator

import pytest

from concurrent_nb.errors import LaunchFailed
from concurrent_nb.nodes.launchers.shortage import shortage
from concurrent_nb.nodes.launchers.started_process import LOG_BYTES_MAX, StartedProcess, end_processes
from tests.clusters import eventually

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="launchers need POSIX")

#: writes its number, a large log and its end, as often as it is told to
CHATTY = """
import sys
print("it begins", flush=True)
for line in sys.stdin:
    print("x" * 2_000_000 + "it ends " + line, end="", flush=True)
"""


@pytest.fixture
def chatty() -> Iterator[StartedProcess]:
    started = StartedProcess([sys.executable, "-c", CHATTY], "a chatty process")
    yield started
    end_processes([started])


def test_a_long_log_keeps_its_beginning_and_its_end(chatty: StartedProcess) -> None:
    for number in "123":
        chatty.write_lines([number])
        eventually(lambda: chatty.log_tail().endswith(f"it ends {number}\n"), "it has written")  # noqa: B023
        assert chatty.exit_code is None
        assert os.fstat(chatty._log.fileno()).st_size <= LOG_BYTES_MAX
        assert chatty.log_tail().endswith(f"it ends {number}\n")
        assert chatty.log_head().startswith("it begins\n")
    assert "left out" in chatty.log_tail() or len(chatty.log_tail()) >= 2000


def test_a_process_for_which_there_is_no_file_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(LaunchFailed, match=r"slave a cannot be started: python: No space left .*free some") as failed:
        StartedProcess(["python"], "slave a")
    assert shortage(failed.value)
