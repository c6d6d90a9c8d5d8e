"""Whether the end of this kernel is a restart: then the user comes back, and the cluster may keep what runs."""

from typing import Any

from IPython.core.getipython import get_ipython


def is_restarting() -> bool:
    """Return whether the front end has asked this kernel to end because it starts it again."""
    shell: Any = get_ipython()
    message = getattr(getattr(shell, "kernel", None), "_shutdown_message", None)
    return isinstance(message, dict) and message.get("content", {}).get("restart") is True
