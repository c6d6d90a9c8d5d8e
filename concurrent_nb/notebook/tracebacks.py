"""Errors as the cell shows them: the task's own traceback, without our frames, ending in the lines of the cell.

Used by the magics. IPython asks an exception for `_render_traceback_`; that is set on the very exception that the task
raised, so code in the notebook can still catch it by its type.
"""

import functools
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar, cast

from concurrent_nb import TaskFuture
from concurrent_nb.errors import CellError, ConcurrentError, RemoteError, RemoteTraceback, TaskError

_Method = TypeVar("_Method", bound=Callable[..., Any])
#: IPython's name for the code of a file name: ("Cell", "In[3]")
CellNamer = Callable[[str], tuple[str, str] | None]

_FRAME: Final = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+)(?:, in (?P<name>.*))?$')
_OURS: Final = re.compile(
    r"[/\\]concurrent_nb[/\\](?:shipping|workers|nodes|notebook|tasks)[/\\]"
    r"|^<frozen importlib\._bootstrap|^View\.MemoryView$|^<stringsource>$"  # Python's loader and Cython's own code
)
#: code that waits for a task in the user's stead
_WAITING: Final = re.compile(
    r"[/\\]concurrent_nb[/\\]|[/\\]IPython[/\\]|[/\\]concurrent[/\\]futures[/\\]|[/\\]asyncio[/\\]"
)
_CELL: Final = re.compile(r"<cell (In\[\d+\])>")
#: the note that says where a task failed
_PLACE: Final = re.compile(r"(?:the task|task \d+)\b.* failed\b.* \[[0-9a-f]+/\d+\]$")
_DEBUG: Final = "(the debugger cannot go there: run the cell with --local, then %debug)"
#: what tracebacks call compiled cells: file name -> the last cell with that text, as "In[3]"
_compiled: Final[dict[str, str]] = {}


class Rendering:
    """What IPython shows for an exception. A class, so that the exception can still be pickled."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def __call__(self) -> list[str]:
        """Give the lines; this is what IPython calls, with the exception at hand."""
        error = sys.exception()
        if error is not None and getattr(error, "_render_traceback_", None) is self:
            _end_in_the_user_s_frame(error)
        return self.lines


def _end_in_the_user_s_frame(error: BaseException) -> None:
    """Cut our own frames off the end of a traceback, so that %debug and the standard library do not land in them."""
    last = step = error.__traceback__
    while step is not None:
        if not _WAITING.search(step.tb_frame.f_code.co_filename):
            last = step
        step = step.tb_next
    if last is not None:
        last.tb_next = None


def show_as(error: BaseException, lines: list[str]) -> None:
    """Let IPython show `lines` for `error`."""
    try:
        error._render_traceback_ = Rendering(lines)  # type: ignore[attr-defined]
    except AttributeError:
        return  # an exception without a __dict__ is shown as IPython shows any


def show_plainly(error: BaseException) -> None:
    """Let IPython show an error as one paragraph: what is wrong is in the cell, not in our code."""
    if not hasattr(error, "_render_traceback_"):
        show_as(error, [f"{type(error).__name__}: {error}".removesuffix(": ")])


def errors_shown_plainly(method: _Method) -> _Method:
    """Decorate a magic: errors of this package and interrupts are shown without a traceback."""

    @functools.wraps(method)
    def plain(*args: Any) -> Any:
        try:
            return method(*args)
        except (ConcurrentError, KeyboardInterrupt) as error:
            show_plainly(error)
            raise

    return cast(_Method, plain)


def task_error(future: TaskFuture, namer: CellNamer = lambda _: None, *, elsewhere: bool = False) -> BaseException:
    """Give the exception of a failed task, ready to be raised in the cell.

    Args:
        elsewhere: say how the task can be elsewhere: its frames are in another process.
    """
    error = future.exception()
    assert error is not None
    if not isinstance(error, Exception):
        # Raising it here would end the notebook's kernel, or look like the stop button.
        message = f"the task raised {type(error).__name__}: {error}"
        wrapped = RemoteError(message, future.task, future.slave, future.worker, type(error).__name__)
        wrapped.__cause__ = error.__cause__
        error = wrapped
    _present(future, error, namer, [_DEBUG] if elsewhere and not _is_ours(error) else [])
    return error


def present(future: TaskFuture, error: BaseException, namer: CellNamer = lambda _: None) -> None:
    """Let IPython show a task's exception: where it ran, then the task's own lines."""
    if not hasattr(error, "_render_traceback_"):
        _present(future, error, namer, [])


def _present(future: TaskFuture, error: BaseException, namer: CellNamer, more: list[str]) -> None:
    where = place_of(future)
    show_as(error, [where, *_shown(error, namer), *more])
    with suppress(AttributeError):  # as in `show_as`
        # It may have been presented before, when what the job calls its tasks was not known yet.
        error.__notes__ = [*(n for n in getattr(error, "__notes__", ()) if not _PLACE.match(n)), where]


def _is_ours(error: BaseException) -> bool:
    """Say whether the cluster has raised it, not the user's code."""
    return isinstance(error, ConcurrentError) and not isinstance(error, RemoteError)


