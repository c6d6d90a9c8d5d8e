"""Ids of jobs, tasks, sessions and functions, in the same form everywhere.

The id of a **job** is 128 random bits, created by the application. A **task** is (job, index). An **attempt** is a
number that the master counts for each task within one *epoch*, the life of one master process. The id of a **session**
is 128 random bits that the master gives a node at registration; it precedes each envelope of the node. A **digest**
identifies a function: the SHA-256 of its pickle.
"""

import hashlib
import os
from typing import NewType

JobId = NewType("JobId", bytes)
SessionId = NewType("SessionId", bytes)
Digest = NewType("Digest", bytes)

#: environment variable with the owner's sys.path for the workers of an embedded cluster (a JSON list)
SYS_PATH_VARIABLE = "CONCURRENT_NB_SYS_PATH"
#: environment variable with the descriptor from which a slave's workers read the pickle of (initializer, initargs)
INITIALIZER_VARIABLE = "CONCURRENT_NB_INITIALIZER"
#: environment variable with multiprocessing's authkey of the owner for the workers of an embedded cluster, in hex
AUTHKEY_VARIABLE = "CONCURRENT_NB_AUTHKEY"
#: a line from a slave's owner on the slave's lease: start no task, and leave when running tasks have ended
DRAIN = "drain"
#: length of job and session ids, in bytes
ID_BYTES = 16
#: length of a function's digest
DIGEST_BYTES = 32


def new_job_id() -> JobId:
    """Return a new job id: 16 random bytes of the operating system."""
    return JobId(os.urandom(ID_BYTES))


def new_session_id() -> SessionId:
    """Return a new session id. Its first byte is never 0, which ZeroMQ reserves for its own routing ids."""
    return SessionId(b"s" + os.urandom(ID_BYTES - 1))


def digest_of(pickled: bytes | bytearray | memoryview) -> Digest:
    """Return the digest of a pickled function: the SHA-256 of its bytes."""
    return Digest(hashlib.sha256(pickled).digest())


def task_name(job: bytes, index: int) -> str:
    """Return the readable name of a task: the first 8 hex digits of its job, a slash, its index."""
    return f"{job.hex()[:8]}/{index}"
