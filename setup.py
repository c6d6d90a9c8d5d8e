"""Installs the Lab extension's scripts as short as the web page's, because browsers load them.

pyproject.toml has all else.
"""

import importlib.util
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent / "concurrent_nb/transport/web_files.py"
_SPEC = importlib.util.spec_from_file_location("web_files", _FILE)
assert _SPEC is not None and _SPEC.loader is not None
#: loaded by its path, because the package's dependencies need not be there when it is built
web_files = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(web_files)


def install_script(source: Path, target: Path) -> None:
    """Copy a script of the Lab extension."""
    target.write_text(web_files.shortened(source.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")


def build() -> None:
    """Do what the build of a wheel or a source distribution asks for."""
    import setuptools  # here: who only copies the scripts of a checkout needs none

    install_data: Any = setuptools.Distribution().get_command_class("install_data")

    class InstallData(install_data):  # of distutils
        def copy_file(self, infile: str, outfile: str, *args: Any, **options: Any) -> tuple[str, bool]:
            copied, is_done = super().copy_file(infile, outfile, *args, **options)
            if web_files.is_own_script(Path(infile)):
                install_script(Path(infile), Path(copied))
            return copied, is_done

    setuptools.setup(cmdclass={"install_data": InstallData})


if __name__ == "__main__":
    build()
