"""Notes: what a task tells whoever waits for it, while it runs. Its progress, partial results, pictures.

    in a task:      report, publish, display --> sink --> bytes of the task's stream 3
    application:    Reader.feed(bytes) --> Report, Publication, Display; of a task system SystemCounts

In the stream each note is a record: u32 length (little endian), then msgpack. Only the application opens what was
published. Outside of a task nobody listens, and `report` and `publish` do nothing.
"""

import io
import math
import struct
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from concurrent_nb.errors import ProtocolError, TooLarge
from concurrent_nb.shipping.serialization import pickles

#: what the notes of one task may take together; results have no such limit
LIMIT_BYTES: Final = 16 << 20
#: what a note counts for besides its bytes
OVERHEAD_BYTES: Final = 256
#: between two reports of a task that are sent
REPORT_S: Final = 0.05
#: characters of a report's text
TEXT_MAX: Final = 200

_LENGTH: Final = struct.Struct("<I")


class ProgressReport(msgspec.Struct, tag="report", frozen=True):
    """How far a task is."""

    fraction: float | None  #: 0 to 1; None if it does not know
    text: str


class Display(msgspec.Struct, tag="display", frozen=True):
    """A picture, or whatever else a notebook can show."""

    data: dict[str, str]  #: by MIME type; what is bytes (PNG, JPEG) in base64, as in notebooks
    metadata: dict[str, Any] = {}


class PhaseCounts(msgspec.Struct, frozen=True):
    """How far a phase of a task system is, in tasks."""

    number: int  #: from 1; 0 stands for older ones that are told together
    pushed: int
    unfinished: int
    done: int
    failed: int
    cancelled: int


class SystemCounts(msgspec.Struct, tag="system", frozen=True):
    """How far a task system is: what `MasterHandle.stats` tells the system itself."""

    stage: str  #: "preparing", "running" or "gathering"
    pushed: int
    unfinished: int
    waiting: int
    running: int
    done: int
    failed: int
    cancelled: int
    exhausted: bool  #: no more tasks are to be read, so `pushed` is all of them, as far as the system knows
    elapsed_s: float
    phases: list[PhaseCounts]


class Item(msgspec.Struct, tag="item", frozen=True):
    """Whose the next note is: the item's position in its batch."""

    position: int


class ItemEnded(msgspec.Struct, tag="ended", frozen=True):
    """How items of a batch that goes on have ended."""

    position: int  #: of the first of them
    worker: int  #: pid
    body: bytes

    def read(self) -> tuple[list[Any], list[float]]:
        """Give their answers, as `chunks` has them, and the seconds that they took. What is the user's stays packed."""
        answers, seconds = pickles.loads(self.body)
        return answers, seconds


class SetupRan(msgspec.Struct, tag="setup", frozen=True):
    """How a setup of the application has ended in a worker."""

    setup: bytes  #: its id
    worker: str  #: host and pid
    ok: bool
    text: str  #: the traceback; or what stands for a value that cannot travel
    body: bytes  #: pickle of the value, empty if it does not travel
    buffers: list[bytes]
    elapsed_s: float

    @property
    def value(self) -> Any:
        """Unpickle the value. Raises whatever its unpickling raises."""
        return pickles.loads_home(self.body, [bytearray(buffer) for buffer in self.buffers]) if self.body else self.text


class _Published(msgspec.Struct, tag="published", frozen=True):
    body: bytes
    buffers: list[bytes]


class Publication:
    """A partial result. `value` opens it, which runs the value's own code, so not before somebody asks."""

    def __init__(self, body: bytes, buffers: list[bytes]) -> None:
        self._packed = (body, buffers)

    @property
    def value(self) -> Any:
        """Unpickle the value. Raises whatever its unpickling raises."""
        body, buffers = self._packed
        return pickles.loads_home(body, [bytearray(buffer) for buffer in buffers])


Note = ProgressReport | Display | Publication | SystemCounts | Item | ItemEnded | SetupRan

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(
    ProgressReport | Display | SystemCounts | Item | ItemEnded | SetupRan | _Published
).decode


class NoteSink:
    """Where notes go, open while a task runs: one for each process, or for each thread in which tasks run.

    Keeps to the task's limits: reports that come too fast are left out, except for the last.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.item: Callable[[], int] | None = None  #: gives the position of the item that runs, in a batch
        self._clock = clock
        self._send: Callable[[bytes], None] | None = None
        self._spent_bytes = 0
        self._reported_at = -math.inf
        self._held: bytes | None = None  # the last report, if it was too fast

    @property
    def is_open(self) -> bool:
        """Say whether somebody listens."""
        return self._send is not None

    def open(self, send: Callable[[bytes], None]) -> None:
        """A task begins; `send` takes the bytes of its stream."""
        self._send = send
        self._spent_bytes = 0
        self._reported_at = -math.inf
        self._held = None

    def close(self) -> None:
        """The task ends. Sends the report that was held back."""
        held, self._held = self._held, None
        send, self._send = self._send, None
        if held is not None and send is not None:
            send(held)

    def put_report(self, note: ProgressReport) -> None:
        """Send a report, now or never or, if it is the last, at the end."""
        record = self._addressed(note)
        now = self._clock()
        if now - self._reported_at < REPORT_S:
            self._held = record
            return
        self._reported_at = now
        self._held = None
        self._put(record)

    def put_progress(self, note: SystemCounts | ItemEnded | SetupRan) -> None:
        """Send how far a system or a batch is, or how a setup has ended. Not counted: none comes too fast."""
        if self._send is not None:
            self._send(_record(note))

    def put(self, note: Display | _Published) -> None:
        """Send a note. Raises TooLarge if the task's notes take too much."""
        self._put(self._addressed(note))

    def _addressed(self, note: ProgressReport | Display | _Published) -> bytes:
        """Give a note's record, in a batch behind one that says whose it is."""
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


