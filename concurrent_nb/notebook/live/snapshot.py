"""The snapshot: what stays in the notebook when a job has ended. HTML that needs nothing and runs nothing.

Used by `line`. Its styles are inline and its colours of middle lightness, because nbconvert, GitHub and a page that is
loaded again each bring styles of their own, light or dark. All texts are escaped, and were cleaned before (`text`).
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

from concurrent_nb.notebook.live.colours import (
    CANCELLED,
    DONE,
    FAILED,
    HIT,
    STATE_ALPHA,
    STATE_COLOURS,
    STATE_WORDS,
    rgb,
    viridis,
)
from concurrent_nb.notebook.live.png import data_uri, palette_png

#: pixels of a lane's picture, and of a row in it, one of which stays empty
LANE_WIDTH: Final = 800
ROW_HEIGHT: Final = 4
#: lanes of more slaves have to be opened
SLAVES_SHOWN: Final = 3

_LINE: Final = "1px solid rgba(128,128,128,.35)"
_SMALL: Final = "font-size:.9em;opacity:.75"
_NUMBERS: Final = "font-variant-numeric:tabular-nums"
#: colours of a lane's picture: the states, one for nothing, then nine levels of busy
_NOTHING: Final = len(STATE_COLOURS)
_PALETTE: Final = b"".join(map(rgb, STATE_COLOURS)) + rgb(STATE_COLOURS[DONE]) * 10
_ALPHA: Final = bytes([*STATE_ALPHA, 0, *(255 * level // 8 for level in range(9))])


def snapshot(
    text: str,
    head: dict[str, Any],
    *,
    lanes: dict[str, Any],
    errors: dict[str, Any],
    view: dict[str, Any] | None,
    picture: bytes | None = None,
) -> str:
    """Write the snapshot.

    Args:
        text: the job's summary in one line.
        picture: what the image view shows, as a PNG file.
    """
    parts = [_head(text, head)]
    if errors["kinds"]:
        parts.append(_errors(errors))
    if view is not None:
        parts.append(_VIEWS[view["kind"]](view, picture))
    if lanes["slaves"] and not lanes["single"]:
        parts.append(_lanes(lanes))
    style = f"max-width:860px;padding-left:8px;line-height:1.45;{_NUMBERS}"
    return f'<div class="concurrent-nb-snapshot" style="{style}">{"".join(parts)}</div>'


def _head(text: str, head: dict[str, Any]) -> str:
    total = max(1, head["total"])
    shares = ((DONE, head["done"]), (FAILED, head["failed"]), (CANCELLED, head["cancelled"]))
    pieces = "".join(
        f'<span style="display:inline-block;height:6px;width:{100 * count / total:.2f}%;'
        f'background:{STATE_COLOURS[state]}"></span>'
        for state, count in shares
        if count
    )
    bar = (
        '<div style="height:6px;line-height:0;font-size:0;white-space:nowrap;overflow:hidden;border-radius:3px;'
        f'background:rgba(128,128,128,.2);margin:3px 0 8px">{pieces}</div>'
    )
    name = f'<b style="margin-right:12px"><bdi>{escape(head["name"])}</bdi></b>' if head["name"] else ""
    return f"<div>{name}{escape(text)}</div>{bar if head['total'] > 1 else ''}"


def _lanes(lanes: dict[str, Any]) -> str:
    rows = [
        f'<div style="display:flex;flex-wrap:wrap;align-items:center;gap:0 8px;margin:2px 0">'
        f'<div style="flex:0 0 170px;overflow:hidden;font-size:.9em"><bdi>{escape(slave["name"])}</bdi> '
        f'<span style="{_SMALL}">{_tasks(slave["tasks"])}{_failed(slave["failed"])}</span></div>'
        f'<div style="flex:1 1 240px">{_lane(slave["rows"], lanes)}</div></div>'
        for slave in lanes["slaves"]
    ]
    more = f'<div style="{_SMALL}">and {lanes["more"]} more slaves</div>' if lanes["more"] else ""
    axis = (
        f'<div style="{_SMALL};display:flex;flex-wrap:wrap;gap:0 8px"><div style="flex:0 0 170px"></div>'
        '<div style="flex:1 1 240px;display:flex;justify-content:space-between"><span>0 s</span>'
        f"<span>{lanes['now']:.2f} s</span></div></div>"
    )
    shown = f"{''.join(rows)}{axis}{more}"
    if len(lanes["slaves"]) <= SLAVES_SHOWN:
        return f'<div style="margin:6px 0">{shown}</div>'
    summary = '<summary style="cursor:pointer">who did what, when</summary>'
    return f'<details style="margin:6px 0">{summary}{shown}</details>'


def _tasks(number: int) -> str:
    return "1 task" if number == 1 else f"{number} tasks"


def _failed(number: int) -> str:
    return f", {number} failed" if number else ""


def _lane(rows: Sequence[Any], lanes: dict[str, Any]) -> str:
    if not rows:
        return ""
    pixels = bytearray()
    for row in rows:
        line = _levels(row, lanes) if lanes["bin"] else _pieces(row, lanes["now"])
        pixels += line * (ROW_HEIGHT - 1) + bytes([_NOTHING]) * LANE_WIDTH
    png = palette_png(LANE_WIDTH, ROW_HEIGHT * len(rows), bytes(pixels), _PALETTE, _ALPHA)
    style = f"width:100%;height:{7 * len(rows)}px;image-rendering:pixelated;display:block;margin:1px 0"
    return f'<img alt="timeline of the tasks" src="{data_uri(png)}" style="{style}">'


def _pieces(row: Iterable[Sequence[Any]], now: float) -> bytes:
    line = bytearray([_NOTHING]) * LANE_WIDTH
    scale = LANE_WIDTH / max(now, 1e-9)
    for start, end, state, _ in row:
        first = min(LANE_WIDTH - 1, int(start * scale))
        last = min(LANE_WIDTH, max(first + 1, int(end * scale)))
        if last - first > 3:
            last -= 1  # so that one task can be told from the next
        line[first:last] = bytes([state]) * (last - first)
    return bytes(line)


def _levels(row: str, lanes: dict[str, Any]) -> bytes:
    per_pixel = max(lanes["now"], 1e-9) / LANE_WIDTH / lanes["bin"]
    signs = (row[min(len(row) - 1, int(pixel * per_pixel))] for pixel in range(LANE_WIDTH))
    return bytes(FAILED if sign == "x" else _NOTHING + 1 + int(sign) for sign in signs)


def _errors(errors: dict[str, Any]) -> str:
    pre = "margin:4px 0 4px 1em;white-space:pre;overflow-x:auto;font-size:.9em"
    folded = [
        f'<details style="margin:2px 0"><summary style="cursor:pointer;overflow-wrap:anywhere">'
        f'<b style="color:{STATE_COLOURS[FAILED]}">{escape(kind["type"])}</b>'
        f"{': ' if kind['message'] else ''}<bdi>{escape(kind['message'])}</bdi> "
        f'<span style="{_SMALL}">{escape(error_tasks(kind))}</span></summary>'
        f'<pre style="{pre}">{escape(kind["text"])}</pre></details>'
        for kind in errors["kinds"]
    ]
    if errors["more"]:
        folded.append(f'<div style="{_SMALL}">and {errors["more"]} more errors of other kinds</div>')
    return f'<div style="margin:6px 0">{"".join(folded)}</div>'


def error_tasks(kind: dict[str, Any]) -> str:
    """Say which tasks failed in a way: `3 times: tasks 1, 5, 9`."""
    named = ", ".join(map(str, kind["tasks"]))
    if kind["count"] == 1:
        return f"task {named}"
    return f"{kind['count']} times: tasks {named}{', …' if kind['count'] > len(kind['tasks']) else ''}"


def _image(view: dict[str, Any], picture: bytes | None) -> str:
    if picture is None:
        return _odd(view)
    width, height = view["width"], view["height"]
    shown = max(width, min(384, 384 * width // max(1, height)))
    style = f"width:min(100%,{shown}px);max-width:{shown}px;image-rendering:{'auto' if width >= 384 else 'pixelated'}"
    image = f'<img alt="picture made by the tasks" src="{data_uri(picture)}" style="{style};display:block">'
    caption = f"{width} &times; {height}" + (f", shown at 1:{view['step']}" if view["step"] > 1 else "")
    scale = ""
    if view["range"]:
        ramp = data_uri(palette_png(255, 1, bytes(range(1, 256)), viridis()))
        low, high = map(escape, view["range"])
        bar = f'<img alt="colours" src="{ramp}" style="width:120px;height:8px;display:inline-block;margin:0 4px">'
        scale = f" · {low}{bar}{high}"
    return f'<div style="margin:6px 0">{image}<div style="font-size:.9em">{caption}{scale}</div></div>{_odd(view)}'


def _odd(view: dict[str, Any]) -> str:
    if not view["odd"]:
        return ""
    return f'<div style="{_SMALL}">{view["odd"]} not drawn; {escape(view["first_odd"])}</div>'


def _search(view: dict[str, Any], picture: bytes | None) -> str:
    cells = view["cells"]
    if not cells:
        return ""
    png = palette_png(len(cells), 1, bytes(map(int, cells)), _PALETTE, _ALPHA)
    style = "width:100%;height:18px;image-rendering:pixelated;display:block;border-radius:2px"
    strip = f'<img alt="the tasks by their state" src="{data_uri(png)}" style="{style}">'
    hit = view["hit"]
    mark = ""
    if hit is not None:
        at = 100 * (hit["index"] + 0.5) / max(1, view["tasks"])
        colour = STATE_COLOURS[HIT]
        mark = f'<div style="position:relative;height:10px;color:{colour};font-size:10px;line-height:10px">'
        mark += f'<span style="position:absolute;left:{at:.2f}%;transform:translateX(-50%)">▲</span></div>'
    ends = f'<div style="{_SMALL};display:flex;justify-content:space-between;gap:1em">'
    ends += f"<bdi>{escape(view['first'])}</bdi><bdi>{escape(view['last'])}</bdi></div>"
    return f'<div style="margin:6px 0">{strip}{mark}{ends}<div>{_found(view)}</div></div>'


def _found(view: dict[str, Any]) -> str:
    hit = view["hit"]
    if hit is None:
        answer = "no hit"
    else:
        answer = (
            f'hit: <b style="color:{STATE_COLOURS[HIT]}"><bdi>{escape(hit["value"])}</bdi></b>'
            f' <span style="{_SMALL}">task {hit["index"]} of {view["tasks"]}'
            f"{', ' if hit['label'] else ''}<bdi>{escape(hit['label'])}</bdi></span>"
        )
    counts = f"{view['searched']} searched, {view['cancelled']} cancelled" + _failed(view["failed"])
    return f'{answer} <span style="{_SMALL}">· {counts}</span>'


def _table(view: dict[str, Any], picture: bytes | None) -> str:
    cell = f"padding:2px 8px;text-align:left;border-bottom:{_LINE};vertical-align:top;white-space:nowrap"
    heads = "".join(f'<th style="{cell};white-space:nowrap">{escape(name)}</th>' for name in view["columns"])
    rows = [_row(row, cell) for row in view["first"]]
    if view["left_out"]:
        rows.append(
            f'<tr><td colspan="{len(view["columns"])}" style="{cell};opacity:.7">… {view["left_out"]} more</td></tr>'
        )
    rows += [_row(row, cell) for row in view["last"]]
    table = f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>"
    table = f'<table style="border-collapse:collapse;margin:0">{table}</table>'
    return f'<div style="overflow-x:auto;margin:6px 0">{table}</div>'


def _row(row: Sequence[str], cell: str) -> str:
    *rest, status = row
    colour = f";color:{STATE_COLOURS[FAILED]}" if status == STATE_WORDS[FAILED] else ""
    wide = f"{cell};white-space:normal;overflow-wrap:anywhere;min-width:12em"
    cells = "".join(f'<td style="{wide if len(text) > 40 else cell}"><bdi>{escape(text)}</bdi></td>' for text in rest)
    return f'<tr>{cells}<td style="{cell}{colour}">{escape(status)}</td></tr>'


_VIEWS: Final = {"image": _image, "search": _search, "table": _table}
