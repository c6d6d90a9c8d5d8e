"""Copy the Lab extension of this checkout into the environment of the Python that runs this.

An editable install leaves data files out. Jupyter servers refuse links to files outside of the folders that they serve.
"""

import configparser
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from setup import install_script, web_files  # noqa: E402  (setup.py makes the same files for a wheel)

EXTENSION = "share/jupyter/labextensions/concurrent-nb"


def listed() -> dict[str, list[Path]]:
    """Return the files of the extension by the folder below the environment that a wheel puts them into."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    found = {}
    for folder, patterns in config["options.data_files"].items():
        if folder.startswith(EXTENSION):
            names = [pattern.strip() for pattern in patterns.replace("\n", ",").split(",") if pattern.strip()]
            found[folder] = [path for name in names for path in sorted(ROOT.glob(name)) if path.is_file()]
    return found


def copy(prefix: Path) -> None:
    """Replace what is there."""
    shutil.rmtree(prefix / EXTENSION, ignore_errors=True)
    for folder, paths in listed().items():
        (prefix / folder).mkdir(parents=True, exist_ok=True)
        for path in paths:
            (install_script if web_files.is_own_script(path) else shutil.copyfile)(path, prefix / folder / path.name)


if __name__ == "__main__":
    copy(Path(sys.prefix))
