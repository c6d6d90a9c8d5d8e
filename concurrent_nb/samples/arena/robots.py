"""Robots: what they know, what they decide, and some to fight against.

    class Mine(Robot):
        def decide(self, senses):
            if senses.nearest:
                return aimed(senses, senses.nearest, power=2, speed=4)
            return Commands(turn_radar=45)

A robot knows its own tank exactly, and what its radar has swept over with noise. It has a random stream of its own.
"""

import math
from random import Random
from typing import Final, NamedTuple

from concurrent_nb.samples.arena.battle_rules import (
    RADIUS,
    Commands,
    Sighting,
    TurnEvents,
    bullet_speed,
    relative,
    turn_limit,
)

#: standard deviations of what a radar measures: degrees, and shares of the distance and of the energy
BEARING_NOISE: Final = 0.3
DISTANCE_NOISE: Final = 0.01
ENERGY_NOISE: Final = 0.05


class Senses(NamedTuple):
    """What a robot knows before a turn."""

    turn: int
    width: float
    height: float
    others: int  #: tanks that are left besides its own
    x: float
    y: float
    heading: float
    gun: float
    radar: float
    speed: float
    energy: float
    heat: float  #: the gun can fire when it is 0
    events: TurnEvents  #: of the turn before

    @property
    def nearest(self) -> Sighting | None:
        """The nearest tank that its radar has swept over in the turn before."""
        return self.events.sightings[0] if self.events.sightings else None

    def toward(self, x: float, y: float) -> float:
        """Return the direction to a point."""
        return math.degrees(math.atan2(y - self.y, x - self.x)) % 360

    def place_of(self, sighting: Sighting) -> tuple[float, float]:
        """Return where a tank was seen."""
        angle = math.radians(sighting.bearing)
        return self.x + sighting.distance * math.cos(angle), self.y + sighting.distance * math.sin(angle)


class Robot:
    """Base class of robots. A robot may keep anything on itself; it must be picklable."""

    random: Random  #: its own random stream, set before the first turn

    @property
    def name(self) -> str:
        """Return its name for people: that of its class."""
        return type(self).__name__

    def decide(self, senses: Senses) -> Commands:
        """Return what to do in the next turn."""
        raise NotImplementedError(f"{self.name} decides nothing: give it a method decide")


def noisy(sighting: Sighting, random: Random) -> Sighting:
    """Return what a radar measures."""
    return sighting._replace(
        bearing=(sighting.bearing + random.gauss(0, BEARING_NOISE)) % 360,
        distance=sighting.distance * (1 + random.gauss(0, DISTANCE_NOISE)),
        energy=sighting.energy * (1 + random.gauss(0, ENERGY_NOISE)),
    )


def aimed(senses: Senses, target: Sighting, power: float, speed: float = 0.0, turn: float = 0.0) -> Commands:
    """Return orders that aim where the target will be if it drives on, fire when the gun points there, and keep the
    radar on it."""
    x, y = senses.place_of(target)
    angle, time = math.radians(target.heading), 0.0
    for _ in range(4):  # the time depends on the place, and the place on the time
        there = x + time * target.speed * math.cos(angle), y + time * target.speed * math.sin(angle)
        there = min(max(there[0], RADIUS), senses.width - RADIUS), min(max(there[1], RADIUS), senses.height - RADIUS)
        time = math.hypot(there[0] - senses.x, there[1] - senses.y) / bullet_speed(power)
    limit = turn_limit(senses.speed)
    turn = max(-limit, min(limit, relative(turn)))
    off = relative(senses.toward(*there) - senses.gun)
    width = math.degrees(math.atan2(RADIUS, max(target.distance, 1.0)))
    turn_gun = max(-20.0, min(20.0, off - turn))
    sweep = relative(target.bearing - senses.radar)
    past = math.copysign(3 * width, sweep)  # beyond it, so that the arc contains it
    radar = sweep + past - turn - turn_gun
    return Commands(speed, turn, turn_gun, radar, power if abs(off) < width and senses.heat <= 0 else 0.0)


class Spinner(Robot):
    """Drives in a circle, and shoots at what it sees."""

    def decide(self, senses: Senses) -> Commands:
        if senses.nearest:
            return aimed(senses, senses.nearest, 1.0, speed=5.0, turn=4.0)
        return Commands(speed=5.0, turn=4.0, turn_radar=45.0)


class Sniper(Robot):
    """Stands still, and shoots light bullets at far tanks and heavy ones at near tanks."""

    def decide(self, senses: Senses) -> Commands:
        if sighting := senses.nearest:
            return aimed(senses, sighting, max(0.5, min(3.0, 400 / max(sighting.distance, 1.0))))
        return Commands(turn_radar=45.0)


class Rammer(Robot):
    """Drives into the nearest tank."""

    def decide(self, senses: Senses) -> Commands:
        if sighting := senses.nearest:
            turn = relative(sighting.bearing - senses.heading)
            return aimed(senses, sighting, 3.0, speed=8.0 if abs(turn) < 40 else 3.0, turn=turn)
        return Commands(speed=3.0, turn_radar=45.0)


class Dodger(Robot):
    """Keeps its distance, drives across the line of fire, and turns around at random and when it is hit."""

    def __init__(self) -> None:
        self.direction = 1.0

    def decide(self, senses: Senses) -> Commands:
        if senses.events.hit_by or senses.events.hit_wall or self.random.random() < 0.03:
            self.direction = -self.direction
        if sighting := senses.nearest:
            inward = 20 if sighting.distance > 350 else -20
            turn = relative(sighting.bearing + 90 - self.direction * inward - senses.heading)
            return aimed(senses, sighting, 2.0 if sighting.distance < 400 else 1.0, speed=8 * self.direction, turn=turn)
        return Commands(speed=8 * self.direction, turn_radar=45.0)


#: robots to fight against
EXAMPLES: Final = (Spinner, Sniper, Rammer, Dodger)
