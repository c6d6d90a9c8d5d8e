"""Lanes: tasks in their places, few one by one, many added up."""

from concurrent_nb.notebook.live.colours import CANCELLED, DONE, FAILED, RUNNING
from concurrent_nb.notebook.live.timeline import BINS, PIECES_MOST, ROWS_MOST, SLAVES_MOST, Timeline


def test_each_worker_has_a_row() -> None:
    timeline = Timeline()
    timeline.ended(0, "one", 7, 1.0, 0.5, DONE)
    timeline.ended(1, "one", 8, 1.2, 0.5, FAILED)
    timeline.ended(2, "two", 9, 2.0, 1.0, DONE)
    timeline.settle()
    parts = timeline.parts(2.0)
    assert parts["began"] == 0.5
    assert parts["slaves"] == [
        {
            "name": "one",
            "tasks": 2,
            "failed": 1,
            "stopped": 0,
            "rows": [[[0.5, 1.0, DONE, 0]], [[0.7, 1.2, FAILED, 1]]],
        },
        {"name": "two", "tasks": 1, "failed": 0, "stopped": 0, "rows": [[[1.0, 2.0, DONE, 2]]]},
    ]


def test_tasks_whose_answers_came_together_ran_one_after_another() -> None:
    timeline = Timeline()
    for task in range(3):
        timeline.ended(task, "one", 7, 1.0, 0.25, DONE)
    timeline.settle()
    [row] = timeline.parts(1.0)["slaves"][0]["rows"]
    assert row == [[0.25, 0.5, DONE, 0], [0.5, 0.75, DONE, 1], [0.75, 1.0, DONE, 2]]


def test_what_runs_is_in_a_row_that_is_free() -> None:
    timeline = Timeline()
    timeline.ended(0, "one", 7, 1.0, 1.0, DONE)
    timeline.started(1, "one", 1.0)
    timeline.started(2, "one", 0.5)
    timeline.settle()
    rows = timeline.parts(2.0)["slaves"][0]["rows"]
    assert rows == [[[0.0, 1.0, DONE, 0], [1.0, 2.0, RUNNING, 1]], [[0.5, 2.0, RUNNING, 2]]]


def test_many_tasks_are_added_up_in_bins_that_grow() -> None:
    timeline = Timeline()
    for task in range(PIECES_MOST + 10):
        timeline.ended(task, "one", 7, task * 1.0 + 1, 0.5, FAILED if task == 0 else DONE)
        timeline.settle()
    parts = timeline.parts(PIECES_MOST + 10.0)
    assert parts["bin"] == 1.6
    [[busy, failed]] = parts["slaves"][0]["rows"]
    assert len(busy) == len(failed) <= BINS
    assert failed[0] == "8"  # the only one that ended in it
    assert set(failed[1:]) == {"0"}
    assert set(busy[:-1]) <= set("2345")


def test_the_share_of_failures_is_told() -> None:
    timeline = Timeline()
    for task in range(PIECES_MOST * 4):
        timeline.ended(task, "one", task % 2, 0.01 * task, 0.01, FAILED if task % 4 == 0 else DONE)
        timeline.settle()
    failing, working = timeline.parts(10.0)["slaves"][0]["rows"]
    assert set(failing[1].rstrip("0")) <= set("345")
    assert set(working[1]) == {"0"}


def test_what_was_stopped_is_not_counted_with_what_has_ended() -> None:
    timeline = Timeline()
    timeline.ended(0, "one", 7, 1.0, 0.5, DONE)
    timeline.ended(1, "one", 7, 2.0, 0.5, CANCELLED)
    timeline.ended(2, "one", 7, 2.0, 0.0, CANCELLED)  # it never ran
    timeline.settle()
    [slave] = timeline.parts(2.0)["slaves"]
    assert (slave["tasks"], slave["stopped"]) == (1, 1)


def test_what_runs_for_long_is_in_the_bins_as_well() -> None:
    timeline = Timeline()
    for task in range(PIECES_MOST + 1):
        timeline.ended(task, "one", 7, 1.0, 0.001, DONE)
    timeline.settle()
    timeline.started(999, "one", 2.0)
    [[busy, _]] = timeline.parts(4.0)["slaves"][0]["rows"]
    assert busy[30] == "0"
    assert busy[60] == "8"


def test_what_is_shown_has_a_bound() -> None:
    timeline = Timeline()
    for slave in range(20):
        for worker in range(30):
            timeline.ended(0, f"slave {slave}", worker, 1.0, 0.5, DONE)
    timeline.settle()
    parts = timeline.parts(1.0)
    assert len(parts["slaves"]) == SLAVES_MOST
    assert parts["more"] == 20 - SLAVES_MOST
    assert all(len(slave["rows"]) == 1 for slave in parts["slaves"])
    few = Timeline()
    for worker in range(30):
        few.ended(worker, "one", worker, 1.0, 0.5, DONE)
    few.settle()
    assert len(few.parts(1.0)["slaves"][0]["rows"]) == ROWS_MOST


def test_a_task_that_came_to_no_slave_has_no_place() -> None:
    timeline = Timeline()
    timeline.ended(0, "", 0, 1.0, 0.0, FAILED)
    timeline.settle()
    assert timeline.parts(1.0)["slaves"] == []
