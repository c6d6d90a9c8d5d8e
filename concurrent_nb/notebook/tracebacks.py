"""Errors as the cell shows them: the task's traceback, without frames of this package, ending in the lines of the cell.

Used by the magics. IPython calls `_render_traceback_` of an exception; it is set on the exception that the task raised,
so code in the notebook can still catch that by its type.
"""

import functools
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, TypeVar, cast

from concurrent_nb import TaskFuture
from concurrent_nb.errors import CellError, ConcurrentError, RemoteError, RemoteTraceback, SetupFailed, TaskError

_Method = TypeVar("_Method", bound=Callable[..., Any])
#: IPython's name for the code of a file name: ("Cell", "In[3]")
CellNamer = Callable[[str], tuple[str, str] | None]

_FRAME: Final = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+)(?:, in (?P<name>.*))?$')
#: the beginning of the traceback of an exception group, and what is before each of its lines
_GROUP: Final = re.compile(r" *\+ Exception Group Traceback")
_MARGIN: Final = re.compile(r" *(?:[|+] |\+-)")
_OURS: Final = re.compile(
    r"[/\\]concurrent_nb[/\\](?:shipping|workers|nodes|notebook|tasks)[/\\]"
    r"|^<frozen importlib\._bootstrap|^View\.MemoryView$|^<stringsource>$"  # Python's loader and Cython's own code
)
#: code between the user's and the wait for a task
_WAITING: Final = re.compile(
    r"[/\\]concurrent_nb[/\\]|[/\\]IPython[/\\]|[/\\]concurrent[/\\]futures[/\\]|[/\\]asyncio[/\\]"
)
_CELL: Final = re.compile(r"<cell (In\[\d+\])>")
#: the note about where a task failed
_PLACE: Final = re.compile(r"(?:the task|task \d+)\b.* failed\b.* \[[0-9a-f]+/\d+\]$")
_DEBUG: Final = "(the debugger cannot enter the worker: run the cell with --local, then %debug)"
#: names of compiled cells in tracebacks: file name -> the latest cell with that text, as "In[3]"
_compiled: Final[dict[str, str]] = {}


#: IPython shows these in its own way, without a call of `_render_traceback_`
_SHOWN_BY_IPYTHON: Final = (SyntaxError, BaseExceptionGroup)


class Rendering:
    """The lines that IPython shows for an exception. A class, so that the exception can still be pickled."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def __call__(self) -> list[str]:
        """Return the lines. IPython calls this while it handles the exception."""
        error = sys.exception()
        if error is not None and getattr(error, "_render_traceback_", None) is self:
            _end_in_the_user_s_frame(error)
        return self.lines


def _end_in_the_user_s_frame(error: BaseException) -> None:
    """Remove frames of this package from the end of a traceback, so that %debug starts in the user's frame."""
    last = step = error.__traceback__
    while step is not None:
        if not _WAITING.search(step.tb_frame.f_code.co_filename):
            last = step
        step = step.tb_next
    if last is not None:
        last.tb_next = None


def show_as(error: BaseException, lines: list[str]) -> None:
    """Make IPython show `lines` for `error`."""
    try:
        object.__setattr__(error, "_render_traceback_", Rendering(lines))  # its class may allow no changes
    except AttributeError:
        return  # an exception without a __dict__ is shown with its normal traceback


def show_all_in(shell: Any) -> None:
    """Have an IPython shell show all errors of tasks as they are prepared here, unless it has a handler of others."""
    if not shell.custom_exceptions:
        shell.set_custom_exc(_SHOWN_BY_IPYTHON, _show)


def leave(shell: Any) -> None:
    """Undo `show_all_in`."""
    if shell.custom_exceptions == _SHOWN_BY_IPYTHON:
        shell.set_custom_exc((), None)


def _show(shell: Any, kind: type, error: BaseException, frames: TracebackType, tb_offset: int | None = None) -> None:
    rendering = getattr(error, "_render_traceback_", None)
    if not isinstance(rendering, Rendering):
        shell.showtraceback((kind, error, frames), tb_offset=tb_offset, running_compiled_code=True)
        return
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, frames  # for %debug, as IPython does
    shell._showtraceback(kind, error, rendering())


