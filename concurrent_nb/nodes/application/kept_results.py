"""Results that stay in the cluster: requests for them, and when they are dropped. A part of the client thread."""

from collections import deque
from collections.abc import Callable

from concurrent_nb.nodes.application.client_tasks import ClientJob, ResultFetched
from concurrent_nb.nodes.application.core import ClientCore
from concurrent_nb.nodes.application.kept_futures import KeptFuture
from concurrent_nb.nodes.application.results import fetched_value
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.wire.messages import Slice


class KeptResults:
    """Fetches kept results, and has them dropped. All methods but `ask` and `drop_unused` may be called in any thread.

    Args:
        core: of the application.
        copy: copies a slice of a result.
        call_soon: calls something in the client thread.
        why_gone: returns why nothing can be fetched any more; None while it can.
        has_left: returns whether the client thread has ended, so that nothing is called in it any more.
    """

    def __init__(
        self,
        core: ClientCore[TaskHandle],
        copy: Callable[[Slice], bytearray],
        call_soon: Callable[[Callable[[], None]], None],
        why_gone: Callable[[], Exception | None],
        has_left: Callable[[], bool],
    ) -> None:
        self._core = core
        self._copy = copy
        self._call_soon = call_soon
        self._why_gone = why_gone
        self._has_left = has_left
        self._to_free: list[KeptFuture] = []  # tasks that are not sent yet may need them
        self._freed: deque[tuple[ClientJob[TaskHandle], int]] = deque()
        self._asked: dict[KeptFuture, list[Callable[[ResultFetched | None], object]]] = {}  # what to call then

    def fetch(self, job: ClientJob[TaskHandle], future: KeptFuture) -> None:
        """Ask for a kept result. If the cluster is gone, it is lost at once."""

        def begin() -> None:
            if (error := self._why_gone()) is not None:
                future.fetched(None, error)
            else:
                self.ask(job, future)

        self._call_soon(begin)
        if self._has_left():
            future.fetched(None, self._why_lost())

    def ask(
        self,
        job: ClientJob[TaskHandle],
        future: KeptFuture,
        then: Callable[[ResultFetched | None], object] = lambda _: None,
    ) -> None:
        """Ask for a kept result, once for all who do; call `then` when its future has it. In the client thread."""
        if (asked := self._asked.get(future)) is not None:
            asked.append(then)
            return
        self._asked[future] = [then]

        def fetched(news: ResultFetched | None) -> None:
            callbacks = self._asked.pop(future)
            if news is None:
                future.fetched(None, self._why_lost())
            else:
                future.fetched(*fetched_value(news, self._copy))
            for callback in callbacks:
                callback(news)

        self._core.fetch(job, future.index, fetched)

    def _why_lost(self) -> Exception:
        """Return why a result cannot be fetched. A forked copy of this process has no thread that fetches it."""
        return self._why_gone() or RuntimeError("cannot fetch results after shutdown, or in a forked process")

    def free(self, future: KeptFuture) -> None:
        """Have a kept result dropped when the tasks that were submitted before are at the master."""
        self._call_soon(lambda: self._to_free.append(future))

    def free_later(self, job: ClientJob[TaskHandle], index: int) -> None:
        """Have a kept result dropped soon. For finalizers too."""
        self._freed.append((job, index))

    def drop_unused(self) -> None:
        """Drop the results that no task needs any more. In the client thread, in each turn."""
        if self._to_free:
            needed = self._core.needed_by_unsent()
            unused = [future for future in self._to_free if future not in needed]
            self._to_free = [future for future in self._to_free if future in needed]
            for future in unused:
                future.end_keeping()
        while self._freed:
            self._core.free(*self._freed.popleft())
