"""`%load_ext concurrent_nb`: make the magics known to a shell, and take them away again."""

from typing import Final

from IPython.core.interactiveshell import InteractiveShell

from concurrent_nb.notebook.magics import ConcurrentMagics

#: where the shell keeps our magics, so that they can be found again
_MAGICS: Final = {"line": "concurrent", "cell": "concurrent_task"}


def load(ipython: InteractiveShell) -> None:
    """Register `%concurrent` and `%%concurrent_task`. Starts nothing."""
    ipython.register_magics(ConcurrentMagics(ipython))


def unload(ipython: InteractiveShell) -> None:
    """Take the magics away, and stop the cluster that they started."""
    for kind, name in _MAGICS.items():
        ipython.magics_manager.magics[kind].pop(name, None)
    magics = ipython.magics_manager.registry.pop(ConcurrentMagics.__name__, None)
    if magics is not None:
        magics.session.stop()
