"""Errors of tasks end in the cell's own lines and contain where they happened."""

import dataclasses
import pickle
from collections.abc import Sequence

import pytest

from concurrent_nb import Job, TaskFuture
from concurrent_nb.errors import CellError, FunctionNotLoadable, RemoteError, RemoteTraceback, WorkerDied
from concurrent_nb.ids import JobId
from concurrent_nb.notebook.tracebacks import show_plainly, syntax_error, task_error, trim

TEXT = """Traceback (most recent call last):
  File "/opt/site-packages/concurrent_nb/workers/child.py", line 80, in run
    value = function(*args)
            ^^^^^^^^^^^^^^^
  File "/home/me/concurrent_nb/shipping/cells.py", line 165, in __call__
    result = types.FunctionType(self._code, namespace)(*values, *assigned)
  File "<cell In[3]>", line 5, in <cell>
    f(x)
  File "/tmp/ipykernel_9/123.py", line 2, in f
    return a/0
           ~^~
  File "/home/me/lib.py", line 7, in <module>
    deeper()
ZeroDivisionError: division by zero
"""


def cancel(job: JobId, indexes: Sequence[int] | None) -> None:
    pass


def failed(error: BaseException, cause: str | None = None) -> TaskFuture:
    if cause is not None:
        object.__setattr__(error, "__cause__", RemoteTraceback(cause))
    future = TaskFuture(JobId(b"\x1f" * 16), 7, cancel, None)
    future.slave, future.worker, future.attempt = "east", 4711, 2
    future.end(None, error)
    return future


def namer(filename: str) -> tuple[str, str] | None:
    return ("Cell", "In[2]") if filename.startswith("/tmp/ipykernel_") else None


def rendered(error: BaseException) -> str:
    lines = error._render_traceback_()  # type: ignore[attr-defined]
    return "\n".join(lines)


def test_our_frames_are_taken_out_and_cells_have_their_names() -> None:
    assert trim(TEXT, namer).splitlines() == [
        "Traceback (most recent call last):",
        "  Cell In[3], line 5",
        "    f(x)",
        "  Cell In[2], line 2, in f",
        "    return a/0",
        "           ~^~",
        '  File "/home/me/lib.py", line 7, in <module>',
        "    deeper()",
        "ZeroDivisionError: division by zero",
    ]


def test_chained_errors_are_kept() -> None:
    text = TEXT + "\nDuring handling of the above exception, another exception occurred:\n\n" + TEXT
    assert trim(text).count("division by zero") == 2
    assert "/workers/" not in trim(text)


def test_the_task_s_own_exception_is_raised_with_its_location() -> None:
    original = ZeroDivisionError("division by zero")
    error = task_error(failed(original, TEXT))
    assert error is original
    where = "the task failed on slave east, worker 4711, attempt 2 [1f1f1f1f/7]"
    assert error.__notes__ == [where]
    assert rendered(error).startswith(where)
    assert rendered(error).endswith("ZeroDivisionError: division by zero")


def test_it_names_the_item() -> None:
    job = Job(JobId(b"\x1f" * 16), "fits", cancel)
    future = [job._new_future(index) for index in range(2)][1]
    future.end(None, ValueError("x"))
    assert task_error(future).__notes__ == ["task 1 failed [1f1f1f1f/1]"]
    job.label = lambda index: f"k = {'abc'[index]!r}"
    assert task_error(future).__notes__ == ["task 1 (k = 'b') failed [1f1f1f1f/1]"]


def test_it_can_be_asked_for_again() -> None:
    future = failed(ValueError("x"), TEXT)
    assert task_error(future) is task_error(future)
    assert len(task_error(future).__notes__) == 1
    assert task_error(future).__notes__[0].startswith("the task failed on ")


def test_a_task_elsewhere_is_debugged_with_local() -> None:
    hint = "(the debugger cannot enter the worker: run the cell with --local, then %debug)"
    assert rendered(task_error(failed(ValueError("x"), TEXT), elsewhere=True)).endswith(hint)
    assert hint not in rendered(task_error(failed(ValueError("x"), TEXT)))
    assert hint not in rendered(task_error(failed(WorkerDied("died", "1f1f1f1f/7", "east", 4711)), elsewhere=True))


def test_it_can_still_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(task_error(failed(ValueError("x"), TEXT))))
    assert "Cell In[3], line 5" in rendered(error)


def test_an_error_of_the_cluster_is_shown_in_one_line() -> None:
    error = task_error(failed(WorkerDied("worker 4711 died of signal 11", "1f1f1f1f/7", "east", 4711)))
    assert rendered(error).splitlines()[1:] == ["WorkerDied: worker 4711 died of signal 11"]


def test_an_error_of_the_cluster_comes_after_the_traceback_that_it_explains() -> None:
    error = task_error(failed(FunctionNotLoadable("the worker lacks numpy"), TEXT))
    assert rendered(error).splitlines()[-2:] == [
        "ZeroDivisionError: division by zero",
        "FunctionNotLoadable: the worker lacks numpy",
    ]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("x"), GeneratorExit("y")])
def test_what_would_end_the_kernel_is_wrapped(error: BaseException) -> None:
    raised = task_error(failed(error, TEXT))
    assert isinstance(raised, RemoteError)
    assert raised.type_name == type(error).__name__
    assert "Cell In[3], line 5" in rendered(raised)


def test_an_exception_without_attributes_is_raised_as_it_is() -> None:
    class Bare(Exception):
        __slots__ = ()

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    bare = Bare("x")
    assert task_error(failed(bare)) is bare


def test_a_syntax_error_looks_like_python_s_own() -> None:
    with pytest.raises(SyntaxError) as raised:
        compile("\nx = = 3\n", "<cell In[5]>", "exec")
    raised.value.text = "x = = 3"
    error = syntax_error(raised.value)
    assert isinstance(error, CellError)
    assert rendered(error).splitlines() == [
        "  Cell In[5], line 2",
        "    x = = 3",
        "        ^",
        "SyntaxError: invalid syntax",
    ]


def test_errors_of_ours_are_shown_without_a_traceback() -> None:
    error = CellError("line 3: no")
    show_plainly(error)
    assert rendered(error) == "CellError: line 3: no"


@dataclasses.dataclass(frozen=True)
class Fixed(Exception):
    code: int


def test_an_exception_that_allows_no_changes_is_shown_like_others() -> None:
    error = task_error(failed(Fixed(7), TEXT))
    assert isinstance(error, Fixed)
    assert rendered(error).splitlines()[0] == error.__notes__[0]
