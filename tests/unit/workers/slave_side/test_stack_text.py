"""The stack of a task, from what faulthandler writes: whose it is, what of it is shown, how long it may be."""

import faulthandler
import tempfile
from pathlib import Path

import pytest

import concurrent_nb
from concurrent_nb.wire.messages import STACK_BYTES_MAX
from concurrent_nb.workers.slave_side.stack_text import FRAMES_MAX, is_complete, stack_text

PACKAGE = Path(concurrent_nb.__file__).parent
CURRENT = "Current thread 0x00007f3c1f0fd740 (most recent call first):"
ALONE = "Stack (most recent call first):"
OURS = [
    f'  File "{PACKAGE}/nodes/worker/process.py", line 212 in _run',
    f'  File "{PACKAGE}/workers/worker_side/task_loop.py", line 330 in _run_attempt',
    f'  File "{PACKAGE}/nodes/worker/process.py", line 535 in <module>',
]
MAIN = [
    *OURS,
    '  File "<frozen runpy>", line 88 in _run_code',
    '  File "<frozen runpy>", line 198 in _run_module_as_main',
]
THREAD = ['  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap']
CELL = '  File "In[3]", line 7 in fit'
SHOWN = '  File "In[3]", line 7, in fit'


def dump(*blocks: list[str]) -> str:
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def other(name: str, number: int = 1) -> list[str]:
    header = f"Thread 0x00007f3c1d7fa6c{number} (most recent call first):"
    return [header, f'  File "x.py", line {number} in {name}', *THREAD]


def test_the_task_begins_with_its_own_function_and_ends_with_the_last_call() -> None:
    numpy = '  File "/lib/numpy/linalg.py", line 1681 in svd'
    text = stack_text(dump(other("helper"), [CURRENT, numpy, CELL, *MAIN]), shows_others=False)
    assert text == f'{SHOWN}\n  File "/lib/numpy/linalg.py", line 1681, in svd'


def test_our_frames_below_the_task_are_shown() -> None:
    inner = f'  File "{PACKAGE}/nodes/application/futures.py", line 9 in result'
    text = stack_text(dump([CURRENT, inner, CELL, *MAIN]), shows_others=False)
    assert text.split("\n") == [SHOWN, inner.replace(" in ", ", in ")]


def test_other_threads_of_the_task_are_shown_after_it() -> None:
    text = stack_text(dump(other("helper"), [CURRENT, CELL, *MAIN]), shows_others=True)
    first, second = text.split("\nThread 1 beside it:\n")
    assert first == SHOWN
    assert second.endswith('  File "x.py", line 1, in helper')


def test_the_worker_is_recognised_when_another_thread_has_handled_the_signal() -> None:
    handler = other("handler")
    handler[0] = CURRENT
    main = ["Thread 0x00007f3c1f0fd740 [python] (most recent call first):", CELL, *MAIN]
    written = dump(handler, main)
    assert is_complete(written)
    assert stack_text(written, shows_others=False) == SHOWN


def test_a_thread_that_writes_itself_alone() -> None:
    written = dump([ALONE, CELL, *OURS[:2], *THREAD])
    assert is_complete(written)
    assert stack_text(written, shows_others=True).startswith(f"{SHOWN}")


def test_of_two_dumps_the_last_one_counts() -> None:
    block = [CURRENT, CELL, *MAIN]
    late = dump(block[3:], other("helper"), block)
    later = [CURRENT, '  File "In[4]", line 1 in g', *MAIN]
    assert is_complete(late) and not is_complete(late + dump(later[:3]))
    assert stack_text(late + dump(other("helper"), later), shows_others=False) == '  File "In[4]", line 1, in g'
    assert stack_text(late + dump(other("helper"), later), shows_others=True).count("beside") == 1


def test_between_two_functions_of_a_task_our_frames_are_shown() -> None:
    text = stack_text(dump([CURRENT, *MAIN]), shows_others=False)
    assert text.startswith("  no function of the task runs: its worker prepares it")
    assert text.endswith(", in _run")


@pytest.mark.parametrize("end", range(len(MAIN) + 2))
def test_it_is_complete_with_its_outermost_frame_only(end: int) -> None:
    lines = [CURRENT, CELL, *MAIN]
    assert not is_complete(dump(other("helper"), lines[:end]))
    assert is_complete(dump(other("helper"), lines))


def test_of_a_deep_stack_the_last_calls_are_shown() -> None:
    deep = [f'  File "In[3]", line {n} in f' for n in range(FRAMES_MAX)]
    written = dump(other("helper"), [CURRENT, *deep, "  ..."])
    assert is_complete(written)
    lines = stack_text(written, shows_others=False).split("\n")
    assert lines[0] == "  (the 100 most recent calls)"
    assert (lines[1], lines[-1]) == ('  File "In[3]", line 99, in f', '  File "In[3]", line 0, in f')
    assert not is_complete(dump([CURRENT, *deep[:-1]]))


def test_letters_are_readable_and_what_controls_a_terminal_is_not() -> None:
    written = dump([CURRENT, r'  File "\xdcbung\u202e\x1b[31m\U0001f4a3\ud800", line ??? in <script>', *MAIN])
    text = stack_text(written, shows_others=False)
    assert text == '  File "Übung\\u202e\\x1b[31m💣\\ud800", line ???, in <script>'
    text.encode()


@pytest.mark.parametrize("written", ["", "\n", "x", "Fatal error: x", CURRENT, "\0" * 100, '  File "x", line 1 in f'])
def test_what_is_no_stack_is_none(written: str) -> None:
    assert not is_complete(written)
    assert SHOWN not in stack_text(written, shows_others=True)


def test_a_stack_is_bounded_and_keeps_its_end() -> None:
    long = [f'  File "{"é" * 400}", line {n} in {"f" * 400}' for n in range(FRAMES_MAX - 6)]
    text = stack_text(dump([CURRENT, *long, *MAIN]), shows_others=True)
    assert STACK_BYTES_MAX - 2000 < len(text.encode()) <= STACK_BYTES_MAX
    assert text.startswith("  (the most recent calls)\n  File ")
    assert text.endswith(f"line 0, in {'f' * 400}")


def test_threads_that_find_no_room_are_counted() -> None:
    many = [other("f" * 450, number) for number in range(270)]
    text = stack_text(dump(*many, [CURRENT, CELL, *MAIN]), shows_others=True)
    assert len(text.encode()) <= STACK_BYTES_MAX
    assert text.startswith(f"{SHOWN}\nThread 1 beside it:\n")
    assert text.endswith(" more threads are not shown")


def test_what_this_python_writes_is_understood() -> None:
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        text = stack_text(file.read().decode(), shows_others=False)
    assert text.endswith(", in test_what_this_python_writes_is_understood")
