"""Proxies of multiprocessing's managers as arguments: a worker has to prove that it knows their process's authkey.

    owner of an embedded cluster: environment of its slaves --authkey--> take_key() in a worker
    a task's argument:            reduce(proxy) ----------------------> rebuilt(...), with that key

Workers of other hosts do not get the key, and neither do those of a cluster that was started by somebody else.
"""

import os
from collections.abc import Callable
from typing import Any, Final

from concurrent_nb.ids import AUTHKEY_VARIABLE

_KEY: Final = bytearray()
_IS_WORKER: Final[list[bool]] = []


def take_key() -> None:
    """Take the key out of a worker's environment, so that no program that a task starts finds it there."""
    _IS_WORKER.append(True)
    _KEY[:] = bytes.fromhex(os.environ.pop(AUTHKEY_VARIABLE, ""))


def reduce_proxy(proxy: Any) -> Any:
    """Say how a proxy is pickled."""
    make, args, *rest = proxy.__reduce_ex__(5)
    return rebuild_proxy, (make, args), *rest


def rebuild_proxy(make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Unpickle a proxy, which connects to its manager. Raises ConnectionError, which says who can."""
    from multiprocessing import AuthenticationError, current_process

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
