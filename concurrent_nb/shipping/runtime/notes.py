"""Notes: what a task sends to its application while it runs. Progress, partial results, pictures.

    in a task:      report, publish, display --> sink --> bytes of the task's stream 3
    application:    NoteReader.feed(bytes) --> ProgressReport, Publication, Display; of a task system SystemCounts

What a task adds to statistics (`concurrent_nb.stats`) is gathered and travels the same way, as TaskStatistics.

In the stream each note is a record: u32 length (little endian), then msgpack. Only the application unpickles what
was published. Outside of a task `report` and `publish` do nothing.
"""

import io
import math
import struct
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Protocol

import msgspec

from concurrent_nb.errors import ProtocolError, TooLarge
from concurrent_nb.shipping.serialization import pickles

#: limit of all notes of one task; results have no such limit
LIMIT_BYTES: Final = 16 << 20
#: what a note counts besides its bytes
OVERHEAD_BYTES: Final = 256
#: least time between two reports of a task that are sent, in seconds
REPORT_S: Final = 0.05
#: characters of a report's text
TEXT_MAX: Final = 200

_NEVER: Final = -math.inf
_LENGTH: Final = struct.Struct("<I")
_Count = Annotated[int, msgspec.Meta(ge=1, le=2**62)]
_Bin = Annotated[int, msgspec.Meta(ge=-100_000, le=100_000)]


class ProgressReport(msgspec.Struct, tag="report", frozen=True):
    """The progress of a task."""

    fraction: float | None  #: 0 to 1; None if it is not known
    text: str


class Display(msgspec.Struct, tag="display", frozen=True):
    """A picture, or anything else that a notebook can show."""

    data: dict[str, str]  #: by MIME type; bytes (PNG, JPEG) in base64, as in notebooks
    metadata: dict[str, Any] = {}


class PhaseCounts(msgspec.Struct, frozen=True):
    """The progress of a phase of a task system, in tasks."""

    number: int  #: from 1; 0 stands for all older phases together
    pushed: int
    unfinished: int
    done: int
    failed: int
    cancelled: int


class SystemCounts(msgspec.Struct, tag="system", frozen=True):
    """The progress of a task system: what `MasterHandle.stats` returns to the system itself."""

    stage: str  #: "preparing", "running" or "gathering"
    pushed: int
    unfinished: int
    waiting: int
    running: int
    done: int
    failed: int
    cancelled: int
    exhausted: bool  #: the system has no more tasks to push at present
    elapsed_s: float
    phases: list[PhaseCounts]


class Item(msgspec.Struct, tag="item", frozen=True):
    """The item of the next note: its position in its batch."""

    position: int


class ItemEnded(msgspec.Struct, tag="ended", frozen=True):
    """Results of items of a running batch."""

    position: int  #: of the first of them
    worker: int  #: pid
    body: bytes

    def read(self) -> tuple[tuple[Any, ...], list[float]]:
        """Return the fields of their `ChunkResults`, and the seconds that each took. Objects of the user stay pickled.

        Raises whatever unpickling raises.
        """
        results, seconds = pickles.loads(self.body)
        return results, seconds


class SetupRan(msgspec.Struct, tag="setup", frozen=True):
    """The result of a setup of the application in a worker."""

    setup: bytes  #: its id
    worker: str  #: host and pid
    ok: bool
    text: str  #: the traceback; or a text in place of a value that cannot travel
    body: bytes  #: pickle of the value, empty if it does not travel
    buffers: list[bytes]
    elapsed_s: float

    @property
    def value(self) -> Any:
        """Unpickle the value. Raises whatever its unpickling raises."""
        return (
            pickles.loads_result(self.body, [bytearray(buffer) for buffer in self.buffers]) if self.body else self.text
        )


class TaskStatistics(msgspec.Struct, tag="statistics", frozen=True):
    """What a task has added to statistics since its last note of this kind."""

    #: by name: count, total, minimum, maximum, and counts by number of the bin; see `telemetry.statistic`
    values: Annotated[
        list[
            tuple[
                Annotated[str, msgspec.Meta(max_length=200)],
                tuple[_Count, float, float, float, Annotated[dict[_Bin, _Count], msgspec.Meta(max_length=4096)]],
            ]
        ],
        msgspec.Meta(max_length=1000),
    ]


