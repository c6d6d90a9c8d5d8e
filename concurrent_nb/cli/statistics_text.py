"""Write the statistics of a cluster and of its jobs: `concurrent-nb stats NAME --job ID`."""

from collections.abc import Mapping
from typing import Any

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import ID_BYTES
from concurrent_nb.telemetry.amounts import visible
from concurrent_nb.telemetry.job_stats import ClusterStats, job_stats_of


def statistics_text(answer: Mapping[str, Any]) -> str:
    """Return the master's answer about a job, or about the cluster, as lines of text."""
    return repr(job_stats_of(answer) if "id" in answer else ClusterStats.from_answer(answer))


def newest_job(cluster: Mapping[str, Any], which: str) -> str:
    """Return the id of the newest job of this name or beginning of an id.

    Args:
        cluster: the master's answer about the cluster.
        which: a name, an id, or its beginning.

    Raises ConfigurationError if there is none.
    """
    if len(which) == 2 * ID_BYTES:
        return which
    jobs = cluster["jobs"]
    for job in reversed(jobs):
        if which and (job["name"] == which or job["id"].startswith(which)):
            return str(job["id"])
    shown = ", ".join(f"{visible(job['name']) or 'without a name'} ({job['id'][:8]})" for job in jobs[-10:])
    raise ConfigurationError(f"there is no job {which[:100]!r}; the last jobs are: {shown or 'none'}")
