"""What a worker does with a task object: call it, tidy up, and lose neither result nor error."""

import pickle

import pytest

from concurrent_nb.shipping.pushed import run_task
from concurrent_nb.tasks.system import Task


class Work(Task):
    """Does what it is told, and keeps a diary."""

    def __init__(self, fails: bool = False, litters: bool = False) -> None:
        super().__init__("work")
        self.fails, self.litters = fails, litters
        self.diary: list[str] = []

    def __call__(self) -> int:
        self.diary.append("called")
        if self.fails:
            raise ValueError("the work")
        return 7

    def clean_up(self) -> None:
        self.diary.append("tidied")
        if self.litters:
            raise OSError("the broom")


@pytest.mark.parametrize("fails", [False, True])
def test_a_task_tidies_up_once_after_its_work_whatever_came_of_it(fails: bool) -> None:
    work = Work(fails)
    if fails:
        with pytest.raises(ValueError, match="the work"):
            run_task(work)
    else:
        assert run_task(work) == 7
    assert work.diary == ["called", "tidied"]


def test_an_error_while_tidying_up_does_not_hide_the_error_of_the_work() -> None:
    with pytest.raises(ValueError, match="the work") as caught:
        run_task(Work(fails=True, litters=True))
    assert caught.value.__notes__ == ["its clean_up raised too: OSError: the broom"]


def test_a_task_that_cannot_tidy_up_has_failed() -> None:
    with pytest.raises(OSError, match="the broom"):
        run_task(Work(litters=True))


def test_a_task_without_work_says_what_it_lacks() -> None:
    with pytest.raises(NotImplementedError, match="give it a method __call__"):
        run_task(Task())


def test_a_task_travels_with_what_it_was_given() -> None:
    work = Work()
    work.task_id = "abc/1"
    copy = pickle.loads(pickle.dumps(work))
    assert (copy.name, copy.task_id) == ("work", "abc/1")
    assert run_task(copy) == 7
    assert work.diary == []
