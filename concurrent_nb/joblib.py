"""The joblib backend "concurrent_nb": importing this module registers it.

    import concurrent_nb.joblib

    with joblib.parallel_config(backend="concurrent_nb"):
        GridSearchCV(model, grid).fit(X, y)               # on the cluster

The cluster is the one that task functions use: the notebook's, elsewhere an embedded one. `with app.joblib():` uses
that of an application. docs/libraries.md has more.
"""

from typing import Any, Final

import joblib

from concurrent_nb import task_functions
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.application.joblib_backend import ClusterBackend

#: the backend's name
NAME: Final = "concurrent_nb"


def backend_in_task(nesting_level: int) -> ClusterBackend | None:
    """Return the backend for a `Parallel` in a task; None if the task has no application. For tasks."""
    try:
        task_functions.application()
    except ConfigurationError:  # the task has no application
        return None
    backend = ClusterBackend(task_functions.application, nesting_level=nesting_level)
    backend.default_n_jobs = 1
    return backend


def make_backend(**options: Any) -> ClusterBackend:
    """Return a backend that uses the default application. For joblib; the options are those of `app.joblib`."""
    return ClusterBackend(task_functions.application, **options)


joblib.register_parallel_backend(NAME, make_backend)
