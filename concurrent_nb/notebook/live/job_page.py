"""The page of a job: HTML without scripts and external resources, the same while the job runs and when it has ended.

Used by `update_throttle` for the parts that change, and by `live_display` for the whole page. Styles are inline and
colours have a medium lightness, because nbconvert, GitHub and reloaded notebooks have different styles, light or dark.
The same HTML is shown before and after the end of a job, so the layout does not change. All texts are escaped here;
`text` has cleaned them before.
"""

import time
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

from concurrent_nb.notebook.live.colours import (
    CANCELLED,
    DONE,
    FAILED,
    HIT,
    RUNNING,
    STATE_ALPHA,
    STATE_COLOURS,
    STATE_WORDS,
    WAITING,
    rgb,
    viridis,
)
from concurrent_nb.notebook.live.png import data_uri, palette_png
from concurrent_nb.notebook.live.text import seconds_text

#: index of a table's value column
VALUE: Final = -4
#: parts of the page, from top to bottom
PARTS: Final = ("head", "bars", "errors", "view", "timeline")
#: width of the timeline's picture in pixels, and height of a row, whose last line stays empty
TIMELINE_WIDTH: Final = 800
ROW_HEIGHT: Final = 7
#: minimum width of a task in pixels
PIECE_PIXELS: Final = 2
#: timelines of more slaves are shown only when the user opens them
SLAVES_SHOWN: Final = 3
#: the wait for the first task is shown if it is at least this share of the time
WAY_SHARE: Final = 0.25