class StatisticSource(Protocol):
    """Gathers the statistics of a task."""

    def take_note(self) -> TaskStatistics | None:
        """Return what has been gathered since the last call, None if that is nothing."""


class _Published(msgspec.Struct, tag="published", frozen=True):
    body: bytes
    buffers: list[bytes]


class Publication:
    """A partial result. It is unpickled, which may run code of the value's class, only when `value` is read."""

    def __init__(self, body: bytes, buffers: list[bytes]) -> None:
        self._packed = (body, buffers)

    @property
    def value(self) -> Any:
        """Unpickle the value. Raises whatever its unpickling raises."""
        body, buffers = self._packed
        return pickles.loads_result(body, [bytearray(buffer) for buffer in buffers])


Note = ProgressReport | Display | Publication | SystemCounts | Item | ItemEnded | SetupRan | TaskStatistics

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(
    ProgressReport | Display | SystemCounts | Item | ItemEnded | SetupRan | TaskStatistics | _Published
).decode


#: of a sink, while another task runs on top of its own: its attributes
SuspendedSink = tuple[
    Callable[[], int] | None, StatisticSource | None, Callable[[bytes], None] | None, int, float, bytes | None
]


class NoteSink:
    """Sends the notes of the running task: one for each process, or for each thread in which tasks run.

    Enforces the task's limits. Reports that follow each other too fast are dropped, except for the last.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.item: Callable[[], int] | None = None  #: returns the position of the running item, in a batch
        self.statistics: StatisticSource | None = None  #: of the running task, if it has any
        self._clock = clock
        self._send: Callable[[bytes], None] | None = None
        self._spent_bytes = 0
        self._reported_at = -math.inf
        self._held: bytes | None = None  # the last report, if it was not sent yet

    @property
    def is_open(self) -> bool:
        """Return whether a task runs, whose notes are sent."""
        return self._send is not None

    def open(self, send: Callable[[bytes], None]) -> None:
        """Begin a task; `send` is called with the bytes of its stream."""
        self._send = send
        self._spent_bytes = 0
        self._reported_at = _NEVER
        self._held = self.statistics = None

    def close(self) -> None:
        """End the task. Sends the report that was held, and the statistics that were gathered."""
        if self.statistics is not None:
            self.send_statistics()
            self.statistics = None
        held, send = self._held, self._send
        self._held = self._send = None
        if held is not None and send is not None:
            send(held)

    def suspend(self, send: Callable[[bytes], None]) -> SuspendedSink:
        """Begin a task on top of the one that runs; return what `resume` needs to continue with that one."""
        before = (self.item, self.statistics, self._send, self._spent_bytes, self._reported_at, self._held)
        self.item = None
        self.open(send)
        return before

    def resume(self, before: SuspendedSink) -> None:
        """End a task that runs on top of another one, and continue with that one."""
        self.close()
        self.item, self.statistics, self._send, self._spent_bytes, self._reported_at, self._held = before

    def put_report(self, note: ProgressReport) -> None:
        """Send a report now, or at the end if it is the last, or not at all."""
        record = self._addressed(note)
        now = self._clock()
        if now - self._reported_at < REPORT_S:
            self._held = record
            return
        self._reported_at = now
        self._held = None
        self._put(record)

    def put_progress(self, note: ProgressReport | SystemCounts | ItemEnded | SetupRan | TaskStatistics) -> None:
        """Send the progress of a system or a batch, what a system's tasks have measured, or the result of a setup; or a
        report, at once.

        They are rare, so they are not counted.
        """
        if self._send is not None:
            self._send(_record(note))

    def send_statistics(self) -> None:
        """Send what has been gathered by now. It is merged before it is sent, so it does not count."""
        source, send = self.statistics, self._send
        if source is not None and send is not None and (note := source.take_note()) is not None:
            send(_record(note))

    def put(self, note: Display | _Published) -> None:
        """Send a note. Raises TooLarge if the task's notes exceed the limit."""
        self._put(self._addressed(note))

    def _addressed(self, note: ProgressReport | Display | _Published) -> bytes:
        """Return a note's record; in a batch after one that names the item."""
        record = _record(note)
        return record if self.item is None else _record(Item(self.item())) + record

    def _put(self, record: bytes) -> None:
        spent = self._spent_bytes + len(record) + OVERHEAD_BYTES
        if spent > LIMIT_BYTES:
            raise TooLarge(
                f"what this task has published and displayed takes more than {LIMIT_BYTES >> 20} MiB: publish less, or"
                " return it",
                spent,
                LIMIT_BYTES,
            )
        self._spent_bytes = spent
        if self._send is not None:
            self._send(record)


