"""Pages of the task log: what `trace` of the control channel answers. A part of `nodes.master.core`."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from msgspec import structs

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import JobId
from concurrent_nb.tasks.function_graph import node_name
from concurrent_nb.tasks.task_log import JobLabel, TaskLog, TaskTimes
from concurrent_nb.tasks.task_record import JobRecord

#: most records in a page
PAGE_TASKS: Final = 2000


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Some records of the log, in the order in which the tasks ended."""

    tasks: list[TaskTimes]
    next: int | None  #: number from which the next page begins; None if this was the last one
    dropped: int  #: tasks that were asked for and are not kept any more
    jobs: dict[JobId, JobLabel]  #: of these tasks
    graphs: dict[JobId, list[list[Any]]]  #: edges of these jobs by function: source, target, how many
    needs: dict[JobId, dict[str, list[str]]]  #: by function of these tasks, those whose results it needs, if any
    applications: Mapping[str, str]  #: names of the registered applications by owner

    def as_json(self) -> dict[str, Any]:
        """Return what the control channel answers."""
        return {
            "tasks": [{**structs.asdict(task), "job": task.job.hex()} for task in self.tasks],
            "next": self.next,
            "dropped": self.dropped,
            "jobs": {
                job.hex(): {
                    "name": label.name,
                    "application": self.applications.get(label.owner, ""),
                    **({"graph": self.graphs[job], "needs": self.needs[job]} if job in self.graphs else {}),
                }
                for job, label in self.jobs.items()
            },
        }


def page_of(
    log: TaskLog,
    jobs: Mapping[JobId, JobRecord],
    ended: Mapping[JobId, JobRecord],
    job: JobId | None,
    owner: str | None,
    since: int,
    applications: Mapping[str, str],
) -> TaskPage:
    """Return records from number `since` on: of a job, or with None of all jobs; with `owner`, only of theirs.

    `jobs` are those that the master has now, `ended` the last ones that it has forgotten. Raises ConfigurationError for
    a job that is another's, or unknown.
    """
    if job is not None:
        record = jobs.get(job)
        label = log.label_of(job) or (None if record is None else JobLabel(record.name, record.owner))
        if label is None or owner not in (None, label.owner):
            raise ConfigurationError(
                f"the log of this cluster has no task of a job {job.hex()} that this caller may see: it keeps the last "
                f"{log.kept:,} tasks that have ended; `concurrent-nb jobs` lists the jobs"
            )
    tasks = list(islice(log.read_of(job, owner, since), PAGE_TASKS + 1))
    following = tasks.pop().number if len(tasks) > PAGE_TASKS else None
    labels = {task.job: log.label_of(task.job) for task in tasks}
    known = {each: label for each, label in labels.items() if label is not None}
    records = {each: jobs.get(each) or ended.get(each) for each in known}
    graphs = {
        each: [[*pair, count] for pair, count in record.edges.items()]
        for each, record in records.items()
        if record is not None and record.edges
    }
    needs: dict[JobId, dict[str, list[str]]] = {each: {} for each in graphs}
    for job_id, function in dict.fromkeys((task.job, task.function) for task in tasks if task.job in graphs):
        name = node_name(function, known[job_id].name)
        if sources := [str(source) for source, target, _ in graphs[job_id] if target == name]:
            needs[job_id][function] = sources
    dropped = log.count_dropped(job, owner)
    return TaskPage(tasks, following, dropped, known, graphs, needs, applications)
