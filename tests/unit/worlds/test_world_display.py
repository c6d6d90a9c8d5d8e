"""The line that shows the progress of a world."""

import re
from typing import Any

import pytest

from concurrent_nb.worlds.world_display import WorldDisplay, line_html
from tests.unit.worlds.test_step_record import STEP


def test_a_run_that_is_driven_elsewhere_shows_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    display = WorldDisplay(1000, 200, None, show=True)
    display.reached(450)
    display.close()
    found = capsys.readouterr().err
    assert re.fullmatch(r"\rstep 450 of 1,200 · [\d,.]+ steps/s\033\[K\n", found)


def test_a_run_that_ends_before_there_is_a_step_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    WorldDisplay(1000, 200, None, show=True).close()
    assert capsys.readouterr().err == ""


def test_the_line_of_a_notebook_is_broken_between_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, str]] = []

    def display(content: dict[str, str], **options: Any) -> None:
        shown.append(content)

    world = WorldDisplay(10, 0, None, show=True)
    monkeypatch.setattr(world, "_display", display)
    world.add(STEP, dict)
    (content,) = shown
    parts = content["text/plain"].split(" · ")
    assert len(parts) > 3
    assert re.findall("<span style=.*?>(.*?)</span>", content["text/html"]) == parts


def test_names_in_the_line_are_no_html() -> None:
    assert "<b>" not in line_html("step 1 · <b>host: 3 members")
