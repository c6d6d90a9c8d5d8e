"""Installs the Lab extension's scripts without comments, because browsers load them. pyproject.toml has all else.

Lines keep their numbers, which the browser's console names.
"""

import re
from pathlib import Path
from typing import Any

#: a comment that shares no line with code
COMMENT = re.compile(r"^[ \t]*(?:/\*\*(?:[^*]|\*(?!/))*\*/|//.*)[ \t]*$", re.MULTILINE)


def is_script(path: Path) -> bool:
    """Return whether it is one of our own scripts. Vendored ones are small already."""
    return path.suffix == ".js" and path.parent.name != "vendor"


def without_comments(script: str) -> str:
    """Return a script without the comments that share no line with code."""
    return COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), script)


def install_script(source: Path, target: Path) -> None:
    """Copy a script of the Lab extension."""
    target.write_text(without_comments(source.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")


def build() -> None:
    """Do what the build of a wheel or a source distribution asks for."""
    import setuptools  # here: who only copies the scripts of a checkout needs none

    install_data: Any = setuptools.Distribution().get_command_class("install_data")

    class InstallData(install_data):  # of distutils
        def copy_file(self, infile: str, outfile: str, *args: Any, **options: Any) -> tuple[str, bool]:
            copied, is_done = super().copy_file(infile, outfile, *args, **options)
            if is_script(Path(infile)):
                install_script(Path(infile), Path(copied))
            return copied, is_done

    setuptools.setup(cmdclass={"install_data": InstallData})


if __name__ == "__main__":
    build()
