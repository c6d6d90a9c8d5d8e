"""The status page: 64 KiB of memory that a slave and a worker share, for what each must see without a message.

    worker writes   ticket and start of its running task; ticket of the task that has ended last; results that it has
                    not sent yet; ticket of its blocked task; the thread that runs its tasks; whether there are others
    slave writes    ticket of the task to stop; how often it has read each output pipe; whether tasks run in threads

Every word has one writer. The words are aligned, so each is read and written as a whole. To read two words that belong
together, read the first one again after the second. A task may write anything to its worker's page, so the slave treats
its content as a claim. The page cannot be truncated, which would kill its readers.
"""

import fcntl
import mmap
import os
from typing import Final

from concurrent_nb.workers.protocol.anonymous_file import make_anonymous_file

PAGE_BYTES: Final = 64 * 1024
NONCE_BYTES: Final = 16
#: where the results that are not sent yet begin
_UNSENT_AT: Final = 256
#: most bytes of results that are not sent yet
UNSENT_BYTES_MAX: Final = PAGE_BYTES - _UNSENT_AT

# Words of 8 bytes. Those of the worker and those of the slave are in cache lines of their own.
_TICKET, _START, _UNSENT, _SENDING, _BLOCKED, _ENDED, _THREAD, _LEFT = 0, 1, 2, 3, 4, 5, 6, 7
_STOP, _READS = 8, 9  # _READS + 1 for stream 1, + 2 for stream 2
_THREADS = 12
_NONCE_AT: Final = 128
#: how often two words that do not belong together are read again: no correct writer is that fast
_READS_MAX: Final = 100


def make_page_file() -> int:
    """Make the file of a page, without a name, and return its descriptor."""
    fd = make_anonymous_file("concurrent_nb.page", may_be_sealed=True)
    os.truncate(fd, PAGE_BYTES)
    # Text that ends as a marker begins would be kept until the next read, so a nonce begins with a byte of no text.
    os.pwrite(fd, b"\xc0" + os.urandom(NONCE_BYTES - 1), _NONCE_AT)
    if hasattr(os, "memfd_create"):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


class StatusPage:
    """One side's view of a status page. The descriptor may be closed after this is made."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, PAGE_BYTES)
        self._bytes = memoryview(self._map)
        self.words = self._bytes.cast("Q")
        self.times = self._bytes.cast("d")
        self.nonce = bytes(self._bytes[_NONCE_AT : _NONCE_AT + NONCE_BYTES])

    # ------------------------------------------------------------------------------------------- the worker writes

    def begin(self, ticket: int, now: float) -> None:
        """Write that this task runs since `now`, in seconds of the monotonic clock."""
        self.times[_START] = now
        self.words[_TICKET] = ticket

    def end(self) -> None:
        """Write that the running task has ended."""
        words = self.words
        words[_ENDED] = words[_TICKET]
        words[_TICKET] = 0

    def sending(self, ticket: int) -> None:
        """Write that the result of this task is being sent through the stream; 0: no longer."""
        self.words[_SENDING] = ticket

    def block(self, is_blocked: bool) -> None:
        """Write whether the running task waits for tasks of its own. For any thread of the worker."""
        self.words[_BLOCKED] = self.words[_TICKET] if is_blocked else 0

    def name_thread(self, thread: int) -> None:
        """Write which thread of the process runs the tasks of this worker, as the system numbers them."""
        self.words[_THREAD] = thread

    def note_left_threads(self, are_there: bool) -> None:
        """Write whether there are threads that former tasks have left."""
        self.words[_LEFT] = are_there

    def keep_unsent(self, count: int, at: int, result: bytes) -> int:
        """Write an encoded result, the `count`th, behind the `at` bytes of unsent ones; return where it ends."""
        end = at + len(result)
        self._bytes[_UNSENT_AT + at : _UNSENT_AT + end] = result
        self.words[_UNSENT] = count << 32 | end  # one word, so that the two always belong together
        return end

    def forget_unsent(self) -> None:
        """Write that all results are sent."""
        self.words[_UNSENT] = 0

    # -------------------------------------------------------------------------------------------- the slave writes

    def stop(self, ticket: int) -> None:
        """Request that this task stops. A signal to the worker's process must follow."""
        self.words[_STOP] = ticket

    def count_read(self, stream: int) -> None:
        """Count the start or the end of a read: the number is odd while the slave reads this pipe."""
        self.words[_READS + stream] += 1

    def use_threads(self) -> None:
        """Request, before the process starts, that its tasks run in threads, which get pages of their own."""
        self.words[_THREADS] = 1

    # ------------------------------------------------------------------------------------------------- both read

    @property
    def uses_threads(self) -> bool:
        """Return whether tasks must run in threads of this process."""
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
    def thread(self) -> int:
        """Return which thread of the process runs the tasks; 0: the main thread."""
        return self.words[_THREAD]

    @property
    def has_left_threads(self) -> bool:
        """Return whether there are threads that former tasks have left."""
        return bool(self.words[_LEFT])

    @property
    def blocked(self) -> int:
        """Return the ticket of the blocked task, 0 if none is."""
        return self.words[_BLOCKED]

    @property
    def to_stop(self) -> int:
        """Return the ticket of the task that must stop, 0 if none must."""
        return self.words[_STOP]

    @property
    def result_in_transit(self) -> int:
        """Return the ticket of the task whose result is being sent, 0 if none is."""
        return self.words[_SENDING]

    def reads(self) -> tuple[int, int]:
        """Return how often a read has started or ended, for streams 1 and 2."""
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

        Valid only if the worker is dead, or runs the same task before and after this call.
        """
        count, end = divmod(self.words[_UNSENT], 1 << 32)
        return count, bytes(self._bytes[_UNSENT_AT : _UNSENT_AT + end])

    def close(self) -> None:
        """Unmap the page."""
        self.words.release()
        self.times.release()
        self._bytes.release()
        self._map.close()
