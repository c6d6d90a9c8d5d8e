"""The public functions and classes around clusters and applications: the layer "public names"."""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concurrent_nb.engines.connecting import connect_engine, is_engine
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.application.futures import TaskFuture, gather
from concurrent_nb.nodes.application.job import Counts, Job, OutputPiece, TaskDisplay, TaskEvent, TaskNote, as_completed
from concurrent_nb.nodes.application.node import ApplicationNode
from concurrent_nb.nodes.application.progress_bar import show_progress
from concurrent_nb.nodes.application.system_job import SystemRun
from concurrent_nb.nodes.cluster import Cluster
from concurrent_nb.shipping.environment.tracker import TRACKER
from concurrent_nb.tasks.system import Task
from concurrent_nb.transport import connection_file, keys

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "ApplicationNode",
    "Cluster",
    "Counts",
    "Job",
    "OutputPiece",
    "SystemRun",
    "Task",
    "TaskDisplay",
    "TaskEvent",
    "TaskFuture",
    "TaskNote",
    "as_completed",
    "connect",
    "follow",
    "follow_modules",
    "gather",
    "show_progress",
    "unfollow",
]


TRACKER.install()  # before the user imports modules that tasks will need


def connect(
    where: "str | Path | Executor | Client", key_file: str | Path | None = None, *, workers: int | None = None
) -> ApplicationNode:
    """Connect to a running cluster, or to an engine; return an Executor whose tasks run there.

    >>> with concurrent_nb.Cluster(workers=1, name="demo"):
    ...     with concurrent_nb.connect("demo") as app:
    ...         print(app.submit(pow, 2, 10).result())
    1024

    An engine runs the tasks on workers of its own, and everything else is as with a cluster (docs/engines.md):
    `"dask://host:8786"` or a `distributed.Client`, `"ray"` for the Ray that runs here, `"ray://host:10001"`, any
    `concurrent.futures.Executor`, and `"inline"`, which runs tasks in a thread of this process, to debug them. Close
    the application, or leave its `with`, to leave the engine as it was.

    >>> with concurrent_nb.connect("inline") as app:
    ...     print(app.submit(pow, 2, 10).result())
    1024

    Args:
        where: the cluster's name on this machine, the path of a copy of its connection file, or an engine.
        key_file: CURVE key pair of the user. None: the user's default pair, which is made at the first use. Not for
            engines.
        workers: number of tasks that run at the same time, for an executor that does not report it, and for `"inline"`,
            where None means 1. Not allowed for others.

    Raises:
        ClusterNotFound: there is no connection file of that name.
        MasterUnreachable: its master does not answer.
        AccessRefused: the master does not accept the key or the token.
        VersionMismatch: the master has another version of the protocol, of Python or of cloudpickle; or workers of the
            engine have another one of Python, concurrent_nb, cloudpickle or numpy.
        EngineUnavailable: the engine does not answer, or has no workers that can run tasks.
        ConfigurationError: the arguments do not fit each other.
    """
    if is_engine(where):
        if key_file is not None:
            raise ConfigurationError("key_file is for clusters: an engine's tasks belong to this process alone")
        TRACKER.send_folder()
        return connect_engine(where, workers)
    if workers is not None:
        raise ConfigurationError("workers is for executors and 'inline': a cluster knows how many it has")
    assert isinstance(where, str | Path)
    connection_file.read(where)  # first, because its errors are the most exact
    TRACKER.send_folder()
    return ApplicationNode(connection_file.path_of(where), keys.load_or_create(key_file))


def follow(name: str, read: Callable[[], Any], apply: Callable[[Any], None]) -> None:
    """Make tasks use a setting as it is in this process. docs/environment.md lists those that they use anyway.

    >>> import locale
    >>> concurrent_nb.follow("locale", lambda: locale.setlocale(locale.LC_ALL),
    ...                      lambda value: locale.setlocale(locale.LC_ALL, value))

    Args:
        name: of the setting; it replaces one of the same name.
        read: returns its value, which must be picklable and comparable. It is called here at each submit, so it must be
            fast, and in workers before the first task, to know what to restore, and after each.
        apply: sets the value that it is given; called in workers.

    Raises ConfigurationError if `read` raises an error now, or its value cannot be pickled or compared. If `read`
    raises one later, submits raise NotPicklable until it is corrected or the setting is removed with `unfollow`.
    """
    TRACKER.follow(name, read, apply)


def unfollow(name: str) -> None:
    """End what `follow` has begun: later tasks find the setting as it was in their worker at its start.

    >>> import locale
    >>> concurrent_nb.follow("locale", lambda: locale.setlocale(locale.LC_ALL),
    ...                      lambda value: locale.setlocale(locale.LC_ALL, value))
    >>> concurrent_nb.unfollow("locale")

    Raises ConfigurationError if no setting of that name is followed.
    """
    TRACKER.unfollow(name)


def follow_modules(*, limit_bytes: int | None = None, leave_out: Iterable[str] = ()) -> None:
    """Choose which of the user's own modules travel to tasks. All that are imported do by default.

    >>> concurrent_nb.follow_modules(limit_bytes=64 * 2**20, leave_out=["my_installed_package"])

    Args:
        limit_bytes: bytes that their sources may take together; above it, submits end with NotPicklable. None:
            unchanged, 32 MiB at first.
        leave_out: modules and packages that do not travel: workers import those of their own machine.
    """
    TRACKER.follow_modules(limit_bytes=limit_bytes, leave_out=leave_out)
