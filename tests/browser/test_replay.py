"""The replay of a match in a real browser: as a page and in a cell's output, in light and dark, with its controls."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import BrowserContext, Frame, Page, expect

from concurrent_nb.samples.arena.match import fight
from concurrent_nb.samples.arena.replay import Replay
from concurrent_nb.samples.arena.robots import Dodger, Rammer, Sniper, Spinner

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
    assert frame.evaluate(TURN) == there + 1
    frame.locator("body").press("PageUp")
    assert frame.evaluate(TURN) == max(0, there - 29)
    frame.locator("#turn").fill("100")
    expect(frame.locator("#label")).to_have_text(f"turn 100 of {replay.turns - 1}")
    frame.locator("#play").click()
    frame.wait_for_function(f"() => Number(document.getElementById('turn').value) === {replay.turns - 1}")
    expect(frame.locator("#play")).to_have_text("Play")  # it has stopped at the end
    frame.locator("summary").click()
    assert frame.locator("tr").count() == 4


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_plays(page: Page, replay: Replay, tmp_path: Path, theme: Literal["light", "dark"]) -> None:
    (tmp_path / "replay.html").write_text(replay.page(), encoding="utf-8")
    page.emulate_media(color_scheme=theme)
    page.goto((tmp_path / "replay.html").as_uri())
    ground = page.locator("#field").evaluate("(field) => getComputedStyle(field).backgroundColor")
    assert ground == {"light": "rgb(243, 243, 240)", "dark": "rgb(29, 31, 33)"}[theme]
    plays(page, replay)


def test_it_plays_in_the_output_of_a_cell(page: Page, replay: Replay) -> None:
    page.set_content(f"<!doctype html><body>{replay._repr_mimebundle_()['text/html']}</body>")
    page.locator("iframe").wait_for()
    frame = page.frames[1]
    frame.locator("#bar").wait_for()
    plays(frame, replay)


def test_without_scripts_there_is_a_picture(replay: Replay, page: Page) -> None:
    page.set_content(f"<!doctype html><body>{replay.still()}</body>")
    assert page.locator("svg rect").count() == 4
