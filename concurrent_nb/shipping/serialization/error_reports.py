"""The encoded ErrorReport of whatever user code has raised.

User code that runs here (`str`, `repr`, pickling of an exception, its metaclass) may raise anything, which the report
then contains. Attributes of classes and texts are read without calling their own methods.
"""

import contextlib
import itertools
import os
import pickle
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from concurrent_nb.errors import RemoteTraceback
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.serialization import pickler
from concurrent_nb.shipping.serialization.pickles import Buffer
from concurrent_nb.shipping.serialization.pickling_failures import find_unpicklable
from concurrent_nb.shipping.serialization.refusals import refusal
from concurrent_nb.wire.codec import encode_error
from concurrent_nb.wire.messages import ErrorReport

#: limit of a message or traceback, in characters
TEXT_MAX: Final = 64 * 1024
#: limit of the name of a class, in characters
NAME_MAX: Final = 1000
#: limit of a result's repr, in characters
REPR_MAX: Final = 200
#: limit of the notes of an exception
NOTES_MAX: Final = 100
#: a pickled exception that is larger does not travel
EXCEPTION_BYTES_MAX: Final = 1024 * 1024
#: frames of these folders are ours; a traceback begins after them
_PACKAGE: Final = str(Path(__file__).resolve().parents[2])
_OWN_FOLDERS: Final = tuple(os.path.join(_PACKAGE, folder, "") for folder in ("nodes", "workers", "shipping", "tasks"))

_MODULE: Final = type.__dict__["__module__"].__get__
_QUALNAME: Final = type.__dict__["__qualname__"].__get__
_NAME: Final = type.__dict__["__name__"].__get__

#: status, body, buffers
FailureReport = tuple[int, bytes, Sequence[Buffer]]


class _Explanation:
    """Adds notes to errors about modules and files that were not found."""

    explain: Callable[[BaseException], None] = staticmethod(lambda error: None)


EXPLANATION: Final = _Explanation()


def failed(error: BaseException) -> FailureReport:
    """Report what a task has raised."""
    _explain(error)
    report = ErrorReport(_class_name(error), _text_of(error), traceback_of(error), _pickled(error))
    return int(Status.ERROR), encode_error(report), ()


def not_loadable(error: BaseException) -> FailureReport:
    """Report what was raised while a function or its arguments were unpickled."""
    _explain(error)
    reasons = "; ".join([_one_line(error), *_notes_of(error)])
    message = _cut(f"the worker cannot load the task's function or arguments: {reasons}")
    return int(Status.NOT_LOADABLE), encode_error(ErrorReport(_class_name(error), message, traceback_of(error))), ()


def not_picklable(value: object, error: BaseException) -> FailureReport:
    """Report what was raised while a result was pickled."""
    kind = _kind_of(value)
    hint, why = "return plain data, or something that pickle can take apart", _one_line(error)
    if kind in ("generator", "async_generator", "map", "filter", "zip"):
        hint = "return a list of its items instead"
    elif kind == "coroutine":
        hint = "run it in the task, and return its result"
    elif issubclass(type(error), RecursionError) or "recursion" in _text_of(error):  # cloudpickle raises another class
        hint = "it is nested too deeply: return something flatter"
    else:
        # This inspects user objects, whose code may raise anything. The first error is reported in any case.
        with contextlib.suppress(BaseException):
            culprit = find_unpicklable(value, error)
            if culprit.path or refusal(value):
                why = _text_of(f"{culprit.text('the result', 'result')}: {culprit.advice}")
    message = f"the task returned a {kind} that cannot be pickled, {_repr_of(value)} ({why}): {hint}"
    return int(Status.NOT_PICKLABLE), encode_error(ErrorReport(_class_name(error), message, "")), ()


def _explain(error: BaseException) -> None:
    with contextlib.suppress(BaseException):  # it reads attributes of the error, which may raise; it only adds a note
        EXPLANATION.explain(error)


def _class_name(error: BaseException) -> str:
    kind = type(error)
    name = _plain(_QUALNAME(kind), NAME_MAX)
    try:
        module = _MODULE(kind)
    except AttributeError:  # its class was made without a module
        return name
    if not isinstance(module, str) or (module := _plain(module, NAME_MAX)) == "builtins":
        return name
    return f"{module}.{name}"


def _kind_of(thing: object) -> str:
    return _plain(_NAME(type(thing)), NAME_MAX)


def _plain(text: str, most: int = TEXT_MAX) -> str:
    """Return the first characters of a text as a plain `str` that can be encoded."""
    return str.__getitem__(text, slice(most)).encode(errors="backslashreplace").decode()[:most]


def _text_of(thing: object) -> str:
    try:
        return _plain(str(thing))
    except BaseException as error:  # noqa: BLE001  (user code; the text contains what it raised)
        return f"<str() of this {_kind_of(thing)} raised {_kind_of(error)}>"


def _notes_of(error: BaseException) -> list[str]:
    try:
        return [_text_of(note) for note in itertools.islice(error.__notes__, NOTES_MAX)]
    except BaseException:  # noqa: BLE001  (there are none, or they are not notes)
        return []


def _cut(text: str) -> str:
    """Cut the middle of a text that is too long, because its start and its end are what matters most."""
    if len(text) <= TEXT_MAX:
        return _plain(text)
    half = TEXT_MAX // 2
    left_out = len(text) - 2 * half
    return f"{_plain(text[:half])}\n[... {left_out:,} characters are left out ...]\n{_plain(text[-half:])}"


def _one_line(error: BaseException) -> str:
    text = _text_of(error)
    return f"{_class_name(error)}: {text}" if text else _class_name(error)


def _repr_of(value: object) -> str:
    try:
        text = _plain(repr(value), REPR_MAX + 1)
    except BaseException as error:  # noqa: BLE001  (user code; the text contains what it raised)
        return f"whose repr() raised {_kind_of(error)}"
    return text if len(text) <= REPR_MAX else text[: REPR_MAX - 3] + "..."


def traceback_of(error: BaseException) -> str:
    """Format a traceback as Python does, beginning with the task's own lines."""
    try:
        own, cause = _without_ours(error.__traceback__), error.__cause__
        if own is None and isinstance(cause, RemoteTraceback):
            # A task system has raised the error of one of its tasks.
            return _cut("\n".join([cause.text.rstrip(), *_notes_of(error)]))
        lines = traceback.format_exception(type(error), error, own)
        return _cut("".join(lines))
    except BaseException as broken:  # noqa: BLE001  (user code formats exceptions; the text contains what it raised)
        return f"{_class_name(error)}: <formatting the traceback raised {_kind_of(broken)}>\n"


def _without_ours(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_FOLDERS):
        trace = trace.tb_next
    return trace


def _pickled(error: BaseException) -> bytes:
    """Pickle an exception, reduced to what can be unpickled again; b"" if that is nothing."""
    try:
        error.__reduce_ex__(5)
    except BaseException:  # noqa: BLE001  (user code; such an exception does not travel)
        return b""
    return _round_trip(error) or _round_trip(pickler.reduced_to_what_travels(error))


def _round_trip(thing: object) -> bytes:
    try:
        body = pickler.dumps(thing)
        if len(body) <= EXCEPTION_BYTES_MAX and isinstance(pickle.loads(body), BaseException):
            return body
    except BaseException:  # noqa: BLE001  (user code; empty bytes mean that it cannot travel)
        return b""
    return b""
