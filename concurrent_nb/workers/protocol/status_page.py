"""The status page: a little memory that a slave and a worker share, so that each sees the other without a message.

    worker writes   ticket and start of the task that it runs; which one has ended last; results that it has not sent
                    yet; which task is blocked
    slave writes    the ticket that is to stop; how often it has read each output pipe; what the worker is to be

Every word has one writer. The words are aligned, so each is read and written whole. Whoever needs two that belong
together reads the first again after the second. A task may write what it likes to its worker's page, so the slave takes
nothing of it for more than a claim; nor can the page be cut off, which would kill who reads it.
"""

import fcntl
import mmap
import os
from typing import Final

PAGE_BYTES: Final = 64 * 1024
NONCE_BYTES: Final = 16
#: where results that are not sent yet begin
_UNSENT_AT: Final = 256
#: most bytes of results that are not sent yet
UNSENT_BYTES_MAX: Final = PAGE_BYTES - _UNSENT_AT

# Words of 8 bytes. Those of the worker and those of the slave lie in cache lines of their own.
_TICKET, _START, _UNSENT, _SENDING, _BLOCKED, _ENDED = 0, 1, 2, 3, 4, 5
_STOP, _READS = 8, 9  # _READS + 1 for stream 1, + 2 for stream 2
_THREADS = 12
_NONCE_AT: Final = 128
#: how often two words are read again that do not belong together: no honest writer is that fast
_READS_MAX: Final = 100


def make_page_file() -> int:
    """Make the file of a page, of no name, and return its descriptor."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("concurrent_nb.page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        import tempfile  # here, because a cold start pays for each import

        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.truncate(fd, PAGE_BYTES)
    # Text that ends as a marker begins would be taken for one that was cut short, and no text has this byte.
    os.pwrite(fd, b"\xc0" + os.urandom(NONCE_BYTES - 1), _NONCE_AT)
    if hasattr(os, "memfd_create"):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


class StatusPage:
    """One end's view of a status page. The descriptor may be closed once this is made."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, PAGE_BYTES)
        self._bytes = memoryview(self._map)
        self.words = self._bytes.cast("Q")
        self.times = self._bytes.cast("d")
        self.nonce = bytes(self._bytes[_NONCE_AT : _NONCE_AT + NONCE_BYTES])

    # ------------------------------------------------------------------------------------------- the worker writes

    def begin(self, ticket: int, now: float) -> None:
        """Say that the task runs since `now`, in seconds of the monotonic clock."""
        self.times[_START] = now
        self.words[_TICKET] = ticket

    def end(self) -> None:
        """Say that the task has ended, and that none runs."""
        words = self.words
        words[_ENDED] = words[_TICKET]
        words[_TICKET] = 0

    def sending(self, ticket: int) -> None:
        """Say that the task's result is on its way through the stream, or with 0 that it is sent."""
        self.words[_SENDING] = ticket

    def block(self, is_blocked: bool) -> None:
        """Note whether the task that runs waits for tasks of its own. For any thread of the worker."""
        self.words[_BLOCKED] = self.words[_TICKET] if is_blocked else 0

    def keep_unsent(self, count: int, at: int, result: bytes) -> int:
        """Put an encoded result, the `count`th, behind the `at` bytes of unsent ones; return where it ends."""
        end = at + len(result)
        self._bytes[_UNSENT_AT + at : _UNSENT_AT + end] = result
        self.words[_UNSENT] = count << 32 | end  # one word, so that the two always belong together
        return end

    def forget_unsent(self) -> None:
        """Say that all results are sent."""
        self.words[_UNSENT] = 0

    # -------------------------------------------------------------------------------------------- the slave writes

    def stop(self, ticket: int) -> None:
        """Ask for this task to stop. A signal to the worker's process has to follow."""
        self.words[_STOP] = ticket

    def count_read(self, stream: int) -> None:
        """Count the begin or the end of a read: the number is odd while the slave reads this pipe."""
        self.words[_READS + stream] += 1

    def use_threads(self) -> None:
        """Say, before there is a process, that its tasks are to run in threads, which get pages of their own."""
        self.words[_THREADS] = 1

    # ------------------------------------------------------------------------------------------------- both read

    @property
    def uses_threads(self) -> bool:
        """Say whether tasks are to run in threads of this process."""
        return bool(self.words[_THREADS])

    @property
    def ticket(self) -> int:
        """Return the ticket of the task that runs, 0 if none does."""
        return self.words[_TICKET]

    @property
    def ended(self) -> int:
        """Return the ticket of the task that has ended last, 0 if none has."""
        return self.words[_ENDED]

    @property
    def blocked(self) -> int:
        """Return the ticket of a task that was blocked when its worker looked last, 0 if none was."""
        return self.words[_BLOCKED]

    @property
    def to_stop(self) -> int:
        """Return the ticket of the task that is to stop, 0 if none."""
        return self.words[_STOP]

    @property
    def result_in_transit(self) -> int:
        """Return the ticket of the task whose result is on its way, 0 if none."""
        return self.words[_SENDING]

    def reads(self) -> tuple[int, int]:
        """Return how often a read has begun or ended, for streams 1 and 2."""
        words = self.words
        return words[_READS + 1], words[_READS + 2]

    def running_task(self) -> tuple[int, float]:
        """Return the ticket of the task that runs and when it started; (0, 0.0) if none does."""
        for _ in range(_READS_MAX):
            if not (ticket := self.words[_TICKET]):
                break
            started_at = self.times[_START]
            if self.words[_TICKET] == ticket:
                return ticket, started_at
        return 0, 0.0

    def unsent(self) -> tuple[int, bytes]:
        """Return how many results are not sent yet, and all of them, encoded.

        Right only if the worker is dead, or runs the same task before and after this call.
        """
        count, end = divmod(self.words[_UNSENT], 1 << 32)
        return count, bytes(self._bytes[_UNSENT_AT : _UNSENT_AT + end])

    def close(self) -> None:
        """Unmap the page."""
        self.words.release()
        self.times.release()
        self._bytes.release()
        self._map.close()
