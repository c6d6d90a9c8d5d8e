"""A process that a launcher has started: a slave here, or a command that runs or submits one elsewhere."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from concurrent_nb.errors import LaunchFailed
from concurrent_nb.nodes.common.child_processes import close_input, end_children
from concurrent_nb.nodes.launchers.launcher import LOG_TAIL_CHARACTERS

#: a process that goes on for so long after the end of its standard input gets SIGTERM; after KILL_AFTER_S it is killed
TERMINATE_AFTER_S: Final = 2.0
KILL_AFTER_S: Final = 5.0
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
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with this object)
        try:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=self._log if keeps_output else subprocess.PIPE,
                stderr=self._log,
                env=env,
                start_new_session=True,  # an interrupt of the notebook must not reach it
            )
        except (OSError, ValueError) as error:
            self._log.close()
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise LaunchFailed(f"{what} cannot be started: {words[0]}: {reason}") from None

    def write_lines(self, lines: Iterable[str]) -> None:
        """Write lines to its standard input; if it has ended, which `exit_code` says, they are lost."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("".join(f"{line}\n" for line in lines).encode())
            self.process.stdin.flush()

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.process.poll()

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


def end_processes(started: Sequence[StartedProcess]) -> None:
    """End processes and release them: close their inputs, terminate those that go on, then kill them."""
    end_children([each.process for each in started], TERMINATE_AFTER_S, KILL_AFTER_S)
    for each in started:
        each.release()
