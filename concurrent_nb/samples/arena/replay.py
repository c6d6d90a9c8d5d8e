"""All turns of a match, kept small, and a page that plays them.

A turn is stored as 16-bit numbers: seven for each tank, four for each bullet. The page is one HTML text, and fetches
nothing: it has the numbers, a script that draws them on a canvas, and the first turn as SVG for readers that run no
scripts. It is as dark as a screen in every theme, because what is in a frame does not know the theme around it.
"""

import html
import json
import sys
from array import array
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
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
#: the colour of the arena's ground, in all themes
GROUND: Final = "#1d1f21"
#: between the hues of tanks
_GOLDEN_ANGLE: Final = 137.508


@dataclass(frozen=True)
class Replay:
    """The turns of a match. In a notebook it is shown as a player."""

    width: float
    height: float
    names: list[str]
    scores: list[float]
    turns: int  #: recorded ones, with the start
    body: bytes = field(repr=False)  #: compressed numbers

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
            for score, name, number in standings
        )
        facts = {
            "WIDTH": f"{self.width:.0f}",
            "HEIGHT": f"{self.height:.0f}",
            "NAMES": json.dumps(self.names).replace("<", "\\u003c"),
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
        tanks = (found[number * TANK_NUMBERS : number * TANK_NUMBERS + 5] for number in range(len(self.names)))
        drawn = [
            _drawn(name, number, x / SCALE, y / SCALE, heading / ANGLE_SCALE, gun / ANGLE_SCALE, self.height)
            for number, (name, (_, x, y, heading, gun)) in enumerate(zip(self.names, tanks, strict=True))
        ]
        return _picture(drawn, self.width, self.height)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        shape = f"width:100%;aspect-ratio:{self.width:.0f}/{self.height + 50:.0f};min-height:260px;max-width:860px"
        page = html.escape(self.page(), quote=True)
        text = f"a match of {len(self.names)} robots in {self.turns - 1} turns"
        # Where no frames are shown (a notebook that is not trusted), the text behind it is.
        shown = (
            f'<div style="position:relative;{shape}"><p>{text}; it is played where frames are allowed: in a notebook '
            f'that you trust, or on an exported page</p><iframe sandbox="allow-scripts" srcdoc="{page}" '
            f'title="replay of a match" style="position:absolute;inset:0;width:100%;height:100%;border:0;'
            f'border-radius:6px;background:{GROUND}"></iframe></div>'
        )
        return {"text/html": shown, "text/plain": text}


def battle_picture(battle: Battle, names: Sequence[str] = ()) -> str:
    """Return a battle as it is now, as SVG, to show it in HTML while it runs."""
    height, named = battle.height, names or [""] * len(battle.tanks)
    drawn = [
        _drawn(named[tank.number], tank.number, tank.x, tank.y, tank.heading, tank.gun, height) for tank in battle.alive
    ]
    drawn += [
        f'<circle cx="{bullet.x:.1f}" cy="{height - bullet.y:.1f}" r="{2 + bullet.power:.1f}" '
        f'fill="{colour(bullet.owner)}"/>'
        for bullet in battle.bullets
    ]
    return _picture(drawn, battle.width, height)


def _drawn(name: str, number: int, x: float, y: float, heading: float, gun: float, height: float) -> str:
    return (
        f'<g transform="translate({x:.1f} {height - y:.1f})"><rect x="-16" y="-14" width="32" height="28" rx="4" '
        f'fill="{colour(number)}" transform="rotate({-heading:.1f})"/><line x2="24" stroke="#888" stroke-width="5" '
        f'transform="rotate({-gun:.1f})"/><text y="{38 if y > 50 else -24}" text-anchor="middle" fill="#bbb">'
        f"{html.escape(name)}</text></g>"
    )


def _picture(drawn: list[str], width: float, height: float) -> str:
    box = f'viewBox="0 0 {width:.0f} {height:.0f}" style="display:block;max-width:{width:.0f}px;border-radius:6px"'
    ground = f'<path d="M0 0H{width:.0f}V{height:.0f}H0Z" fill="{GROUND}"/>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {box} width="100%" font-size="16">'
    return f"{svg}{ground}{''.join(drawn)}</svg>"


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
    return f"hsl({number * _GOLDEN_ANGLE % 360:.0f} 75% 60%)"


def _scaled(value: float) -> int:
    return max(0, min(_MOST, round(value * SCALE)))
