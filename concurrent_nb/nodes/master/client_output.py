"""What tasks have written for a client that does not take it: kept up to a limit, and cut there.

A part of `master_core`.
"""

from typing import Final

from concurrent_nb.wire import messages as m

#: of what tasks write, so much is kept for a client that takes nothing; more is left out
OUTPUT_KEPT_BYTES: Final = 16 * 1024 * 1024
#: streams of which it is known that they were cut
_STREAMS_MAX: Final = 10_000

#: a stream of an attempt: job, index, attempt, stream
Stream = tuple[bytes, int, int, int]


class ClientOutput:
    """Which streams were cut for one client, and how much was left out of each.

    Of a stream that was cut once nothing more is sent at all.
    """

    def __init__(self) -> None:
        self.kept_bytes = 0  #: since it is silent
        self._cut: dict[Stream, int | None] = {}  # how much was left out; None once that has been told
        self._has_unsent_cuts = False  # something was left out that the client has not been told of

    @property
    def has_cuts(self) -> bool:
        """Say whether `takes` has to be asked although the client takes what it is sent."""
        return bool(self._cut)

    @property
    def has_unsent_cuts(self) -> bool:
        """Say whether something was left out that `cuts` has not given yet."""
        return self._has_unsent_cuts

    def accepts(self, message: m.Output, is_silent: bool, backlog_bytes: int) -> bool:
        """Say whether output is sent, or kept; what is not is counted.

        Args:
            is_silent: nothing is sent to the client for now, so what is taken is kept.
            backlog_bytes: sent and not acknowledged, or still to be sent.
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
        """Give, as output, how much was left out of each stream that was cut since the last call."""
        self.kept_bytes = 0
        self._has_unsent_cuts = False
        notes = []
        for (job, index, attempt, stream), count in self._cut.items():
            if count and stream != m.NOTES:
                note = f"\n[{count:,} bytes of output are left out here, and what follows: nobody took it]\n"
                notes.append(m.Output(m.TaskRef(job, index, attempt), stream, note.encode()))
        self._cut = dict.fromkeys(self._cut)
        return notes

    def forget_job(self, job: bytes) -> None:
        """Forget the streams of a job that is over."""
        if self._cut:
            self._cut = {name: count for name, count in self._cut.items() if name[0] != job}
