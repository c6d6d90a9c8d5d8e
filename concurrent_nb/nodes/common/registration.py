"""How a node joins a cluster: it registers over the control channel, whose answer describes the compute channel."""

import contextlib
import os
import platform
from dataclasses import dataclass
from typing import Any, Final

from concurrent_nb.errors import AccessRefused, ConcurrentError, ProtocolError, VersionMismatch
from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.nodes.common.process_identity import host_name, own_start_time
from concurrent_nb.nodes.common.quota import UNLIMITED, Quota, parse_limits
from concurrent_nb.object_store import segments
from concurrent_nb.transport.compute import ComputeClient
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.transport.keys import KeyPair
from concurrent_nb.wire.messages import PROTOCOL_VERSION

#: a master that does not answer a call within this time counts as absent
CALL_TIMEOUT_S: Final = 5.0


def versions() -> dict[str, Any]:
    """Return the versions of this node, which must fit those of the cluster."""
    from importlib import metadata  # here: it takes 25 ms, in which a slave's workers already start

    return {
        "protocol": PROTOCOL_VERSION,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "cloudpickle": metadata.version("cloudpickle"),
    }


def check_versions(theirs: dict[str, Any], who: str) -> None:
    """Raise VersionMismatch, with both versions, for a node whose pickles or messages the others could not read.

    Pickled code needs the same minor version of Python on both sides, and the same major version of cloudpickle.
    """
    ours = versions()
    for what, of in (("protocol", str), ("python", str), ("cloudpickle", _major)):
        if of(str(theirs.get(what, "none"))) != of(str(ours[what])):
            raise VersionMismatch(
                f"{who} has {what} {theirs.get(what, 'none')}, the master has {ours[what]}: "
                f"use an environment with {what} {ours[what]} on both sides"
            )


def _major(version: str) -> str:
    return version.partition(".")[0]


@dataclass(eq=False, slots=True)
class Membership:
    """A node's membership in a cluster."""

    session_id: SessionId
    secret: str  #: proves to the control channel that the session belongs to this node
    epoch: int
    name: str  #: the node's name at the master
    interval_s: float  #: most seconds between two envelopes
    silence_s: float  #: seconds without an envelope after which to ask for a heartbeat, or to give the peer up
    link: ComputeClient
    control: ControlClient
    role: str
    master_ip: str  #: address of the master's compute channel
    shares_memory: bool  #: node and master are on one machine, and each can open the other's shared memory
    quota: Quota = UNLIMITED  #: how much the master accepts from one application
    journal: str = ""  #: id of the master's journal, with which it may be started again; "" if it has none

    @property
    def credentials(self) -> dict[str, str]:
        """Session and secret, which methods take as proof."""
        return {"session": self.session_id.hex(), "secret": self.secret}

    def still_known(self) -> bool:
        """Return whether the master still has the session, over the control channel. Raises MasterUnreachable."""
        return bool(self.control.call(f"heartbeat_{self.role}", **self.credentials))

    def status(self) -> dict[str, Any]:
        """Return the master's status; of jobs, those of the same owner. Raises MasterUnreachable."""
        answer = self.control.call("status", **self.credentials)
        assert isinstance(answer, dict)
        return answer

    def statistics(self, job: JobId | None = None) -> dict[str, Any]:
        """Return the master's statistics of an own job, or of the cluster. Raises as `status`, ConfigurationError."""
        answer = self.control.call("stats", job="" if job is None else job.hex(), **self.credentials)
        assert isinstance(answer, dict)
        return answer

    def ask(self, method: str, **params: object) -> Any:
        """Call a method of the control channel as the owner of this session. Raises MasterUnreachable."""
        return self.control.call(method, **params, **self.credentials)

    def leave(self, *, unattended: bool = False) -> None:
        """Unregister, if the master can be reached, and close the link.

        Args:
            unattended: the user of an application comes back: the master may keep its jobs, if it is configured to.
        """
        # If the master has ended, or was started anew, the membership is over anyway.
        with contextlib.suppress(ConnectionError, ProtocolError, AccessRefused):
            how = {"unattended": True} if unattended else {}
            self.control.call(f"unregister_{self.role}", **self.credentials, **how)
        self.close()

    def close(self) -> None:
        """Close link and connection, without a message."""
        self.link.close()
        self.control.close()


