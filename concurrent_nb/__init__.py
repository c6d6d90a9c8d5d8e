"""Run the cells of a Jupyter notebook, and any Python function, on a cluster.

In a notebook, `%load_ext concurrent_nb` adds magics; `%%concurrent_task` in the first line of a cell runs it on a
cluster, and `%%concurrent_task?` describes its options. In Python:

    with concurrent_nb.Cluster(workers=2) as cluster:       # on this machine; or connect("name")
        app = cluster.application()                         # a concurrent.futures.Executor
        app.submit(pow, 2, 10).result()                     # 1024
        list(app.map(abs, [-1, -2, -3]))                    # [1, 2, 3]

or, without starting a cluster:

    @concurrent_nb.task
    def square(x):
        return x * x

    square.map(range(100)).results()

Clusters:        Cluster, connect, application
Running tasks:   ApplicationNode, TaskFunction, task; options of tasks: Needs
Results:         TaskFuture, Job, SystemRun, as_completed, gather, show_progress
In a task:       report, publish, display, rng, stats; return values with a meaning: Hit, Tile
Work as objects: Task, ITaskSystem
Worlds of steps: World, StepContext; shared data: shared_array, shared_value
Environment:     follow, unfollow, follow_modules

`help(concurrent_nb.ApplicationNode)` and the help of the others have examples. A name is loaded when it is first used,
so importing this package takes a few milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from concurrent_nb import start_snapshot as _snapshot  # noqa: F401  (tasks follow what changes from now on)

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from concurrent_nb.api import ApplicationNode as ApplicationNode
    from concurrent_nb.api import Job as Job
    from concurrent_nb.api import SystemRun as SystemRun
    from concurrent_nb.api import TaskFuture as TaskFuture
    from concurrent_nb.api import as_completed as as_completed
    from concurrent_nb.api import connect as connect
    from concurrent_nb.api import follow as follow
    from concurrent_nb.api import follow_modules as follow_modules
    from concurrent_nb.api import gather as gather
    from concurrent_nb.api import show_progress as show_progress
    from concurrent_nb.api import unfollow as unfollow
    from concurrent_nb.nodes.cluster import Cluster as Cluster
    from concurrent_nb.outcome import Hit as Hit
    from concurrent_nb.shipping.runtime.notes import display as display
    from concurrent_nb.shipping.runtime.notes import publish as publish
    from concurrent_nb.shipping.runtime.notes import report as report
    from concurrent_nb.shipping.runtime.tiles import Tile as Tile
    from concurrent_nb.shipping.serialization.random_streams import rng as rng
    from concurrent_nb.task_functions import TaskFunction as TaskFunction
    from concurrent_nb.task_functions import application as application
    from concurrent_nb.task_functions import task as task
    from concurrent_nb.task_statistics import stats as stats
    from concurrent_nb.tasks.system import ITaskSystem as ITaskSystem
    from concurrent_nb.tasks.system import Task as Task
    from concurrent_nb.wire.messages import Needs as Needs
    from concurrent_nb.worlds.context import StepContext as StepContext
    from concurrent_nb.worlds.shared_values import shared_array as shared_array
    from concurrent_nb.worlds.shared_values import shared_value as shared_value
    from concurrent_nb.worlds.world import World as World

__version__ = "0.2.0"

#: the public names, and the modules that they are loaded from; for type checkers the imports above list them, too
_PUBLIC = {
    "ApplicationNode": "concurrent_nb.api",
    "Cluster": "concurrent_nb.nodes.cluster",
    "Hit": "concurrent_nb.outcome",
    "ITaskSystem": "concurrent_nb.tasks.system",
    "Job": "concurrent_nb.api",
    "Needs": "concurrent_nb.wire.messages",
    "StepContext": "concurrent_nb.worlds.context",
    "SystemRun": "concurrent_nb.api",
    "Task": "concurrent_nb.tasks.system",
    "TaskFunction": "concurrent_nb.task_functions",
    "TaskFuture": "concurrent_nb.api",
    "Tile": "concurrent_nb.shipping.runtime.tiles",
    "World": "concurrent_nb.worlds.world",
    "application": "concurrent_nb.task_functions",
    "as_completed": "concurrent_nb.api",
    "connect": "concurrent_nb.api",
    "display": "concurrent_nb.shipping.runtime.notes",
    "follow": "concurrent_nb.api",
    "follow_modules": "concurrent_nb.api",
    "gather": "concurrent_nb.api",
    "publish": "concurrent_nb.shipping.runtime.notes",
    "report": "concurrent_nb.shipping.runtime.notes",
    "rng": "concurrent_nb.shipping.serialization.random_streams",
    "shared_array": "concurrent_nb.worlds.shared_values",
    "shared_value": "concurrent_nb.worlds.shared_values",
    "show_progress": "concurrent_nb.api",
    "stats": "concurrent_nb.task_statistics",
    "task": "concurrent_nb.task_functions",
    "unfollow": "concurrent_nb.api",
}
__all__ = list(_PUBLIC)

#: functions of this module that IPython calls
_HOOKS = ("load_ipython_extension", "unload_ipython_extension")


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    where = _PUBLIC.get(name)
    if where is None:
        raise AttributeError(f"module 'concurrent_nb' has no attribute {name!r}")
    value = getattr(import_module(where), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    # Without the modules that are loaded with the package.
    return sorted([*__all__, *(name for name in globals() if name.startswith("__")), *_HOOKS])


def load_ipython_extension(ipython: "InteractiveShell") -> None:
    """Add the magics: `%load_ext concurrent_nb`."""
    import_module("concurrent_nb.notebook.extension").load(ipython)


def unload_ipython_extension(ipython: "InteractiveShell") -> None:
    """Remove the magics, and stop the cluster that they started: `%unload_ext concurrent_nb`."""
    import_module("concurrent_nb.notebook.extension").unload(ipython)


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Name the module that a Jupyter server loads; this package imports nothing of Jupyter's server."""
    return [{"module": "concurrent_nb.web.server_extension"}]
