"""Makes an application from what a user gives to `connect`: an engine's address, a client of it, or an executor."""

import concurrent.futures
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from concurrent_nb.errors import ConfigurationError, EngineUnavailable
from concurrent_nb.nodes.application.node import ApplicationNode

if TYPE_CHECKING:
    from concurrent_nb.engines.engine_application import EngineApplication
    from concurrent_nb.engines.engine_interface import Engine

#: begins the names by which engines are meant
_SCHEMES: Final = ("dask://", "ray://")
_NAMES: Final = ("inline", "ray")


def is_engine(where: object) -> bool:
    """Return whether this names an engine, or is one, and not the name or connection file of a cluster.

    >>> [is_engine(where) for where in ("dask://host:8786", "ray", "inline", "my-cluster")]
    [True, True, True, False]
    """
    if isinstance(where, str):
        return where in _NAMES or where.startswith(_SCHEMES)
    if isinstance(where, ApplicationNode | Path):
        return False
    return isinstance(where, concurrent.futures.Executor) or _is_dask_client(where)


def _is_dask_client(where: object) -> bool:
    """Return whether this is a `distributed.Client`, without importing distributed."""
    return any(kind.__module__ == "distributed.client" and kind.__name__ == "Client" for kind in type(where).__mro__)


def connect_engine(where: Any, workers: int | None = None) -> "EngineApplication":
    """Return an application whose tasks run on an engine.

    Args:
        where: "inline", "dask://HOST:PORT", "ray", "ray://HOST:PORT", a `distributed.Client` or an executor.
        workers: number of workers of an executor that does not report it, or of threads of "inline" (default: 1).

    Raises:
        ConfigurationError: this names no engine.
        EngineUnavailable: the engine does not answer, has no workers, or its package is not installed here or there.
        VersionMismatch: its workers have other versions than this process.
        ClusterStartFailed: the master of this process does not start.
    """
    if workers is not None and not (isinstance(where, concurrent.futures.Executor) or where == "inline"):
        raise ConfigurationError("workers is for executors and 'inline': other engines know how many they have")
    if workers is not None and (type(workers) is not int or workers < 1):
        raise ConfigurationError(f"workers is {workers!r}, it must be a whole number of at least 1")
    from concurrent_nb.engines.engine_application import EngineCluster  # here: few need the slave's side
    from concurrent_nb.engines.engine_pool import EnginePool  # here, too

    if where == "inline":
        from concurrent_nb.engines.inline_engine import InlineWorkers  # here: it needs the worker's side

        what = "a thread of this process" if workers in (None, 1) else f"{workers} threads of this process"
        return EngineCluster("inline", InlineWorkers(workers or 1), lambda: what).application()
    engine = _make(where, workers)
    pool = EnginePool(engine)
    return EngineCluster(engine.name, pool, engine.describe).application()


def _make(where: Any, workers: int | None) -> "Engine":
    """Return an engine that is not open yet. What each needs is imported when it is used: it is an extra."""
    if isinstance(where, concurrent.futures.Executor):
        from concurrent_nb.engines.executor_engine import ExecutorEngine  # here: see above

        return ExecutorEngine(where, workers)
    if _is_dask_client(where) or (isinstance(where, str) and where.startswith("dask://")):
        return _needing("distributed", "dask", lambda: _dask(where))
    if isinstance(where, str) and (where == "ray" or where.startswith("ray://")):
        return _needing("ray", "ray", lambda: _ray(where))
    raise ConfigurationError(
        f"{where!r} is no engine: give 'inline', 'dask://HOST:PORT', 'ray', 'ray://HOST:PORT', a distributed.Client or"
        " an executor"
    )


def _dask(where: Any) -> "Engine":
    from concurrent_nb.engines.dask_engine import DaskEngine  # here: distributed is an extra

    return DaskEngine(where)


def _ray(where: str) -> "Engine":
    from concurrent_nb.engines.ray_engine import RayEngine  # here: ray is an extra

    return RayEngine(where)


def _needing(package: str, extra: str, make: "Callable[[], Engine]") -> "Engine":
    """Return what `make` returns. Raises EngineUnavailable, with what to install, without the package."""
    try:
        return make()
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != package:
            raise
        raise EngineUnavailable(
            f"the package {package} is not installed here: pip install 'concurrent-nb[{extra}]'"
        ) from None
