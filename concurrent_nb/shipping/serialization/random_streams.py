"""Random numbers in tasks: each task draws from a stream of its own, which is the same in each run of the task.

    notebook: rng, captured by a job    --> entropy = int.from_bytes(rng.bytes(16)), drawn when the job is started
    worker:   streams.begin(index)      --> in the task, rng is a generator of SeedSequence(entropy, spawn_key=(index,))

So task i of a job draws from `SeedSequence(entropy).spawn(n)[i]`, and the next job draws other numbers. Python's
Random uses `getrandbits(128)` in place of `bytes(16)`. A single submit takes nothing from the generator: the entropy
is a digest of its state, and the index is the submit's number in its application.

This holds for all captured generators, also those in objects, and bound methods of them, as `from random import gauss`
is. A generator that is an argument is pickled as it is.
"""

import hashlib
import random
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

#: how generators are pickled: captured ones of a job, of a submit, and those of arguments and results
Mode = Literal["spawn", "share", "keep"]

_ENTROPY_BITS: Final = 128
_RANDOM_REDUCE: Final[Any] = random.Random.__reduce__


#: a generator, and the entropy of its streams
SeededGenerator = tuple[Any, int]
#: of a task, while another one runs on top of it: its attributes
SuspendedStreams = tuple[
    bytes,
    list[SeededGenerator],
    int | None,
    tuple[Sequence[int], Sequence[object]] | None,
    dict[int | None, Any],
    int | None,
]


class TaskStreams:
    """The random streams of the task, or item, that runs in a thread."""

    __slots__ = ("_index", "_items", "_rngs", "_rngs_index", "generators", "job")

    def __init__(self) -> None:
        self.job = b""
        self.generators: list[SeededGenerator] = []  #: those in its function, which exist already
        self._index: int | None = None
        self._items: tuple[Sequence[int], Sequence[object]] | None = None  # see `begin_items`
        self._rngs: dict[int | None, Any] = {}  # made by `rng`, by seed
        self._rngs_index: int | None = None  # whose they are

    @property
    def index(self) -> int | None:
        """Return the number of the task or item in its job; None: no task runs."""
        if self._items is None:
            return self._index
        numbers, done = self._items
        return numbers[min(len(done), len(numbers) - 1)]

    @property
    def rngs(self) -> dict[int | None, Any]:
        """Return the generators of the running task or item that `rng` has made, by seed; more may be added."""
        if (index := self.index) != self._rngs_index:
            self._rngs, self._rngs_index = {}, index
        return self._rngs

    def begin(self, index: int) -> None:
        """Begin a task or an item: seed the generators. Called for each task, so it must be fast."""
        self._index, self._items, self._rngs_index = index, None, None
        if self.generators:
            for generator, entropy in self.generators:
                _reseed(generator, entropy, index)

    def begin_items(self, numbers: Sequence[int], done: Sequence[object]) -> None:
        """Begin items that run one after another, without `begin` for each of them: there may be no generators.

        Args:
            numbers: of the items in their job, at least one.
            done: gets a result when an item has ended, so that its length shows which one runs.
        """
        self._items, self._rngs_index = (numbers, done), None

    def end(self) -> None:
        """End the task."""
        self._index = self._items = self._rngs_index = None

    def suspend(self) -> "SuspendedStreams":
        """Return what `resume` needs to continue with the present task after another one."""
        return self.job, self.generators, self._index, self._items, self._rngs, self._rngs_index

    def resume(self, before: "SuspendedStreams") -> None:
        """Continue with a task after another one has run on top of it."""
        self.job, self.generators, self._index, self._items, self._rngs, self._rngs_index = before


class _ThreadState(threading.local):
    def __init__(self) -> None:
        self.streams = TaskStreams()
        #: those in the function that is being unpickled, if many tasks run it; else None
        self.generators: list[SeededGenerator] | None = None


_STATE: Final = _ThreadState()


def current_streams() -> TaskStreams:
    """Return the streams of this thread."""
    return _STATE.streams


def load_with_generators(load: Callable[[], Any]) -> tuple[Any, list[SeededGenerator]]:
    """Unpickle a function that many tasks run; return it and the generators in it. Raises what `load` raises."""
    generators: list[SeededGenerator] = []
    _STATE.generators = generators
    try:
        return load(), generators
    finally:
        _STATE.generators = None


