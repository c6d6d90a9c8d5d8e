"""The records between a slave and the fork server of its workers, over a socket. Each is a `RECORD`.

slave        ---  FORK worker + descriptors | KILL worker | INTERRUPT worker | PREPARE |
                  WRITE_STACK worker, thread                                              --->  fork server
fork server  ---  STARTED worker, pid | ENDED worker, pid, wait status                    --->  slave
"""

import resource
import struct
import sys
from typing import Final

#: kind, worker, pid (with WRITE_STACK: the thread, 0 for the main thread), wait status, peak memory in bytes
RECORD: Final = struct.Struct("<BIiiQ")
FORK, KILL, INTERRUPT, STARTED, ENDED, PREPARE, WRITE_STACK = 1, 2, 3, 4, 5, 6, 7
#: pid and status of a worker that could not be forked
NO_PROCESS: Final = -1


def peak_bytes(usage: resource.struct_rusage) -> int:
    """Return the most memory that an ended process has had."""
    return usage.ru_maxrss if sys.platform == "darwin" else usage.ru_maxrss * 1024
