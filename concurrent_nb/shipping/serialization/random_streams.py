"""Random numbers in tasks: each task draws from a stream of its own, the same one wherever and how often it runs.

    notebook: rng, captured by a job    --> entropy = int.from_bytes(rng.bytes(16)), drawn when the job is started
    worker:   drawing().begin(index)    --> in the task, rng is a generator of SeedSequence(entropy, spawn_key=(index,))

So task i of a job draws from `SeedSequence(entropy).spawn(n)[i]`, and the next job draws other numbers, as the next
turn of a loop would. Python's Random has `getrandbits(128)` in the place of `bytes(16)`. A single submit takes nothing
from the generator: the entropy is a digest of its state, and the index is the submit's number in its application.

Whatever is captured counts: generators in objects, and bound methods of them, as `from random import gauss` is. What is
an argument stays what it is.
"""

import hashlib
import random
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, Literal

#: what a pickle does with the generators in it: a job's captured ones, a submit's, and those of arguments and results
Mode = Literal["spawn", "share", "keep"]

_ENTROPY_BITS: Final = 128
_RANDOM_REDUCE: Final[Any] = random.Random.__reduce__


#: a generator, and the entropy that its streams come from
Made = tuple[Any, int]


class Drawing:
    """Who draws random numbers in a thread: a task, or an item of one."""

    __slots__ = ("index", "job", "made", "own")

    def __init__(self) -> None:
        self.job = b""
        self.index: int | None = None  #: of the task or item in its job; None: none runs
        self.made: list[Made] = []  #: the generators in its function that are there already
        self.own: dict[int | None, Any] | None = None  #: what `rng` has made for it

    def begin(self, index: int) -> None:
        """Begin a task or an item: give the generators their streams. For each item of a chunk, so it does little."""
        self.index = index
        self.own = None
        if self.made:
            for generator, entropy in self.made:
                _reseed(generator, entropy, index)

    def end(self) -> None:
        """Note that no task runs any more."""
        self.index = self.own = None


class _CurrentStreams(threading.local):
    def __init__(self) -> None:
        self.drawing = Drawing()
        self.made: list[Made] | None = None  #: while a function is unpickled that serves many tasks: those in it


_HERE: Final = _CurrentStreams()


def drawing() -> Drawing:
    """Give who draws in this thread."""
    return _HERE.drawing


def loaded(load: Callable[[], Any]) -> tuple[Any, list[Made]]:
    """Unpickle a function that serves many tasks; give it with the generators in it. Raises as `load`."""
    made: list[Made] = []
    _HERE.made = made
    try:
        return load(), made
    finally:
        _HERE.made = None


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
    import numpy as np

    task = _HERE.drawing
    if task.index is None:
        return np.random.default_rng(seed)
    if task.own is None:
        task.own = {}
    if seed not in task.own:
        entropy = int.from_bytes(task.job) if seed is None else seed
        task.own[seed] = np.random.default_rng(_seeds(entropy, task.index))
    return task.own[seed]


# --------------------------------------------------------------------------------------------------- on their way out


def reduction(kind: type) -> Callable[[Any, bool], Any] | None:
    """Give what reduces generators of a class to where their streams come from; None for what is no generator.

    What it gives takes a generator, and whether it is to spawn.
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
    entropy = _drawn(generator) if spawns else _digest(generator.bit_generator.state)
    return _make_generator, (type(generator.bit_generator), entropy)


def _reduced_state(generator: Any, spawns: bool) -> Any:
    entropy = _drawn(generator) if spawns else _digest(generator.get_state(legacy=False))
    return _make_state, (type(generator._bit_generator), entropy)


def _drawn(generator: Any) -> int:
    return int.from_bytes(generator.bytes(_ENTROPY_BITS // 8))


def _digest(state: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(_plain(state)).encode()).digest()[: _ENTROPY_BITS // 8])


def _plain(state: Any) -> Any:
    """Give a state whose text has all of it: that of an array may not."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return state.tolist() if hasattr(state, "tolist") else state


# ---------------------------------------------------------------------------------------------------- where they arrive


def _made(generator: Any, entropy: int) -> Any:
    if _HERE.made is not None:
        _HERE.made.append((generator, entropy))
    return generator


def _make_random(kind: type[random.Random], entropy: int) -> Any:
    return _made(kind(_seed(entropy, _index())), entropy)


def _make_generator(bits: Any, entropy: int) -> Any:
    import numpy as np

    return _made(np.random.Generator(bits(_seeds(entropy, _index()))), entropy)


def _make_state(bits: Any, entropy: int) -> Any:
    import numpy as np

    return _made(np.random.RandomState(bits(_seeds(entropy, _index()))), entropy)


def _index() -> int:
    return _HERE.drawing.index or 0


def _seeds(entropy: int, index: int) -> Any:
    import numpy as np

    return np.random.SeedSequence(entropy, spawn_key=(index,))


def _seed(entropy: int, index: int) -> int:
    return int.from_bytes(hashlib.sha512(repr((entropy, index)).encode()).digest())


def _reseed(generator: Any, entropy: int, index: int) -> None:
    """Give a generator another stream, in its place: a function may have it anywhere."""
    if isinstance(generator, random.Random):
        generator.seed(_seed(entropy, index))
        return
    import numpy as np

    seeds = _seeds(entropy, index)
    if isinstance(generator, np.random.RandomState):
        fresh = np.random.RandomState(type(generator._bit_generator)(seeds))
        generator.set_state(fresh.get_state(legacy=False))
        return
    bits = generator.bit_generator
    bits.__setstate__((type(bits)(seeds).state, seeds))  # with the seeds, because the task may spawn from it