def rng(seed: int | None = None) -> Any:
    """Return a numpy Generator of random numbers. In a task it is the task's own, the same at each call.

    >>> def draw():
    ...     return int(concurrent_nb.rng(seed=7).integers(1_000_000))
    >>> first = app.start_job(draw, [()] * 3).results()
    >>> first == app.start_job(draw, [()] * 3).results(), len(set(first))
    (True, 3)

    Args:
        seed: with a seed, the task with the same number draws the same numbers in each job. None: each attempt of a
            task draws others.

    Outside of tasks it is `numpy.random.default_rng(seed)`. Raises ModuleNotFoundError without numpy.
    """
    import numpy as np  # here, because it is optional

    task = _STATE.streams
    index = task.index
    if index is None:
        return np.random.default_rng(seed)
    rngs = task.rngs
    if seed not in rngs:
        entropy = int.from_bytes(task.job) if seed is None else seed
        rngs[seed] = np.random.default_rng(_seeds(entropy, index))
    return rngs[seed]


# --------------------------------------------------------------------------------------------------- pickling


def reduction(kind: type) -> Callable[[Any, bool], Any] | None:
    """Return the function that reduces generators of a class to their entropy; None for other classes.

    Its arguments are a generator, and whether to spawn from it.
    """
    if issubclass(kind, random.Random) and getattr(kind, "__reduce__", None) is _RANDOM_REDUCE:
        return _reduced_random
    numpy = sys.modules.get("numpy.random")
    if numpy is not None and kind is numpy.Generator:
        return _reduced_generator
    if numpy is not None and kind is numpy.RandomState:
        return _reduced_state
    return None


def _reduced_random(generator: random.Random, spawns: bool) -> Any:
    if isinstance(generator, random.SystemRandom):
        return type(generator), ()
    entropy = generator.getrandbits(_ENTROPY_BITS) if spawns else _digest(generator.getstate())
    return _make_random, (type(generator), entropy)


def _reduced_generator(generator: Any, spawns: bool) -> Any:
    entropy = _draw_entropy(generator) if spawns else _digest(generator.bit_generator.state)
    return _make_generator, (type(generator.bit_generator), entropy)


def _reduced_state(generator: Any, spawns: bool) -> Any:
    entropy = _draw_entropy(generator) if spawns else _digest(generator.get_state(legacy=False))
    return _make_state, (type(generator._bit_generator), entropy)


def _draw_entropy(generator: Any) -> int:
    return int.from_bytes(generator.bytes(_ENTROPY_BITS // 8))


def _digest(state: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(_plain(state)).encode()).digest()[: _ENTROPY_BITS // 8])


def _plain(state: Any) -> Any:
    """Return a state with lists in place of arrays, whose repr may be cut."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return state.tolist() if hasattr(state, "tolist") else state


# ---------------------------------------------------------------------------------------------------- unpickling


def _register(generator: Any, entropy: int) -> Any:
    if _STATE.generators is not None:
        _STATE.generators.append((generator, entropy))
    return generator


def _make_random(kind: type[random.Random], entropy: int) -> Any:
    return _register(kind(_seed(entropy, _index())), entropy)


def _make_generator(bits: Any, entropy: int) -> Any:
    import numpy as np  # here, because it is optional

    return _register(np.random.Generator(bits(_seeds(entropy, _index()))), entropy)


def _make_state(bits: Any, entropy: int) -> Any:
    import numpy as np  # here, because it is optional

    return _register(np.random.RandomState(bits(_seeds(entropy, _index()))), entropy)


def _index() -> int:
    return _STATE.streams.index or 0


def _seeds(entropy: int, index: int) -> Any:
    import numpy as np  # here, because it is optional

    return np.random.SeedSequence(entropy, spawn_key=(index,))


def _seed(entropy: int, index: int) -> int:
    return int.from_bytes(hashlib.sha512(repr((entropy, index)).encode()).digest())


def _reseed(generator: Any, entropy: int, index: int) -> None:
    """Seed a generator in place, because a function may refer to it anywhere."""
    if isinstance(generator, random.Random):
        generator.seed(_seed(entropy, index))
        return
    import numpy as np  # here, because it is optional

    seeds = _seeds(entropy, index)
    if isinstance(generator, np.random.RandomState):
        fresh = np.random.RandomState(type(generator._bit_generator)(seeds))
        generator.set_state(fresh.get_state(legacy=False))
        return
    bits = generator.bit_generator
    bits.__setstate__((type(bits)(seeds).state, seeds))  # with the seeds, because the task may spawn from it
