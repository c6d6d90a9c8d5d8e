"""The stack of a task for people, from what `faulthandler` has written in its worker. Pure.

    Current thread 0x00007f3c1f0fd740 (most recent call first):
      File ".../numpy/linalg/linalg.py", line 1681 in svd
      File "<cell In[3]>", line 7 in fit
      File ".../concurrent_nb/nodes/worker/process.py", line 212 in _run
      ...

becomes, without our own frames, in the order and the form of tracebacks, and followed by the task's other threads:

      File "<cell In[3]>", line 7, in fit
      File ".../numpy/linalg/linalg.py", line 1681, in svd
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from concurrent_nb.wire.messages import STACK_BYTES_MAX

#: most frames of a thread that `faulthandler` writes, the innermost ones
FRAMES_MAX: Final = 100
#: outermost functions of Python's threads: of the main thread of `python -m`, and of others
_OUTERMOST: Final = frozenset({"_run_module_as_main", "_bootstrap"})
_PACKAGE: Final = {str(Path(__file__).parents[2]), str(Path(__file__).resolve().parents[2])}
#: frames of these folders are ours: a task begins after them, as its tracebacks do
_OWN_FOLDERS: Final = tuple(f"{package}/{room}/" for package in _PACKAGE for room in ("nodes", "workers", "shipping"))
_TASK_LOOP: Final = "/workers/worker_side/task_loop.py"

_HEADER: Final = re.compile(r"(Current thread|Thread|Stack)(.*) \(most recent call first\):")
_FRAME: Final = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)')
_ESCAPED: Final = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")


@dataclass(slots=True)
class _Thread:
    is_current: bool
    lines: list[tuple[str, str, str]] = field(default_factory=list)  #: file, function and text, innermost first

    @property
    def is_whole(self) -> bool:
        """Return whether all its frames are there, up to the outermost one that is written."""
        return bool(self.lines) and (self.lines[-1][1] in _OUTERMOST or len(self.lines) >= FRAMES_MAX)

    @property
    def is_cut(self) -> bool:
        """Return whether it has more frames than are written."""
        return bool(self.lines) and self.lines[-1][1] not in _OUTERMOST and len(self.lines) >= FRAMES_MAX


def is_complete(dump: str) -> bool:
    """Return whether the stack of the task has been written to its end."""
    threads = _threads_in(dump)
    task = _task_of(threads)
    return task is not None and task.is_whole


def stack_text(dump: str, *, shows_others: bool) -> str:
    """Return the stack of a task, the most recent call last, and of other threads of its process; "" if there is none.

    Args:
        dump: as `faulthandler` writes it.
        shows_others: whether other threads are the task's own.
    """
    threads = _threads_in(dump)
    task = _task_of(threads)
    if task is None:
        return ""
    lines = _begun_by_task(task)
    if not lines:
        lines = ["  no function of the task runs: its worker prepares it, or packs its result", *_in_order(task)]
    text = _last_of("\n".join(lines), STACK_BYTES_MAX)
    others = [thread for thread in threads if thread is not task and thread.lines]
    for number, thread in enumerate(others, 1) if shows_others else ():
        part = "\n".join(["", f"Thread {number} beside it:", *_in_order(thread)])
        if len(text.encode()) + len(part.encode()) > STACK_BYTES_MAX - 100:
            return f"{text}\n{len(others) - number + 1} more threads are not shown"
        text += part
    return text


def _threads_in(dump: str) -> list[_Thread]:
    """Return the threads of the last dump: a process that was stopped may have written an earlier one just before."""
    threads: list[_Thread] = []
    seen: set[str] = set()
    for line in dump.split("\n"):
        if header := _HEADER.fullmatch(line):
            if header[2] in seen:
                threads, seen = [], set()
            seen.add(header[2])
            threads.append(_Thread(header[1] != "Thread"))
        elif threads and (frame := _FRAME.fullmatch(line)):
            file, number, function = _unescaped(frame[1]), frame[2], _unescaped(frame[3])
            threads[-1].lines.append((file, function, f'  File "{file}", line {number}, in {function}'))
    return threads


def _task_of(threads: Sequence[_Thread]) -> _Thread | None:
    """Return the thread of the task: the one with the worker's loop, else (of a very deep stack) the current one."""
    if len(threads) > 1:
        for thread in threads:
            if any(file.endswith(_TASK_LOOP) and file.startswith(_OWN_FOLDERS) for file, _, _ in thread.lines):
                return thread
    return next((thread for thread in threads if thread.is_current), None)


def _in_order(thread: _Thread) -> list[str]:
    """Return the lines of a thread, the most recent call last."""
    lines = [line for _, _, line in reversed(thread.lines)]
    return [f"  (the {FRAMES_MAX} most recent calls)", *lines] if thread.is_cut else lines


def _begun_by_task(thread: _Thread) -> list[str]:
    """Return those without the frames of the worker, from the task's function on."""
    if thread.is_cut:
        return _in_order(thread)
    frames = list(reversed(thread.lines))
    begin = next((at for at, (file, _, _) in enumerate(frames) if file.startswith(_OWN_FOLDERS)), 0)
    while begin < len(frames) and frames[begin][0].startswith(_OWN_FOLDERS):
        begin += 1
    return [line for _, _, line in frames[begin:]]


def _unescaped(text: str) -> str:
    """Return a name with the letters that `faulthandler` escapes; what is not printable stays escaped."""

    def letter(escape: "re.Match[str]") -> str:
        code = int(next(filter(None, escape.groups())), 16)
        found = chr(code) if code < 0x110000 else ""
        return found if found.isprintable() and found else escape[0]

    return _ESCAPED.sub(letter, text)


def _last_of(text: str, size_bytes: int) -> str:
    """Return the end of a text, from the beginning of a line on."""
    data = text.encode()
    if len(data) <= size_bytes:
        return text
    note = "  (the most recent calls)\n"
    _, _, end = data[-(size_bytes - len(note)) :].partition(b"\n")
    return note + end.decode(errors="replace")
