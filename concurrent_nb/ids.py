"""Ids: who and what is meant, everywhere in the same form.

A **job** is 128 random bits, minted by the application. A **task** is (job, index). An **attempt** is a number that the
master counts up for each task within one of its lives (its *epoch*). A **session** is 128 random bits that the master
hands to a node at registration; it is also the node's routing id on the compute channel. A **digest** names a function
by the SHA-256 of its pickle.
"""

import hashlib
import os
from typing import NewType

JobId = NewType("JobId", bytes)
SessionId = NewType("SessionId", bytes)
Digest = NewType("Digest", bytes)

#: environment variable that hands the owner's sys.path to the workers of an embedded cluster (a JSON list)
SYS_PATH_VARIABLE = "CONCURRENT_NB_SYS_PATH"
#: the descriptor, open in a slave, from which its workers read the pickle of (initializer, initargs)
INITIALIZER_VARIABLE = "CONCURRENT_NB_INITIALIZER"
#: environment variable that hands multiprocessing's authkey of the owner to the workers of an embedded cluster, in hex
AUTHKEY_VARIABLE = "CONCURRENT_NB_AUTHKEY"
#: a line of a slave's owner on its lease: begin nothing more, and leave when what runs has ended
DRAIN = "drain"
#: length of job and session ids
ID_BYTES = 16
#: length of a function's digest
DIGEST_BYTES = 32


def new_job_id() -> JobId:
    """Mint a job id: 16 bytes of the operating system's randomness."""
    return JobId(os.urandom(ID_BYTES))


def new_session_id() -> SessionId:
    """Mint a session id. Its first byte is never 0, which ZeroMQ keeps for routing ids of its own."""
    return SessionId(b"s" + os.urandom(ID_BYTES - 1))


def digest_of(pickled: bytes | bytearray | memoryview) -> Digest:
    """Name a pickled function: the SHA-256 of its bytes."""
    return Digest(hashlib.sha256(pickled).digest())


def task_name(job: bytes, index: int) -> str:
    """Write a task for people: the first 8 hex digits of its job, a slash, its index."""
    return f"{job.hex()[:8]}/{index}"
