"""A task function as a task gets it: the plain function, because a task has no cluster to submit to.

Its `submit`, `map` and `options` raise an error that names the way that works. They are attributes of the function, not
methods of a wrapper, so that calls of it take no longer and recursion goes as deep as ever.
"""

import contextlib
import sys
from typing import Any, NoReturn

from concurrent_nb.errors import ConfigurationError


def refuse_to_submit(*args: object, **options: object) -> NoReturn:
    """Raise ConfigurationError: a task function cannot be submitted in a task."""
    raise ConfigurationError(
        "in a task a task function is the plain function, and has no cluster to submit to: call it, f(x), or submit it"
        ' to a cluster by name, `with concurrent_nb.connect("NAME") as app: app.submit(f, x).result()` (%concurrent'
        " start --name NAME and Cluster(name=...) name one), or give the job more tasks from outside"
    )


def restored(function: Any) -> Any:
    """Return the function of a task function in the process of a task."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    is_of_module = module is not None and module.__name__ != "__main__"
    if not (is_of_module and getattr(module, getattr(function, "__name__", ""), None) is function):
        with contextlib.suppress(AttributeError, TypeError):  # some callables have no room for attributes
            function.submit = function.map = function.options = refuse_to_submit
    return function
