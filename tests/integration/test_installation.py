"""What an installation has: types that are seen from anywhere, and all that Jupyter and a browser need, without node.

`make test-oldest-lab` runs this for the wheel, in an environment that has nothing else.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.work import PATIENCE_S

ROOT = Path(__file__).parents[2]
#: the Python of the environment in which the package is installed
PYTHON = Path(os.environ.get("CONCURRENT_NB_LAB_PYTHON", sys.executable))
#: colours of Jupyter's commands
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: starts a cluster, opens its web page as a browser does, and fetches what that needs
OPEN_THE_PAGE = """
import http.cookiejar, importlib.resources, re, urllib.request
import concurrent_nb
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.control_client import ControlClient

with concurrent_nb.Cluster(workers=1) as cluster:
    info = connection_file.read(cluster.connection_file)
    with ControlClient(info.endpoints, info.tokens["admin"]) as control:
        path = control.call("one_time_link")["path"]
    cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    browser = urllib.request.build_opener(cookies, urllib.request.ProxyHandler({}))
    page = browser.open(info.endpoints[0] + path).read().decode()
    there = importlib.resources.files("concurrent_nb.web").joinpath("static").iterdir()
    files = {f"static/{file.name}" for file in there if file.name.endswith((".js", ".css"))}
    files.update(re.findall('(?:src|href)="(static/[^"]+)"', page))
    sizes = [len(browser.open(f"{info.endpoints[0]}/{file}").read()) for file in files]
    assert min(sizes) > 0 and len(sizes) > 10, sizes
    print(concurrent_nb.__file__)
"""


def run_installed(*command: str, folder: Path) -> str:
    """Run a command of the environment where there is no node; return what it prints, without colours."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    environment = {**os.environ, "PATH": os.pathsep.join([str(PYTHON.parent), str(tools)])}
    environment.pop("PYTHONPATH", None)
    assert shutil.which("node", path=environment["PATH"]) is None
    ended = subprocess.run(
        [str(PYTHON.parent / command[0]), *command[1:]],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
    )
    text = COLOURS.sub("", ended.stdout)
    assert ended.returncode == 0, text
    return text


def test_lab_is_the_oldest_that_is_allowed_or_a_newer_one(tmp_path: Path) -> None:
    (oldest,) = re.findall(r'"jupyterlab>=(\d+\.\d+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    code = "from importlib.metadata import version; print(version('jupyterlab'))"
    found = run_installed("python", "-c", code, folder=tmp_path).strip()
    if str(PYTHON) == sys.executable:
        assert tuple(map(int, found.split(".")[:2])) >= tuple(map(int, oldest.split(".")))
    else:
        assert found.startswith(f"{oldest}."), "`make test-oldest-lab` must install the oldest one"


def test_jupyter_lists_the_extensions_and_the_kernels(tmp_path: Path) -> None:
    lab = run_installed("jupyter", "labextension", "list", folder=tmp_path)
    assert re.search(r"^\s*concurrent-nb v\S+ enabled\s+OK", lab, re.MULTILINE), lab
    server = run_installed("jupyter", "server", "extension", "list", folder=tmp_path)
    assert re.search(r"^\s*concurrent_nb enabled$", server, re.MULTILINE), server
    assert re.search(r"^\s*concurrent_nb \S+ OK$", server, re.MULTILINE), server
    kernels = json.loads(run_installed("jupyter", "kernelspec", "list", "--json", folder=tmp_path))["kernelspecs"]
    for name in ("concurrent", "concurrent_slave"):
        assert Path(kernels[name]["resource_dir"]).is_relative_to(PYTHON.parents[1])


def test_a_master_serves_the_web_page(tmp_path: Path) -> None:
    package = Path(run_installed("python", "-c", OPEN_THE_PAGE, folder=tmp_path).strip())
    assert package.is_relative_to(ROOT if str(PYTHON) == sys.executable else PYTHON.parents[1])


def test_mypy_finds_the_package_from_outside_of_the_checkout(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import concurrent_nb\nconcurrent_nb.Cluster(workers='two')\n")
    options = ["--config-file=", "--cache-dir=cache", f"--python-executable={PYTHON}"]
    told = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "mine.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
    )
    assert 'mine.py:2: error: Argument "workers" to "Cluster" has incompatible type "str"' in told.stdout, told
    assert "Found 1 error in 1 file" in told.stdout
