"""Answers a scrape of `/metrics`: gathers the facts from the core's thread, and has them written as text.

`prometheus_client` is imported by the first scrape: a master that nobody scrapes neither loads it nor counts anything.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from concurrent_nb.nodes.master.control_methods import Asks
from concurrent_nb.nodes.master.core import MasterCore

if TYPE_CHECKING:
    from concurrent_nb.telemetry.metrics import TaskTotals


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
        self._totals: TaskTotals | None = None

    async def scrape(self) -> tuple[str, bytes]:
        """Return content type and text."""
        from concurrent_nb.telemetry import metrics  # here, because most masters are never scraped

        if self._totals is None:
            self._totals = metrics.TaskTotals()
        totals, log = self._totals, self._core.scheduler.task_log
        first, records = await self._ask(lambda now: log.records(totals.following))
        if first >= totals.following:  # two scrapes at the same time: the other one has added them
            totals.add(first, log.used(records))
        return metrics.CONTENT_TYPE, metrics.metrics_text(await self._status(), totals)
