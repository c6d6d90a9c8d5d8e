"""Statistics by name: what a task, a process or a job has measured. May be used from any thread."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from types import TracebackType
from typing import Any, Final

from concurrent_nb.telemetry.statistic import Packed, Statistic, StatisticSummary

#: most names in a registry
NAMES_MAX: Final = 1000
#: most characters of a name
NAME_LENGTH_MAX: Final = 200
_NS: Final = 1e-9


class StatisticRegistry:
    """Statistics by name.

    >>> registry = StatisticRegistry()
    >>> registry.add("rows", 10)
    >>> registry.add("rows", 30)
    >>> registry.read()["rows"].average
    20.0

    They accumulate until `take` returns them and begins anew; the names count on.

    Args:
        names_max: most names.
    """

    def __init__(self, names_max: int = NAMES_MAX) -> None:
        self.left_out = 0  #: values of names above the limit that `merge` has left out
        self._names_max = names_max
        self._statistics: dict[str, Statistic] = {}
        self._known: set[str] = set()  # names that were added, also before the last `take`
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._statistics)

    def add(self, name: str, value: float) -> None:
        """Add a value to the statistic of a name.

        Raises:
            TypeError: the name is no string, or the value no number.
            ValueError: the name is too long, the value is infinite or not a number, or there are too many names.
        """
        if type(value) is not float:
            value = number_of(name, value)
        if value - value != 0:
            raise ValueError(f"the value of statistic {name!r:.100} is {value}: it must be finite")
        if type(name) is not str:
            check_name(name)
            name = str(name)
        with self._lock:
            statistic = self._statistics.get(name)
            if statistic is None:
                statistic = self._new(name)
            statistic.add(value)

    def merge(self, packed: Iterable[tuple[str, Packed]]) -> None:
        """Add what other registries have measured; names above the limit are left out and counted."""
        with self._lock:
            for name, one in packed:
                statistic = self._statistics.get(name)
                if statistic is not None:
                    statistic.merge(Statistic.unpacked(one))
                elif len(self._statistics) < self._names_max:
                    self._statistics[name] = Statistic.unpacked(one)
                else:
                    self.left_out += one[0]

    def read(self) -> dict[str, Statistic]:
        """Return copies of all statistics by name, sorted."""
        with self._lock:
            return {name: self._statistics[name].copy() for name in sorted(self._statistics)}

    def summaries(self, most: int) -> dict[str, StatisticSummary]:
        """Return the numbers of the first statistics, `most` at most, by name."""
        with self._lock:
            return {name: statistic.summary() for name, statistic in islice(self._statistics.items(), most)}

    def take(self) -> dict[str, Statistic]:
        """Return all statistics by name, and begin anew."""
        with self._lock:
            taken, self._statistics = self._statistics, {}
            return taken

    def _new(self, name: str) -> Statistic:
        if name not in self._known:
            check_name(name)
            if len(self._known) >= self._names_max:
                raise ValueError(
                    f"there are {self._names_max:,} statistics already, and no room for {name!r:.100}: a name stands"
                    " for a kind of value, not for a single task"
                )
            self._known.add(name)
        statistic = self._statistics[name] = Statistic()
        return statistic


class Timing:
    """Adds the seconds that its `with` block takes to the statistic of a name, also if the block raises."""

    __slots__ = ("_add", "_began_ns", "_name")

    def __init__(self, add: Callable[[str, float], None], name: str) -> None:
        check_name(name)
        self._add = add
        self._name = name
        self._began_ns = 0

    def __enter__(self) -> "Timing":
        self._began_ns = time.perf_counter_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._add(self._name, (time.perf_counter_ns() - self._began_ns) * _NS)


def check_name(name: Any) -> None:
    """Raise TypeError or ValueError for what cannot be the name of a statistic."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a statistic is a string, not {type(name).__name__}")
    if not 0 < len(name) <= NAME_LENGTH_MAX:
        raise ValueError(f"the name of a statistic has 1 to {NAME_LENGTH_MAX} characters, not {len(name)}")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the name of a statistic is text, {name!r:.100} cannot be encoded") from error


def number_of(name: Any, value: Any) -> float:
    """Return a number as a float. Raises TypeError for what is none, ValueError for one that is too large."""
    # Not float() alone, which also reads text.
    if not hasattr(value, "__float__") and not hasattr(value, "__index__"):
        raise TypeError(f"the value of statistic {name!r:.100} is a number, not {type(value).__name__}")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"the value of statistic {name!r:.100} is too large: {error}") from error
    except Exception as error:  # an array, for example
        raise TypeError(
            f"the value of statistic {name!r:.100} is a number, not {type(value).__name__}: {error}"
        ) from error


def packed_statistics(statistics: Mapping[str, Statistic]) -> list[tuple[str, Packed]]:
    """Return statistics as builtin values, for a message."""
    return [(name, statistic.packed()) for name, statistic in statistics.items()]
