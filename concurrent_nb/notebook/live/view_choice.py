"""Whether a job is shown live, and with which view.

Used by the magics. Imports what is heavy (anywidget, numpy) only when it is about to be used.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Final, Protocol, cast, runtime_checkable

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import DisplayHandle, display

from concurrent_nb import Job, TaskFuture
from concurrent_nb.clock import monotonic
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.notebook.cell_output import Printer
from concurrent_nb.notebook.live.job_view_model import JobViewModel
from concurrent_nb.notebook.live.views import ImageView, SearchView, TableView, View, given_text
from concurrent_nb.notebook.local_job import LocalJob
from concurrent_nb.notebook.local_system import LocalSystemRun
from concurrent_nb.notebook.progress_display import ProgressDisplay, job_text
from concurrent_nb.notebook.results import summary
from concurrent_nb.notebook.tracebacks import text_of

#: values of --view
VIEWS: Final = ("image", "search", "table")
#: more tasks take a while to be sent
ANNOUNCED_TASKS: Final = 3000


@runtime_checkable
class ReplaceableDisplay(Protocol):
    """A live line, which can leave its place to another."""

    def hand_over(self) -> DisplayHandle | None:
        """End, and give the display."""


@runtime_checkable
class ShownView(Protocol):
    """A view that can be shown once more."""

    @property
    def is_over(self) -> bool:
        """Say whether it changes no more."""

    def current_page(self) -> str | None:
        """Give it as HTML, which is kept up to date where it is displayed."""

    def also_in(self, handle: DisplayHandle) -> None:
        """Keep another display up to date."""

    def open_here(self, parent: Any) -> None:
        """Show it in the cell that the message `parent` has asked for."""


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
) -> ProgressDisplay:
    """Make the line that shows a watched job while the cell waits for it.

    Args:
        place: what was announced, in whose place it is shown.
    """
    from concurrent_nb.notebook.live.live_display import LiveDisplay  # here: anywidget takes a tenth of a second

    live = LiveDisplay(job, _model(job, shell, view, started), started, shell, handle)
    if isinstance(job, (LocalJob, LocalSystemRun)):  # the main thread will be busy with the tasks themselves
        live.show(job_text(job, 0.0))
    return live


def background_display(
    job: Job,
    shell: InteractiveShell,
    view: View | None,
    started: float,
    printer: Printer,
    handle: DisplayHandle | None = None,
) -> ShownView:
    """Show a watched job that nobody waits for, and what its tasks write and display."""
    from concurrent_nb.notebook.live.live_display import LiveDisplay  # the same

    live = LiveDisplay(job, _model(job, shell, view, started), started, shell, handle)
    live.follow(job_text(job, 0.0), lambda: summary(job, monotonic() - started), printer)
    return live


def display_on_request(job: Job[Any], shell: InteractiveShell) -> ShownView:
    """Make a view of any job, which is shown when it is asked for."""
    from concurrent_nb.notebook.live.live_display import LiveDisplay  # the same

    started = monotonic() - job.elapsed_s
    return LiveDisplay(job, _model(job, shell, None, started), started, shell)


def _model(job: Job, shell: InteractiveShell, view: View | None, started: float) -> JobViewModel:
    def traceback(future: TaskFuture) -> str:
        error = future.exception()
        return text_of(error, shell.compile.format_code_name) if error is not None else ""

    return JobViewModel(job, started, view, traceback)
