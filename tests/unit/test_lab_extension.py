"""The Lab extension and the web page: complete in a wheel and in a checkout, small, and their JavaScript tested."""

import importlib.util
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from concurrent_nb.transport.web_files import read_files, shortened

ROOT = Path(__file__).parents[2]
WEB = ROOT / "concurrent_nb/web"
#: most bytes that a browser can load for the web page, and for Lab
LOADED_MAX_BYTES = 250_000


def copied(prefix: Path) -> set[str]:
    """Copy the extension into an environment; return the names of its files."""
    spec = importlib.util.spec_from_file_location("copy_lab_extension", ROOT / ".ci/copy_lab_extension.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.copy(prefix)
    folder = prefix / "share/jupyter/labextensions/concurrent-nb"
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_an_environment_gets_all_files_that_the_extension_loads(tmp_path: Path) -> None:
    files = copied(tmp_path)
    assert {"package.json", "schemas/concurrent-nb/plugin.json", "static/remoteEntry.js", "static/lab.js"} <= files
    for name in sorted(name for name in files if re.fullmatch(r"static/\w+\.js", name)):
        text = (tmp_path / "share/jupyter/labextensions/concurrent-nb" / name).read_text(encoding="utf-8")
        for other in re.findall(r'"\./([\w./]+\.(?:js|css))"', text):
            assert f"static/{other}" in files, f"{name} loads {other}"


def test_it_has_the_version_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert json.loads((WEB / "labextension/package.json").read_text())["version"] == project["version"]


def test_make_installs_it() -> None:
    assert "/bin/python .ci/copy_lab_extension.py\n" in (ROOT / "Makefile").read_text()


def test_the_package_has_the_files_of_the_page() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["concurrent_nb"]
    assert {"web/static/*", "web/static/vendor/*"} <= set(data)
    page = (WEB / "static/page.html").read_text(encoding="utf-8")
    linked = re.findall(r'(?:href|src)="static/([^"]+)"', page)
    assert "page.js" in linked
    for name in linked:
        assert (WEB / "static" / name).is_file()


def test_the_page_obeys_a_strict_policy() -> None:
    page = (WEB / "static/page.html").read_text(encoding="utf-8")
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)|https?://(?!www\.w3\.org)", page)


#: how a file names another: a link, an import, also one that waits for a click, or a URL beside itself
NAMED = re.compile(r"""["'(](?:\./|static/)?(\w[\w./]*\.(?:js|css|svg))["')]""")


def loaded(first: str, files: dict[str, bytes]) -> dict[str, int]:
    """Return the sizes of all files that a browser can load which begins with this one, by name."""
    sizes, names = {}, [first]
    while names:
        name = names.pop()
        if name not in sizes:
            sizes[name] = len(files[name])
            names += NAMED.findall(files[name].decode())
    return sizes


def test_what_a_browser_loads_for_the_page_is_small() -> None:
    files = {name: file.data for name, file in read_files(WEB / "static").items()}
    page = loaded("page.html", files)
    left_out = set(files) - set(page)
    assert left_out == {"cell_restore.js", "cluster_session.js", "vendor/uPlot.LICENSE.txt"}  # two are for Lab alone
    assert sum(page.values()) < LOADED_MAX_BYTES


def test_what_a_browser_loads_for_lab_is_small(tmp_path: Path) -> None:
    copied(tmp_path)
    folder = tmp_path / "share/jupyter/labextensions/concurrent-nb"
    static = folder / "static"
    files = {path.relative_to(static).as_posix(): path.read_bytes() for path in static.rglob("*") if path.is_file()}
    lab = loaded("remoteEntry.js", files)
    left_out = set(files) - set(lab)
    assert left_out == {"page.js", "page.css", "settings_panel.js", "vendor/uPlot.LICENSE.txt"}  # of the web page
    # JupyterLab itself reads these two: what the extension is, and its settings.
    described = [folder / "package.json", folder / "schemas/concurrent-nb/plugin.json"]
    assert sum(lab.values()) + sum(path.stat().st_size for path in described) < LOADED_MAX_BYTES


def test_scripts_are_installed_shortened_and_with_their_lines(tmp_path: Path) -> None:
    copied(tmp_path)
    for name in ("feed_model.js", "job_view.js", "lab.js"):
        folder = WEB / ("labextension/static" if name == "lab.js" else "static")
        source = (folder / name).read_text(encoding="utf-8").splitlines()
        script = (tmp_path / "share/jupyter/labextensions/concurrent-nb/static" / name).read_text(encoding="utf-8")
        pairs = [(old.strip(), line) for old, line in zip(source, script.splitlines(), strict=True)]
        assert all(line in ("", old) for old, line in pairs)
        gone = [old for old, line in pairs if line != old]
        assert gone and all(old.startswith(("//", "/**", "*")) or "*/" in old or "@" in old for old in gone)


def test_no_text_in_a_script_goes_over_several_lines() -> None:
    """Its lines would lose their indentation."""
    for path in [*(WEB / "static").glob("*.js"), *(WEB / "labextension/static").glob("*.js")]:
        lines = shortened(path.read_text(encoding="utf-8")).splitlines()
        assert [line for line in lines if line.count("`") % 2 or line.endswith("\\")] == [], path.name


def test_vendored_files_have_their_licence() -> None:
    assert "MIT License" in (WEB / "static/vendor/uPlot.LICENSE.txt").read_text()
    assert "v1.6.32" in (WEB / "static/vendor/uPlot.iife.min.js").read_text()[:100]


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node here: CI has one")
def test_the_models_in_javascript() -> None:
    files = sorted(str(path) for path in (ROOT / "tests/web").glob("*.test.js"))
    done = subprocess.run(["node", "--test", *files], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
