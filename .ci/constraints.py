"""Write constraints.txt: for all packages that `make` installs, the newest versions that work together, on each Python.

`make constraints` runs it with names of Pythons. For each installed one, pip reports what it would install; nothing is
installed. Versions for other Pythons stay as they are. A package has one line for all Pythons, or several with markers
if no release supports all of them.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[1]
FILE: Final = ROOT / "constraints.txt"
#: resolved one after the other; the second one is for benchmarks and must not restrict the first
EXTRAS: Final = ("notebook,test,tls,dev", "bench")
#: the oldest supported Python; there are constraints for all from this one on
OLDEST: Final = (3, 11)
HEADER: Final = """\
# What `make` installs, on Python 3.11 and newer: versions that passed the tests together. `make constraints` looks for
# newer ones, `make test-latest` tests what is newest.
"""

Python = tuple[int, int]
#: package -> Python -> version
Versions = dict[str, dict[Python, str]]


def main(names: list[str]) -> None:
    """Find versions for these Pythons, and write the file."""
    here = dict(each for name in names if (each := look_at(name)) is not None)
    found: Versions = {}
    for python, path in sorted(here.items()):
        print(f"looking for versions for Python {python[0]}.{python[1]}", flush=True)
        add(found, python, resolve(path))
    if not found:
        sys.exit(f"none of {', '.join(names)} can be run")
    old = FILE.read_text() if FILE.exists() else ""
    for python in sorted({(3, minor) for minor in range(OLDEST[1], max(here)[1] + 1)} - here.keys()):
        print(f"Python {python[0]}.{python[1]} is not here: what {FILE.name} has for it stays")
        add(found, python, read(old, python))
    FILE.write_text(HEADER + "".join(f"{line}\n" for name in sorted(found) for line in lines(name, found[name])))
    print(f"{FILE.name} has {len(found)} packages")


def look_at(name: str) -> tuple[Python, str] | None:
    """Return the version of a Python and its path; None if there is no working one of that name."""
    code = "import sys; print(*sys.version_info[:2], sys.executable)"
    try:
        result = subprocess.run([name, "-c", code], capture_output=True, text=True)
    except OSError:
        return None
    if result.returncode:
        return None
    major, minor, path = result.stdout.split(maxsplit=2)
    return (int(major), int(minor)), path.strip()


def resolve(python: str) -> dict[str, str]:
    """Return the packages and versions that pip would install for a Python."""
    chosen: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        report, so_far = Path(folder, "report.json"), Path(folder, "so_far.txt")
        for extras in EXTRAS:
            so_far.write_text("".join(f"{package}=={version}\n" for package, version in chosen.items()))
            command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--dry-run"]
            command += ["--ignore-installed", "--report", str(report), "--constraint", str(so_far), f".[{extras}]"]
            ended = subprocess.run(command, cwd=ROOT)
            if ended.returncode:
                sys.exit(f"pip finds no versions for {python} and the extras {extras}: see above")
            for item in json.loads(report.read_text())["install"]:
                package = canonicalize_name(item["metadata"]["name"])
                if package != "concurrent-nb":
                    chosen[package] = item["metadata"]["version"]
    return chosen


def add(found: Versions, python: Python, chosen: dict[str, str]) -> None:
    """Add the chosen versions for one Python."""
    for package, version in chosen.items():
        found.setdefault(package, {})[python] = version


def read(text: str, python: Python) -> dict[str, str]:
    """Return the versions in constraints for a Python."""
    chosen = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or marker.evaluate({"python_version": f"{python[0]}.{python[1]}"}):
                chosen[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return chosen


def lines(package: str, versions: dict[Python, str]) -> Iterable[str]:
    """Yield the constraints of one package: a line for each run of Pythons with the same version."""
    runs: list[tuple[Python, str]] = []
    for python, version in sorted(versions.items()):
        if not runs or runs[-1][1] != version:
            runs.append((python, version))
    for at, (first, version) in enumerate(runs):
        bounds = [f'python_version >= "{first[0]}.{first[1]}"'] if at else []
        if at + 1 < len(runs):
            last = runs[at + 1][0]
            bounds.append(f'python_version < "{last[0]}.{last[1]}"')
        yield f"{package}=={version}" + (f" ; {' and '.join(bounds)}" if bounds else "")


if __name__ == "__main__":
    main(sys.argv[1:])
