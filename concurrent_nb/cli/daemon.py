"""`--daemon`: a node in the background, in a session of its own, whose log is a file."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from concurrent_nb.errors import ClusterStartFailed
from concurrent_nb.transport import connection_file, private_files

#: how often the log of a node that starts is looked at, in seconds
POLL_S: Final = 0.05
#: lines of the log that are shown of a node that has not started
TAIL_LINES: Final = 20
#: a node that is told to end because we are has so long for it, in seconds
TERMINATE_S: Final = 5.0


def log_path(name: str) -> Path:
    """Give the place of a node's log, beside the connection files."""
    return connection_file.folder_to_write() / f"concurrent_nb-{name}.log"


def start(arguments: list[str], log: Path, is_ready: Callable[[str], bool]) -> tuple[int, str]:
    """Start `concurrent-nb ARGUMENTS` in the background. Return its process id, and the line that tells it is ready.

    Its output goes to the file `log`, which is written anew. Raises ClusterStartFailed, with the end of the log, if the
    process ends before it is ready, and ends it if we are interrupted.
    """
    private_files.replace_private(log, b"")
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "concurrent_nb", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # neither Ctrl-C nor the end of the terminal is for it
        )
    try:
        while True:
            has_ended = process.poll() is not None  # before the look: what it wrote last is there
            lines = log.read_text(errors="replace").splitlines()
            if (ready := next(filter(is_ready, lines), None)) is not None:
                return process.pid, ready
            if has_ended:
                tail = "\n".join(lines[-TAIL_LINES:])
                how = f"it has ended with exit code {process.returncode} before it was ready"
                raise ClusterStartFailed(f"{how}; its log, {log}, ends:\n{tail}")
            time.sleep(POLL_S)
    except BaseException:
        _end(process)
        raise


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(TERMINATE_S)
        return
    process.kill()
    process.wait()


def without(arguments: list[str], flag: str, option: str) -> list[str]:
    """Give a command line without a flag, and without an option and its value."""
    left, words = [], iter(arguments)
    for word in words:
        if word == option:
            next(words, None)
        elif word != flag and not word.startswith(f"{option}="):
            left.append(word)
    return left
