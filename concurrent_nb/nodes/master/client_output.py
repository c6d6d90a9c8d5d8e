"""Output of tasks for a client that does not receive it: kept up to a limit, and cut there.

A part of `nodes.master.core`.
"""

from collections.abc import Iterable
from typing import Final

from concurrent_nb.wire import messages as m

#: output that is kept for a client that receives nothing; more is left out
OUTPUT_KEPT_BYTES: Final = 16 * 1024 * 1024
#: most streams that are stored as cut
_STREAMS_MAX: Final = 10_000

#: a stream of an attempt: job, index, attempt, stream
Stream = tuple[bytes, int, int, int]


class ClientOutput:
    """The streams that were cut for one client, and how much was left out of each.

    After a cut nothing more of a stream is sent.
    """

    def __init__(self) -> None:
        self.kept_bytes = 0  #: since it has been silent
        self._cut: dict[Stream, int | None] = {}  # bytes left out; None when the client was informed
        self._has_unsent_cuts = False  # of some cut the client was not informed yet

    @property
    def has_cuts(self) -> bool:
        """Whether `accepts` must be called even if the client receives what is sent."""
        return bool(self._cut)

    @property
    def has_unsent_cuts(self) -> bool:
        """Whether something was left out since the last `take_cuts`."""
        return self._has_unsent_cuts

    def accepts(self, message: m.Output, is_silent: bool, backlog_bytes: int) -> bool:
        """Return whether output is to be sent or kept; count it as left out otherwise.

        Args:
            message: the output.
            is_silent: nothing is sent to the client for now, so accepted output is kept.
            backlog_bytes: bytes that the client has not acknowledged.
        """
        ref = message.task
        name = (ref.job, ref.index, ref.attempt, message.stream)
        size = len(message.data)
        kept = self.kept_bytes if is_silent else backlog_bytes
        if name in self._cut or kept + size > OUTPUT_KEPT_BYTES:
            if name not in self._cut and len(self._cut) >= _STREAMS_MAX:
                del self._cut[next(iter(self._cut))]
            left_out = self._cut.get(name, 0)
            if left_out is not None:
                self._cut[name] = left_out + size
                self._has_unsent_cuts = True
            return False
        if is_silent:
            self.kept_bytes += size
        return True

    def take_cuts(self) -> list[m.Output]:
        """Return notes, as output, on how much was left out of each stream since the last call."""
        self.kept_bytes = 0
        self._has_unsent_cuts = False
        notes = []
        for (job, index, attempt, stream), count in self._cut.items():
            if count and stream != m.NOTES:
                what = f"{count:,} bytes of output are left out here, and what follows"
                note = f"\n[{what}: the client did not receive it]\n"
                notes.append(m.Output(m.TaskRef(job, index, attempt), stream, note.encode()))
        self._cut = dict.fromkeys(self._cut)
        return notes

    def leave_out(self, streams: Iterable[Stream]) -> None:
        """Note that the beginning of streams is missing, as the client was told: nothing more of them is sent."""
        self._cut.update(dict.fromkeys(streams))

    def forget_job(self, job: bytes) -> None:
        """Forget the streams of a job that is over."""
        if self._cut:
            self._cut = {name: count for name, count in self._cut.items() if name[0] != job}
