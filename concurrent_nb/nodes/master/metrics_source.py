"""Totals of the tasks that have ended, and the metrics of the master: they are counted when they are requested.

`prometheus_client` is imported by the first scrape: a master without scrapes does not load it.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from concurrent_nb.nodes.master.core import MasterCore
from concurrent_nb.nodes.master.questions import Asks
from concurrent_nb.rpc import remote
from concurrent_nb.telemetry.task_totals import TaskTotals


class MetricsSource:
    """The metrics of a master.

    Args:
        core: of the master.
        ask: asks the core's thread.
        status: returns the status as an admin gets it.
    """

    def __init__(self, core: MasterCore, ask: Asks, status: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._core = core
        self._ask = ask
        self._status = status
        self._totals = TaskTotals()

    async def scrape(self) -> tuple[str, bytes]:
        """Return content type and text of `/metrics`."""
        from concurrent_nb.telemetry import metrics  # here, because most masters are never scraped

        await self._update()
        return metrics.CONTENT_TYPE, metrics.metrics_text(await self._status(), self._totals)

    @remote(roles=["admin", "client"])
    async def totals(self) -> dict[str, Any]:
        """Return sums over all tasks of the cluster that have ended: tasks by status, seconds, bytes.

        They count what the log of the last 100,000 tasks has, and from the first call on all tasks. `missed` is the
        number of those that were too many between two calls.
        """
        await self._update()
        return self._totals.as_json()

    async def _update(self) -> None:
        totals, log = self._totals, self._core.scheduler.task_log
        first, records = await self._ask(lambda now: log.records(totals.following))
        if first >= totals.following:  # another call, at the same time, may have added them
            totals.add(first, log.used(records))
