"""What the tasks of an application write while they run: text, notes and measured values. For the client thread."""

import codecs
from collections.abc import Callable
from functools import partial

from concurrent_nb import foreign
from concurrent_nb.errors import ProtocolError
from concurrent_nb.nodes.application.client_tasks import TaskWrote
from concurrent_nb.nodes.application.job import OutputPiece
from concurrent_nb.nodes.application.measured_reports import MeasuredReports
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.nodes.application.task_output import OutputThread
from concurrent_nb.shipping.runtime.notes import Display, NoteReader, SetupRan, TaskStatistics
from concurrent_nb.telemetry.statistic_registry import NAMES_MAX, StatisticRegistry
from concurrent_nb.wire.messages import NOTES

log = foreign.Log(__name__)


class StreamDecoder:
    """Decodes the streams of tasks, and gives each part to the job, the output thread or a callback.

    Args:
        output: writes what no job collects.
    """

    def __init__(self, output: OutputThread) -> None:
        self._output = output
        self.setup_ran: Callable[[SetupRan], None] | None = None  #: called with the result of each setup; never raises
        self.present_display: Callable[[Display], None] | None = None  #: shows displays that no job collects
        self.statistics = StatisticRegistry()  #: what the tasks of this application have measured
        #: called with what a task has measured; never raises
        self.task_measured: Callable[[TaskStatistics], None] | None = None
        self.reports = MeasuredReports()  #: what of that is not reported to the master yet
        self._decoders: dict[tuple[bytes, int, int], codecs.IncrementalDecoder] = {}
        # By task: attempt, and its stream 3; None once that cannot be read.
        self._note_readers: dict[tuple[bytes, int], tuple[int, NoteReader | None]] = {}
        self.is_used = False  #: whether any task has written

    def forget(self, future: TaskHandle) -> None:
        """Forget the state of a task's streams: it has ended."""
        if self._note_readers:
            self._note_readers.pop((future.job_id, future.index), None)
        if self._decoders:
            for stream in (1, 2):
                self._decoders.pop((future.job_id, future.index, stream), None)
        self.is_used = bool(self._note_readers or self._decoders)

    def show(self, wrote: TaskWrote[TaskHandle]) -> None:
        """Show what a task has written."""
        self.is_used = True
        future = wrote.entry.handle
        if wrote.stream == NOTES:
            self._take_notes(future, wrote)
            return
        key = (future.job_id, future.index, wrote.stream)
        decoder = self._decoders.get(key)
        if decoder is None:  # a character may be split between two pieces
            decoder = self._decoders[key] = codecs.getincrementaldecoder("utf-8")("replace")
        for index, text in future.split_output(decoder.decode(wrote.data), wrote.stream, wrote.attempt):
            if future.job is not None and not future.job.prints:
                future.job._task_wrote(OutputPiece(index, wrote.stream, text))
            else:
                self._output.write(wrote.stream, text)

    def _take_notes(self, future: TaskHandle, wrote: TaskWrote[TaskHandle]) -> None:
        key = (future.job_id, future.index)
        attempt, reader = self._note_readers.get(key, (None, None))
        if attempt != wrote.attempt:  # the last attempt may have died in the middle of a note
            reader = NoteReader()
            self._note_readers[key] = (wrote.attempt, reader)
        if reader is None:
            return
        try:
            notes = reader.feed(wrote.data)
        except ProtocolError as error:
            log.warning("task %s: %s: no more of its notes are read", future.task, error)
            self._note_readers[key] = (wrote.attempt, None)
            return
        for note in notes:
            if isinstance(note, SetupRan) and self.setup_ran is not None:
                self.setup_ran(note)
            elif isinstance(note, TaskStatistics):
                self._measured(future, note)
        notes = [note for note in notes if not isinstance(note, SetupRan | TaskStatistics)]
        future.add_notes(notes, wrote.attempt)
        if future.job is not None and not future.job.prints:
            return
        for note in notes:
            if not isinstance(note, Display):
                continue
            if self.present_display is not None:
                self._output.call(partial(self.present_display, note), sum(map(len, map(str, note.data.values()))))
            else:
                self._output.write(1, f"{note.data.get('text/plain', '')!s}\n")

    def _measured(self, future: TaskHandle, note: TaskStatistics) -> None:
        """Merge what a task has measured."""
        before = self.statistics.left_out
        self.statistics.merge(note.values)
        if self.statistics.left_out and not before:
            log.warning(
                "tasks have added to more than %d statistics: values of further names are left out, as of task %s",
                NAMES_MAX,
                future.task,
            )
        of_job = self.reports.of_other(future.job_id) if future.job is None else future.job._statistics
        of_job.merge(note.values)
        self.reports.changed(future.job_id, of_job)
        if self.task_measured is not None:
            self.task_measured(note)
