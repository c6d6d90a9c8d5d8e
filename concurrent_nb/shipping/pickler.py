"""cloudpickle's pickler with what it leaves out: the one that is used for whatever is not provably plain.

Imports cloudpickle, which takes 60 ms, so it is imported where it is needed and no earlier.
"""

import io
import pickle
import sys
import types
from collections import ChainMap
from collections.abc import Callable
from typing import Any, ClassVar

from cloudpickle import cloudpickle


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles what cloudpickle does, and code with the name of its file, so that tracebacks have files and lines."""

    dispatch_table: ClassVar[ChainMap[type, Callable[[Any], Any]]] = ChainMap({}, cloudpickle.Pickler.dispatch_table)


def dumps(thing: object, keep: Callable[[pickle.PickleBuffer], bool] | None = None) -> bytes:
    """Pickle `thing`. `keep` says of each buffer whether it stays in the pickle; without it all do."""
    if (numpy := sys.modules.get("numpy")) is not None:
        Pickler.dispatch_table.setdefault(numpy.ndarray, _reduce_array)
    with io.BytesIO() as file:
        Pickler(file, 5, buffer_callback=keep).dump(thing)
        return file.getvalue()


def _reduce_array(array: Any) -> Any:
    if not (array.flags.forc or array.dtype.hasobject):
        array = sys.modules["numpy"].ascontiguousarray(array)  # only such memory can leave the pickle
    return array.__reduce_ex__(5)


def _reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    _, parts = cloudpickle._code_reduce(code)
    return _make_code, (code.co_filename, *parts)


def _make_code(filename: str, *parts: Any) -> types.CodeType:
    # cloudpickle 3.1.3 and later call each file <dynamic-code>.
    return types.CodeType(*parts).replace(co_filename=filename)


Pickler.dispatch_table[types.CodeType] = _reduce_code
