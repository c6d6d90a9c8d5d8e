"""The functions that the master has, the open jobs that use each, and those kept for the next job of a client.

A part of `nodes.master.core`. A function is assigned to a job when the scheduler has accepted a task of that job, so
none is kept for a job that was refused.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from concurrent_nb.ids import JobId
from concurrent_nb.tasks.task_record import JobRecord
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffers, lengths, slices_of

#: most functions, and bytes of them, that are kept for the next job of the same key when their jobs are over
IDLE_FUNCTIONS: Final = 64
IDLE_BYTES: Final = 64 * 1024 * 1024
#: what a record costs besides its bytes
_RECORD_BYTES: Final = 500


@dataclass(eq=False, slots=True)
class FunctionEntry:
    """A function, ready to be sent to slaves."""

    message: m.Function
    buffers: Sequence[Buffers]
    # Dictionaries for their order: the same messages in the same order have the same effect in every process.
    jobs: dict[bytes, None] = field(default_factory=dict)  #: open jobs that use it
    idle_for: dict[bytes, None] = field(default_factory=dict)  #: keys for whose next job it is kept
    claims: int = 0  #: submits of it that the scheduler has not handled yet

    @property
    def digest(self) -> bytes:
        """Its digest, which is its name."""
        return self.message.digest

    @property
    def size_bytes(self) -> int:
        """The bytes that it takes here, without those in shared memory."""
        return _RECORD_BYTES + len(self.message.body) + sum(lengths(self.message.sizes))


@dataclass(eq=False, slots=True)
class _JobFunctions:
    """The functions that an open job uses."""

    key: bytes
    digests: dict[bytes, None] = field(default_factory=dict)


class FunctionTable:
    """All functions. One that clients of several keys have sent is stored once, and kept for each of them.

    Args:
        on_dropped: called with the digest of each function that is dropped.
        is_registered: returns whether a client of a key is registered.
    """

    def __init__(self, on_dropped: Callable[[bytes], None], is_registered: Callable[[bytes], bool]) -> None:
        self._on_dropped = on_dropped
        self._is_registered = is_registered
        self._functions: dict[bytes, FunctionEntry] = {}
        self._jobs: dict[bytes, _JobFunctions] = {}  # what each open job uses
        self._idle: dict[bytes, OrderedDict[bytes, int]] = {}  # by key: digest to size in bytes, oldest first
        # Job, function and key of each submit that the scheduler has not handled yet.
        self._claims: list[tuple[bytes, FunctionEntry, bytes]] = []

    def __len__(self) -> int:
        return len(self._functions)

    def get(self, digest: bytes) -> FunctionEntry | None:
        """Return a function, None if there is none of that digest."""
        return self._functions.get(digest)

    def add(self, function: FunctionEntry, key: bytes) -> None:
        """Store a function that a client has sent, for the first time or again: it is kept for a job of that key."""
        self._functions[function.digest] = function
        self._keep_for(function, key)

    def restore(self, function: FunctionEntry, jobs: Sequence[tuple[bytes, bytes]]) -> None:
        """Store a function of the former run of a master, which these open jobs use; each with the key of its owner."""
        self._functions[function.digest] = function
        for job, key in jobs:
            function.jobs[job] = None
            self._jobs.setdefault(job, _JobFunctions(key)).digests[function.digest] = None

    def claim(self, function: FunctionEntry, job: bytes, key: bytes) -> None:
        """Keep a function until the scheduler has handled a submit of it; `settle` must be called then."""
        function.claims += 1
        self._claims.append((job, function, key))
        self._keep_no_longer(function, key)

    def settle(self, jobs: Mapping[JobId, JobRecord]) -> None:
        """Assign claimed functions to the jobs whose submits were accepted."""
        if not self._claims:
            return
        claims, self._claims = self._claims, []
        for job_id, function, key in claims:
            function.claims -= 1
            if self._functions.get(function.digest) is not function:  # its segment was dropped meanwhile
                continue
            job = jobs.get(JobId(job_id))
            if job is not None and job.owner == key.decode() and job.tasks:
                function.jobs[job_id] = None
                self._jobs.setdefault(job_id, _JobFunctions(key)).digests[function.digest] = None
            else:
                self._keep_for(function, key)

    def forget_job(self, job: JobId) -> None:
        """Release the functions of a job that is over."""
        if (over := self._jobs.pop(job, None)) is None:
            return
        for digest in over.digests:
            function = self._functions[digest]
            function.jobs.pop(job, None)
            self._keep_for(function, over.key)

    def forget_key(self, key: bytes) -> None:
        """Drop what is kept for the next job of a key that has no registered client any more."""
        for digest in list(self._idle.get(key, ())):
            self._keep_no_longer(self._functions[digest], key)
            self._drop_if_unused(self._functions[digest])

    def drop_in(self, segments: set[bytes]) -> list[tuple[bytes, list[JobId]]]:
        """Drop functions in segments that are closed. Returns the digest of each and the jobs that use it."""
        gone = []
        for function in list(self._functions.values()):
            if any(slice_.segment in segments for slice_ in slices_of(function.message.sizes)):
                if function.jobs:
                    gone.append((function.digest, [JobId(job) for job in function.jobs]))
                self._drop(function)
        return gone

    def bytes_in_use(self, key: bytes) -> int:
        """Return the bytes of all functions that open jobs of a key use."""
        used = {digest for job in self._jobs.values() if job.key == key for digest in job.digests}
        return sum(self._functions[digest].size_bytes for digest in used)

    def leftovers(self) -> list[str]:
        """List what is kept wrongly while no job is open. For tests."""
        used = [function for function in self._functions.values() if function.claims or not function.idle_for]
        kept = [f"function {function.digest.hex()[:8]} is not kept for the next job" for function in used]
        kept += [f"functions are kept for {len(self._jobs)} jobs that are over"] if self._jobs else []
        kept += [f"{len(self._claims)} submits are undecided"] if self._claims else []
        return kept

    def held_for(self, key: bytes) -> list[str]:
        """List what is kept for a key. For tests."""
        jobs = sum(job.key == key for job in self._jobs.values())
        kept = [f"{jobs} jobs use functions"] if jobs else []
        return kept + [f"function {digest.hex()[:8]} is for the next job" for digest in self._idle.get(key, ())]

    def _keep_for(self, function: FunctionEntry, key: bytes) -> None:
        """Keep a function for the next job of a key; above the limits, drop those that were kept longest."""
        if not self._is_registered(key):
            self._drop_if_unused(function)
            return
        idle = self._idle.setdefault(key, OrderedDict())
        idle[function.digest] = function.size_bytes
        idle.move_to_end(function.digest)
        function.idle_for[key] = None
        while len(idle) > IDLE_FUNCTIONS or (len(idle) > 1 and sum(idle.values()) > IDLE_BYTES):
            oldest = self._functions[next(iter(idle))]
            self._keep_no_longer(oldest, key)
            self._drop_if_unused(oldest)

    def _keep_no_longer(self, function: FunctionEntry, key: bytes) -> None:
        if key in function.idle_for:
            function.idle_for.pop(key, None)
            idle = self._idle[key]
            del idle[function.digest]
            if not idle:
                del self._idle[key]

    def _drop_if_unused(self, function: FunctionEntry) -> None:
        if not (function.jobs or function.idle_for or function.claims):
            self._drop(function)

    def _drop(self, function: FunctionEntry) -> None:
        for key in list(function.idle_for):
            self._keep_no_longer(function, key)
        del self._functions[function.digest]
        for job_id in function.jobs:
            job = self._jobs[job_id]
            job.digests.pop(function.digest, None)
            if not job.digests:
                del self._jobs[job_id]
        self._on_dropped(function.digest)
