"""Run the cells of a Jupyter notebook, and any Python function, on a cluster.

    %load_ext concurrent_nb             # %%concurrent_task on a cell runs it on a cluster

    with concurrent_nb.Cluster(workers=2) as cluster:
        cluster.application().submit(pow, 2, 10).result()

Importing this package costs next to nothing; what it offers is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from concurrent_nb import start_snapshot as _snapshot  # noqa: F401  (what changes from now on, tasks follow)

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from concurrent_nb.api import ApplicationNode as ApplicationNode
    from concurrent_nb.api import Cluster as Cluster
    from concurrent_nb.api import Job as Job
    from concurrent_nb.api import SystemRun as SystemRun
    from concurrent_nb.api import TaskFuture as TaskFuture
    from concurrent_nb.api import as_completed as as_completed
    from concurrent_nb.api import connect as connect
    from concurrent_nb.api import follow as follow
    from concurrent_nb.api import follow_modules as follow_modules
    from concurrent_nb.api import show_progress as show_progress
    from concurrent_nb.outcome import Hit as Hit
    from concurrent_nb.shipping.runtime.notes import display as display
    from concurrent_nb.shipping.runtime.notes import publish as publish
    from concurrent_nb.shipping.runtime.notes import report as report
    from concurrent_nb.shipping.runtime.tiles import Tile as Tile
    from concurrent_nb.shipping.serialization.random_streams import rng as rng
    from concurrent_nb.task_functions import TaskFunction as TaskFunction
    from concurrent_nb.task_functions import task as task
    from concurrent_nb.tasks.system import ITaskSystem as ITaskSystem
    from concurrent_nb.tasks.system import Task as Task
    from concurrent_nb.wire.messages import Needs as Needs

__version__ = "0.2.0"

_WHERE = {
    "ApplicationNode": "concurrent_nb.api",
    "Cluster": "concurrent_nb.api",
    "Job": "concurrent_nb.api",
    "SystemRun": "concurrent_nb.api",
    "TaskFuture": "concurrent_nb.api",
    "as_completed": "concurrent_nb.api",
    "connect": "concurrent_nb.api",
    "follow": "concurrent_nb.api",
    "follow_modules": "concurrent_nb.api",
    "Hit": "concurrent_nb.outcome",
    "display": "concurrent_nb.shipping.runtime.notes",
    "publish": "concurrent_nb.shipping.runtime.notes",
    "report": "concurrent_nb.shipping.runtime.notes",
    "rng": "concurrent_nb.shipping.serialization.random_streams",
    "show_progress": "concurrent_nb.api",
    "Tile": "concurrent_nb.shipping.runtime.tiles",
    "ITaskSystem": "concurrent_nb.tasks.system",
    "Task": "concurrent_nb.tasks.system",
    "TaskFunction": "concurrent_nb.task_functions",
    "task": "concurrent_nb.task_functions",
    "Needs": "concurrent_nb.wire.messages",
}
__all__ = [
    "ApplicationNode",
    "Cluster",
    "Hit",
    "ITaskSystem",
    "Job",
    "Needs",
    "SystemRun",
    "Task",
    "TaskFunction",
    "TaskFuture",
    "Tile",
    "as_completed",
    "connect",
    "display",
    "follow",
    "follow_modules",
    "publish",
    "report",
    "rng",
    "show_progress",
    "task",
]


#: functions of this module that IPython calls
_HOOKS = ("load_ipython_extension", "unload_ipython_extension")


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for."""
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'concurrent_nb' has no attribute {name!r}")
    value = getattr(import_module(where), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    # What is loaded with the package, modules among it, is for who looks into a module.
    return sorted([*__all__, *(name for name in globals() if name.startswith("__")), *_HOOKS])


def load_ipython_extension(ipython: "InteractiveShell") -> None:
    """Make the magics known: `%load_ext concurrent_nb`."""
    import_module("concurrent_nb.notebook.extension").load(ipython)


def unload_ipython_extension(ipython: "InteractiveShell") -> None:
    """Take the magics away and stop the cluster that they started: `%unload_ext concurrent_nb`."""
    import_module("concurrent_nb.notebook.extension").unload(ipython)
