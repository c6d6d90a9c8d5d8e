"""`%load_ext concurrent_nb`: register the magics in a shell, and remove them again."""

import contextlib
import os
import sys
from importlib import import_module
from typing import Any, Final

from IPython.core.interactiveshell import InteractiveShell

from concurrent_nb import Job
from concurrent_nb.nodes.application import progress_bar
from concurrent_nb.nodes.application.job_origin import ORIGIN
from concurrent_nb.notebook import joblib_registration, tracebacks
from concurrent_nb.notebook.completion import complete_magics, leave_magics
from concurrent_nb.notebook.cython_magics import CythonMagics
from concurrent_nb.notebook.live import view_choice
from concurrent_nb.notebook.magics import ConcurrentMagics
from concurrent_nb.notebook.setup_magics import SetupMagics
from concurrent_nb.shipping.environment.tracker import TRACKER
from concurrent_nb.task_functions import use

#: the environment variable in which Jupyter's server passes the notebook's path to its kernel
NOTEBOOK_VARIABLE: Final = "JPY_SESSION_NAME"
#: kinds and names of our magics in the shell
_MAGICS: Final = (
    ("line", "concurrent"),
    ("cell", "concurrent_task"),
    ("cell", "cython_task"),
    ("cell", "concurrent_setup"),
)


def _cell_begins(*info: object) -> None:
    """Detect what %autoreload has changed at the beginning of a cell, and note which cell it is."""
    TRACKER.cell_begins()
    cell = getattr(info[0], "cell_id", None) if info else None
    source = str(getattr(info[0], "raw_cell", None) or "") if info else ""
    line = next((line.strip() for line in source.splitlines() if line.strip()), "")
    ORIGIN.move_to(os.environ.get(NOTEBOOK_VARIABLE, ""), str(cell or ""), line)


#: the last reason why no task can be sent that was printed, in a list so that it can be replaced
_printed: Final = [""]


def _cell_ended(*result: object) -> None:
    """Record what the cell has imported; print once why no task can be sent, if that is new."""
    if (reason := TRACKER.note()) and _printed != [reason]:
        print(f"concurrent_nb: {reason}", file=sys.stderr)
    _printed[:] = [reason]
    ORIGIN.move_to("", "")


_LISTENERS: Final = (("pre_run_cell", _cell_begins), ("post_run_cell", _cell_ended))


def load(ipython: InteractiveShell) -> None:
    """Register `%concurrent`, `%%concurrent_task` and the others. Starts a cluster only if configured to."""
    if view_choice.is_possible(ipython):
        # This import takes a tenth of a second, which would delay the first output of the first cell.
        import_module("concurrent_nb.notebook.live.live_display")
        progress_bar.SHOWN.make = import_module("concurrent_nb.notebook.live.map_bar").notebook_bar
    magics = ConcurrentMagics(ipython)
    ipython.register_magics(magics)
    ipython.register_magics(CythonMagics(ipython))
    ipython.register_magics(SetupMagics(ipython, magics))
    found = ipython.magics_manager.magics
    ours = {("%" if kind == "line" else "%%") + name: found[kind][name] for kind, name in _MAGICS}
    complete_magics(ipython, ours, magics.cluster)

    def started(job: Job[Any]) -> None:
        magics.cluster.jobs.append(job)
        if magics.live and view_choice.is_possible(ipython):
            magics.views.job_started(job)

    use(magics.cluster.application_for_functions, started, watched=view_choice.is_possible(ipython))
    joblib_registration.register()
    if (formatter := ipython.display_formatter) is not None:
        formatter.mimebundle_formatter.for_type(Job, lambda job, **_: magics.views.bundle(job))
    for event, listener in _LISTENERS:
        ipython.events.register(event, listener)
    magics.register_listeners(ipython)
    tracebacks.show_all_in(ipython)
    TRACKER.note()
    if magics.start_at_once:
        magics.cluster.start_in_background()


def unload(ipython: InteractiveShell) -> None:
    """Remove the magics, and stop the cluster that they started."""
    leave_magics(ipython)
    tracebacks.leave(ipython)
    for event, listener in _LISTENERS:
        with contextlib.suppress(ValueError):  # it was not loaded
            ipython.events.unregister(event, listener)
    for kind, name in _MAGICS:
        ipython.magics_manager.magics[kind].pop(name, None)
    ipython.magics_manager.registry.pop(CythonMagics.__name__, None)
    ipython.magics_manager.registry.pop(SetupMagics.__name__, None)
    magics = ipython.magics_manager.registry.pop(ConcurrentMagics.__name__, None)
    progress_bar.SHOWN.make = progress_bar.terminal_bar
    joblib_registration.unregister()
    if magics is not None:
        use(None)
        magics.unregister_listeners(ipython)
        if (formatter := ipython.display_formatter) is not None:
            formatter.mimebundle_formatter.pop(Job, None)
        if magics.cluster.has_cluster:
            print(magics.cluster.stop())
