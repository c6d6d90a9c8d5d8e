"""All turns of a match, kept small, and a page that plays them.

A turn is stored as 16-bit numbers: seven for each tank, four for each bullet. The page is one HTML text, and fetches
nothing: it has the numbers, a script that draws them on a canvas, and the first turn as SVG for readers that run no
scripts.
"""

import html
import sys
from array import array
from base64 import b64encode
from dataclasses import dataclass
from typing import Final
from zlib import compress, decompress

from concurrent_nb.samples.arena.battle_rules import Battle
from concurrent_nb.samples.arena.replay_script import PAGE

#: numbers per tank: alive, x, y, heading, gun, radar, energy; and per bullet: owner, x, y, power
TANK_NUMBERS: Final = 7
BULLET_NUMBERS: Final = 4
#: what one unit of each is divided into; angles have 1/100 degree
SCALE: Final = 16
ANGLE_SCALE: Final = 100
_MOST: Final = 65535
#: hues of tanks; the lightness is that of neither theme's background
_GOLDEN_ANGLE: Final = 137.508


@dataclass(frozen=True)
class Replay:
    """The turns of a match. In a notebook it is shown as a player, in dark and light themes."""

    width: float
    height: float
    names: list[str]
    scores: list[float]
    turns: int  #: recorded ones, with the start
    body: bytes  #: compressed numbers

    def numbers(self) -> "array[int]":
        """Return the numbers of all turns: for each the tanks, the number of bullets, and the bullets."""
        found = array("H", decompress(self.body))
        if sys.byteorder == "big":
            found.byteswap()
        return found

    def page(self) -> str:
        """Return an HTML page that plays the match."""
        standings = sorted(zip(self.scores, self.names, range(len(self.names)), strict=True), reverse=True)
        rows = "".join(
            f'<tr><td><span class="dot" style="background:{colour(number)}"></span>{html.escape(name)}</td>'
            f"<td>{score:.0f}</td></tr>"
            for score, name, number in standings[:16]
        )
        facts = {
            "WIDTH": f"{self.width:.0f}",
            "HEIGHT": f"{self.height:.0f}",
            "TANKS": str(len(self.names)),
            "TURNS": str(self.turns),
            "DATA": b64encode(self._little_endian()).decode("ascii"),
            "STILL": self.still(),
            "ROWS": rows,
        }
        page = PAGE
        for name, value in facts.items():
            page = page.replace(f"@{name}@", value)
        return page

    def _little_endian(self) -> bytes:
        return decompress(self.body)

    def still(self) -> str:
        """Return the first turn as SVG."""
        found = self.numbers()
        tanks = []
        for number in range(len(self.names)):
            _, x, y, heading, gun = found[number * TANK_NUMBERS : number * TANK_NUMBERS + 5]
            place = f"translate({x / SCALE:.1f} {self.height - y / SCALE:.1f})"
            tanks.append(
                f'<g transform="{place}"><rect x="-16" y="-14" width="32" height="28" rx="4" fill="{colour(number)}" '
                f'transform="rotate({-heading / ANGLE_SCALE:.1f})"/><line x2="24" stroke="#888" stroke-width="5" '
                f'transform="rotate({-gun / ANGLE_SCALE:.1f})"/></g>'
            )
        box = f'viewBox="0 0 {self.width:.0f} {self.height:.0f}"'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {box} width="100%">{"".join(tanks)}</svg>'

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        style = f"width:100%;max-width:860px;aspect-ratio:{self.width:.0f}/{self.height + 120:.0f};border:0"
        page = html.escape(self.page(), quote=True)
        frame = f'<iframe sandbox="allow-scripts" srcdoc="{page}" style="{style}" title="replay of a match"></iframe>'
        text = f"a match of {len(self.names)} robots in {self.turns - 1} turns"
        return {"text/html": frame, "text/plain": text}


class ReplayRecorder:
    """Records a battle turn by turn."""

    def __init__(self, width: float, height: float, names: list[str]) -> None:
        self.width, self.height, self.names = width, height, names
        self._numbers = array("H")
        self._turns = 0

    def add(self, battle: Battle) -> None:
        """Record the present turn."""
        numbers = self._numbers
        for tank in battle.tanks:
            angles = [round(angle * ANGLE_SCALE) for angle in (tank.heading, tank.gun, tank.radar)]
            numbers.extend([int(tank.is_alive), _scaled(tank.x), _scaled(tank.y), *angles, _scaled(tank.energy)])
        numbers.append(len(battle.bullets))
        for bullet in battle.bullets:
            numbers.extend([bullet.owner, _scaled(bullet.x), _scaled(bullet.y), _scaled(bullet.power)])
        self._turns += 1

    def replay(self, scores: list[float]) -> Replay:
        """Return what has been recorded."""
        numbers = array("H", self._numbers)
        if sys.byteorder == "big":
            numbers.byteswap()
        body = compress(numbers.tobytes(), 6)
        return Replay(self.width, self.height, self.names, list(scores), self._turns, body)


def colour(number: int) -> str:
    """Return a colour for a tank, far from those of the numbers before."""
    return f"hsl({number * _GOLDEN_ANGLE % 360:.0f} 70% 50%)"


def _scaled(value: float) -> int:
    return max(0, min(_MOST, round(value * SCALE)))
