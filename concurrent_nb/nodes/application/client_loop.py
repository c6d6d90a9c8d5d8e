"""What an application does with its sessions in each turn of its thread, without sockets, threads and clocks.

    events -> ClientLoop: receive -> ClientCore -> news;  send -> link -> Verdict
    after ASK or REJOIN: next_attempt until one is `confirmed` or `attach`ed, or patience ends

Called by `client_thread`, which waits with a poller, and by the simulator, which waits in virtual time.
"""

from collections.abc import Callable, Iterable
from typing import Final, Generic, NamedTuple, TypeVar

from concurrent_nb import foreign
from concurrent_nb.errors import ClusterError, LimitExceeded, MasterLost, ProtocolError
from concurrent_nb.nodes.application.client_tasks import News, TaskEntry
from concurrent_nb.nodes.application.core import ClientCore
from concurrent_nb.nodes.common.quota import UNLIMITED, Quota
from concurrent_nb.nodes.common.session_loop import MasterLink, Verdict
from concurrent_nb.nodes.common.shared_memory_link import OpenSegments
from concurrent_nb.wire.messages import CLUSTER_STOPPED, OVER_LIMIT
from concurrent_nb.wire.session import Session

log = foreign.Log(__name__)
T = TypeVar("T")

#: no master within this time after it fell silent, and every open future ends with MasterLost
MASTER_LOST_AFTER_S: Final = 5.0
#: ... or within this time after this process itself has stood still, because the network may come back later than we do
PATIENCE_S: Final = 60.0
#: the master is given up when so many sessions were ended, one after another, before a task ended in them
SESSIONS_IN_VAIN: Final = 5
#: time between two attempts to find a master again
RETRY_S: Final = 0.25


class GiveUpReason(NamedTuple):
    """Why no further session is sought, and the error with which open tasks end."""

    why: str
    error: type[ClusterError] = MasterLost
    is_stopped: bool = False  #: the cluster was stopped; False if it failed


class ClientLoop(Generic[T]):
    """The sessions of an application, one after another.

    Args:
        core: the tasks.
        take_news: called with the news of each envelope, which it must read to their end.
        cluster: its name, for messages.
    """

    def __init__(self, core: ClientCore[T], take_news: Callable[[Iterable[News[T]]], None], cluster: str) -> None:
        self.sessions_in_vain = 0  #: that were ended, one after another, before a task ended in them
        self.gave_up: GiveUpReason | None = None  #: set with `Verdict.END`
        self.error: Exception | None = None  #: what has ended the session, if the master has not
        self._core = core
        self._take_news = take_news
        self._cluster = cluster
        self._patience_s = self._usual_patience_s = MASTER_LOST_AFTER_S
        self._received_at = 0.0
        self._fault = ""  # of the master, that has ended the session
        self._deadline: float | None = None  # of the search for a master, from its first attempt on
        self._asks = False  # the next attempt asks the master whether it still has the session
        self._failure = ""  # of the last attempt

    def attach(
        self,
        link: MasterLink,
        epoch: int,
        silence_s: float,
        now: float,
        memory: OpenSegments | None = None,
        *,
        shares: bool = False,
        quota: Quota = UNLIMITED,
        patience_s: float = MASTER_LOST_AFTER_S,
    ) -> list[TaskEntry[T]]:
        """Go on in a new session, and return the tasks that `ClientCore.attach` does.

        Args:
            link, epoch: of the master.
            silence_s: after this long without an envelope, the master is asked whether it still has the session.
            memory, shares, quota: see `ClientCore.attach`.
            patience_s: how long to look for a master that is lost: longer for one that goes on with its journal.
        """
        self._link, self._silence_s = link, silence_s
        self._session = Session(epoch, "to_client")
        self._received_at = now
        self._fault, self.error = "", None
        self._usual_patience_s = patience_s
        return self._core.attach(self._session, memory, shares=shares, quota=quota)

    def receive(self, now: float) -> None:
        """Take what has come; the first half of a turn. Raises nothing: what cannot be read ends the session."""
        try:
            for frames in self._link.receive():
                self._received_at = now
                self._patience_s = self._usual_patience_s
                self._take_news(self._core.received(frames, now))
        except ProtocolError as error:
            log.warning("the master broke the protocol: %s", error)
            self._fault, self.error = f"the master broke the protocol: {error}", error
        except Exception as error:  # nothing that a master sends ends the application
            log.exception("an envelope of the master could not be read")
            self._fault = f"an envelope of the master could not be read: {foreign.describe(error)}"
            self.error = error

    def send(self, cut: bool, now: float) -> Verdict:
        """Send what is due, and decide about the session; the second half of a turn.

        Args:
            cut: whether the connection to the master was cut since the last turn.
        """
        for frames in self._core.step(now):
            self._link.send(frames)
        if self._session.closed_by_peer is not None or self._fault:
            return self._session_ended()
        if cut or now - self._received_at > self._silence_s:
            return self._search(Verdict.ASK)
        return Verdict.STAY

    def acknowledge(self) -> None:
        """Acknowledge the last outcomes, so that the master need not keep them. Before unregistering."""
        self._link.send(self._session.heartbeat())

    # ------------------------------------------------------------------------------------------- search for a master

    def next_attempt(self, now: float) -> Verdict:
        """Return what to try now: ASK or REJOIN; END if patience has ended."""
        if self._deadline is None:
            self._deadline = now + self._patience_s
        if now < self._deadline:
            return Verdict.ASK if self._asks else Verdict.REJOIN
        within = f"{self._patience_s:.0f} s"
        return self._give_up(
            f"the master of cluster {self._cluster!r} is gone, and none came back within {within} ({self._failure})"
        )

    def attempt_failed(self, why: str) -> None:
        """Note that an attempt has failed; the caller waits RETRY_S before the next one."""
        self._asks = False
        self._failure = why

    def confirmed(self, now: float) -> None:
        """Go on after ASK: the master still has the session."""
        self._received_at = now

    def stood_still(self, now: float) -> None:
        """Have more patience: this process has stood still."""
        self._patience_s = PATIENCE_S
        if self._deadline is not None:
            self._deadline = now + PATIENCE_S

    def _search(self, verdict: Verdict) -> Verdict:
        self._asks = verdict is Verdict.ASK
        self._deadline = None
        self._failure = ""
        return verdict

    def _session_ended(self) -> Verdict:
        reason = self._session.closed_by_peer or ""
        if reason == CLUSTER_STOPPED:
            return self._give_up(f"cluster {self._cluster!r} has been stopped", is_stopped=True)
        self.sessions_in_vain += 1
        if reason.startswith(OVER_LIMIT):  # it would be again
            return self._give_up(
                f"the master of cluster {self._cluster!r} has ended the session, {reason}", LimitExceeded
            )
        if self.sessions_in_vain < SESSIONS_IN_VAIN:
            return self._search(Verdict.REJOIN)
        why = self._fault or f"the master has ended it: {reason}"
        return self._give_up(f"no session with the master of cluster {self._cluster!r} lasts ({why})")

    def _give_up(self, why: str, error: type[ClusterError] = MasterLost, *, is_stopped: bool = False) -> Verdict:
        self.gave_up = GiveUpReason(why, error, is_stopped)
        return Verdict.END
