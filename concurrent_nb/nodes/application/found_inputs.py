"""The futures in a function or in arguments that are pickled: what the pickle contains for each."""

from typing import Any

from concurrent_nb.nodes.application.futures import TaskFuture, home_of
from concurrent_nb.shipping.serialization import pickles, task_inputs
from concurrent_nb.shipping.serialization.task_inputs import ForeignFuture


class FoundInputs:
    """Collects the futures of one application; a `task_inputs.Collector`.

    A future that has ended with a value leaves the value, any other one a reference.

    Args:
        home: the client thread of the application; None: that of the first future.
    """

    def __init__(self, home: object = None) -> None:
        self.is_used = False  #: a future was met
        self._home = home
        self._inputs: dict[TaskFuture, bool]  # whether it leaves a reference

    @property
    def futures(self) -> tuple[TaskFuture, ...]:
        """The futures that have left references."""
        if not self.is_used:
            return ()
        return tuple([future for future, is_reference in self._inputs.items() if is_reference])

    def is_plain(self, future: TaskFuture, budget: int) -> int:
        """Return what is left of the budget after what a future leaves, as `task_inputs.Collector`."""
        return budget if self._is_reference(future) else pickles.budget_after(future.result(), budget)

    def reduce(self, future: TaskFuture) -> tuple[Any, ...]:
        """Return what a future leaves. Raises ForeignFuture."""
        if self._home is None:
            self._home = home_of(future)
        check_home(future, self._home)
        if self._is_reference(future):
            return task_inputs.reference_to(future.job_id, future.index)
        return task_inputs.value_of(future.result())

    def _is_reference(self, future: TaskFuture) -> bool:
        # Decided once: it may end meanwhile, and whether the pickle is plain depends on it.
        if not self.is_used:
            self.is_used, self._inputs = True, {}
        is_reference = self._inputs.get(future)
        if is_reference is None:
            has_value = future.done() and not future.cancelled() and future.exception() is None and not future.is_kept
            is_reference = self._inputs[future] = not has_value
        return is_reference


def check_home(future: TaskFuture, home: object) -> None:
    """Raise ForeignFuture for a future of another application than this one."""
    if home_of(future) is not home:
        raise ForeignFuture(
            f"a future of another cluster or application (task {future.task}), whose value only its own tasks can get:"
            " call its result() first and send that"
        )


task_inputs.factories.append(FoundInputs)
