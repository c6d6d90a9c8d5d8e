"""The master's end of the pipes to its owner, the process that has started it, and the methods that need it.

Only the owner can start slaves. The master never waits for a pipe, and never longer than ANSWER_S for an answer: an
owner may be stopped, busy, or ending.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any, Final

from concurrent_nb.errors import ClusterError, ConfigurationError, ProtocolError
from concurrent_nb.nodes.common.owner_wishes import (
    Adapt,
    LineBuffer,
    RestartSlave,
    Scale,
    Wish,
    WishAnswer,
    line_of,
    read_answer,
)
from concurrent_nb.nodes.master.core import MasterCore
from concurrent_nb.nodes.master.peers import SlavePlace
from concurrent_nb.nodes.master.questions import Asks
from concurrent_nb.rpc import Caller, remote

log = logging.getLogger(__name__)

#: seconds in which an owner must answer
ANSWER_S: Final = 5.0
#: most workers, and most slaves, that can be asked for
WORKERS_MAX: Final = 1000
#: most slaves that an owner reports, and characters of each text about them
LAUNCHED_MAX: Final = 10_000
LAUNCHED_TEXT_MAX: Final = 4000


class Owner:
    """The owner of this master. To be used in the loop's thread.

    One wish is with the owner at a time, so that one that was stopped finds no heap of them when it goes on.

    Args:
        descriptor: of the pipe to the owner; this object sets it to non-blocking.
        answer_s: seconds in which it must answer.
    """

    def __init__(self, descriptor: int, answer_s: float = ANSWER_S) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._answer_s = answer_s
        self._lines = LineBuffer()
        self._turn = asyncio.Lock()
        self._number = 0  # of the last wish
        self._answer: asyncio.Future[WishAnswer] | None = None  # to the last wish that was sent
        self._pid = os.getppid()

    async def ask(self, make: Callable[[int], Wish]) -> WishAnswer:
        """Send the owner a wish, and return its answer.

        Args:
            make: makes the wish with a number.

        Raises ClusterError if the owner has ended, does not answer in time, or refuses with a reason.
        """
        async with self._turn:
            if self._answer is not None and not self._answer.done():
                raise ClusterError(f"{self._who()} has not answered the wish before this one: {_MAYBE_LATER}")
            self._number += 1
            self._answer = asyncio.get_running_loop().create_future()
            try:
                os.write(self._descriptor, line_of(make(self._number)))
            except OSError as error:
                self._answer = None
                why = "does not read" if isinstance(error, BlockingIOError) else "has ended"
                raise ClusterError(f"{self._who()} {why}: no slave can be started or replaced") from None
            # Not `wait_for`, which would cancel the future: the answer may come later.
            done, _ = await asyncio.wait([self._answer], timeout=self._answer_s)
            if not done:
                raise ClusterError(f"{self._who()} has not answered within {self._answer_s:g} s: {_MAYBE_LATER}")
            answer = self._answer.result()
        if answer.refused:
            raise ClusterError(answer.refused)
        return answer

    def received(self, data: bytes) -> None:
        """Take what has come from the owner."""
        for line in self._lines.feed(data):
            try:
                answer = read_answer(line)
            except ProtocolError as error:
                log.warning("a line from the owner is left out: %s", error)
                continue
            future = self._answer
            if future is None or future.done() or answer.number != self._number:
                log.warning("an answer of the owner to wish %d is left out, it is not awaited", answer.number)
            else:
                future.set_result(answer)

    def ended(self) -> None:
        """Note that the owner has ended: callers stop waiting for its answer."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(WishAnswer(self._number, refused=f"{self._who()} has ended"))

    def _who(self) -> str:
        return f"the process that has started the cluster (process {self._pid})"


_MAYBE_LATER: Final = "it may be stopped or busy, and may do it later"


