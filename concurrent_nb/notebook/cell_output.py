"""Show the output of tasks in the cell as it arrives: cleaned, and prefixed with the task's number.

Used by `job_watch` and `local_job`, on the main thread. A task can print anything; what would move the cursor, clear
the screen, set the window's title, hide text or change its order is removed. Colours, carriage returns and text that is
written from right to left stay.
"""

import math
import re
import sys
from bisect import insort
from collections.abc import Collection, Iterable
from html import escape
from itertools import islice
from typing import Final, TextIO

from IPython.display import display

from concurrent_nb import Job
from concurrent_nb.api import OutputPiece
from concurrent_nb.clock import Clock, monotonic
from concurrent_nb.notebook.output_tail import OutputTail
from concurrent_nb.shipping.runtime.notes import Display

#: a longer line of one task is shown in pieces
LINE_CHARACTERS: Final = 8192
#: maximum length of an escape sequence
SEQUENCE_CHARACTERS: Final = 4096

#: maximum time in seconds that a display of a task waits for earlier tasks
HOLD_S: Final = 5.0

_RESET: Final = "\x1b[0m"
_COLOUR: Final = re.compile(r"\x1b\[[0-9;:]*m")
#: escape sequences of ECMA-48, control characters other than tab, newline and carriage return, and characters that
#: change the order of text (Unicode's embeddings, overrides and isolates; not its marks, which languages need)
_CONTROL: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\)"
    r"|\x1b[ -/]*[0-OQ-WYZ`-~\\]"
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]",
    re.DOTALL,
)
_UNFINISHED: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07]*|[ -/]*)$")


def clean(text: str) -> str:
    """Remove control characters and escape sequences from `text`, except for colours, tabs, newlines and returns.

    >>> clean("\\x1b[31mred\\x1b[0m \\x1b[2Jgone\\x07")
    '\\x1b[31mred\\x1b[0m gone'
    """
    return _CONTROL.sub(lambda found: _without_concealing(found[0]) if _COLOUR.fullmatch(found[0]) else "", text)


def _without_concealing(colour: str) -> str:
    """Remove the parameter of a colour sequence that hides text."""
    if "8" not in colour:
        return colour
    given, kept = iter(colour[2:-1].split(";")), list[str]()
    for parameter in given:
        if parameter.isdecimal() and int(parameter) == 8:
            continue
        kept.append(parameter)
        if parameter in ("38", "48", "58"):  # a colour by number: 5 and one more, or 2 and three more
            kind = next(given, None)
            kept += [] if kind is None else [kind, *islice(given, {"5": 1, "2": 3}.get(kind, 0))]
    return f"\x1b[{';'.join(kept)}m" if kept else ""


def _split_unfinished(text: str) -> tuple[str, str]:
    """Split off an incomplete escape sequence at the end of `text`."""
    found = _UNFINISHED.search(text)
    if found is None or len(found[0]) > SEQUENCE_CHARACTERS:
        return text, ""
    return text[: found.start()], found[0]


def show_label(text: str, shown: Display) -> None:
    """Show the label of the next display; above a display that is not text, in HTML."""
    data = {"text/plain": text}
    if set(shown.data) != {"text/plain"}:
        data["text/html"] = f'<div style="font-size:13px;opacity:.75">{escape(text)}</div>'
    display(data, raw=True)  # type: ignore[no-untyped-call]


def show(shown: Display) -> None:
    """Show what a task has displayed, in the current or the last cell."""
    display(shown.data, metadata=shown.metadata, raw=True)  # type: ignore[no-untyped-call]


