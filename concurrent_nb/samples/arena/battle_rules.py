"""The rules of the arena: what a turn does to tanks and bullets. Pure: the same orders always give the same battle.

The rules and numbers are those of Robocode Tank Royale (https://robocode-dev.github.io/tank-royale, "Physics" and
"Scoring"). Angles are degrees, counter-clockwise, 0 is east; y grows upwards.

A turn: guns fire, tanks turn and move, hit walls and each other, bullets fly, hit each other and tanks, the dead are
counted, and radars sweep.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final, NamedTuple

RADIUS: Final = 18.0
MAX_SPEED: Final = 8.0
ACCELERATION: Final = 1.0
DECELERATION: Final = 2.0
GUN_TURN: Final = 20.0
RADAR_TURN: Final = 45.0
RADAR_RANGE: Final = 1200.0
MIN_POWER: Final = 0.1
MAX_POWER: Final = 3.0
START_ENERGY: Final = 100.0
START_HEAT: Final = 3.0
COOLING: Final = 0.1
RAM_DAMAGE: Final = 0.6
#: turns without damage after which all tanks lose energy, and how much
QUIET_TURNS: Final = 450
QUIET_DAMAGE: Final = 0.1
#: points for surviving a death, for each other tank if it is the last one, and for each point of ramming damage
SURVIVAL_POINTS: Final = 50.0
LAST_POINTS: Final = 10.0
RAM_POINTS: Final = 2.0
#: points for a kill, as a share of all damage that the killer has done to that tank
BULLET_KILL_SHARE: Final = 0.2
RAM_KILL_SHARE: Final = 0.3
#: no bullet flies farther in a turn
_FARTHEST: Final = 20.0


class Commands(NamedTuple):
    """What a robot wants for the next turn. More than the rules allow is cut."""

    speed: float = 0.0  #: to be reached; negative: backwards
    turn: float = 0.0  #: degrees by which the body turns, and gun and radar with it
    turn_gun: float = 0.0  #: degrees by which the gun turns on the body, and the radar with it
    turn_radar: float = 0.0
    fire: float = 0.0  #: power of a bullet, from 0.1 to 3; 0: none


@dataclass
class Tank:
    """A tank; its body, gun and radar have directions of their own."""

    number: int
    x: float
    y: float
    heading: float = 0.0
    gun: float = 0.0
    radar: float = 0.0
    speed: float = 0.0
    energy: float = START_ENERGY
    heat: float = START_HEAT
    is_alive: bool = True


@dataclass
class Bullet:
    """A bullet in flight."""

    owner: int
    x: float
    y: float
    heading: float
    power: float

    @property
    def speed(self) -> float:
        """Return the units that it flies in a turn."""
        return bullet_speed(self.power)

    @property
    def way(self) -> tuple[float, float]:
        """Return by how much x and y change in a turn."""
        angle = math.radians(self.heading)
        return self.speed * math.cos(angle), self.speed * math.sin(angle)


class Sighting(NamedTuple):
    """A tank that a radar has swept over."""

    number: int
    bearing: float  #: direction from the tank that sees it, not relative to its heading
    distance: float
    heading: float
    speed: float
    energy: float


@dataclass
class TurnEvents:
    """What has happened to a tank in a turn."""

    sightings: list[Sighting] = field(default_factory=list)
    hits: list[int] = field(default_factory=list)  #: tanks that its bullets have hit
    hit_by: list[float] = field(default_factory=list)  #: directions in which bullets flew that have hit it
    rammed: list[int] = field(default_factory=list)  #: tanks that it has touched
    hit_bullets: int = 0  #: its bullets that have hit another robot's bullet
    hit_wall: bool = False
    fired: bool = False
    skipped: bool = False  #: it has decided too late


def bullet_speed(power: float) -> float:
    """Return the speed of a bullet: heavy ones are slow."""
    return 20 - 3 * power


def bullet_damage(power: float) -> float:
    """Return the energy that a hit costs."""
    return 4 * power + 2 * max(0.0, power - 1)


def wall_damage(speed: float) -> float:
    """Return the energy that driving into a wall costs."""
    return max(0.0, abs(speed) / 2 - 1)


def turn_limit(speed: float) -> float:
    """Return the degrees that a body may turn in a turn: fast tanks turn slowly."""
    return 10 - 0.75 * abs(speed)


def relative(angle: float) -> float:
    """Return an angle as -180 to 180 degrees.

    >>> relative(350)
    -10
    """
    return (angle + 180) % 360 - 180


def next_speed(speed: float, wanted: float) -> float:
    """Return the speed after a turn. Brakes are twice as strong as the motor; a turn that brakes does not reverse."""
    wanted = _limited(wanted, MAX_SPEED)
    if speed and wanted * speed <= 0:
        step = min(abs(speed), DECELERATION)
        return speed - math.copysign(step, speed)
    if abs(wanted) < abs(speed):
        return math.copysign(max(abs(wanted), abs(speed) - DECELERATION), speed)
    return math.copysign(min(abs(wanted), abs(speed) + ACCELERATION), wanted) if wanted else 0.0


def _limited(value: float, most: float) -> float:
    return max(-most, min(most, value)) if math.isfinite(value) else 0.0


class Battle:
    """A battle, turn by turn.

    Args:
        places: x, y and heading of each tank.
    """

    def __init__(self, width: float, height: float, places: list[tuple[float, float, float]]) -> None:
        self.width, self.height = width, height
        self.tanks = [Tank(n, x, y, angle, angle, angle) for n, (x, y, angle) in enumerate(places)]
        self.bullets: list[Bullet] = []
        self.turn = 0
        self.scores = [0.0] * len(places)
        #: (by, to) -> damage by bullets and by ramming
        self._damage: dict[tuple[int, int], float] = {}
        self._quiet_turns = 0

    @property
    def alive(self) -> list[Tank]:
        """Return the tanks that are left."""
        return [tank for tank in self.tanks if tank.is_alive]

    @property
    def is_over(self) -> bool:
        """Return whether at most one tank is left."""
        return len(self.alive) <= 1

    def advance(self, orders: Mapping[int, Commands]) -> dict[int, TurnEvents]:
        """Do a turn; return what has happened to each tank that was alive. Tanks without orders brake."""
        self.turn += 1
        self._quiet_turns += 1
        present = self.alive
        events = {tank.number: TurnEvents() for tank in present}
        before = {tank.number: (tank.x, tank.y, tank.radar) for tank in present}
        for tank in present:
            self._fire(tank, orders.get(tank.number, Commands()), events[tank.number])
        for tank in present:
            self._move(tank, orders.get(tank.number, Commands()), events[tank.number])
        killers = self._collide(present, before, events)
        killers |= self._fly(present, events)
        if self._quiet_turns > QUIET_TURNS:
            for tank in present:
                tank.energy -= QUIET_DAMAGE
        self._count_dead(present, killers)
        for tank in self.alive:
            events[tank.number].sightings = self.swept(tank, before[tank.number][2])
        return events

    def swept(self, tank: Tank, before: float) -> list[Sighting]:
        """Return the tanks between the former and the present direction of a radar, the nearest first."""
        arc = relative(tank.radar - before)
        found = []
        for other in self.alive:
            if other is tank:
                continue
            dx, dy = other.x - tank.x, other.y - tank.y
            distance = math.hypot(dx, dy)
            bearing = math.degrees(math.atan2(dy, dx)) % 360
            offset = relative(bearing - before)
            # A tank has a width, seen from here as an angle.
            margin = math.degrees(math.asin(min(1.0, RADIUS / distance))) if distance else 180.0
            is_inside = min(0.0, arc) - margin <= offset <= max(0.0, arc) + margin
            if distance <= RADAR_RANGE and is_inside:
                found.append(Sighting(other.number, bearing, distance, other.heading, other.speed, other.energy))
        return sorted(found, key=lambda each: (each.distance, each.number))

    def _fire(self, tank: Tank, orders: Commands, events: TurnEvents) -> None:
        tank.heat = max(0.0, tank.heat - COOLING)
        if not orders.fire >= MIN_POWER or tank.heat > 0:  # not NaN either
            return
        power = min(MAX_POWER, orders.fire)
        if tank.energy <= power:
            return
        tank.energy -= power
        tank.heat = 1 + power / 5
        events.fired = True
        self.bullets.append(Bullet(tank.number, tank.x, tank.y, tank.gun, power))

    def _move(self, tank: Tank, orders: Commands, events: TurnEvents) -> None:
        turn = _limited(orders.turn, turn_limit(tank.speed))
        turn_gun = turn + _limited(orders.turn_gun, GUN_TURN)
        tank.heading = (tank.heading + turn) % 360
        tank.gun = (tank.gun + turn_gun) % 360
        tank.radar = (tank.radar + turn_gun + _limited(orders.turn_radar, RADAR_TURN)) % 360
        tank.speed = next_speed(tank.speed, orders.speed)
        tank.x += tank.speed * math.cos(math.radians(tank.heading))
        tank.y += tank.speed * math.sin(math.radians(tank.heading))
        x = max(RADIUS, min(self.width - RADIUS, tank.x))
        y = max(RADIUS, min(self.height - RADIUS, tank.y))
        if (x, y) != (tank.x, tank.y):
            tank.energy -= wall_damage(tank.speed)
            tank.x, tank.y, tank.speed = x, y, 0.0
            events.hit_wall = True

    def _collide(
        self,
        present: list[Tank],
        before: dict[int, tuple[float, float, float]],
        events: dict[int, TurnEvents],
    ) -> dict[int, tuple[int, float]]:
        """Let tanks that overlap hurt each other, and put them back; return who has killed whom."""
        touching = [
            (a, b)
            for place, a in enumerate(present)
            for b in present[place + 1 :]
            if math.hypot(a.x - b.x, a.y - b.y) < 2 * RADIUS
        ]
        killers: dict[int, tuple[int, float]] = {}
        for a, b in touching:
            for by, to in ((a, b), (b, a)):
                to.energy -= RAM_DAMAGE
                events[by.number].rammed.append(to.number)
                self._quiet_turns = 0
                if _is_toward(by, to):  # a tank that stands still or drives away rams no other
                    self._score(by.number, to.number, RAM_DAMAGE, RAM_POINTS * RAM_DAMAGE)
                    if to.energy <= 0:
                        killers.setdefault(to.number, (by.number, RAM_KILL_SHARE))
        for tank in {id(tank): tank for pair in touching for tank in pair}.values():
            tank.x, tank.y, _ = before[tank.number]
            tank.speed = 0.0
        return killers

    def _fly(self, present: list[Tank], events: dict[int, TurnEvents]) -> dict[int, tuple[int, float]]:
        """Let bullets fly, hit each other, the first tank on their way, or leave; return who has killed whom."""
        killers: dict[int, tuple[int, float]] = {}
        flying = []
        for bullet in self._unstopped(events):
            dx, dy = bullet.way
            victims = [
                (share, tank.number)
                for tank in present
                if tank.number != bullet.owner
                and (share := _first_touch(bullet.x - tank.x, bullet.y - tank.y, dx, dy)) is not None
            ]
            if victims:
                self._hit(bullet, self.tanks[min(victims)[1]], events, killers)
                continue
            bullet.x, bullet.y = bullet.x + dx, bullet.y + dy
            if 0 <= bullet.x <= self.width and 0 <= bullet.y <= self.height:
                flying.append(bullet)
        self.bullets = flying
        return killers

    def _unstopped(self, events: dict[int, TurnEvents]) -> list[Bullet]:
        """Remove bullets of different tanks whose ways of this turn cross; return the others."""
        stopped: set[int] = set()
        for (a, first), (b, second) in combinations(enumerate(self.bullets), 2):
            if (
                first.owner != second.owner
                and abs(first.x - second.x) < 2 * _FARTHEST
                and abs(first.y - second.y) < 2 * _FARTHEST
                and not stopped & {a, b}
                and ways_cross(first, second)
            ):
                stopped |= {a, b}
                for bullet in (first, second):
                    if bullet.owner in events:
                        events[bullet.owner].hit_bullets += 1
        return [bullet for place, bullet in enumerate(self.bullets) if place not in stopped]

    def _hit(
        self,
        bullet: Bullet,
        victim: Tank,
        events: dict[int, TurnEvents],
        killers: dict[int, tuple[int, float]],
    ) -> None:
        damage = bullet_damage(bullet.power)
        victim.energy -= damage
        owner = self.tanks[bullet.owner]
        if owner.is_alive:
            owner.energy += 3 * bullet.power
            events[owner.number].hits.append(victim.number)
        self._score(owner.number, victim.number, damage, damage)
        events[victim.number].hit_by.append(bullet.heading)
        self._quiet_turns = 0
        if victim.energy <= 0:
            killers.setdefault(victim.number, (owner.number, BULLET_KILL_SHARE))

    def _score(self, by: int, to: int, damage: float, points: float) -> None:
        self.scores[by] += points
        self._damage[by, to] = self._damage.get((by, to), 0.0) + damage

    def _count_dead(self, present: list[Tank], killers: dict[int, tuple[int, float]]) -> None:
        dead = [tank for tank in present if tank.energy <= 0]
        for tank in dead:
            tank.is_alive, tank.energy, tank.speed = False, 0.0, 0.0
            if tank.number in killers:
                killer, share = killers[tank.number]
                self.scores[killer] += share * self._damage[killer, tank.number]
        left = self.alive
        for tank in left:
            self.scores[tank.number] += SURVIVAL_POINTS * len(dead)
        if dead and len(left) == 1:
            self.scores[left[0].number] += LAST_POINTS * (len(self.tanks) - 1)


def _is_toward(tank: Tank, other: Tank) -> bool:
    """Return whether a tank drives toward another one, forwards or backwards."""
    angle = math.radians(tank.heading)
    along = (other.x - tank.x) * math.cos(angle) + (other.y - tank.y) * math.sin(angle)
    return along * tank.speed > 0


def ways_cross(first: Bullet, second: Bullet) -> bool:
    """Return whether the ways of two bullets in this turn cross, or lie on each other in opposite directions."""
    (ax, ay), (bx, by) = first.way, second.way
    dx, dy = second.x - first.x, second.y - first.y
    area = ax * by - ay * bx
    if abs(area) > 1e-9:
        return 0 <= (dx * by - dy * bx) / area <= 1 and 0 <= (dx * ay - dy * ax) / area <= 1
    is_one_line = abs(dx * ay - dy * ax) < 1e-6 and ax * bx + ay * by < 0
    near, far = (dx + bx) * ax + (dy + by) * ay, dx * ax + dy * ay  # where the second one's way ends and begins
    return is_one_line and near <= ax * ax + ay * ay and far >= 0


def _first_touch(x: float, y: float, dx: float, dy: float) -> float | None:
    """Return the share of a bullet's way (dx, dy) at which it touches a tank, seen from which it is at (x, y)."""
    squared, along, away = dx * dx + dy * dy, x * dx + y * dy, x * x + y * y - RADIUS * RADIUS
    if away <= 0:
        return 0.0
    root = along * along - squared * away
    if root < 0 or along > 0:
        return None
    share = (-along - math.sqrt(root)) / squared
    return share if share <= 1 else None