_LINE: Final = "1px solid rgba(128,128,128,.3)"
_SMALL: Final = "font-size:12px;opacity:.75"
_CUT: Final = "overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
_PAGE: Final = (
    "box-sizing:border-box;max-width:860px;padding:2px 8px 6px;line-height:1.45;overflow-wrap:anywhere;font-size:13px;"
    "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-variant-numeric:tabular-nums"
)
#: colours of the timeline: the states, background, idle, then nine levels of busy
_NOTHING: Final = len(STATE_COLOURS)
_IDLE: Final = _NOTHING + 1
_LEVELS: Final = _IDLE + 1
_PALETTE: Final = b"".join(map(rgb, STATE_COLOURS)) + rgb(STATE_COLOURS[WAITING]) * 2 + rgb(STATE_COLOURS[DONE]) * 9
#: opacities of these: the lowest level still differs from idle
_ALPHA: Final = bytes([*STATE_ALPHA, 0, 40, 0, *(90 + 165 * level // 8 for level in range(1, 9))])


def page(parts: dict[str, str], page_class: str = "") -> str:
    """Return the page, made of its parts.

    Args:
        page_class: CSS class by which the browser's program finds the page to update it; "" when the job has ended.
    """
    inner = "".join(f'<div class="cnb-{name}">{parts.get(name, "")}</div>' for name in PARTS)
    return f'<div class="concurrent-nb{f" {page_class}" if page_class else "-snapshot"}" style="{_PAGE}">{inner}</div>'


# --------------------------------------------------------------------------------------------------------------- head


def head(data: dict[str, Any], notes: Sequence[str] = ()) -> str:
    """Return the counts, the time and the bar.

    Args:
        notes: texts before the time.
    """
    total = data["total"]
    counts = [_count(state, data, total) for state in (DONE, RUNNING, WAITING, FAILED, CANCELLED)]
    name = f'<b style="max-width:24em;{_CUT}"><bdi>{escape(data["name"])}</bdi></b>' if data["name"] else ""
    open_ones = data["waiting"] + data["running"]
    pace = [*notes]
    if data["waits_for"] and data["waiting"]:
        pace.append(data["waits_for"])
    if open_ones and total > 1 and data["rate"] is not None:
        pace.append(f"{_rate(data['rate'])}/s")
    if open_ones and data["left"] is not None:
        pace.append(f"{seconds_text(data['left'])} left")
    elapsed = f'<span class="cnb-elapsed">{seconds_text(data["elapsed"])}</span>'
    line = (
        '<div style="display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 16px">'
        f'<span style="display:flex;flex-wrap:wrap;gap:0 12px">{name}{"".join(counts)}</span>'
        f'<span class="cnb-pace" style="opacity:.75">{" · ".join([*map(escape, pace), elapsed])}</span></div>'
    )
    return line + (_bar(data) if total > 1 else "")


def as_of(at: float) -> str:
    """Return the time of a page, which may not be updated later. The browser's program removes it.

    Args:
        at: seconds since the epoch.
    """
    return f"as of {time.strftime('%H:%M:%S', time.localtime(at))}"


def _count(state: int, data: dict[str, Any], total: int) -> str:
    word = STATE_WORDS[state]
    count = data[word]
    if not count and (total <= 1 or state != DONE):
        return ""
    number = "" if total == 1 else f"<b>{count:,}{f' of {total:,}' if state == DONE else ''}</b> "
    dot = f"display:inline-block;width:8px;height:8px;margin-right:5px;border-radius:50%;background:{_colour(state)}"
    return f'<span class="cnb-is-{word}"><span style="{dot}"></span>{number}{word}</span>'


def _colour(state: int) -> str:
    red, green, blue = rgb(STATE_COLOURS[state])
    return f"rgba({red},{green},{blue},{STATE_ALPHA[state] / 255:.2f})"


def _bar(data: dict[str, Any]) -> str:
    running = data["running"]
    part = min(data["part"], running)
    shares = [(data["done"], _colour(DONE)), (data["failed"], _colour(FAILED)), (data["cancelled"], _colour(CANCELLED))]
    # The reported progress of running tasks is darker than the rest of them.
    red, green, blue = rgb(STATE_COLOURS[RUNNING])
    shares += [(part, _colour(RUNNING)), (running - part, f"rgba({red},{green},{blue},{0.45 if part else 1})")]
    pieces = "".join(
        f'<span style="width:{100 * share / data["total"]:.2f}%;background:{colour}"></span>'
        for share, colour in shares
        if share
    )
    style = "display:flex;height:6px;margin:4px 0 8px;border-radius:3px;overflow:hidden;background:rgba(128,128,128,.2)"
    ended = data["done"] + data["failed"] + data["cancelled"]
    aria = f'role="progressbar" aria-valuemin="0" aria-valuemax="{data["total"]}" aria-valuenow="{ended}"'
    return f'<div {aria} style="{style}">{pieces}</div>'


def _rate(rate: float) -> str:
    return f"{rate:.1f}" if rate < 10 else f"{rate:,.0f}"


# --------------------------------------------------------------------------------------------------------------- bars


def bars(data: dict[str, Any]) -> str:
    """Return the reports of tasks, a line for each."""
    rows = "".join(_own_bar(row, data["single"]) for row in data["bars"])
    if not rows:
        return ""
    first = "" if data["single"] else "fit-content(16em) "
    grid = f"display:grid;grid-template-columns:{first}minmax(60px,180px) 1fr;align-items:center;gap:0 8px"
    height = f"min-height:{1.5 * data['most']:.1f}em;margin-bottom:6px"
    shown = f'<div style="{height}"><div style="{grid}">{rows}</div></div>'
    if data["others"]:
        others = "".join(_own_bar(row, False) for row in data["others"])
        what = f"{data['more']:,} more that have reported"
        return f'{shown}{_details(what, f"""<div style="{grid};margin-left:1em">{others}</div>""", "reports")}'
    return shown + (f'<div style="{_SMALL}">and {data["more"]:,} more that report</div>' if data["more"] else "")


def _own_bar(row: Sequence[Any], single: bool) -> str:
    label, fraction, report, state = row
    colour = f"background:{STATE_COLOURS[state]};height:100%"
    unknown = fraction is None and state == RUNNING
    width = 100 if unknown or state == DONE or fraction is None else 100 * fraction
    track = "height:5px;border-radius:3px;overflow:hidden;background:rgba(128,128,128,.25)"
    bar = f'<div style="{track}"><div style="width:{width:.1f}%;{colour};opacity:{0.4 if unknown else 1}"></div></div>'
    percent = "" if fraction is None or state == DONE else f"{100 * fraction:.0f} %&ensp;"
    cut = f"{_CUT};height:1.5em;line-height:1.5em"
    name = "" if single else f'<span class="cnb-task" style="{cut}" title="{escape(label)}">{escape(label)}</span>'
    text = (
        f'<span class="cnb-report" style="{cut};white-space:pre;opacity:.75" title="{escape(report)}">'
        f"{percent}<bdi>{escape(report)}</bdi></span>"
    )
    return name + bar + text


def _details(what: str, inner: str, key: str) -> str:
    """Return an element that users can open; the browser's program keeps it open, by its key."""
    summary = f'<summary style="cursor:pointer;{_SMALL}">{what}</summary>'
    return f'<details data-key="{key}" style="margin:2px 0 6px">{summary}{inner}</details>'


# ------------------------------------------------------------------------------------------------------------- errors


def errors(data: dict[str, Any]) -> str:
    """Return the errors, grouped by kind."""
    if not data["kinds"]:
        return ""
    pre = "margin:4px 0 6px 1em;padding:0;background:none;color:inherit;white-space:pre;overflow-x:auto;font-size:12px"
    groups = [
        f'<details data-key="error{number}" style="margin:2px 0">'
        f'<summary style="cursor:pointer" title="{escape(kind["message"])}">'
        f'<b style="color:{STATE_COLOURS[FAILED]}">{escape(kind["type"])}</b>'
        f"{': ' if kind['message'] else ''}<bdi>{escape(kind['message'])}</bdi> "
        f'<span style="{_SMALL}">{escape(error_tasks(kind))}</span></summary>'
        f'<pre style="{pre}">{escape(kind["text"])}</pre></details>'
        for number, kind in enumerate(data["kinds"])
    ]
    if data["more"]:
        groups.append(f'<div style="{_SMALL}">and {data["more"]:,} more errors of other kinds</div>')
    return f'<div style="margin:6px 0">{"".join(groups)}</div>'


def error_tasks(kind: dict[str, Any]) -> str:
    """Return which tasks failed with a kind of error: `12 times: tasks 1, 5, 9, 11, 14 and 7 more`."""
    named = ", ".join(map(str, kind["tasks"]))
    if kind["count"] == 1:
        return f"task {named}"
    more = kind["count"] - len(kind["tasks"])
    return f"{kind['count']:,} times: tasks {named}{f' and {more:,} more' if more else ''}"


# ----------------------------------------------------------------------------------------------------------- timeline


def timeline(data: dict[str, Any]) -> str:
    """Return the timeline of each slave."""
    if not data["slaves"] or data["single"]:
        return ""
    rows = [
        f'<div style="display:flex;flex-wrap:wrap;align-items:center;gap:0 8px;margin:2px 0">'
        f'<div style="flex:0 0 200px;font-size:12px;{_CUT}" title="{escape(slave["name"])}"><bdi>'
        f'{escape(slave["name"])}</bdi>&ensp;<span style="opacity:.75">{_work_of(slave)}</span></div>'
        f'<div style="flex:1 1 240px">{_slave_timeline(slave["rows"], data)}</div></div>'
        for slave in data["slaves"]
    ]
    more = f'<div style="{_SMALL}">and {data["more"]:,} more slaves</div>' if data["more"] else ""
    began = data["began"]
    way = f" · the first task began after {seconds_text(began)}" if began > WAY_SHARE * data["now"] else ""
    axis = (
        f'<div style="{_SMALL};display:flex;flex-wrap:wrap;gap:0 8px"><div style="flex:0 0 200px"></div>'
        '<div style="flex:1 1 240px;display:flex;justify-content:space-between"><span>'
        f'0 s{way}</span><span class="cnb-now">{seconds_text(data["now"])}</span></div></div>'
    )
    shown = f"{''.join(rows)}{axis}{more}"
    if len(data["slaves"]) <= SLAVES_SHOWN:
        return f'<div style="margin:6px 0">{shown}</div>'
    return _details(f"timeline of {len(data['slaves']):,} slaves", shown, "timeline")


def _work_of(slave: dict[str, Any]) -> str:
    ways = {"failed": slave["failed"], "stopped": slave["stopped"]}
    tasks = [] if not slave["tasks"] else ["1 task" if slave["tasks"] == 1 else f"{slave['tasks']:,} tasks"]
    return ", ".join([*tasks, *(f"{number:,} {way}" for way, number in ways.items() if number)])


def _slave_timeline(rows: Sequence[Any], data: dict[str, Any]) -> str:
    if not rows:
        return ""
    pixels = bytearray()
    for row in rows:
        if data["bin"]:
            pixels += _levels(row, data)
        else:
            pixels += _pieces(row, data["now"]) * (ROW_HEIGHT - 1)
        pixels += bytes([_NOTHING]) * TIMELINE_WIDTH
    png = palette_png(TIMELINE_WIDTH, ROW_HEIGHT * len(rows), bytes(pixels), _PALETTE, _ALPHA)
    style = f"width:100%;height:{ROW_HEIGHT * len(rows)}px;image-rendering:pixelated;display:block;margin:1px 0"
    return f'<img alt="timeline of the tasks" src="{data_uri(png)}" style="{style}">'


def _pieces(row: Iterable[Sequence[Any]], now: float) -> bytes:
    line = bytearray([_IDLE]) * TIMELINE_WIDTH
    scale = TIMELINE_WIDTH / max(now, 1e-9)
    for start, end, state, _ in row:
        first = max(0, min(TIMELINE_WIDTH - PIECE_PIXELS, int(start * scale)))
        last = min(TIMELINE_WIDTH, max(first + PIECE_PIXELS, int(end * scale)))
        if last - first > 3:
            last -= 1  # a gap before the next task
        line[first:last] = bytes([state]) * (last - first)
    return bytes(line)


def _levels(row: Sequence[str], data: dict[str, Any]) -> bytes:
    """Draw how busy a worker was, and in red from below the share of its tasks that failed."""
    busy, failed = row
    per_pixel = max(data["now"], 1e-9) / TIMELINE_WIDTH / data["bin"]
    bins = [min(len(busy) - 1, int(pixel * per_pixel)) for pixel in range(TIMELINE_WIDTH)]
    height = ROW_HEIGHT - 1
    reds = [-(-int(sign) * height // 8) for sign in failed]
    levels = [_LEVELS + int(sign) if sign != "0" else _IDLE for sign in busy]
    lines = [[FAILED if reds[at] >= height - line else levels[at] for at in range(len(busy))] for line in range(height)]
    return b"".join(bytes([line[at] for at in bins]) for line in lines)


# -------------------------------------------------------------------------------------------------------------- views


def view(data: dict[str, Any] | None, picture: bytes | None = None) -> str:
    """Return the view of the results.

    Args:
        picture: the picture of the image view, as a PNG file; None while the browser draws it.
    """
    if data is None:
        return ""
    return _image(data, picture) if data["kind"] == "image" else _VIEWS[data["kind"]](data)


def _image(data: dict[str, Any], picture: bytes | None) -> str:
    width, height = data["width"], data["height"]
    if not width or not height:
        return f'<div style="{_SMALL}">{"" if data["odd"] else "no pixels yet"}</div>{_odd(data)}'
    shown = max(width, min(384, 384 * width // height))
    pixelated = "auto" if width >= 384 else "pixelated"
    fills = f"position:absolute;top:0;left:0;width:100%;height:100%;max-width:none;image-rendering:{pixelated}"
    image = f'<img alt="picture made by the tasks" src="{data_uri(picture)}" style="{fills}">' if picture else ""
    frame = (
        f"position:relative;width:min(100%,{shown}px);aspect-ratio:{width}/{height};background:rgba(128,128,128,.12)"
    )
    caption = f"{width:,} &times; {height:,} pixels" + (f", shown at 1:{data['step']}" if data["step"] > 1 else "")
    if data["range"]:
        low, high = map(escape, data["range"])
        ramp = data_uri(palette_png(255, 1, bytes(range(1, 256)), viridis()))
        bar = f'<img alt="colours" src="{ramp}" style="width:120px;height:8px;display:inline-block;margin:0 6px">'
        caption += f" &ensp;·&ensp; values {low}{bar}{high}" if low != high else f" &ensp;·&ensp; all values {low}"
    return (
        f'<div class="cnb-frame" style="{frame}" data-pixels="{pixelated}">{image}</div>'
        f'<div style="{_SMALL};margin:2px 0 6px">{caption}</div>{_odd(data)}'
    )


def _odd(data: dict[str, Any]) -> str:
    if not data["odd"]:
        return ""
    return f'<div style="{_SMALL}">{data["odd"]:,} not drawn; {escape(data["first_odd"])}</div>'


def _search(data: dict[str, Any]) -> str:
    cells = data["cells"]
    if not cells:
        return ""
    png = palette_png(len(cells), 1, bytes(map(int, cells)), _PALETTE, _ALPHA)
    style = "width:100%;height:18px;image-rendering:pixelated;display:block;border-radius:2px"
    strip = f'<img class="cnb-strip" alt="the tasks by their state" src="{data_uri(png)}" style="{style}">'
    hit = data["hit"]
    mark = ""
    if hit is not None:
        at = f"left:{100 * (hit['index'] + 0.5) / max(1, data['tasks']):.2f}%;transform:translateX(-50%)"
        colour = STATE_COLOURS[HIT]
        edge = f"width:4px;background:{colour};box-shadow:0 0 0 1px rgba(255,255,255,.7)"
        strip += f'<span style="position:absolute;top:-2px;height:22px;{edge};{at}"></span>'
        mark = f'<span style="position:absolute;font-size:13px;line-height:12px;color:{colour};{at}">▲</span>'
    marks = f'<div style="position:relative;height:12px;margin-top:3px">{mark}</div>'
    ends = f'<div style="{_SMALL};display:flex;justify-content:space-between;gap:1em">'
    ends += f"<bdi>{escape(data['first'])}</bdi><bdi>{escape(data['last'])}</bdi></div>"
    found = f'<div class="cnb-answer">{_found(data)}</div>'
    return f'<div style="margin:6px 0"><div style="position:relative">{strip}</div>{marks}{ends}{found}</div>'


def _found(data: dict[str, Any]) -> str:
    hit = data["hit"]
    if hit is None:
        answer = "not found" if data["over"] else "no hit yet"
    else:
        given = f" ({escape(hit['label'])})" if hit["label"] else ""
        answer = (
            f'hit: <b style="color:{STATE_COLOURS[HIT]}"><bdi>{escape(hit["value"])}</bdi></b>'
            f' <span style="{_SMALL}">task {hit["index"]}<bdi>{given}</bdi></span>'
        )
    counts = [f"{data['searched']:,} of {data['tasks']:,} searched"]
    if data["failed"]:
        counts.append(f"{data['failed']:,} failed")
    return f'{answer} <span style="{_SMALL}">· {", ".join(counts)}</span>'


def _table(data: dict[str, Any]) -> str:
    if not data["rows"]:
        return f'<div style="{_SMALL}">no results yet</div>'
    cell = "padding:2px 8px;border:none;background:none;vertical-align:top;white-space:nowrap;max-width:none"
    aligned = [f"{cell};text-align:{'right' if right else 'left'}" for right in data["right"]]
    heads = "".join(
        f'<th style="{style};font-weight:600">{escape(name)}</th>'
        for name, style in zip(data["columns"], aligned, strict=True)
    )
    line = f"border-bottom:{_LINE};background:none"
    rows = "".join(_row(row, aligned, line, data["best"]) for row in data["rows"])
    table = f'<thead style="border:none"><tr style="{line}">{heads}</tr></thead><tbody>{rows}</tbody>'
    style = "border-collapse:collapse;margin:0;font-size:inherit;line-height:1.4;table-layout:auto"
    table = f'<table class="cnb-table" style="{style}">{table}</table>'
    limits = f'<div style="{_SMALL};margin:2px 0 6px 8px">{escape(data["limits"])}</div>' if data["limits"] else ""
    return f'<div data-key="table" style="overflow-x:auto;margin:2px 0">{table}</div>{limits}'


def _row(row: Sequence[str] | int, aligned: Sequence[str], line: str, best: Sequence[str]) -> str:
    if isinstance(row, int):
        more = f"… {row:,} more" if row else "…"
        return f'<tr style="{line}"><td colspan="{len(aligned)}" style="{aligned[-1]};opacity:.7">{more}</td></tr>'
    extra = {VALUE: ";font-weight:700" if row[0] in best else ""}
    if row[-1] == STATE_WORDS[FAILED]:
        extra[-1] = f";color:{STATE_COLOURS[FAILED]}"
    cells = [
        f'<td style="{style}{extra.get(at - len(row), "")}"><bdi>{escape(text)}</bdi></td>'
        for at, (text, style) in enumerate(zip(row, aligned, strict=True))
    ]
    return f'<tr style="{line}">{"".join(cells)}</tr>'


_VIEWS: Final = {"search": _search, "table": _table}
