"""Takes pictures of JupyterLab and the web page: `python -m tests.browser.pictures [FOLDER]`; look at them afterwards.

Writes lab-cluster.png and dashboard.png, each also with -dark in its name, into the folder, docs/pictures by default.
The README shows lab-cluster.png and dashboard-dark.png.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

from playwright.sync_api import BrowserContext, Error, sync_playwright

from tests.browser.conftest import BROWSER_OPTIONS, PATIENCE_S, ROOT, Lab, browser_path, free_port, lab_server

#: so many iterations take long enough for a picture of the running cell
LIMIT = 250


#: seconds in which the charts of the web page fill
CHARTS_S = 75


def picture_page(folder: Path, browser: BrowserContext) -> None:
    """Take the pictures of the web page, with a made-up cluster."""
    port = free_port()
    made_up = [sys.executable, "-m", "tests.browser.made_up_cluster", f"--port={port}", "--slaves=6", "--jobs=12"]
    with subprocess.Popen(made_up, cwd=ROOT) as master:
        try:
            page = browser.new_page()
            # All of it in view, because what is not seen is not drawn.
            page.set_viewport_size({"width": 1280, "height": 2300})
            for _ in range(int(4 * PATIENCE_S)):
                with contextlib.suppress(Error):
                    page.goto(f"http://127.0.0.1:{port}/")
                    break
                time.sleep(1)
            page.locator(".cnb-row").first.wait_for()
            page.wait_for_timeout(1000 * CHARTS_S)
            names: dict[Literal["light", "dark"], str] = {"light": "dashboard.png", "dark": "dashboard-dark.png"}
            for theme, name in names.items():
                page.emulate_media(color_scheme=theme)
                page.wait_for_timeout(3000)
                page.screenshot(path=folder / name, full_page=True)
            page.close()
        finally:
            master.terminate()


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "docs/pictures")
    folder = parser.parse_args().folder
    with (
        tempfile.TemporaryDirectory() as home,
        lab_server(Path(home)) as (url, shown),
        sync_playwright() as playwright,
        playwright.chromium.launch_persistent_context(
            f"{home}/browser",
            executable_path=browser_path(),
            headless=True,
            viewport={"width": 1440, "height": 900},
            args=BROWSER_OPTIONS,
        ) as browser,
    ):
        browser.set_default_timeout(PATIENCE_S * 1000)
        notebook = json.loads((ROOT / "notebooks/02_mandelbrot.ipynb").read_text(encoding="utf-8"))
        sources = ["".join(cell["source"]) if cell["cell_type"] == "code" else "" for cell in notebook["cells"]]
        parts = {"load": "%load_ext", "grid": "concurrent_nb import Tile", "task": "def column", "run": "--view image"}
        cells = {name: next(at for at, text in enumerate(sources) if part in text) for name, part in parts.items()}
        for cell in notebook["cells"]:
            cell.update({"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {})
        notebook["cells"][cells["grid"]]["source"] = sources[cells["grid"]].replace("1024, 20", f"1024, {LIMIT}")
        (shown / "02_mandelbrot.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
        page = browser.pages[0]
        lab = Lab(url, shown, cells, page, [], "02_mandelbrot.ipynb")
        lab.open()
        for name in ("load", "grid", "task"):
            lab.run(name)
        page.evaluate("() => window.jupyterapp.commands.execute('concurrent-nb:open')")
        lab.start("run")
        page.locator(".concurrent-nb canvas.cnb-picture").wait_for()
        page.locator(".cnb-lab-sidebar").get_by_role("button", name="Task stream").click()
        lab.output("run")
        page.locator(".cnb-lab-main canvas").first.wait_for()
        page.wait_for_timeout(3000)
        page.screenshot(path=folder / "lab-cluster.png")
        page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
        page.wait_for_timeout(3000)
        page.screenshot(path=folder / "lab-cluster-dark.png")
        lab.shut_down()
        picture_page(folder, browser)


if __name__ == "__main__":
    main()