def show_plainly(error: BaseException) -> None:
    """Make IPython show an error without a traceback: the cause is in the cell, not in our code."""
    if not hasattr(error, "_render_traceback_"):
        show_as(error, trim(f"{type(error).__name__}: {error}".removesuffix(": ")).split("\n"))


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
    """Return the exception of a failed task, prepared to be raised in the cell.

    Args:
        elsewhere: the task ran in another process, so explain how it can be debugged.
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
    """Make IPython show where a task ran, and the task's own traceback."""
    if not hasattr(error, "_render_traceback_"):
        _present(future, error, namer, [])


def _present(future: TaskFuture, error: BaseException, namer: CellNamer, more: list[str]) -> None:
    where = place_of(future)
    show_as(error, [where, *_shown(error, namer), *more])
    with suppress(AttributeError):  # as in `show_as`
        # It may have been presented before, when the labels of the job's tasks were not known yet.
        notes = [*(n for n in getattr(error, "__notes__", ()) if not _PLACE.match(n)), where]
        object.__setattr__(error, "__notes__", notes)


def _is_ours(error: BaseException) -> bool:
    """Return whether the cluster raised the error, not the user's code."""
    return isinstance(error, ConcurrentError) and not isinstance(error, RemoteError)


def syntax_error(error: SyntaxError, namer: CellNamer = lambda _: None) -> CellError:
    """Return the error of a cell with invalid syntax. It looks like Python's own."""
    failure = CellError(f"{error.msg} (line {error.lineno})")
    show_as(failure, trim("".join(traceback.format_exception_only(error)), namer).rstrip().split("\n"))
    failure.__cause__ = error
    return failure


def place_of(future: TaskFuture) -> str:
    """Return which task failed (counted from 0), with which arguments, and where.

    `task 1 (k = 'nope') failed on slave east, worker 4711, attempt 1 [26dcfdf6/1]`
    """
    job = future.job
    task = "the task" if job is None or len(job.futures) == 1 else f"task {future.index}"
    label = job.label(future.index) if job is not None and job.label is not None else ""
    where = f" on slave {future.slave}, worker {future.worker}, attempt {future.attempt}" if future.slave else ""
    return f"{task}{f' ({label})' if label else ''} failed{where} [{future.task}]"


def text_of(error: BaseException, namer: CellNamer = lambda _: None) -> str:
    """Return the text of a task's traceback, as the cell would show it."""
    return "\n".join(_shown(error, namer))


def _shown(error: BaseException, namer: CellNamer) -> list[str]:
    cause = error.__cause__
    if isinstance(error, SetupFailed):  # its message has the traceback of the setup; where it was raised is our code
        return trim(f"SetupFailed: {error}", namer).rstrip().split("\n")
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
    """Remove frames of this package from a traceback's text, and replace file names of cells by the notebook's names.

    Args:
        namer: returns IPython's name for the code of a file name.
    """
    kept: list[str] = []
    ours = is_group = False
    for line in text.split("\n"):
        is_group = is_group or _GROUP.match(line) is not None
        margin = found[0] if is_group and (found := _MARGIN.match(line)) else ""
        line = line.removeprefix(margin)
        frame = _FRAME.match(line)
        if frame is not None:
            ours = bool(_OURS.search(frame["file"]))
            line = _frame_line(frame, namer)
        elif not line.startswith("  "):
            ours = False
        if not ours:
            kept.append(margin + line)
    return "\n".join(kept)


def name_compiled(filename: str, cell: str) -> None:
    """Register the name of the cell, as "In[3]", of which a compiled file was made."""
    _compiled[filename] = cell


def _frame_line(frame: re.Match[str], namer: CellNamer) -> str:
    cell = _CELL.fullmatch(frame["file"])
    name = frame["name"]
    if cell is not None:
        named: tuple[str, str] | None = ("Cell", cell[1])
    elif frame["file"] in _compiled:
        named = ("Cell", _compiled[frame["file"]])
        # Cython adds the module, which has the name of the file.
        name = (name or "").partition(".")[2] or "<module>"
    else:
        named = namer(frame["file"])
    if named is None:
        return frame[0]
    function = f", in {name}" if name not in (None, "<cell>", "<module>") else ""
    return f"  {' '.join(named)}, line {frame['line']}{function}"
