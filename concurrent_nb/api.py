"""The few names that users learn. Layer 6: everything else is behind these."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.job import Counts, Job, OutputPiece, TaskDisplay, TaskEvent, TaskNote, as_completed
from concurrent_nb.nodes.application.node import ApplicationNode
from concurrent_nb.nodes.application.progress_bar import show_progress
from concurrent_nb.nodes.application.system_job import SystemRun
from concurrent_nb.nodes.cluster import Cluster
from concurrent_nb.shipping.environment.tracker import TRACKER
from concurrent_nb.tasks.system import Task
from concurrent_nb.transport import connection_file, keys

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
    "show_progress",
]


TRACKER.install()  # before the user imports modules that tasks will need


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
    TRACKER.send_folder()
    return ApplicationNode(connection_file.path_of(name_or_path), keys.load_or_create(key_file))


def follow(name: str, read: Callable[[], Any], apply: Callable[[Any], None]) -> None:
    """Have a setting in tasks as it is in this process; docs/environment.md lists those that tasks follow anyway.

    >>> follow("locale", lambda: locale.setlocale(locale.LC_ALL), lambda to: locale.setlocale(locale.LC_ALL, to))
    ...                                                                 # doctest: +SKIP

    Args:
        name: of the setting; a second one of the same name takes the place of the first.
        read: gives its value, which can be pickled and compared. Called here at each submit, so it should be fast, and
            in workers before the first task, to know what to put back, and after each.
        apply: sets it to a value; called in workers.
    """
    TRACKER.follow(name, read, apply)


def follow_modules(*, limit_bytes: int | None = None, leave_out: Iterable[str] = ()) -> None:
    """Say which of the user's own modules travel to tasks.

    Args:
        limit_bytes: what their sources may take together; more is refused. None leaves it as it is, 32 MiB at first.
        leave_out: modules and packages that do not travel: workers import those that their machine has.
    """
    TRACKER.follow_modules(limit_bytes=limit_bytes, leave_out=leave_out)
