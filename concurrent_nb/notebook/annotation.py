"""Adapt Cython's annotated page, which marks slow lines, to light and dark themes of notebooks.

Used by `cython_magics`. Cython writes a page for a white background, whose styles are overridden by the notebook's. The
lines and the C code under each line are kept; colours are set here, inline or from the theme. Pure.
"""

import math
import re
from html import escape
from typing import Final

#: the greatest score of a line
_SCORE_MOST: Final = 254
_BODY: Final = re.compile(r'<div class="cython"><pre .*?</div>', re.DOTALL)
_LINE: Final = re.compile(r'<pre class="cython line score-(\d+)"')
_CODE: Final = re.compile(r"<pre class='cython code score-(\d+) ?'")
#: the first line, a placeholder for the magic's line
_FIRST: Final = re.compile(r'(<span class="">1</span>: )<span class="c1?">#</span>')
_PRE: Final = "margin:0;padding:0 4px;line-height:1.4;font-size:13px;color:inherit;white-space:pre"
_THEME: Final = {
    "keyword": (".k .kd .kn .kr .ow", "#008000"),
    "def": (".nf .nc .fm", "#3b6fd6"),
    "builtin": (".nb .bp .kt", "#3b8f5a"),
    "string": (".s .s1 .s2 .sd .sa .se .si", "#ba4b4b"),
    "number": (".m .mi .mf .mh", "#3b8f5a"),
    "comment": (".c .c1 .cm", "#7a8a8a"),
}


def readable(page: str, header: str) -> str:
    """Return the part of Cython's page that a notebook shows.

    Args:
        header: the cell's first line.

    Raises ValueError if the page of this version of Cython has another structure.
    """
    found = _BODY.search(page)
    if found is None:
        raise ValueError("Cython's annotated page has no lines")
    body = _LINE.sub(lambda line: f'<pre class="cnb-line" style="{_PRE};{_yellow(int(line[1]))}"', found[0])
    code = f"display:none;{_PRE};margin:2px 0 6px 2em;padding:2px 8px;border-left:3px solid rgba(128,128,128,.5)"
    body = _CODE.sub(f'<pre class="cnb-c" style="{code};font-size:12px;overflow-x:auto;opacity:.85"', body)
    body = _FIRST.sub(lambda first: f'{first[1]}<span class="c">{escape(header)}</span>', body, count=1)
    styles = "".join(
        f"{','.join(f'.cnb-cython {name}' for name in names.split())}"
        f"{{color:var(--jp-mirror-editor-{kind}-color,{colour})}}"
        for kind, (names, colour) in _THEME.items()
    )
    styles += ".cnb-cython .py_c_api,.cnb-cython .py_call,.cnb-cython .py_attr{color:#d1495b;font-weight:600}"
    styles += ".cnb-cython .pyx_c_api,.cnb-cython .py_macro_api,.cnb-cython .pyx_macro_api{color:#c9722e}"
    styles += ".cnb-cython .refnanny,.cnb-cython .trace,.cnb-cython .error_goto{opacity:.6}"
    legend = (
        f'<div style="font-size:12px;opacity:.85;margin-bottom:4px"><span style="{_yellow(_SCORE_MOST)};padding:0 4px">'
        "Yellow</span> lines call Python; darker yellow means more calls. Click a line that begins with +"
        " to see its C code.</div>"
    )
    return f'<style>{styles}</style><div class="cnb-cython" style="padding:2px 8px">{legend}{body}</div>'


def _yellow(score: int) -> str:
    """Return a background on which both dark and light text can be read."""
    share = math.log1p(min(score, _SCORE_MOST)) / math.log1p(_SCORE_MOST)
    return f"background:rgba(255,205,0,{0.6 * share**1.5:.2f})" if score else "background:none"