#: the sink of this process
SINK: Final = NoteSink()


class _ThreadSink(threading.local):
    # Of threads without one of their own. A class attribute, because it is read for each task, and getattr is slower.
    sink = SINK


_thread: Final = _ThreadSink()


def sink() -> NoteSink:
    """Return the sink of this thread."""
    return _thread.sink


def use_thread_sink() -> None:
    """Give this thread a sink of its own, because other threads of this process run tasks, too."""
    _thread.sink = NoteSink()


def shares_process() -> bool:
    """Return whether other threads of this process run tasks, too."""
    return _thread.sink is not _ThreadSink.sink


def report(fraction: float | None = None, text: str = "") -> None:
    """Report the progress of this task. In a notebook, the cell that waits for the task shows it.

    >>> def read(files):
    ...     for number, file in enumerate(files):
    ...         concurrent_nb.report(number / len(files), f"reading {file}")
    >>> job = app.start_job(read, [(["a.csv", "b.csv"],)], watched=True)
    >>> job.wait()
    True
    >>> job.take_notes()[0].content.text
    'reading a.csv'

    It is cheap enough for each turn of a loop: reports that come faster than they can be seen are left out. Outside of
    a task it does nothing.

    Args:
        fraction: part of the task's work that is done, 0 to 1; None if it is not known.
        text: what the task does at present.

    Raises ValueError for a fraction that is not from 0 to 1.
    """
    if fraction is not None:
        given = fraction
        try:
            fraction = float(given)
        except (TypeError, ValueError, OverflowError):
            fraction = math.nan
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"report() takes a fraction from 0 to 1, not {given!r:.100}")
    if (current := sink()).is_open:
        current.put_report(ProgressReport(fraction, str(text)[:TEXT_MAX]))


def publish(value: Any) -> None:
    """Publish a partial result of this task. In a notebook, `--view` shows it as it shows results.

    >>> def approximate(steps):
    ...     value = 1.0
    ...     for step in range(steps):
    ...         value = (value + 2 / value) / 2
    ...         concurrent_nb.publish(round(value, 3))
    ...     return value
    >>> job = app.start_job(approximate, [(3,)], watched=True)
    >>> job.wait()
    True
    >>> [note.content.value for note in job.take_notes()]
    [1.5, 1.417, 1.414]

    Outside of a task it does nothing.

    Args:
        value: anything that can be pickled.

    Raises TooLarge when the task's notes take more than 16 MiB, and what pickling the value raises.
    """
    if (current := sink()).is_open:
        body, buffers = pickles.dumps(value)
        current.put(_Published(body, [bytes(buffer) for buffer in buffers]))


class DisplayedAgain:
    """Stands for IPython's DisplayHandle in a task: what it updates is shown once more."""

    def display(self, thing: Any, **options: Any) -> None:
        """Show a thing."""
        display(thing, raw=options.get("raw", False))

    update = display


def display(*things: Any, raw: bool = False, display_id: str | bool | None = None, **_: Any) -> "DisplayedAgain | None":
    """Show things in the cell that waits for this task, as IPython's `display` does. In a script they are printed.

    >>> def show():
    ...     concurrent_nb.display({"answer": 42})
    >>> app.submit(show).result()
    {'answer': 42}

    Objects that have representations (`_repr_html_`, `_repr_png_`, `_repr_mimebundle_`, ...) and matplotlib figures are
    shown as such, anything else as text. Outside of a task it calls IPython's `display`, or prints. What is shown
    cannot be updated: a new state is shown once more.

    Args:
        things: what to show.
        raw: whether the things are dictionaries of data by MIME type.
        display_id: if given, a handle is returned. Other options of IPython are ignored.

    Raises TooLarge when the task's notes take more than 16 MiB.
    """
    current = sink()
    if not current.is_open:
        _display_locally(*things)
        things = ()
    for thing in things:
        if raw and isinstance(thing, Mapping):
            data: dict[str, str] = {}
            _add_data(dict(thing), None, data, {})
            current.put(Display(data))
        else:
            current.put(Display(*mime_bundle(thing)))
    return DisplayedAgain() if display_id else None


