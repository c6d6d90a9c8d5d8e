"""The interface of engines: they run groups on their workers, and carry bytes to them and back."""

import multiprocessing
from collections.abc import Sequence
from typing import Any, Final, Protocol

from msgspec import structs

from concurrent_nb.engines.group_messages import EngineSession, Parcel
from concurrent_nb.errors import EngineUnavailable, VersionMismatch
from concurrent_nb.wire.codec import Buffer


class EngineEvents(Protocol):
    """Events that an engine reports to its pool. Every method may be called in any thread."""

    def reported(self, parcel: Sequence[Buffer]) -> None:
        """Take a report of a host whose group runs."""

    def ended(self, number: int, parcel: Sequence[Buffer]) -> None:
        """Take the last report of a group. One that cannot be read counts as a lost group."""

    def lost(self, number: int, reason: str) -> None:
        """Note that a group has ended without a last report, `reason` as in "its Dask worker died"."""

    def resized(self, slots: int) -> None:
        """Note that the engine runs so many groups at the same time from now on."""

    def gone(self, reason: str) -> None:
        """Note that the engine is lost: it runs nothing any more."""


class Engine(Protocol):
    """Runs groups. Its methods are called in one thread, the slave's, and do not wait for tasks."""

    name: str  #: for people: "dask", "ray" or "executor"
    slots: int  #: groups that it runs at the same time, when it is opened

    def open(self, session: EngineSession, events: EngineEvents) -> EngineSession:
        """Check that our hosts can run on its workers; return the session for the hosts.

        Raises EngineUnavailable if it does not answer or has no workers, VersionMismatch if hosts could not read what
        is sent.
        """

    def put(self, parcel: Parcel) -> Any:
        """Store an object where all workers can get it; return its handle, or None if the engine cannot do that."""

    def drop(self, handle: Any) -> None:
        """Forget a stored object: no group needs it any more."""

    def submit(self, number: int, parcel: Parcel, objects: list[Parcel], handles: list[Any]) -> None:
        """Have a group run, with these objects and the stored ones, on any worker."""

    def order(self, number: int, parcel: Parcel) -> None:
        """Bring orders to the host that runs a group."""

    def recall(self, number: int) -> None:
        """Have a group not run, if it has not begun."""

    def describe(self) -> str:
        """Return what and where it is, for people."""

    def close(self) -> None:
        """End all hosts; leave what belongs to the user as it was."""


#: an expression of the standard library's names alone, which any Python evaluates: what must fit between two processes
FACTS: Final = (
    "(lambda metadata: dict(python='.'.join(__import__('platform').python_version_tuple()[:2]), **{"
    "name.replace('-', '_'): next((found.version for found in metadata.distributions(name=name)), '')"
    " for name in ('concurrent-nb', 'cloudpickle', 'numpy')}))"
    "(__import__('importlib.metadata', fromlist=['distributions']))"
)


def with_authkey(session: EngineSession) -> EngineSession:
    """Return a session with the key of this process, for an engine of which no worker is on another machine.

    With the key one can connect to the managers of multiprocessing of this process, so it leaves no machine.
    """
    return structs.replace(session, authkey=bytes(multiprocessing.current_process().authkey).hex())


def own_facts() -> dict[str, str]:
    """Return the facts of this process."""
    facts: dict[str, str] = eval(FACTS)  # the expression above
    return facts


def check_facts(theirs: dict[str, str], where: str, ours: dict[str, str] | None = None) -> None:
    """Raise EngineUnavailable or VersionMismatch, with the remedy, if our hosts could not run tasks there.

    Args:
        theirs: the facts of a worker, as `FACTS` evaluates to.
        where: names the worker.
        ours: of this process; None: they are found out.
    """
    ours = ours or own_facts()
    if not theirs.get("concurrent_nb"):
        raise EngineUnavailable(
            f"{where} has no concurrent_nb: install it there (`pip install concurrent-nb=={ours['concurrent_nb']}`)"
        )
    for name, label, depth in (
        ("python", "Python", 2),
        ("concurrent_nb", "concurrent_nb", 3),
        ("cloudpickle", "cloudpickle", 1),
        ("numpy", "numpy", 1),
    ):
        here, there = ours.get(name, ""), theirs.get(name, "")
        if here and there and here.split(".")[:depth] != there.split(".")[:depth]:
            remedy = "use the same Python on both sides" if name == "python" else f"`pip install {label}=={here}` there"
            raise VersionMismatch(f"{where} has {label} {there}, this process has {here}: {remedy}")
