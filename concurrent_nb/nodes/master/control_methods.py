"""Methods of the control channel with which people steer and inspect a running cluster.

Called in the master's main thread; each asks the compute thread, which alone touches the core.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from concurrent_nb.components.core import Component
from concurrent_nb.errors import AccessRefused, ConfigurationError
from concurrent_nb.ids import ID_BYTES, JobId, SessionId
from concurrent_nb.nodes.common.log_format import PACKAGE_LOGGER
from concurrent_nb.nodes.master.core import MasterCore
from concurrent_nb.nodes.master.hot_settings import HotSettings
from concurrent_nb.nodes.master.questions import Asks
from concurrent_nb.nodes.master.stack_requests import StackSample
from concurrent_nb.nodes.master.waiting_callers import WaitingCallers
from concurrent_nb.rpc import Caller, remote
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.jsonrpc import MAX_VIEW_BYTES

log = logging.getLogger(__name__)
T = TypeVar("T")


class ControlMethods:
    """The methods.

    Args:
        name: of the cluster.
        core: of the master.
        settings: of the master.
        ask: asks the core's thread.
        stacks: those who wait for stacks.
    """

    def __init__(
        self, name: str, core: MasterCore, settings: Component, ask: Asks, stacks: WaitingCallers[StackSample]
    ) -> None:
        self._name = name
        self._core = core
        self._ask = ask
        self._stacks = stacks
        self._settings = HotSettings(settings, core)

    async def _ask_as_owner(
        self, caller: Caller, session: str, secret: str, question: Callable[[str | None, float], T]
    ) -> T:
        """Return the answer to a question that an admin asks about all jobs, and a client about those of an owner.

        A client proves to be that owner by a session and its secret. Raises AccessRefused if it does not.
        """
        asker = session_of(session)

        def ask(now: float) -> T:
            if caller.role == "admin":
                return question(None, now)
            owner = self._core.owner_of(asker) if self._core.is_session(asker, "client", secret) else None
            if owner is None:
                raise AccessRefused(
                    "a client must name a session of its own, and the secret of that session, which it got when it "
                    "registered; a token of role admin needs neither"
                )
            return question(owner, now)

        return await self._ask(ask)

    @remote(roles=["admin", "client"])
    async def cancel_job(self, caller: Caller, job: str, session: str = "", secret: str = "") -> int:
        """Cancel a job: waiting tasks end, running ones are stopped, later ones of it end as cancelled.

        Returns how many tasks are being cancelled. An admin may cancel any job; a client those of the owner whose
        session and secret it names.
        """
        which = job_of(job)
        return await self._ask_as_owner(
            caller, session, secret, lambda owner, now: self._core.requests.cancel(which, None, owner, now)
        )

    @remote(roles=["admin", "client"])
    async def cancel_task(self, caller: Caller, job: str, index: int, session: str = "", secret: str = "") -> int:
        """Cancel one task of a job, by its index; return 1. A client may cancel as with `cancel_job`."""
        which = job_of(job)
        return await self._ask_as_owner(
            caller, session, secret, lambda owner, now: self._core.requests.cancel(which, [index], owner, now)
        )

    @remote(roles=["admin", "client"])
    async def stack_sample(
        self, caller: Caller, job: str, index: int, session: str = "", secret: str = ""
    ) -> dict[str, Any]:
        """Return what a running task is doing: its slave, the pid of its worker, seconds since its start, its stack.

        The stack is like a traceback, the most recent call last, of 64 KiB at most. The task goes on. A task that does
        not run is an error that says where it is. A client sees as with `cancel_job`.
        """
        which = job_of(job)
        answer: asyncio.Future[StackSample] = asyncio.get_running_loop().create_future()
        await self._ask_as_owner(
            caller,
            session,
            secret,
            lambda owner, now: self._stacks.add(self._core.requests.sample_stack(which, index, owner, now), answer),
        )
        return (await answer).as_json()

    @remote(roles=["admin"])
    async def drain_slave(self, slave: str) -> int:
        """Have a slave leave: it gets no more tasks, and ends with its workers when its running tasks have ended.

        Tasks that have not started run elsewhere. Returns how many tasks the slave has now.
        """
        return await self._ask(lambda now: self._core.requests.drain_slave(slave, now))

    @remote(roles=["admin", "client"])
    async def trace(
        self, caller: Caller, job: str = "", since: int = 0, session: str = "", secret: str = ""
    ) -> dict[str, Any]:
        """Return up to 2,000 records of ended tasks of a job, or of all jobs that the caller may see, oldest first.

        `since` is `next` of the page before, which is null in the last page. Times are seconds of the master's clock.
        `dropped` is the number of ended tasks that are not kept any more. A client sees as with `cancel_job`.
        """
        which = job_of(job) if job else None
        page = await self._ask_as_owner(
            caller, session, secret, lambda owner, now: self._core.requests.read_tasks(which, since, owner)
        )
        return {"name": self._name, "host": socket.gethostname(), "pid": os.getpid(), **page.as_json()}

    @remote(roles=["admin", "client"])
    async def share_view(
        self, caller: Caller, job: str, view: dict[str, Any] | None = None, session: str = "", secret: str = ""
    ) -> dict[str, bool]:
        """Keep what the application shows of a job, for `job_view`: at most 1,000,000 bytes of JSON.

        With null it only asks. `wanted`: a reader has asked for the job's view within 15 s. Views go with their jobs,
        or when all of them have more than 64 MiB. A client shares as with `cancel_job`.
        """
        which, data = job_of(job), None if view is None else msgspec.json.encode(view)
        if data is not None and len(data) > MAX_VIEW_BYTES:
            raise ConfigurationError(
                f"the view of job {job} has {len(data):,} bytes of JSON and may have {MAX_VIEW_BYTES:,}: leave out "
                "what is old, and draw pictures smaller"
            )
        wanted = await self._ask_as_owner(
            caller, session, secret, lambda owner, now: self._core.shared_views.share(which, data, owner, now)
        )
        return {"wanted": wanted}

    @remote(roles=["admin", "client"])
    async def job_view(
        self, caller: Caller, job: str, since: int = 0, session: str = "", secret: str = ""
    ) -> dict[str, Any]:
        """Return version and content of what the application of a job shares of it; who asks makes it share more often.

        The version is 0, and the view null, if there is none (yet); the view is null, too, if the version is `since`.
        A client sees as with `cancel_job`.
        """
        which = job_of(job)
        version, data = await self._ask_as_owner(
            caller, session, secret, lambda owner, now: self._core.shared_views.read(which, since, owner, now)
        )
        return {"version": version, "view": None if data is None else msgspec.Raw(data)}

    @remote(roles=["admin"])
    async def config(self) -> dict[str, Any]:
        """Return the master's settings by item: value, default, help, and whether it may change now (`hot`)."""
        return await self._ask(lambda now: self._settings.describe())

    @remote(roles=["admin"])
    async def set_config(self, item: str, value: bool | int | float | str | list[str]) -> Any:
        """Change a setting of the running master, "MasterNode.clients"; return its value. It holds until its end.

        Items that may not change while it runs are refused with the reason, and what to do.
        """
        changed = await self._ask(lambda now: self._settings.set(item, value, now))
        log.warning("setting %s is %s from now on", item, changed)
        return changed

    @remote(roles=["admin"])
    async def set_log_level(self, level: m.LogLevel) -> int:
        """Have master and slaves log what is at least as severe: DEBUG, INFO, WARNING, ERROR or CRITICAL.

        Returns how many slaves there are now. Slaves that join later get the level, too.
        """
        logging.getLogger(PACKAGE_LOGGER).setLevel(level)
        return await self._ask(lambda now: self._core.requests.set_log_level(level))


def session_of(text: str) -> SessionId:
    """Return a session id from its hexadecimal text; an empty id, which no session has, if the text is not one."""
    try:
        return SessionId(bytes.fromhex(text))
    except ValueError:
        return SessionId(b"")


def job_of(text: str) -> JobId:
    """Return a job's id from its hexadecimal text. Raises ConfigurationError if the text is not one."""
    try:
        job = bytes.fromhex(text)
    except ValueError:
        job = b""
    if len(job) != ID_BYTES:
        raise ConfigurationError(f"{text[:100]!r} is not the id of a job, which has {2 * ID_BYTES} hexadecimal digits")
    return JobId(job)
