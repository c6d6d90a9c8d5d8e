"""Whether a job is shown live, and with which view.

Used by the magics. Imports what is heavy (anywidget, numpy) only when it is about to be used.
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
#: more tasks take a while to be sent
ANNOUNCED_TASKS: Final = 3000


def is_possible(shell: InteractiveShell) -> bool:
    """Say whether there may be a browser, and what it needs."""
    return hasattr(shell, "kernel") and find_spec("anywidget") is not None


def view_of(
    name: str | None,
    size: tuple[int, int] | None,
    calls: Sequence[tuple[Any, ...]],
    names: Sequence[str],
    by_value: bool = False,
) -> View | None:
    """Make the view of that name.

    Args:
        calls: arguments of each task.
        names: what --for calls them.
        by_value: a table is in the order of the values.

    Raises ConfigurationError when something is not installed.
    """
    if name == "image":
        if find_spec("numpy") is None:
            raise ConfigurationError("--view image needs numpy: pip install numpy")
        return ImageView(len(calls), size)
    if name == "search":
        return SearchView(len(calls), lambda index: label(names, calls[index]))
    return TableView(names, calls.__getitem__, by_value) if name == "table" else None


def label(names: Sequence[str], call: Sequence[Any]) -> str:
    """Write the arguments of a task: `n = 3`."""
    return ", ".join(f"{name} = {given_text(value)}" for name, value in zip(names, call, strict=False))


def announce(tasks: int) -> DisplayHandle | None:
    """Say that tasks are being sent, if they are so many that it takes a while."""
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
