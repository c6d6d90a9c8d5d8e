"""Errors are folded by kind; of everything there is a limit."""

from concurrent_nb.tasks.error_kinds import KINDS_MOST, TASKS_MOST, ErrorKinds


def test_errors_that_differ_in_numbers_are_of_one_kind_with_the_first_tasks() -> None:
    kinds, asked = ErrorKinds(), []

    def text() -> str:
        asked.append(1)
        return "the traceback"

    for task in (140, 7, 154, 14, 161, 21, 28, 35):
        kinds.add(task, "ValueError", f"bad input {task} at 0x{task:x}", text)
    kinds.add(3, "KeyError", "x", text)
    first, second = kinds.parts()["kinds"]
    assert first == {
        "type": "ValueError",
        "message": "bad input 140 at 0x8c",
        "count": 8,
        "tasks": [7, 14, 21, 28, 35],
        "text": "the traceback",
    }
    assert (second["type"], second["count"], len(asked)) == ("KeyError", 1, 2)
    assert len(first["tasks"]) == TASKS_MOST


def test_of_too_many_kinds_the_rest_is_counted() -> None:
    kinds = ErrorKinds()
    for task in range(KINDS_MOST + 7):
        kinds.add(task, "ValueError", "x" * task, str)
    kinds.add(0, "ValueError", "", str)
    assert len(kinds.parts()["kinds"]) == KINDS_MOST
    assert kinds.parts()["more"] == 7
    assert kinds.parts()["kinds"][0]["count"] == 2
