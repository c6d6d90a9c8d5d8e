"""Measure whether the heap of the web page grows while a cluster works hard.

    .venv/bin/python -m tests.browser.page_heap --seconds 300

Before each look at the heap all garbage is collected, so what is left is held by something. A list that is full by then
does not grow, so the charts keep only as much as the warm-up fills.
"""

import argparse
import statistics
import tempfile
import time
from typing import Final, NamedTuple

from playwright.sync_api import Page, sync_playwright

from tests.browser.conftest import BROWSER_OPTIONS, browser_path, free_port
from tests.browser.test_web_page import master

#: seconds that charts keep in this measurement
KEEP_S: Final = 8.0
#: before each look: what elements hold is free only when they are gone themselves
COLLECTIONS: Final = 3
#: what is added up: objects of scripts, those of the browser for them (elements), and the contents of typed arrays
PARTS: Final = ("usedSize", "embedderHeapUsedSize", "backingStorageSize")


class Growth(NamedTuple):
    """What was measured."""

    samples: list[tuple[float, float]]  #: seconds and bytes
    messages: int  #: of the feed that the page has applied meanwhile
    marks: int  #: tasks that it has drawn

    @property
    def slope_bytes_per_s(self) -> float:
        """The slope of the line through the samples."""
        return statistics.linear_regression(*zip(*self.samples, strict=True)).slope

    @property
    def step_bytes(self) -> float:
        """The least of the last third of the samples less that of the first: what one of them has more, it may lose."""
        third = max(1, len(self.samples) // 3)
        sizes = [size for _, size in self.samples]
        return min(sizes[-third:]) - min(sizes[:third])


def growth(page: Page, seconds: float, warm_up_s: float, samples: int) -> Growth:
    """Look at the heap of an open page for a while."""
    model = "document.querySelector('.cnb-stream-canvas').stream.model"
    page.wait_for_function(f"() => {model}.epoch !== null")
    page.evaluate(f"{model}.samples.keep_s = {KEEP_S}")
    page.wait_for_timeout(warm_up_s * 1000)
    devtools = page.context.new_cdp_session(page)
    devtools.send("HeapProfiler.enable")
    counters = f"[{model}.seq, {model}.nextMark]"
    before, found, began = page.evaluate(counters), list[tuple[float, float]](), time.monotonic()
    for number in range(samples):
        page.wait_for_timeout(max(0.0, began + seconds * number / (samples - 1) - time.monotonic()) * 1000)
        for _ in range(COLLECTIONS):
            devtools.send("HeapProfiler.collectGarbage")
        usage = devtools.send("Runtime.getHeapUsage")
        found.append((time.monotonic() - began, float(sum(usage.get(part, 0) for part in PARTS))))
    after = page.evaluate(counters)
    devtools.detach()
    return Growth(found, after[0] - before[0], after[1] - before[1])


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--warm-up", type=float, default=30.0, help="seconds before the first look")
    parser.add_argument("--interval", type=float, default=0.25, help="seconds between two messages of the feed")
    options = parser.parse_args()
    with (
        master(free_port(), "busy", "--interval", str(options.interval), module="extreme_clusters") as url,
        tempfile.TemporaryDirectory() as profile,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=browser_path(), headless=True, args=BROWSER_OPTIONS
        )
        page = browser.new_page()
        page.goto(url)
        measured = growth(page, options.seconds, options.warm_up, samples=31)
        browser.close()
    for at_s, size in measured.samples:
        print(f"{at_s:6.1f} s  {size / 1e6:8.3f} MB")  # noqa: T201
    print(  # noqa: T201
        f"{measured.messages} messages, {measured.marks} tasks: {measured.slope_bytes_per_s * 60 / 1000:+.1f} kB a"
        f" minute, {measured.step_bytes / 1000:+.1f} kB from the first third to the last"
    )


if __name__ == "__main__":
    _main()