#: this process's
SINK: Final = NoteSink()


class _Own(threading.local):
    sink = SINK  # of a thread that has none of its own; asked for with each task, which a default of getattr would slow


_own: Final = _Own()


def sink() -> NoteSink:
    """Return where the notes of this thread go."""
    return _own.sink


def have_own_sink() -> None:
    """Let the notes of this thread go where no other thread's go: tasks run beside it in this process."""
    _own.sink = NoteSink()


def is_shared() -> bool:
    """Say whether this thread runs tasks while others of its process do."""
    return _own.sink is not _Own.sink


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
    if (own := sink()).is_open:
        own.put_report(ProgressReport(fraction, str(text)[:TEXT_MAX]))


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
    if (own := sink()).is_open:
        body, buffers = pickles.dumps(value)
        own.put(_Published(body, [bytes(buffer) for buffer in buffers]))


def display(*things: Any, raw: bool = False, **_: Any) -> None:
    """Show things in the cell that waits for this task, as IPython's `display` does. In a script they are printed.

    >>> def show():
    ...     concurrent_nb.display({"answer": 42})
    >>> app.submit(show).result()
    {'answer': 42}

    Objects that have representations (`_repr_html_`, `_repr_png_`, `_repr_mimebundle_`, ...) and matplotlib figures are
    shown as such, anything else as text. Outside of a task it calls IPython's `display`, or prints. What is shown
    cannot be updated.

    Args:
        things: what to show.
        raw: whether the things are dictionaries of data by MIME type. Other options of IPython are ignored.

    Raises TooLarge when the task's notes take more than 16 MiB.
    """
    own = sink()
    if not own.is_open:
        _display_here(*things)
        return
    for thing in things:
        if raw and isinstance(thing, Mapping):
            data: dict[str, str] = {}
            _take(dict(thing), None, data, {})
            own.put(Display(data))
        else:
            own.put(Display(*mime_bundle(thing)))


def _display_here(*things: Any) -> None:
    ipython = sys.modules.get("IPython.display")
    if ipython is not None:
        ipython.display(*things)
        return
    for thing in things:
        sys.stdout.write(f"{thing!r}\n")


# ------------------------------------------------------------------------------------------------ how a thing looks

#: methods that IPython knows, by what they give
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
    """Ask a thing how it looks; return data by MIME type, and metadata. It always has text/plain."""
    data: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    if _is_figure(thing):
        data["image/png"] = b64encode(_png_of(thing)).decode()
    elif not isinstance(thing, type):
        _ask(thing, "_repr_mimebundle_", None, data, metadata)
        for mime, name in _REPRESENTATIONS.items():
            if mime not in data:
                _ask(thing, name, mime, data, metadata)
    if "text/plain" not in data:
        try:
            data["text/plain"] = repr(thing)
        except Exception as error:  # noqa: BLE001  (the thing's own code; what it raised is said in its place)
            data["text/plain"] = f"<a {type(thing).__name__} whose repr() raised {type(error).__name__}: {error}>"
    return data, metadata


def _ask(thing: Any, name: str, mime: str | None, data: dict[str, str], metadata: dict[str, Any]) -> None:
    """Add what a representation gives: a value, a pair of value and metadata, or None. One that fails is told of."""
    try:
        method = getattr(thing, name, None)
        given = method() if callable(method) else None
        _take(given, mime, data, metadata)
    except Exception as error:  # noqa: BLE001  (the thing's own code; its other representations are shown)
        sys.stderr.write(f"display: {name} of a {type(thing).__name__} raised {type(error).__name__}: {error}\n")


def _take(given: Any, mime: str | None, data: dict[str, str], metadata: dict[str, Any]) -> None:
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


def _record(note: ProgressReport | Display | SystemCounts | Item | ItemEnded | SetupRan | _Published) -> bytes:
    encoded = _encode(note)
    return _LENGTH.pack(len(encoded)) + encoded


class NoteReader:
    """Put the records of one task's stream together again.

    >>> reader = Reader()
    >>> reader.feed(_record(Report(0.5, "half"))[:7]), reader.feed(_record(Report(0.5, "half"))[7:])
    ([], [Report(fraction=0.5, text='half')])
    """

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[Note]:
        """Take the next bytes; give the notes that they complete. Raises ProtocolError on what is no note."""
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
