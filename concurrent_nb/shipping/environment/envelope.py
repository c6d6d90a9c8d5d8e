"""A function together with the environment that it runs in, as they travel to a worker.

They are one pickle, whose larger parts travel as buffers, so that each of them is sent to a machine once.
"""

import hashlib
import pickle
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from concurrent_nb.shipping.serialization.pickles import Buffer, out_of_band_into

_NO_MODULES: Final = b""
#: near the start of each envelope
_MARK: Final = __name__.encode()
_MARK_WITHIN: Final = 96


class Environment:
    """The state of a process, as it travels; made by a `Tracker`, or taken from an envelope."""

    def __init__(self, state: Buffer, modules: Buffer) -> None:
        self.state = state  #: pickle of an `EnvironmentState`
        self.modules = modules  #: pickle of a list of `ModuleSource`s; empty if there are no modules
        self.modules_digest = hashlib.sha256(modules).digest() if modules else _NO_MODULES
        self.digest = hashlib.sha256(self.modules_digest + hashlib.sha256(state).digest()).digest()

    def __reduce__(self) -> tuple[Any, ...]:
        return Environment, (pickle.PickleBuffer(self.state), pickle.PickleBuffer(self.modules))


class EnvironmentState(NamedTuple):
    """All of an environment but its modules."""

    folder: str  #: "": the worker's own
    variables: dict[str, str | None]  #: changed variables; None if deleted
    added: tuple[tuple[str, tuple[str, ...]], ...]  #: entries of sys.path, each with those after it
    removed: tuple[str, ...]
    settings: bytes  #: pickle of {name: value}; empty if all are as at the start
    user_settings: bytes  #: pickle of a list of `UserSetting`s


class EnvironmentSource(Protocol):
    """Provides the environment that functions travel with."""

    def current(self) -> Environment | None:
        """Return the present environment; None if it is that of the start. Raises NotPicklable."""

    def add_modules(self, imported: Iterable[str]) -> None:
        """Add these modules to the environment, if they are the user's."""


class NoEnvironment:
    """The environment source of functions that stay in this process."""

    def current(self) -> None:
        """Return None."""

    def add_modules(self, imported: Iterable[str]) -> None:
        """Do nothing."""


class ModulesOnly:
    """The environment source of functions that are put into an envelope later, together with setups."""

    def __init__(self, source: EnvironmentSource) -> None:
        self.add_modules = source.add_modules

    def current(self) -> None:
        """Return None."""


#: of what stays in this process
NO_ENVIRONMENT: Final = NoEnvironment()


class EnvironmentEnvelope:
    """A pickled function with the environment in which it is unpickled and run."""

    def __init__(self, environment: Environment | None, body: Buffer, buffers: Sequence[Buffer]) -> None:
        self.environment = environment
        self.body = body
        self.buffers = buffers

    def __reduce__(self) -> tuple[Any, ...]:
        return _envelope, (self.environment, *map(pickle.PickleBuffer, (self.body, *self.buffers)))


def _envelope(environment: Environment | None, body: Buffer, *buffers: Buffer) -> EnvironmentEnvelope:
    return EnvironmentEnvelope(environment, body, buffers)


def is_envelope(body: Buffer) -> bool:
    """Return whether a pickle is that of an envelope, without unpickling it."""
    return _MARK in bytes(body[:_MARK_WITHIN])


def in_envelope(
    environment: Environment | None, body: bytes, buffers: Sequence[memoryview] = ()
) -> tuple[bytes, Sequence[memoryview]]:
    """Put a pickle and its buffers into an envelope; return its pickle and buffers.

    Unchanged if `environment` is None.
    """
    if environment is None:
        return body, buffers
    kept: list[memoryview] = []
    return pickle.dumps(
        EnvironmentEnvelope(environment, body, buffers), 5, buffer_callback=out_of_band_into(kept)
    ), kept


def always_in_envelope(environment: Environment | None, body: bytes) -> bytes:
    """Put a pickle into an envelope, also without an environment; return it as one pickle."""
    return pickle.dumps(EnvironmentEnvelope(environment, body, ()), 5)
