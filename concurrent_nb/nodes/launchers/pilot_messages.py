"""Messages between a pilot and its helper process: a line of JSON each, over pipes.

The helper is the client of the other engine: importing and connecting it changes nothing in the owner's process, where
users may have connected the same library to another cluster.
"""

from typing import Final

import msgspec

from concurrent_nb.nodes.launchers.launcher import LaunchedSlave, SlaveStart


class ConnectPilot(msgspec.Struct, tag="connect"):
    """The first message to the helper."""

    engine: str  #: "dask" or "ray"
    address: str
    is_local: bool  #: slaves reach the master from this machine only
    connect_s: float  #: how long the engine may take to answer
    options: dict[str, str | int]  #: further ones, of the engine


class LaunchThere(msgspec.Struct, tag="launch"):
    """Start a slave on a host of the engine."""

    start: SlaveStart


class EndThere(msgspec.Struct, tag="end"):
    """End these slaves, and forget them."""

    names: list[str]


class PilotConnected(msgspec.Struct, tag="connected"):
    """The engine has answered."""

    hosts: int  #: on which slaves can run
    unfit: str  #: why slaves cannot run on a host of the engine; "" if they can run on each


class PilotSlavesNow(msgspec.Struct, tag="slaves"):
    """All slaves, after a change."""

    slaves: list[LaunchedSlave]


class PilotFailed(msgspec.Struct, tag="failed"):
    """The last message of a helper that cannot go on."""

    reason: str


ToPilot = ConnectPilot | LaunchThere | EndThere
FromPilot = PilotConnected | PilotSlavesNow | PilotFailed

TO_PILOT: Final = msgspec.json.Decoder(ToPilot)
FROM_PILOT: Final = msgspec.json.Decoder(FromPilot)


def pilot_line(message: ToPilot | FromPilot) -> str:
    """Return a message as a line, without its end."""
    return msgspec.json.encode(message).decode()