class Printer:
    """Shows the output of tasks.

    Args:
        tagged: begin each line with the number of its task.
        out, err: the streams to write to; None: those of this process.

    `tail` has the end of what was shown.
    """

    def __init__(
        self, tagged: bool, out: TextIO | None = None, err: TextIO | None = None, clock: Clock = monotonic
    ) -> None:
        self._tagged = tagged
        self._streams = {1: out or sys.stdout, 2: err or sys.stderr}
        self._rest: dict[tuple[int, int], str] = {}  #: (task, stream) -> text without the end of its line
        self._colour: dict[int, str] = {}  #: stream -> the last colour that was set
        self._held: list[tuple[int, int, float, str, Display]] = []  #: (task, number, since, label, display)
        self._number = 0
        self._first = 0  #: all tasks before this one have ended
        self._clock = clock
        self.tail = OutputTail()

    def take(self, job: Job) -> None:
        """Show the output of the job's tasks since the last call."""
        # In this order, because the output of a task arrives before its end.
        ended = [index for index, _ in self._rest if job.futures[index].done()]
        pieces: list[tuple[int, int, str]] = []
        for piece in job.take_output():
            if isinstance(piece, OutputPiece):
                pieces.append((piece.index, piece.stream, piece.text))
                continue
            label = f" · {job.label(piece.index)}" if job.label is not None else ""
            self._number += 1
            held = (piece.index, self._number, self._clock(), f"task {piece.index}{label}", piece.display)
            insort(self._held, held, key=lambda held: held[:2])
        self.show(pieces)
        self.finish(ended)
        if self._held:
            while self._first < len(job.futures) and job.futures[self._first].done():
                self._first += 1
            self._display(self._first)

    def _display(self, first: float) -> None:
        """Show the displays of tasks, in the order of the tasks.

        Args:
            first: all tasks before this one have ended. Displays of later tasks wait for them, for at most HOLD_S.
        """
        late = self._clock() - HOLD_S
        ready = [held for held in self._held if held[0] <= first or held[2] <= late]
        for held in ready:
            self._held.remove(held)
            index, _, _, label, shown = held
            self.finish([index])
            if self._tagged:
                show_label(label, shown)
            show(shown)
            self.tail.add_display(shown.data, label if self._tagged else None)

    def show(self, pieces: Iterable[tuple[int, int, str]]) -> None:
        """Show pieces of (task, stream, text), in order."""
        stream, ready = 1, ""
        for index, to, text in pieces:
            if to != stream:
                self._write(stream, ready)
                stream, ready = to, ""
            ready += self._ready(index, to, text)
        self._write(stream, ready)

    def finish(self, tasks: Collection[int]) -> None:
        """Show the unfinished lines of tasks that have ended."""
        for index, stream in [key for key in self._rest if key[0] in tasks]:
            text, _ = _split_unfinished(self._rest.pop((index, stream)))
            if text := clean(text):
                self._write(stream, self._tag(index, text) if self._tagged else text)

    def flush(self) -> None:
        """Show all unfinished lines and held displays, and reset colours."""
        self.finish({index for index, _ in self._rest})
        self._display(math.inf)
        for stream, colour in self._colour.items():
            if colour not in (_RESET, "\x1b[m"):
                self._write(stream, _RESET)
        self._colour.clear()

    def _ready(self, index: int, stream: int, text: str) -> str:
        """Return the part of a task's text that can be shown now; keep the rest."""
        text = self._rest.pop((index, stream), "") + text
        if not self._tagged:
            text, rest = _split_unfinished(text)
            text = clean(text)
            for found in _COLOUR.finditer(text):
                self._colour[stream] = found[0]
        else:
            whole, newline, rest = text.rpartition("\n")
            if len(rest) > LINE_CHARACTERS:
                cut, kept = _split_unfinished(rest)
                whole, newline, rest = f"{whole}{newline}{cut}", "\n", kept
            text = "".join(self._tag(index, clean(line)) for line in whole.split("\n")) if newline else ""
        if rest:
            self._rest[index, stream] = rest
        return text

    def _tag(self, index: int, line: str) -> str:
        line = line.removesuffix("\r").replace("\r", f"\r[{index}] ")
        return f"[{index}] {line}{_RESET if _COLOUR.search(line) else ''}\n"

    def _write(self, stream: int, text: str) -> None:
        if text:
            self._streams[stream].write(text)
            self._streams[stream].flush()
            self.tail.add_text("stdout" if stream == 1 else "stderr", text)
