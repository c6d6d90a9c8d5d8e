"""The replay of a match in a real browser, with its controls: as a page, light and dark, at several widths; in Lab
after a run, in the saved notebook, in its exported page, and in a notebook that is not trusted."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import nbformat
import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import BrowserContext, Frame, Page, expect

from concurrent_nb.samples.arena.match import fight
from concurrent_nb.samples.arena.replay import Replay
from concurrent_nb.samples.arena.robots import Dodger, Rammer, Sniper, Spinner
from tests.browser.conftest import Lab

CELLS = {
    "start": "from concurrent_nb.samples.arena.match import fight\n"
    "from concurrent_nb.samples.arena.robots import Dodger, Rammer, Sniper, Spinner",
    "match": "fight([Spinner(), Sniper(), Rammer(), Dodger()], seed=3, max_turns=200).replay",
}
#: whether the canvas has pixels of this many different colours
COLOURS = """() => {
  const field = document.getElementById("field"), data = field.getContext("2d").getImageData(0, 0, 800, 600).data;
  const found = new Set();
  for (let at = 0; at < data.length; at += 4) if (data[at + 3] === 255) found.add(data.slice(at, at + 3).join());
  return found.size;
}"""
TURN = "() => Number(document.getElementById('turn').value)"


@pytest.fixture(scope="module")
def replay() -> Replay:
    found = fight([Spinner(), Sniper(), Rammer(), Dodger()], seed=3, max_turns=200).replay
    assert found is not None
    return found


@pytest.fixture
def page(browser: BrowserContext) -> Iterator[Page]:
    page = browser.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    yield page
    page.close()
    assert faults == []


def plays(frame: Page | Frame, replay: Replay) -> None:
    """Use all controls."""
    expect(frame.locator("#label")).to_have_text(f"turn 0 of {replay.turns - 1}")
    assert frame.locator("#still").is_hidden()
    assert frame.evaluate(COLOURS) >= 5
    frame.locator("#speed").select_option("10")
    frame.locator("#play").click()
    frame.wait_for_function("() => Number(document.getElementById('turn').value) > 20")
    frame.locator("#play").click()
    expect(frame.locator("#play")).to_have_text("Play")
    there = frame.evaluate(TURN)
    frame.locator("body").press("ArrowRight")
    there = min(there + 1, replay.turns - 1)  # on a busy machine it has come to its end
    assert frame.evaluate(TURN) == there
    frame.locator("body").press("PageUp")
    assert frame.evaluate(TURN) == max(0, there - 30)
    frame.locator("#turn").fill("100")
    expect(frame.locator("#label")).to_have_text(f"turn 100 of {replay.turns - 1}")
    frame.locator("#play").click()
    frame.wait_for_function(f"() => Number(document.getElementById('turn').value) === {replay.turns - 1}")
    expect(frame.locator("#play")).to_have_text("Play")  # it has stopped at the end
    frame.locator("summary").click()
    assert frame.locator("tr").count() == 4


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_plays_and_is_dark_in_every_theme(
    page: Page, replay: Replay, tmp_path: Path, theme: Literal["light", "dark"]
) -> None:
    (tmp_path / "replay.html").write_text(replay.page(), encoding="utf-8")
    page.emulate_media(color_scheme=theme)
    page.goto((tmp_path / "replay.html").as_uri())
    assert page.locator("body").evaluate("(body) => getComputedStyle(body).backgroundColor") == "rgb(29, 31, 33)"
    plays(page, replay)


@pytest.mark.parametrize("width", [320, 400, 1000])
def test_all_controls_are_seen_at_any_width(page: Page, replay: Replay, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.set_content(f"<!doctype html><body>{replay._repr_mimebundle_()['text/html']}</body>")
    frame = page.frames[1]
    frame.locator("#bar").wait_for()
    inner = frame.evaluate("() => [innerWidth, innerHeight]")
    for control in ("#play", "#turn", "#label", "#speed", "#scores"):
        box = frame.locator(control).evaluate(
            "(each) => { const b = each.getBoundingClientRect(); return [b.right, b.bottom]; }"
        )
        assert box[0] <= inner[0] and box[1] <= inner[1], (control, box, inner)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_it_plays_in_the_output_of_a_cell(page: Page, replay: Replay) -> None:
    page.set_content(f"<!doctype html><body>{replay._repr_mimebundle_()['text/html']}</body>")
    page.locator("iframe").wait_for()
    frame = page.frames[1]
    frame.locator("#bar").wait_for()
    plays(frame, replay)


def test_without_scripts_there_is_a_picture(replay: Replay, page: Page) -> None:
    page.set_content(f"<!doctype html><body>{replay.still()}</body>")
    assert page.locator("svg rect").count() == 4


# --------------------------------------------------------------------------------------------------------- in notebooks


@pytest.fixture(scope="module")
def saved(lab: Lab) -> dict[str, Any]:
    """Run the cell, and save the notebook with its output."""
    lab.run("match")
    return lab.save()


def frame_of(page: Page) -> Frame:
    """Return the player of a page, when it is ready."""
    player = page.locator("iframe[title='replay of a match']")
    player.scroll_into_view_if_needed()
    handle = player.element_handle()
    assert handle is not None
    frame = handle.content_frame()
    assert frame is not None
    frame.locator("#bar").wait_for()
    return frame


def test_it_plays_in_lab_after_a_run(lab: Lab, saved: dict[str, Any], replay: Replay) -> None:
    assert saved["cells"][1]["outputs"][0]["data"]["text/plain"] == ["a match of 4 robots in 200 turns"]
    plays(frame_of(lab.page), replay)


def opened(lab: Lab, name: str) -> Page:
    """Open a notebook in a new page, without running anything."""
    page = lab.page.context.new_page()
    page.goto(f"{lab.url}lab/tree/{name}?reset")
    page.locator(".jp-Notebook .jp-OutputArea-output").first.wait_for()
    return page


def test_it_plays_in_the_saved_notebook(lab: Lab, saved: dict[str, Any], replay: Replay) -> None:
    page = opened(lab, lab.name)
    plays(frame_of(page), replay)
    page.close()


def test_a_notebook_that_is_not_trusted_says_why_nothing_plays(lab: Lab, saved: dict[str, Any]) -> None:
    changed = {**saved, "metadata": {**saved["metadata"], "title": "from somebody else"}}
    (lab.folder / "other.ipynb").write_text(json.dumps(changed), encoding="utf-8")
    page = opened(lab, "other.ipynb")
    expect(page.locator(".jp-OutputArea-output p")).to_have_text(
        "a match of 4 robots in 200 turns; it is played where frames are allowed: in a notebook that you trust, or on "
        "an exported page"
    )
    assert page.locator("iframe[title='replay of a match']").count() == 0
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_plays_in_the_exported_page(
    page: Page, saved: dict[str, Any], replay: Replay, tmp_path: Path, theme: str
) -> None:
    exporter = HTMLExporter(theme=theme)  # type: ignore[no-untyped-call]
    notebook = nbformat.reads(json.dumps(saved), as_version=4)  # type: ignore[no-untyped-call]
    exported, _ = exporter.from_notebook_node(notebook)
    (tmp_path / "page.html").write_text(exported, encoding="utf-8")
    # MathJax and RequireJS, which it does not need.
    page.route(re.compile("^https?:"), lambda route: route.fulfill(body="", content_type="text/javascript"))
    page.goto((tmp_path / "page.html").as_uri())
    plays(frame_of(page), replay)
