"""Proxies of multiprocessing's managers as arguments: a worker needs the authkey of the manager's process.

    owner of an embedded cluster: environment of its slaves --authkey--> take_key() in a worker
    a task's argument:            reduce_proxy(proxy) --------> rebuild_proxy(...), with that key

Workers on other machines and workers of a cluster that another process has started do not get the key.
"""

import os
from collections.abc import Callable
from typing import Any, Final

from concurrent_nb.ids import AUTHKEY_VARIABLE

_KEY: Final = bytearray()
_IS_WORKER: Final[list[bool]] = []


def take_key() -> None:
    """Move the key out of a worker's environment, so that no child process of a task inherits it."""
    _IS_WORKER.append(True)
    _KEY[:] = bytes.fromhex(os.environ.pop(AUTHKEY_VARIABLE, ""))


def reduce_proxy(proxy: Any) -> Any:
    """Return how a proxy is pickled, as `__reduce__` does."""
    make, args, *rest = proxy.__reduce_ex__(5)
    return rebuild_proxy, (make, args), *rest


def rebuild_proxy(make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Unpickle a proxy, which connects to its manager. Raises ConnectionError if the manager refuses this worker."""
    from multiprocessing import AuthenticationError, current_process  # here, because few tasks need it

    if _KEY:
        current_process().authkey = bytes(_KEY)
    try:
        return make(*args)
    except (AuthenticationError, OSError) as error:
        if not _IS_WORKER:
            raise
        raise ConnectionError(
            f"this worker cannot reach the manager of a multiprocessing proxy ({type(error).__name__}: {error}): only"
            " workers of a cluster that is embedded in the manager's owner can. Use app.put and the tasks' results"
        ) from error
