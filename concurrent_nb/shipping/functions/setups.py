"""Setups: calls that every worker makes before the first task of an application. They travel with each function.

    application:  Setup(pickle of a call) ... --with_setups(function, setups)--> one pickle of all
    worker:       shipping.runtime.setup_runner: each setup that has not run there yet, in order, then the function

The digest of a function covers everything that it needs, setups included, so a worker, slave or master that joins later
needs no further messages.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from concurrent_nb.shipping.environment.envelope import Environment, EnvironmentEnvelope
from concurrent_nb.shipping.functions.pickled_functions import PickledFunction
from concurrent_nb.shipping.runtime.setup_runner import FunctionWithSetups, Parts
from concurrent_nb.shipping.serialization.pickles import OUT_OF_BAND_BYTES, Buffer
from concurrent_nb.wire.codec import function_digest
from concurrent_nb.wire.messages import Slice


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """A call that each worker makes once, ready to travel."""

    id: bytes
    place: bytes  #: a later setup of the same place replaces it
    name: str  #: for people
    call: PickledFunction  #: function and arguments
    broken: str = ""  #: why workers must not run it any more


def with_setups(
    function: PickledFunction | None, setups: Sequence[Setup], environment: Environment | None = None
) -> PickledFunction:
    """Return the pickle of a function with the setups that a worker runs before it; of None: of those alone.

    Args:
        environment: in which all of them run; None for the workers' own.
    """
    out: list[Buffer | Slice] = []
    enclosed = tuple((it.id, it.place, it.name, it.broken, _enclose(it.call, out)) for it in setups)
    whole = FunctionWithSetups(enclosed, None if function is None else _enclose(function, out))
    body = pickle.dumps(whole, 5, buffer_callback=lambda buffer: False)
    if environment is not None:
        body, out = _in_envelope(environment, body, out)
    leases = [it.lease for it in (function, *(setup.call for setup in setups)) if it is not None and it.lease]
    name = "setup" if function is None else function.name
    return PickledFunction(function_digest([body, *out]), body, out, name, leases or None)


def _in_envelope(
    environment: Environment, body: bytes, buffers: Sequence[Buffer | Slice]
) -> tuple[bytes, list[Buffer | Slice]]:
    """Put a pickle into an envelope, where parts of it may be in shared memory."""
    out: list[Buffer | Slice] = []
    rest = iter(buffers)
    places = [bytearray() for _ in buffers]
    placed = set(map(id, places))

    def stays(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if id(raw.obj) in placed:  # stands for a buffer that is in `buffers`
            out.append(next(rest))
            return False
        if raw.nbytes < OUT_OF_BAND_BYTES:
            return True
        out.append(raw)
        return False

    return pickle.dumps(EnvironmentEnvelope(environment, body, places), 5, buffer_callback=stays), out


def _enclose(pickled: PickledFunction, out: list[Buffer | Slice]) -> Parts:
    """Return the small parts of a pickle, to be put into another one; append the large and the shared ones to `out`."""
    inside: list[Any] = []
    for part in [pickled.body, *pickled.buffers] if pickled.body else pickled.buffers:
        if isinstance(part, Slice) or memoryview(part).nbytes >= OUT_OF_BAND_BYTES:
            out.append(part)
            inside.append(pickle.PickleBuffer(bytearray()))  # a placeholder
        else:
            inside.append(bytes(part))
    return tuple(inside)
