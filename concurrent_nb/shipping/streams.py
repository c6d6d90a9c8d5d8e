"""Random numbers in tasks: each task draws from a stream of its own, the same one wherever and how often it runs.

    notebook: rng = default_rng(42), captured by a job  --> (entropy, key) of a child of rng's SeedSequence
    worker:   begin(job, index)                         --> in the task, rng is a generator of (entropy, key + index)

So task i of a job draws what `rng.spawn(1)[0].spawn(n)[i]` would have drawn when the job was started. It counts as a
`spawn` of rng, so the next job draws other numbers. What has no SeedSequence (numpy's RandomState, Python's Random)
gives 128 bits, which it draws for that, as entropy. A single submit takes nothing from the generator; its number among
the submits of its application tells it apart.

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

#: stands in the key for all submits; no `spawn` gets so far
_SUBMITS: Final = 2**32 - 1
_ENTROPY_BITS: Final = 128
_RANDOM_REDUCE: Final[Any] = random.Random.__reduce__


class _Here(threading.local):
    """What runs in this thread."""

    job: bytes = b""
    index: int | None = None  #: of the task or item; None: none runs
    made: "list[Made] | None" = None  #: while a function is unpickled that serves many tasks: the generators in it
    own: dict[int | None, Any] | None = None  #: what `rng` has made for it


#: a generator, and the entropy and key that its streams come from
Made = tuple[Any, Any, tuple[int, ...]]
HERE: Final = _Here()


def loaded(load: Callable[[], Any]) -> tuple[Any, list[Made]]:
    """Unpickle a function that serves many tasks; give it with the generators in it. Raises as `load`."""
    made: list[Made] = []
    HERE.made = made
    try:
        return load(), made
    finally:
        HERE.made = None


def begin(job: bytes, made: list[Made], index: int) -> None:
    """Begin a task, or an item of one: give its stream to each generator that is there already."""
    here = HERE
    here.job = job
    here.index = index
    here.own = None
    for generator, entropy, key in made:
        _reseed(generator, entropy, (*key, index))


def end() -> None:
    """Note that no task runs any more."""
    HERE.index = None
    HERE.own = None


def rng(seed: int | None = None) -> Any:
    """Give a numpy Generator; in a task, one of the task's own, the same at each call.

    Args:
        seed: with it, the task with the same number draws the same in each job; without, in each attempt of the task.

    Outside of tasks it is `numpy.random.default_rng(seed)`. Raises ModuleNotFoundError without numpy.
    """
    import numpy as np

    here = HERE
    if here.index is None:
        return np.random.default_rng(seed)
    if here.own is None:
        here.own = {}
    if seed not in here.own:
        entropy = int.from_bytes(here.job) if seed is None else seed
        here.own[seed] = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(here.index,)))
    return here.own[seed]


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
    return _make_random, (type(generator), entropy, () if spawns else (_SUBMITS,))


def _reduced_generator(generator: Any, spawns: bool) -> Any:
    bits = generator.bit_generator
    seeds = bits.seed_seq
    if not hasattr(seeds, "spawn_key"):  # one of somebody's own
        entropy, key = int.from_bytes(generator.bytes(_ENTROPY_BITS // 8)), ()
    elif spawns:
        child = seeds.spawn(1)[0]
        entropy, key = child.entropy, child.spawn_key
    else:
        entropy, key = seeds.entropy, (*seeds.spawn_key, _SUBMITS)
    return _make_generator, (type(bits), entropy, tuple(key))


def _reduced_state(generator: Any, spawns: bool) -> Any:
    entropy = int.from_bytes(generator.bytes(_ENTROPY_BITS // 8)) if spawns else _digest(generator.get_state())
    return _make_state, (type(generator._bit_generator), entropy, () if spawns else (_SUBMITS,))


def _digest(state: Any) -> int:
    text = repr([it.tolist() if hasattr(it, "tolist") else it for it in state])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[: _ENTROPY_BITS // 8])


# ---------------------------------------------------------------------------------------------------- where they arrive


def _made(generator: Any, entropy: Any, key: tuple[int, ...]) -> Any:
    if HERE.made is not None:
        HERE.made.append((generator, entropy, key))
    return generator


def _key(key: tuple[int, ...]) -> tuple[int, ...]:
    return (*key, HERE.index or 0)


def _make_random(kind: type[random.Random], entropy: int, key: tuple[int, ...]) -> Any:
    return _made(kind(_seed(entropy, _key(key))), entropy, key)


def _make_generator(bits: Any, entropy: Any, key: tuple[int, ...]) -> Any:
    import numpy as np

    seeds = np.random.SeedSequence(entropy, spawn_key=_key(key))
    return _made(np.random.Generator(bits(seeds)), entropy, key)


def _make_state(bits: Any, entropy: int, key: tuple[int, ...]) -> Any:
    import numpy as np

    seeds = np.random.SeedSequence(entropy, spawn_key=_key(key))
    return _made(np.random.RandomState(bits(seeds)), entropy, key)


def _seed(entropy: int, key: tuple[int, ...]) -> int:
    return int.from_bytes(hashlib.sha512(repr((entropy, key)).encode()).digest())


def _reseed(generator: Any, entropy: Any, key: tuple[int, ...]) -> None:
    """Give a generator another stream, in its place: a function may have it anywhere."""
    if isinstance(generator, random.Random):
        generator.seed(_seed(entropy, key))
        return
    import numpy as np

    seeds = np.random.SeedSequence(entropy, spawn_key=key)
    if isinstance(generator, np.random.RandomState):
        fresh = np.random.RandomState(type(generator._bit_generator)(seeds))
        generator.set_state(fresh.get_state(legacy=False))
        return
    bits = generator.bit_generator
    bits.__setstate__((type(bits)(seeds).state, seeds))  # with the seeds, because the task may spawn from it