def clear_output(wait: bool = False) -> None:
    """Do nothing, in place of IPython's `clear_output`: what a task has shown stays."""


def _display_locally(*things: Any) -> None:
    ipython = sys.modules.get("IPython.display")
    if ipython is not None:
        ipython.display(*things)
        return
    for thing in things:
        sys.stdout.write(f"{thing!r}\n")


# ------------------------------------------------------------------------------------------------ representations

#: methods that IPython calls, by the MIME type of what they return
_REPRESENTATIONS: Final[Mapping[str, str]] = {
    "text/html": "_repr_html_",
    "text/markdown": "_repr_markdown_",
    "image/svg+xml": "_repr_svg_",
    "image/png": "_repr_png_",
    "image/jpeg": "_repr_jpeg_",
    "text/latex": "_repr_latex_",
    "application/json": "_repr_json_",
}


def mime_bundle(thing: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """Return a thing's data by MIME type, and metadata. There is always text/plain."""
    data: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    if _is_figure(thing):
        data["image/png"] = b64encode(_png_of(thing)).decode()
    elif not isinstance(thing, type):
        _add_representation(thing, "_repr_mimebundle_", None, data, metadata)
        for mime, name in _REPRESENTATIONS.items():
            if mime not in data:
                _add_representation(thing, name, mime, data, metadata)
    if "text/plain" not in data:
        try:
            data["text/plain"] = repr(thing)
        except Exception as error:  # noqa: BLE001  (the thing's own code; the text contains what it raised)
            data["text/plain"] = f"<a {type(thing).__name__} whose repr() raised {type(error).__name__}: {error}>"
    return data, metadata


def _add_representation(
    thing: Any, name: str, mime: str | None, data: dict[str, str], metadata: dict[str, Any]
) -> None:
    """Add what a representation returns: a value, a pair of value and metadata, or None.

    An error is written to stderr.
    """
    try:
        method = getattr(thing, name, None)
        given = method() if callable(method) else None
        _add_data(given, mime, data, metadata)
    except Exception as error:  # noqa: BLE001  (the thing's own code; its other representations are shown)
        sys.stderr.write(f"display: {name} of a {type(thing).__name__} raised {type(error).__name__}: {error}\n")


def _add_data(given: Any, mime: str | None, data: dict[str, str], metadata: dict[str, Any]) -> None:
    if isinstance(given, tuple) and len(given) == 2:
        given, more = given
        metadata.update(more if mime is None else {mime: more})
    if given is None:
        return
    values = given if mime is None else {mime: given}
    for kind, value in values.items():
        if isinstance(value, bytes):
            value = b64encode(value).decode()
        data[str(kind)] = value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _is_figure(thing: Any) -> bool:
    figures = sys.modules.get("matplotlib.figure")
    return figures is not None and isinstance(thing, figures.Figure)


def _png_of(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", bbox_inches="tight")
    return stream.getvalue()


# ------------------------------------------------------------------------------------------------ the stream


def _record(
    note: ProgressReport | Display | SystemCounts | Item | ItemEnded | SetupRan | TaskStatistics | _Published,
) -> bytes:
    encoded = _encode(note)
    return _LENGTH.pack(len(encoded)) + encoded


class NoteReader:
    """Assembles the records of one task's stream.

    >>> reader, record = NoteReader(), _record(ProgressReport(0.5, "half"))
    >>> reader.feed(record[:7]), reader.feed(record[7:])
    ([], [ProgressReport(fraction=0.5, text='half')])
    """

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[Note]:
        """Add the next bytes; return the notes that they complete. Raises ProtocolError for what is not a note."""
        held = self._held
        held += data
        notes: list[Note] = []
        at = 0
        while len(held) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(held, at)
            if length > LIMIT_BYTES:
                raise ProtocolError(f"a note of a task announces {length} bytes")
            if len(held) - at - _LENGTH.size < length:
                break
            at += _LENGTH.size
            try:
                note = _decode(held[at : at + length])
            except (msgspec.MsgspecError, RecursionError) as error:
                raise ProtocolError(f"a note of a task cannot be read: {error}") from error
            notes.append(Publication(note.body, note.buffers) if isinstance(note, _Published) else note)
            at += length
        del held[:at]
        return notes
