"""The few names that users learn. Layer 6: everything else is behind these."""

from pathlib import Path

from concurrent_nb.nodes.application import ApplicationNode
from concurrent_nb.nodes.futures import TaskFuture
from concurrent_nb.nodes.jobs import Counts, Job, OutputPiece, Shown, TaskEvent, TaskNote, as_completed
from concurrent_nb.nodes.local import Cluster
from concurrent_nb.nodes.system_run import SystemRun
from concurrent_nb.tasks.system import Task
from concurrent_nb.transport import connection_file, keys

__all__ = [
    "ApplicationNode",
    "Cluster",
    "Counts",
    "Job",
    "OutputPiece",
    "Shown",
    "SystemRun",
    "Task",
    "TaskEvent",
    "TaskFuture",
    "TaskNote",
    "as_completed",
    "connect",
]


def connect(name_or_path: str | Path, key_file: str | Path | None = None) -> ApplicationNode:
    """Connect to a running cluster; return an Executor whose tasks run there.

    >>> with concurrent_nb.connect("demo") as app:                      # doctest: +SKIP
    ...     app.submit(pow, 2, 10).result()
    1024

    Args:
        name_or_path: the cluster's name on this machine, or the path of a copy of its connection file.
        key_file: CURVE key pair of the user; None takes the one that is kept for him (and makes it at first).

    Raises ClusterNotFound, MasterUnreachable, AccessRefused or VersionMismatch.
    """
    connection_file.read(name_or_path)  # first of all, because it tells best what is wrong
    return ApplicationNode(connection_file.path_of(name_or_path), keys.load_or_create(key_file))
