"""A process that a launcher has started: a slave here, or a command that runs or submits one elsewhere."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Final

from concurrent_nb.errors import LaunchFailed
from concurrent_nb.nodes.common.child_processes import close_input, end_children
from concurrent_nb.nodes.launchers.launcher import LOG_TAIL_CHARACTERS
from concurrent_nb.nodes.launchers.shortage import shortage

try:
    import fcntl
except ImportError:  # Windows: a log is not shortened while something writes it
    fcntl = None  # type: ignore[assignment]

#: a process that goes on for so long after the end of its standard input gets SIGTERM; after KILL_AFTER_S it is killed
TERMINATE_AFTER_S: Final = 2.0
KILL_AFTER_S: Final = 5.0
#: a log of more bytes loses its middle
LOG_BYTES_MAX: Final = 1 << 20
_LEFT_OUT: Final = b"\n[the middle of this log is left out]\n"
#: bytes of a log that hold LOG_TAIL_CHARACTERS of any characters
_LOG_TAIL_BYTES: Final = 4 * LOG_TAIL_CHARACTERS


class StartedProcess:
    """A process whose standard input is its lease, and whose output is kept in a file without a name.

    Args:
        words: the command.
        what: the command in words, for errors.
        env: its environment; None: that of this process.
        keeps_output: its standard output can be read from `process.stdout`; else it is kept with its standard error.

    Raises LaunchFailed if it cannot be started.
    """

    def __init__(
        self, words: Sequence[str], what: str, env: Mapping[str, str] | None = None, *, keeps_output: bool = True
    ) -> None:
        try:
            self._log = _new_log()
        except OSError as error:
            raise _not_started(what, words, error) from None
        try:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=self._log if keeps_output else subprocess.PIPE,
                stderr=self._log,
                env=env,
                start_new_session=True,  # an interrupt of the notebook must not reach it
            )
        except (OSError, ValueError, MemoryError) as error:
            self._log.close()
            raise _not_started(what, words, error) from None

    def write_lines(self, lines: Iterable[str]) -> None:
        """Write lines to its standard input; if it has ended, they are lost; see `exit_code`."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("".join(f"{line}\n" for line in lines).encode())
            self.process.stdin.flush()

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs. Each call also keeps the log short."""
        self.shorten_log()
        return self.process.poll()

    def shorten_log(self) -> None:
        """Leave out the middle of a log that has become long. What is written at this moment may get lost."""
        descriptor = self._log.fileno()
        size_bytes = os.fstat(descriptor).st_size
        if size_bytes <= LOG_BYTES_MAX or fcntl is None:
            return
        tail = os.pread(descriptor, _LOG_TAIL_BYTES, size_bytes - _LOG_TAIL_BYTES)
        os.ftruncate(descriptor, _LOG_TAIL_BYTES)
        with contextlib.suppress(OSError):  # a disk that takes no more: the log has its beginning
            os.write(descriptor, _LEFT_OUT + tail)

    def log_tail(self) -> str:
        """Return the end of what it has written."""
        size_bytes = os.fstat(self._log.fileno()).st_size
        begin = max(0, size_bytes - _LOG_TAIL_BYTES)
        return os.pread(self._log.fileno(), _LOG_TAIL_BYTES, begin).decode(errors="replace")

    def log_head(self) -> str:
        """Return the beginning of what it has written."""
        return os.pread(self._log.fileno(), _LOG_TAIL_BYTES, 0).decode(errors="replace")

    def close_input(self) -> None:
        """End its standard input, upon which a slave ends."""
        close_input(self.process)

    def release(self) -> None:
        """Close what this process holds of it. It must have ended."""
        self.close_input()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()


def _new_log() -> IO[bytes]:
    """Return a file without a name, at whose end each process writes that has it."""
    log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with its StartedProcess)
    if fcntl is not None:
        fcntl.fcntl(log.fileno(), fcntl.F_SETFL, fcntl.fcntl(log.fileno(), fcntl.F_GETFL) | os.O_APPEND)
    return log


def _not_started(what: str, words: Sequence[str], error: Exception) -> LaunchFailed:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    remedy = shortage(error)
    return LaunchFailed(f"{what} cannot be started: {words[0]}: {reason}{remedy and f' ({remedy})'}")


def end_processes(started: Sequence[StartedProcess]) -> None:
    """End processes and release them: close their inputs, terminate those that go on, then kill them."""
    end_children([each.process for each in started], TERMINATE_AFTER_S, KILL_AFTER_S)
    for each in started:
        each.release()