def syntax_error(error: SyntaxError, namer: CellNamer = lambda _: None) -> CellError:
    """Give the error of a cell that is not Python. It looks like Python's own."""
    failure = CellError(f"{error.msg} (line {error.lineno})")
    show_as(failure, trim("".join(traceback.format_exception_only(error)), namer).rstrip().split("\n"))
    failure.__cause__ = error
    return failure


def place_of(future: TaskFuture) -> str:
    """Say which task it was, counted from 0 as in its job, what it was given, and where it ran.

    `task 1 (k = 'nope') failed on slave east, worker 4711, attempt 1 [26dcfdf6/1]`
    """
    job = future.job
    task = "the task" if job is None or len(job.futures) == 1 else f"task {future.index}"
    label = job.label(future.index) if job is not None and job.label is not None else ""
    where = f" on slave {future.slave}, worker {future.worker}, attempt {future.attempt}" if future.slave else ""
    return f"{task}{f' ({label})' if label else ''} failed{where} [{future.task}]"


def text_of(error: BaseException, namer: CellNamer = lambda _: None) -> str:
    """Give the text of a task's traceback, as the cell would show it."""
    return "\n".join(_shown(error, namer))


def _shown(error: BaseException, namer: CellNamer) -> list[str]:
    cause = error.__cause__
    if isinstance(cause, RemoteTraceback):
        text = cause.text
    elif error.__traceback__ is not None and not isinstance(error, TaskError):
        text = "".join(traceback.format_exception(error))
    else:
        text = ""
    lines = trim(text, namer).rstrip().split("\n") if text else []
    if not lines or (isinstance(error, TaskError) and not isinstance(error, RemoteError)):
        lines.append(f"{type(error).__name__}: {error}")
    return lines


def trim(text: str, namer: CellNamer = lambda _: None) -> str:
    """Take our frames out of a traceback's text, and call cells what the notebook calls them.

    Args:
        namer: gives IPython's name for the code of a file name.
    """
    kept: list[str] = []
    ours = False
    for line in text.split("\n"):
        frame = _FRAME.match(line)
        if frame is not None:
            ours = bool(_OURS.search(frame["file"]))
            line = _frame_line(frame, namer)
        elif not line.startswith("  "):
            ours = False
        if not ours:
            kept.append(line)
    return "\n".join(kept)


def name_compiled(filename: str, cell: str) -> None:
    """Say which cell a compiled file is, as "In[3]"."""
    _compiled[filename] = cell


def _frame_line(frame: re.Match[str], namer: CellNamer) -> str:
    cell = _CELL.fullmatch(frame["file"])
    name = frame["name"]
    if cell is not None:
        named: tuple[str, str] | None = ("Cell", cell[1])
    elif frame["file"] in _compiled:
        named = ("Cell", _compiled[frame["file"]])
        # Cython says the module too, which is the name of the file.
        name = (name or "").partition(".")[2] or "<module>"
    else:
        named = namer(frame["file"])
    if named is None:
        return frame[0]
    function = f", in {name}" if name not in (None, "<cell>", "<module>") else ""
    return f"  {' '.join(named)}, line {frame['line']}{function}"
