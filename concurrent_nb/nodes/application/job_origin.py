"""The notebook and the cell that start jobs: the cluster shows them with each job, so that people find the cell.

The notebook sets them while a cell runs; elsewhere they are empty. New jobs get them from `new_record`.
"""

import weakref
from typing import Any, Final, Protocol

from concurrent_nb.ids import new_job_id
from concurrent_nb.nodes.application.client_tasks import ClientJob
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.wire.messages import NAME_MAX, PATH_MAX

#: most characters of the first line of a cell
LINE_MAX: Final = 100


class Submitter(Protocol):
    """An application, whose single submits share a job."""

    def renew_submits(self) -> None:
        """Begin a new job for the submits from now on."""


class JobOrigin:
    """Where the jobs of this process come from now."""

    def __init__(self) -> None:
        self.notebook = ""  #: path of the notebook
        self.cell = ""  #: id of the cell that runs
        self.line = ""  #: first line of that cell
        self._submitters: weakref.WeakSet[Submitter] = weakref.WeakSet()

    def watch(self, submitter: Submitter) -> None:
        """Have an application begin a new job when another cell runs."""
        self._submitters.add(submitter)

    def move_to(self, notebook: str, cell: str, line: str = "") -> None:
        """Note which cell of which notebook runs, and its first line; "" for none."""
        notebook, cell = _text(notebook, PATH_MAX), _text(cell, NAME_MAX)
        self.line = _text(line, LINE_MAX)
        if (notebook, cell) == (self.notebook, self.cell):
            return
        self.notebook, self.cell = notebook, cell
        for submitter in list(self._submitters):
            submitter.renew_submits()


#: of this process
ORIGIN: Final = JobOrigin()


def new_record(name: str, **options: Any) -> ClientJob[TaskHandle]:
    """Return a job without tasks that comes from here, with these options of a `ClientJob`."""
    return ClientJob(new_job_id(), name, notebook=ORIGIN.notebook, cell=ORIGIN.cell, line=ORIGIN.line, **options)


def _text(text: str, most: int) -> str:
    """Return a text as it travels."""
    return text[:most].encode("utf-8", "replace").decode()
