"""The differences of an application in a task: the owner of its jobs, and the environment of its tasks."""

from dataclasses import dataclass
from typing import Any

from concurrent_nb.ids import JobId
from concurrent_nb.shipping.environment.envelope import EnvironmentSource


@dataclass(slots=True)
class InsideTask:
    """The running task that an application is in. Its jobs belong to the owner of that task, and end with it."""

    job: JobId
    index: int
    environment: EnvironmentSource  #: the one that the task runs in, which its own tasks get as well

    def facts(self) -> dict[str, Any]:
        """Return the parameters by which such an application registers."""
        return {"parent_job": self.job.hex(), "parent_index": self.index, "comes_back": False}
