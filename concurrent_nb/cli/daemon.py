"""`--daemon`: run a node in the background, in its own process session, with its log in a file."""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from concurrent_nb.errors import ClusterStartFailed
from concurrent_nb.transport import connection_file, private_files

#: seconds between reads of the log of a node that starts
POLL_S: Final = 0.05
#: lines of the log that are shown if the node does not start
TAIL_LINES: Final = 20
#: how a line begins with which a command ends that has failed
_COMMAND_ERROR: Final = re.compile(r"concurrent-nb \w+: ")
#: seconds that a terminated node may take to end before it is killed
TERMINATE_S: Final = 5.0


def log_path(name: str) -> Path:
    """Return the default path of a node's log, beside the connection files."""
    return connection_file.folder_to_write() / f"concurrent_nb-{name}.log"


def start(arguments: list[str], log: Path, is_ready: Callable[[str], bool]) -> tuple[int, str]:
    """Start `concurrent-nb ARGUMENTS` in the background. Return its process id, and the line that it prints when ready.

    Its output goes to the file `log`, which is overwritten. Raises ClusterStartFailed, with the end of the log, if the
    process ends before it is ready. An interrupt ends the process.
    """
    private_files.replace_private(log, b"")
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "concurrent_nb", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # so that neither Ctrl-C nor the end of the terminal stops it
        )
    try:
        while True:
            has_ended = process.poll() is not None  # before the log is read, so that its last lines are there
            lines = log.read_text(errors="replace").splitlines()
            if (ready := next(filter(is_ready, lines), None)) is not None:
                return process.pid, ready
            if has_ended:
                raise ClusterStartFailed(_why(lines, process.returncode, log))
            time.sleep(POLL_S)
    except BaseException:
        _end(process)
        raise


def _why(lines: list[str], code: int, log: Path) -> str:
    """Return why a process was not ready: the error that its command has printed last, or else the end of its log."""
    errors = [at for at, line in enumerate(lines) if _COMMAND_ERROR.match(line)]
    if errors:
        first, *more = lines[errors[-1] :]
        return "\n".join([_COMMAND_ERROR.sub("", first), *more, f"(log file {log})"])
    tail = "\n".join(lines[-TAIL_LINES:])
    return f"the process ended with exit code {code} before it was ready; the end of its log, {log}:\n{tail}"


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(TERMINATE_S)
        return
    process.kill()
    process.wait()


def without(arguments: list[str], flag: str, option: str) -> list[str]:
    """Return a command line without a flag, and without an option and its value."""
    left, words = [], iter(arguments)
    for word in words:
        if word == option:
            next(words, None)
        elif word != flag and not word.startswith(f"{option}="):
            left.append(word)
    return left
