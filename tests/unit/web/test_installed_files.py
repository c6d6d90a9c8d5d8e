"""The server extension is enabled by a wheel, by make, and found by the name that its configuration has."""

import configparser
import json
from importlib import import_module
from pathlib import Path

import concurrent_nb

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "jupyter_server_config.d" / "concurrent_nb.json"


def test_a_wheel_enables_it() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["options.data_files"]["etc/jupyter/jupyter_server_config.d"].split()
    assert listed == [str(CONFIG.relative_to(ROOT))]


def test_make_enables_it() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert f"cp {CONFIG.relative_to(ROOT)} $(1)/etc/jupyter/jupyter_server_config.d/\n" in makefile


def test_the_configuration_names_a_package_with_an_extension() -> None:
    (name,) = json.loads(CONFIG.read_text())["ServerApp"]["jpserver_extensions"]
    assert import_module(name) is concurrent_nb
    (point,) = concurrent_nb._jupyter_server_extension_points()
    assert callable(import_module(point["module"])._load_jupyter_server_extension)


def test_a_wheel_has_the_files_of_the_page() -> None:
    assert '"web/static/*", "web/static/vendor/*"' in (ROOT / "pyproject.toml").read_text()
