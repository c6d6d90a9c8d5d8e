"""Whether a failure is a shortage of this machine that may pass: of files, processes, memory or disk space. Pure."""

import errno
from typing import Final

#: what is short, and what helps, by the number of the system's error
_SHORTAGES: Final = {
    errno.EMFILE: "this process has too many open files: raise `ulimit -n`, or close some",
    errno.ENFILE: "this machine has too many open files: end programs that have many",
    errno.ENOSPC: "no space is left on the disk: free some",
    errno.EDQUOT: "the quota of the disk is used up: free some space",
    errno.EAGAIN: "this user or machine may start no more processes or threads: end some, or raise `ulimit -u`",
    errno.ENOMEM: "this machine is short of memory: end programs that need much",
}
_NO_THREAD: Final = "can't start new thread"


def shortage(error: BaseException) -> str:
    """Return which shortage has caused a failure, and what helps; "" if none has.

    >>> shortage(OSError(errno.ENOSPC, "No space left on device"))
    'no space is left on the disk: free some'
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _SHORTAGES:
            return _SHORTAGES[seen.errno]
        if isinstance(seen, MemoryError):
            return _SHORTAGES[errno.ENOMEM]
        if isinstance(seen, RuntimeError) and _NO_THREAD in str(seen):
            return _SHORTAGES[errno.EAGAIN]
        seen = seen.__cause__ or seen.__context__
    return ""
