"""What a turn of a node's loop decides about the node's session. The loops are pure: whoever runs them acts on it."""

from enum import Enum, auto


class Verdict(Enum):
    """What a slave or an application is to do after a turn."""

    STAY = auto()  #: wait for the next event, and take another turn
    ASK = auto()  #: ask the master over the control channel whether it still has the session
    REJOIN = auto()  #: the session is over: register again
    LEAVE = auto()  #: unregister, and end
    END = auto()  #: end without unregistering: the cluster is gone