def register(
    info: ConnectionFile, role: str, keys: KeyPair, former: Membership | None = None, **facts: Any
) -> Membership:
    """Register as a "client" or a "slave" at the master that `info` describes.

    Args:
        former: a client's last membership, which ends when the first envelope of the new one comes.
        facts: further parameters of the method register_<role>.

    Raises MasterUnreachable, AccessRefused, VersionMismatch, LimitExceeded or ProtocolError.
    """
    token = info.tokens.get(role) or info.tokens.get("admin")
    if token is None and "parent_job" in facts:  # a slave's machine may have no other
        token = info.tokens.get("slave")
    if token is None:
        raise AccessRefused(f"the connection file of cluster {info.name!r} has no token for a {role}: get a full copy")
    if role == "client":
        facts = {"begun": own_start_time(), **facts}
    if former is not None:
        facts = {**facts, "replaces": former.session_id.hex(), "replaces_secret": former.secret}
    control = ControlClient(info.endpoints, token, info.certificate_pem, timeout_s=CALL_TIMEOUT_S)
    try:
        with segments.probe() as ours:
            memory = None if ours is None else as_json(ours)
            answer = control.call(
                f"register_{role}",
                key=keys.public.decode(),
                versions=versions(),
                memory=memory,
                host=host_name(),
                pid=os.getpid(),
                **facts,
            )
        if answer["master_key"] != info.master_key:
            raise AccessRefused(f"the master of cluster {info.name!r} has another key than the connection file")
        quota = parse_limits(answer.get("limits"))
        session_id = SessionId(bytes.fromhex(answer["session"]))
        master_key = info.master_key.encode()
        master_ip = answer["compute"].removeprefix("tcp://").rpartition(":")[0].strip("[]")
        secret, epoch, name, interval_s, silence_s = (
            answer[word] for word in ("secret", "epoch", "name", "interval_s", "silence_s")
        )
        shares, journal = can_open(answer["memory"]), str(answer.get("journal", ""))
        compute = answer["compute"] if info.compute_endpoint is None else f"tcp://{info.compute_endpoint}"
        link = ComputeClient(compute, session_id, master_key, keys.public, keys.secret, info.compute_proxy)
    except BaseException as error:
        control.close()
        if isinstance(error, (KeyError, TypeError, AttributeError, ValueError)) and not isinstance(
            error, ConcurrentError
        ):
            raise ProtocolError(f"the master's answer to register_{role} cannot be read: {error!r}") from error
        raise
    return Membership(
        session_id, secret, epoch, name, interval_s, silence_s, link, control, role, master_ip, shares, quota, journal
    )


# A node sends the handle of a small segment of shared memory when it registers. If the master can open it, the answer
# has one of the master's; if the node can open that, large buffers stay in shared memory between the two.


def as_json(handle: segments.SegmentHandle) -> list[Any]:
    """Return a handle as JSON."""
    return [handle.segment.hex(), handle.pid, handle.fd, handle.size]


def can_open(shown: Any) -> bool:
    """Return whether this process can open a segment of another one, as from `as_json`."""
    if shown is None or not segments.is_available():
        return False
    try:
        segment, pid, fd, size = shown
        opened = segments.open_segment(segments.SegmentHandle(bytes.fromhex(segment), int(pid), int(fd), int(size)))
    except (segments.CannotOpen, TypeError, ValueError):  # another machine, another user, or an invalid handle
        return False
    os.close(opened)
    return True
