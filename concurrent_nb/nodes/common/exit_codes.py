"""Exit codes with which a node tells its owner why it has ended."""

from typing import Final

#: the node cannot work as it is configured, so starting it again is no use
REFUSED: Final = 2
#: the initializer of a slave's workers has failed
NOT_INITIALIZED: Final = 3
