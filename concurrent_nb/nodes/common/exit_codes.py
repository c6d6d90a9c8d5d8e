"""Exit codes of nodes, by which their owner knows why they have ended."""

from typing import Final

#: the configuration is wrong, so it is useless to start the node again
REFUSED: Final = 2
#: the initializer of a slave's workers has failed
NOT_INITIALIZED: Final = 3
#: a slave was asked to leave, and its running tasks have ended
DRAINED: Final = 4
