"""A function together with the environment that it runs in, on the way to a worker.

It is one pickle, whose larger parts travel as buffers, so that each of them is sent to a host once.
"""

import hashlib
import pickle
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from concurrent_nb.shipping.serialization.pickles import Buffer, out_of_band_into

_NO_MODULES: Final = b""
#: near the beginning of each envelope
_MARK: Final = __name__.encode()
_MARK_WITHIN: Final = 96


class Environment:
    """What a process is like, as it travels; made by a `Tracker`, or found in an envelope."""

    def __init__(self, state: Buffer, modules: Buffer) -> None:
        self.state = state  #: pickle of a `EnvironmentState`
        self.modules = modules  #: pickle of a list of `Source`s; empty if there is none
        self.modules_digest = hashlib.sha256(modules).digest() if modules else _NO_MODULES
        self.digest = hashlib.sha256(self.modules_digest + hashlib.sha256(state).digest()).digest()

    def __reduce__(self) -> tuple[Any, ...]:
        return Environment, (pickle.PickleBuffer(self.state), pickle.PickleBuffer(self.modules))


class EnvironmentState(NamedTuple):
    """Everything of an environment but its modules."""

    folder: str  #: "" leaves a worker where it is
    variables: dict[str, str | None]  #: those that were changed, None if deleted
    added: tuple[tuple[str, tuple[str, ...]], ...]  #: entries of sys.path, each with those that come after it
    removed: tuple[str, ...]
    settings: bytes  #: pickle of {name: value}; empty if all are as at the start
    user_settings: bytes  #: pickle of the list of the user's own (name, read, apply)


class EnvironmentSource(Protocol):
    """What functions take along."""

    def current(self) -> Environment | None:
        """Give the environment as it is now; None if there is nothing to take along. Raises NotPicklable."""

    def add_modules(self, imported: Iterable[str]) -> None:
        """Take along these modules too, if they are the user's."""


class NoEnvironment:
    """Surroundings of functions that stay in this process."""

    def current(self) -> None:
        """Give None."""

    def add_modules(self, imported: Iterable[str]) -> None:
        """Take nothing along."""


class ModulesOnly:
    """Surroundings of functions that others put into an envelope, together with more."""

    def __init__(self, source: EnvironmentSource) -> None:
        self.add_modules = source.add_modules

    def current(self) -> None:
        """Give None."""


#: surroundings of what stays in this process
NO_ENVIRONMENT: Final = NoEnvironment()


class EnvironmentEnvelope:
    """A pickled function in the environment that it is to be opened and run in."""

    def __init__(self, environment: Environment | None, body: Buffer, buffers: Sequence[Buffer]) -> None:
        self.environment = environment
        self.body = body
        self.buffers = buffers

    def __reduce__(self) -> tuple[Any, ...]:
        return _envelope, (self.environment, *map(pickle.PickleBuffer, (self.body, *self.buffers)))


def _envelope(environment: Environment | None, body: Buffer, *buffers: Buffer) -> EnvironmentEnvelope:
    return EnvironmentEnvelope(environment, body, buffers)


def is_envelope(body: Buffer) -> bool:
    """Say whether a pickle is that of an envelope, without opening it."""
    return _MARK in bytes(body[:_MARK_WITHIN])


def in_envelope(
    environment: Environment | None, body: bytes, buffers: Sequence[memoryview] = ()
) -> tuple[bytes, Sequence[memoryview]]:
    """Put a pickle and its buffers into an envelope: again a pickle and buffers. As they are if there is nothing."""
    if environment is None:
        return body, buffers
    kept: list[memoryview] = []
    return pickle.dumps(
        EnvironmentEnvelope(environment, body, buffers), 5, buffer_callback=out_of_band_into(kept)
    ), kept


def always_in_envelope(environment: Environment | None, body: bytes) -> bytes:
    """Put a pickle into an envelope in any case, as one pickle."""
    return pickle.dumps(EnvironmentEnvelope(environment, body, ()), 5)
