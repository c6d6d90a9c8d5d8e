"""Errors as the cell shows them: the task's own traceback, without our frames, ending in the lines of the cell.

Used by the magics. IPython asks an exception for `_render_traceback_`; that is set on the very exception that the task
raised, so code in the notebook can still catch it by its type.
"""

import re
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from concurrent_nb import TaskFuture
from concurrent_nb.errors import CellError, RemoteError, RemoteTraceback, TaskError

#: IPython's name for the code of a file name: ("Cell", "In[3]")
CellNamer = Callable[[str], tuple[str, str] | None]

_FRAME: Final = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+)(?:, in (?P<name>.*))?$')
_OURS: Final = re.compile(
    r"[/\\]concurrent_nb[/\\](?:shipping|workers|nodes|notebook|tasks)[/\\]"
    r"|^<frozen importlib\._bootstrap|^View\.MemoryView$|^<stringsource>$"  # Python's loader and Cython's own code
)
_CELL: Final = re.compile(r"<cell (In\[\d+\])>")
#: what tracebacks call compiled cells: file name -> the last cell with that text, as "In[3]"
_compiled: Final[dict[str, str]] = {}


class Rendering:
    """What IPython shows for an exception. A class, so that the exception can still be pickled."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def __call__(self) -> list[str]:
        """Give the lines; this is what IPython calls."""
        return self.lines


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


def task_error(future: TaskFuture, total: int, namer: CellNamer = lambda _: None) -> BaseException:
    """Give the exception of a failed task, ready to be raised in the cell."""
    error = future.exception()
    assert error is not None
    if not isinstance(error, Exception):
        # Raising it here would end the notebook's kernel, or look like the stop button.
        message = f"the task raised {type(error).__name__}: {error}"
        wrapped = RemoteError(message, future.task, future.slave, future.worker, type(error).__name__)
        wrapped.__cause__ = error.__cause__
        error = wrapped
    present(future, error, total, namer)
    return error


def present(future: TaskFuture, error: BaseException, total: int, namer: CellNamer = lambda _: None) -> None:
    """Let IPython show a task's exception: where it ran, then the task's own lines."""
    if not hasattr(error, "_render_traceback_"):
        where = place_of(future, total)
        show_as(error, [where, *_shown(error, namer)])
        with suppress(AttributeError):  # the same
            error.add_note(where)


def syntax_error(error: SyntaxError, namer: CellNamer = lambda _: None) -> CellError:
    """Give the error of a cell that is not Python. It looks like Python's own."""
    failure = CellError(f"{error.msg} (line {error.lineno})")
    show_as(failure, trim("".join(traceback.format_exception_only(error)), namer).rstrip().split("\n"))
    failure.__cause__ = error
    return failure


def place_of(future: TaskFuture, total: int) -> str:
    """Say which task it was and where it ran."""
    task = f"task {future.index} of {total}" if total > 1 else "the task"
    if not future.slave:
        return f"{task} ({future.task}) failed"
    return f"{task} ({future.task}) failed on slave {future.slave}, worker {future.worker}, attempt {future.attempt}"


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
