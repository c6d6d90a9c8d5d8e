"""Choose how a job is shown: live or not, and with which view.

Used by `cell_runner` and `job_views`. Imports anywidget and numpy only when they are needed.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, cast

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import DisplayHandle, display

from concurrent_nb import Job, TaskFuture
from concurrent_nb.clock import monotonic
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.notebook.cell_output import Printer
from concurrent_nb.notebook.live.job_view_model import JobViewModel
from concurrent_nb.notebook.live.views import ImageView, SearchView, TableView, View, given_text
from concurrent_nb.notebook.progress_display import job_text
from concurrent_nb.notebook.results import summary
from concurrent_nb.notebook.tracebacks import text_of

if TYPE_CHECKING:
    from concurrent_nb.notebook.live.live_display import LiveDisplay

#: values of --view
VIEWS: Final = ("image", "search", "table")
#: jobs with more tasks are announced, because sending them takes a while
ANNOUNCED_TASKS: Final = 3000


def is_possible(shell: InteractiveShell) -> bool:
    """Return whether live displays are possible: in a kernel, with anywidget installed."""
    return hasattr(shell, "kernel") and find_spec("anywidget") is not None


def view_of(
    name: str | None,
    size: tuple[int, int] | None,
    calls: Sequence[tuple[Any, ...]],
    names: Sequence[str],
    by_value: bool = False,
) -> View | None:
    """Return the view of a name.

    Args:
        calls: arguments of each task.
        names: the names of the arguments, from --for.
        by_value: a table is ordered by the values.

    Raises ConfigurationError if numpy is needed and not installed.
    """
    if name == "image":
        if find_spec("numpy") is None:
            raise ConfigurationError("--view image needs numpy: pip install numpy")
        return ImageView(len(calls), size)
    if name == "search":
        return SearchView(len(calls), lambda index: label(names, calls[index]))
    return TableView(names, calls.__getitem__, by_value) if name == "table" else None


def label(names: Sequence[str], call: Sequence[Any]) -> str:
    """Return the arguments of a task as text: `n = 3`."""
    return ", ".join(f"{name} = {given_text(value)}" for name, value in zip(names, call, strict=False))


def announce(tasks: int) -> DisplayHandle | None:
    """Display that tasks are being sent, if they are many."""
    if tasks < ANNOUNCED_TASKS:
        return None
    text = {"text/plain": f"sending {tasks:,} tasks"}
    return cast(DisplayHandle, display(text, raw=True, display_id=True))  # type: ignore[no-untyped-call]


def live_display(
    job: Job, shell: InteractiveShell, view: View | None, started: float, handle: DisplayHandle | None = None
) -> "LiveDisplay":
    """Make the display of a watched job for which the cell waits.

    Args:
        handle: a display that it replaces.
    """
    from concurrent_nb.notebook.live.live_display import LiveDisplay  # here: anywidget takes a tenth of a second

    return LiveDisplay(job, _view_model(job, shell, view, started), started, shell, handle)


def background_display(
    job: Job,
    shell: InteractiveShell,
    view: View | None,
    started: float,
    printer: Printer,
    handle: DisplayHandle | None = None,
) -> "LiveDisplay":
    """Show a watched job for which no cell waits, and what its tasks print and display."""
    live = live_display(job, shell, view, started, handle)
    live.follow(job_text(job, 0.0), lambda: summary(job, monotonic() - started), printer)
    return live


def display_on_request(job: Job[Any], shell: InteractiveShell) -> "LiveDisplay":
    """Make a display of any job, to be shown when the user asks for it."""
    return live_display(job, shell, None, monotonic() - job.elapsed_s)


def _view_model(job: Job, shell: InteractiveShell, view: View | None, started: float) -> JobViewModel:
    def traceback(future: TaskFuture) -> str:
        error = future.exception()
        return text_of(error, shell.compile.format_code_name) if error is not None else ""

    return JobViewModel(job, started, view, traceback)
