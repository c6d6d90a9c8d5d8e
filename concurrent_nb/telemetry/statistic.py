"""A statistic: count, total, average, minimum, maximum and percentiles of values that come one by one.

The percentiles are those of a histogram whose bins grow by 2 %, as in DDSketch, so a percentile is within 1 % of the
exact one for values of any size. Merging two statistics gives exactly what one statistic of all values would be.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

#: a bin's upper limit over its lower limit
_GROWTH: Final = 1.01 / 0.99
_PER_LOG: Final = 1 / math.log(_GROWTH)
#: what is added to the number of a bin, so that those of positive values are positive: the smallest float has -37,230
_SHIFT: Final = 40_000
#: most bins of a statistic, for 34 powers of ten; of more, those of the smallest absolute values are joined
BINS_MAX: Final = 4096

_log: Final = math.log
_floor: Final = math.floor

#: count, total, minimum, maximum, bins
Packed = tuple[int, float, float, float, dict[int, int]]


@dataclass(frozen=True, slots=True)
class StatisticSummary:
    """The numbers of a statistic without its bins, of at least one value."""

    count: int
    total: float
    minimum: float
    maximum: float
    p50: float
    p90: float
    p99: float

    @property
    def average(self) -> float:
        """The average."""
        return self.total / self.count

    def as_dict(self) -> dict[str, Any]:
        """Return its numbers by name, for JSON."""
        return {**asdict(self), "average": self.average}

    @classmethod
    def from_dict(cls, answer: Mapping[str, Any]) -> "StatisticSummary":
        """Return the summary of what `as_dict` has returned."""
        return cls(*(answer[each.name] for each in fields(cls)))


class Statistic:
    """Count, total, average, minimum, maximum and percentiles of a value.

    >>> statistic = Statistic([1.0, 2.0, 3.0, 10.0])
    >>> statistic
    <Statistic: 4 values, average 4, minimum 1, maximum 10>
    >>> statistic.count, statistic.average, round(statistic.p50, 1)
    (4, 4.0, 2.0)

    Percentiles are within 1 % of the exact ones. Values must be finite.

    Args:
        values: the first values.
    """

    __slots__ = ("bins", "count", "maximum", "minimum", "total")

    def __init__(self, values: Iterable[float] = ()) -> None:
        self.count = 0
        self.total = 0.0
        self.minimum = math.inf  #: of no value, infinite
        self.maximum = -math.inf
        self.bins: dict[int, int] = {}  #: counts by number of the bin, which is 0 for zero and negative below it
        for value in values:
            self.add(value)

    @classmethod
    def unpacked(cls, packed: Packed) -> "Statistic":
        """Return the statistic that `packed` returned as this tuple."""
        statistic = cls()
        statistic.count, statistic.total, statistic.minimum, statistic.maximum, bins = packed
        statistic.bins = dict(bins)
        return statistic

    def packed(self) -> Packed:
        """Return all of it as builtin values, for a message."""
        return self.count, self.total, self.minimum, self.maximum, dict(self.bins)

    def add(self, value: float) -> None:
        """Add a value."""
        self.count += 1
        self.total += value
        if value < self.minimum:
            self.minimum = value
        if value > self.maximum:
            self.maximum = value
        if value > 0:
            number = _floor(_log(value) * _PER_LOG) + _SHIFT
        elif value < 0:
            number = -_floor(_log(-value) * _PER_LOG) - _SHIFT
        else:
            number = 0
        bins = self.bins
        if number in bins:
            bins[number] += 1
        else:
            bins[number] = 1
            if len(bins) > BINS_MAX:
                self._join_smallest()

    def merge(self, other: "Statistic") -> None:
        """Add all values of another statistic."""
        self.count += other.count
        self.total += other.total
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        bins = self.bins
        for number, count in other.bins.items():
            bins[number] = bins.get(number, 0) + count
        if len(bins) > BINS_MAX:
            self._join_smallest()

    def copy(self) -> "Statistic":
        """Return a statistic of the same values."""
        return Statistic.unpacked(self.packed())

    @property
    def average(self) -> float:
        """The average; 0 of no values."""
        return self.total / self.count if self.count else 0.0

    @property
    def p50(self) -> float:
        """The median."""
        return self.percentile(50)

    @property
    def p90(self) -> float:
        """The value that 90 % do not exceed."""
        return self.percentile(90)

    @property
    def p99(self) -> float:
        """The value that 99 % do not exceed."""
        return self.percentile(99)

    def percentile(self, percent: float) -> float:
        """Return the value that so many per cent of the values do not exceed, within 1 %; 0 of no values."""
        if not self.bins:
            return 0.0
        left = max(1.0, math.ceil(percent / 100 * sum(self.bins.values())))
        value = self.maximum
        for number in sorted(self.bins):
            left -= self.bins[number]
            if left <= 0:
                value = _middle(number)
                break
        return min(max(value, self.minimum), self.maximum)

    def summary(self) -> StatisticSummary:
        """Return its numbers without the bins."""
        return StatisticSummary(self.count, self.total, self.minimum, self.maximum, self.p50, self.p90, self.p99)

    def as_dict(self) -> dict[str, Any]:
        """Return its numbers by name, for JSON; `bins` are pairs of number and count."""
        is_empty = not self.count
        return {
            "count": self.count,
            "total": self.total,
            "average": self.average,
            "minimum": 0.0 if is_empty else self.minimum,
            "maximum": 0.0 if is_empty else self.maximum,
            "p50": self.p50,
            "p90": self.p90,
            "p99": self.p99,
            "bins": sorted(self.bins.items()),
        }

    @classmethod
    def from_dict(cls, answer: Mapping[str, Any]) -> "Statistic":
        """Return the statistic of what `as_dict` has returned, with `bins` as pairs."""
        statistic = cls()
        if answer["count"]:
            count, total, minimum, maximum = (answer[name] for name in ("count", "total", "minimum", "maximum"))
            statistic.count, statistic.total, statistic.minimum, statistic.maximum = count, total, minimum, maximum
            statistic.bins = dict(answer["bins"])
        return statistic

    def __eq__(self, other: object) -> bool:
        return self.packed() == other.packed() if isinstance(other, Statistic) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __reduce__(self) -> tuple[Any, ...]:
        return Statistic.unpacked, (self.packed(),)

    def __repr__(self) -> str:
        if not self.count:
            return "<Statistic: no values>"
        what = f"{self.count:,} value{'s' * (self.count != 1)}"
        return f"<Statistic: {what}, average {self.average:g}, minimum {self.minimum:g}, maximum {self.maximum:g}>"

    def _join_smallest(self) -> None:
        """Join an eighth of the bins, those nearest to zero, so that this is rare."""
        numbers = sorted(self.bins, key=abs)
        cut = len(numbers) - BINS_MAX + BINS_MAX // 8
        kept = numbers[cut]
        self.bins[kept] += sum(self.bins.pop(number) for number in numbers[:cut])


def _middle(number: int) -> float:
    """Return the value whose relative distance from both limits of a bin is the same."""
    if not number:
        return 0.0
    power = (abs(number) - _SHIFT) / _PER_LOG
    middle = math.exp(min(power, 709.0)) * 2 * _GROWTH / (1 + _GROWTH)
    return middle if number > 0 else -middle
