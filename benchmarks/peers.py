"""The contenders, each set up as in its documentation for 2 workers on this machine. Their imports are heavy, so each
imports its package when it starts: that is part of its start."""

import functools
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from benchmarks.workloads import kept

Function = Callable[..., Any]


class NotOffered(Exception):
    """The contender's API has no such operation."""


class Contender(ABC):
    """The measured operations: tasks one by one, a map, and one array for many tasks."""

    title: ClassVar[str]
    module: ClassVar[str]  #: that must be installed
    distribution: ClassVar[str] = ""  #: whose version is reported; "" for the standard library
    note: ClassVar[str]  #: how it is set up
    futures: ClassVar[bool] = True  #: False: one task at a time, but not many with a handle each

    @abstractmethod
    def start(self, workers: int) -> None:
        """Start workers, or begin to."""

    @abstractmethod
    def submit(self, fn: Function, *args: Any) -> Any:
        """Start one task; return its handle."""

    @abstractmethod
    def map(self, fn: Function, items: Sequence[Any]) -> Iterable[Any]:
        """Return a result for each item, in chunks of the API's default size."""

    @abstractmethod
    def stop(self) -> None:
        """Stop everything."""

    def result(self, handle: Any) -> Any:
        """Wait for the result of one task."""
        return handle.result()

    def gather(self, handles: Sequence[Any]) -> Iterable[Any]:
        """Wait for the results of many tasks, in order."""
        return [self.result(handle) for handle in handles]

    def each(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        """Run a task of its own for each item."""
        return list(self.gather([self.submit(fn, item) for item in items]))

    def map_keeping_errors(self, fn: Function, items: Sequence[Any]) -> Iterable[Any]:
        """Map so that every item returns its result or its exception."""
        return self.map(functools.partial(kept, fn), items)

    def share(self, array: Any) -> Any:
        """Store an array for many tasks; return what to pass to them."""
        raise NotOffered

    def role(self, command: str) -> str:
        """Return the role of the process with this command line, which is neither the client nor a worker."""
        return "other"


class Ours(Contender):
    title = "concurrent_nb"
    module = "concurrent_nb"
    distribution = "concurrent-nb"
    note = "embedded Cluster(workers=2): master, slave, template, 2 workers; CURVE, acknowledgements, deadlines on"

    def start(self, workers: int) -> None:
        import concurrent_nb

        self.cluster = concurrent_nb.Cluster(workers=workers).start()
        self.app: Any = self.cluster.application()  # Any: an older version may lack some methods

    def submit(self, fn: Function, *args: Any) -> Any:
        return self.app.submit(fn, *args)

    def map(self, fn: Function, items: Sequence[Any]) -> Iterable[Any]:
        results: Iterable[Any] = self.app.map(fn, items)
        return results

    def map_keeping_errors(self, fn: Function, items: Sequence[Any]) -> Iterable[Any]:
        results: Iterable[Any] = self.app.map(fn, items, return_exceptions=True)
        return results

    def share(self, array: Any) -> Any:
        put: Callable[[Any], Any] | None = getattr(self.app, "put", None)
        if put is None:
            raise NotOffered
        return put(array)

    def stop(self) -> None:
        self.cluster.close()

    def role(self, command: str) -> str:
        for words, role in (("nodes master", "master"), ("nodes slave", "slave"), ("nodes.worker", "template")):
            if words in command:
                return role
        return "other"


class ProcessPool(Contender):
    title = "ProcessPoolExecutor"
    module = "concurrent.futures"
    note = "forked workers; its map's default is a task for each item"

    def start(self, workers: int) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self.pool = ProcessPoolExecutor(workers)

    def submit(self, fn: Function, *args: Any) -> Any:
        return self.pool.submit(fn, *args)

    def map(self, fn: Function, items: Sequence[Any]) -> Iterable[Any]:
        return self.pool.map(fn, items)

    def stop(self) -> None:
        self.pool.shutdown()


class Pool(Contender):
    title = "multiprocessing.Pool"
    module = "multiprocessing"
    note = "forked workers"

    def start(self, workers: int) -> None:
        import multiprocessing

        self.pool = multiprocessing.Pool(workers)

    def submit(self, fn: Function, *args: Any) -> Any:
        return self.pool.apply_async(fn, args)

    def result(self, handle: Any) -> Any:
        return handle.get()

    def map(self, fn: Function, items: Sequence[Any]) -> Iterable[Any]:
        return self.pool.map(fn, items)

    def stop(self) -> None:
        self.pool.close()
        self.pool.join()


class Loky(Contender):
    title = "loky"
    module = "loky"
    distribution = "loky"
    note = "get_reusable_executor"

    def start(self, workers: int) -> None:
        import loky

        self.pool = loky.get_reusable_executor(max_workers=workers, timeout=600)

    def submit(self, fn: Function, *args: Any) -> Any:
        return self.pool.submit(fn, *args)

    def map(self, fn: Function, items: Sequence[Any]) -> Iterable[Any]:
        results: Iterable[Any] = self.pool.map(fn, items)
        return results

    def stop(self) -> None:
        self.pool.shutdown(wait=True)


class Joblib(Contender):
    title = "joblib"
    module = "joblib"
    distribution = "joblib"
    note = "Parallel with its default backend; maps arrays above 1 MiB into memory; has no futures"
    futures = False

    def start(self, workers: int) -> None:
        import joblib

        self.delayed = joblib.delayed
        self.parallel = joblib.Parallel(n_jobs=workers).__enter__()
        self.single = joblib.Parallel(n_jobs=workers, batch_size=1).__enter__()

    def submit(self, fn: Function, *args: Any) -> Any:
        return self.single([self.delayed(fn)(*args)])[0]

    def result(self, handle: Any) -> Any:
        return handle

    def each(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        return list(self.single(self.delayed(fn)(item) for item in items))

    def map(self, fn: Function, items: Sequence[Any]) -> Iterable[Any]:
        results: Iterable[Any] = self.parallel(self.delayed(fn)(item) for item in items)
        return results

    def share(self, array: Any) -> Any:
        return array  # it maps large arguments into memory by itself

    def stop(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        self.parallel.__exit__(None, None, None)
        self.single.__exit__(None, None, None)
        get_reusable_executor().shutdown(wait=True)


class Mpire(Contender):
    title = "mpire"
    module = "mpire"
    distribution = "mpire"
    note = "WorkerPool, forked, keep_alive"

    def start(self, workers: int) -> None:
        from mpire import WorkerPool

        self.pool = WorkerPool(n_jobs=workers, keep_alive=True)

    def submit(self, fn: Function, *args: Any) -> Any:
        return self.pool.apply_async(fn, args)

    def result(self, handle: Any) -> Any:
        return handle.get()

    def map(self, fn: Function, items: Sequence[Any]) -> Iterable[Any]:
        # A tuple among the items would be passed as several arguments.
        results: Iterable[Any] = self.pool.map(fn, [(item,) for item in items], concatenate_numpy_output=False)
        return results

    def stop(self) -> None:
        self.pool.stop_and_join()


class Pebble(Contender):
    title = "pebble"
    module = "pebble"
    distribution = "pebble"
    note = "ProcessPool, forked; its map's default is a task for each item"

    def start(self, workers: int) -> None:
        from pebble import ProcessPool

        self.pool = ProcessPool(max_workers=workers)

    def submit(self, fn: Function, *args: Any) -> Any:
        return self.pool.schedule(fn, args=args)

    def map(self, fn: Function, items: Sequence[Any]) -> Iterable[Any]:
        results: Iterable[Any] = self.pool.map(fn, items).result()
        return results

    def stop(self) -> None:
        self.pool.close()
        self.pool.join()


class Ray(Contender):
    title = "Ray"
    module = "ray"
    distribution = "ray"
    note = "ray.init(num_cpus=2) without dashboard; its map is ray.util.multiprocessing.Pool"

    def start(self, workers: int) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it reads them when it is imported
        os.environ["RAY_DEDUP_LOGS"] = "0"
        import ray

        self.ray = ray
        self.workers = workers
        self.pool: Any = None
        self.remotes: dict[Function, Any] = {}
        ray.init(
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _node_ip_address="127.0.0.1",
        )

    def submit(self, fn: Function, *args: Any) -> Any:
        if fn not in self.remotes:
            self.remotes[fn] = self.ray.remote(fn)
        return self.remotes[fn].remote(*args)

    def result(self, handle: Any) -> Any:
        return self.ray.get(handle)

    def gather(self, handles: Sequence[Any]) -> Iterable[Any]:
        results: Iterable[Any] = self.ray.get(handles)
        return results

    def map(self, fn: Function, items: Sequence[Any]) -> Iterable[Any]:
        if self.pool is None:
            from ray.util.multiprocessing import Pool

            self.pool = Pool(self.workers)
        results: Iterable[Any] = self.pool.map(fn, items)
        return results

    def share(self, array: Any) -> Any:
        return self.ray.put(array)

    def stop(self) -> None:
        self.ray.shutdown()


class Dask(Contender):
    title = "Dask"
    module = "distributed"
    distribution = "distributed"
    note = "Client: 2 worker processes with a thread each, no dashboard; its map is dask.bag"

    def start(self, workers: int) -> None:
        from distributed import Client

        self.client = Client(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            host="127.0.0.1",
            silence_logs=logging.CRITICAL,
        )

    def submit(self, fn: Function, *args: Any) -> Any:
        return self.client.submit(fn, *args, pure=False)

    def gather(self, handles: Sequence[Any]) -> Iterable[Any]:
        results: Iterable[Any] = self.client.gather(handles)
        return results

    def map(self, fn: Function, items: Sequence[Any]) -> Iterable[Any]:
        import dask.bag

        results: Iterable[Any] = dask.bag.from_sequence(items).map(fn).compute(scheduler=self.client)
        return results

    def share(self, array: Any) -> Any:
        return self.client.scatter(array, broadcast=True)

    def stop(self) -> None:
        self.client.shutdown()


class IPyParallel(Contender):
    title = "ipyparallel"
    module = "ipyparallel"
    distribution = "ipyparallel"
    note = "Cluster(n=2), load-balanced view; its map is the direct view's, a piece for each engine"

    def start(self, workers: int) -> None:
        import ipyparallel

        self.reference = ipyparallel.Reference
        self.cluster = ipyparallel.Cluster(n=workers, log_level=logging.ERROR, controller_ip="127.0.0.1")
        self.client = self.cluster.start_and_connect_sync(activate=False)
        self.view = self.client.load_balanced_view()
        self.direct = self.client[:]

    def submit(self, fn: Function, *args: Any) -> Any:
        return self.view.apply_async(fn, *args)

    def result(self, handle: Any) -> Any:
        return handle.get()

    def map(self, fn: Function, items: Sequence[Any]) -> Iterable[Any]:
        results: Iterable[Any] = self.direct.map_sync(fn, items)
        return results

    def share(self, array: Any) -> Any:
        self.direct.push({"shared_array": array}, block=True)
        return self.reference("shared_array")

    def stop(self) -> None:
        self.cluster.stop_cluster_sync()
        self.client.close()


OURS = "ours"
#: by the name on the command line
CONTENDERS: dict[str, type[Contender]] = {
    OURS: Ours,
    "ppe": ProcessPool,
    "pool": Pool,
    "loky": Loky,
    "joblib": Joblib,
    "mpire": Mpire,
    "pebble": Pebble,
    "ray": Ray,
    "dask": Dask,
    "ipyparallel": IPyParallel,
}
#: those of the standard library, and ours
QUICK = (OURS, "ppe", "pool")