class OwnerMethods:
    """Methods of the control channel that change which slaves there are.

    Args:
        name: of the cluster.
        owner: of this master; None if it was started without one.
        core: of the master.
        ask: asks the core's thread.
        compute_of: returns HOST:PORT of the compute channel for a caller.
    """

    def __init__(
        self, name: str, owner: Owner | None, core: MasterCore, ask: Asks, compute_of: Callable[[Caller], str]
    ) -> None:
        self._name = name
        self._owner = owner
        self._core = core
        self._ask = ask
        self._compute_of = compute_of
        self.launched: dict[str, dict[str, str]] = {}  #: slaves that a launcher of the owner starts, by name

    @remote(roles=["admin"])
    async def scale(self, workers: int = 0, slaves: int = 0) -> dict[str, int]:
        """Have so many workers, or slaves, of those that the cluster has started itself; those of other hosts stay.

        More workers come as one more slave, or, if a launcher starts the slaves, as as many as have so many workers.
        Fewer: slaves leave when their running tasks have ended. Returns `asked`, what there was `before`, and `slots`
        of all slaves now; what comes and goes is seen later. `asked` and `before` are slaves if these were given.
        """
        if (workers > 0) == (slaves > 0) or not 1 <= max(workers, slaves) <= WORKERS_MAX or min(workers, slaves) < 0:
            raise ConfigurationError(
                f"workers is {workers} and slaves is {slaves}: give one of them, a number from 1 to {WORKERS_MAX:,}"
            )
        owner = self._require_owner("add one with `concurrent-nb slave --connect {} --workers N`, or drain one")
        answer = await owner.ask(lambda number: Scale(number, workers, slaves))
        asked, what = (workers, "workers") if workers else (slaves, "slaves")
        log.warning("the cluster is scaled from %d to %d %s", answer.workers, asked, what)
        slots = await self._ask(lambda now: sum(peer.slots for peer in self._core.peers.values()))
        return {"asked": asked, "before": answer.workers, "slots": slots}

    @remote(roles=["admin"])
    async def adapt(self, least: int, most: int) -> dict[str, int]:
        """Have the number of slaves that a launcher starts follow the queue, from `least` to `most`.

        Returns both, and how many slaves were wanted `before`.
        """
        if not 0 <= least <= most <= WORKERS_MAX or not most:
            raise ConfigurationError(
                f"least is {least} and most is {most}: they must be numbers of slaves up to {WORKERS_MAX:,}, in order"
            )
        owner = self._require_owner("add one with `concurrent-nb slave --connect {} --workers N`, or drain one")
        answer = await owner.ask(lambda number: Adapt(number, least, most))
        log.warning("the cluster has from %d to %d slaves from now on, as its queue needs", least, most)
        return {"least": least, "most": most, "before": answer.workers}

    @remote(roles=["admin"])
    async def supervise(
        self, caller: Caller, launched: list[dict[str, str | float | None]] | None = None
    ) -> dict[str, Any]:
        """For a launcher's supervisor: keep where it starts slaves, for `status`; return slaves, queue and address.

        `launched` has name, state, place, reason and time limit (`limit_s`, or null) of each; null: as before.
        `waiting` and `assigned` are tasks. `compute` is HOST:PORT of the compute channel.
        """
        places: dict[str, SlavePlace] | None = None
        if launched is not None:
            rows = [_check_launched(row) for row in launched[:LAUNCHED_MAX]]
            self.launched = {row["name"]: row for row, _ in rows}
            places = {row["name"]: SlavePlace(row["place"], limit_s) for row, limit_s in rows}

        def look(now: float) -> dict[str, Any]:
            if places is not None:
                self._core.places = places
            status = self._core.status(now, sees_all=True)
            slaves = [
                {
                    "name": slave["name"],
                    "slots": slave["slots"],
                    "in_flight": slave["in_flight"],
                    "is_draining": slave["state"] == "draining",
                }
                for slave in status["slaves"]
            ]
            return {"slaves": slaves, "waiting": status["tasks"]["waiting"], "assigned": status["tasks"]["assigned"]}

        return {**await self._ask(look), "compute": self._compute_of(caller)}

    def add_places(self, status: dict[str, Any]) -> dict[str, Any]:
        """Add to a status where slaves are that a launcher has started, and those that have not joined."""
        for slave in status["slaves"]:
            slave["place"] = self.launched.get(slave["name"], {}).get("place", "")
        joined = {slave["name"] for slave in status["slaves"]}
        return {**status, "launched": [row for name, row in self.launched.items() if name not in joined]}

    @remote(roles=["admin"])
    async def restart_slave(self, slave: str) -> dict[str, Any]:
        """Have a slave leave when its running tasks have ended, and start another one with as many workers.

        No task counts a death. Returns the `slave`, the `tasks` that it has now, and the `workers` of the new one.
        """
        owner = self._require_owner("drain it with `concurrent-nb drain {} SLAVE`, and start another one where it ran")
        info, tasks = await self._ask(lambda now: self._core.requests.find_slave(slave))
        answer = await owner.ask(lambda number: RestartSlave(number, slave, info.host, info.pid))
        log.warning("slave %s is replaced by another one", slave)
        return {"slave": slave, "tasks": tasks, "workers": answer.workers}

    def _require_owner(self, remedy: str) -> Owner:
        if self._owner is None:
            raise ConfigurationError(
                f"the master of cluster {self._name!r} was started alone, with `concurrent-nb master`, so it cannot"
                f" start slaves: {remedy.format(self._name)}"
            )
        return self._owner


def _check_launched(row: dict[str, str | float | None]) -> tuple[dict[str, str], float | None]:
    """Return an owner's row about a slave with shortened texts, and its limit in s. Raises ConfigurationError."""
    texts = {key: text[:LAUNCHED_TEXT_MAX] for key, text in row.items() if isinstance(text, str)}
    limit_s = row.get("limit_s")
    if texts.keys() != {"name", "state", "place", "reason"} or row.keys() - texts.keys() != {"limit_s"}:
        raise ConfigurationError(
            f"a launched slave has name, state, place, reason and limit_s, not {', '.join(row)[:200]}"
        )
    return texts, None if limit_s is None else float(limit_s)
