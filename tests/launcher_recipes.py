"""The recipes for batch systems in docs/clusters.md, and stand-ins for the commands in them."""

import os
import re
import shlex
import stat
import sys
from pathlib import Path
from typing import Any, Final

PAGE: Final = (Path(__file__).parents[1] / "docs" / "clusters.md").read_text()
#: rows of the table of recipes: system, what stands behind --on, and other options
RECIPES: Final = re.findall(
    r"^\| (MPI|PBS|LSF|HTCondor|Kubernetes) \| `(command:[^`]+)`(.*) \|.*\|$", PAGE, re.MULTILINE
)
SCRIPT: Final = re.search(r"^```\n(executable = (?:.|\n)*?queue\n)```", PAGE, re.MULTILINE)

#: Does what the command by whose name it is called does with its arguments, on this machine. Its jobs run in sessions
#: of their own, as they would on another machine, and each call is a line of the file `calls`.
STAND_IN: Final = """#!{python}
import os, pathlib, re, shlex, signal, subprocess, sys

folder, name, words = pathlib.Path(__file__).parent, os.path.basename(sys.argv[0]), sys.argv[1:]
with open(folder / "calls", "a") as calls:
    print(shlex.join([name, *words]), file=calls)


def submit(job, command):
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    (folder / f"job-{{job or process.pid}}").write_text(str(process.pid))
    return process.pid


def end(job):
    os.kill(int((folder / f"job-{{job}}").read_text()), signal.SIGTERM)


def option(name):
    return words[words.index(name) + 1]


if name == "mpiexec":
    assert words[:2] == ["-n", "1"], words
    os.execvp(words[2], words[2:])
elif name == "qsub":
    assert re.fullmatch("ncpus=[0-9]+", option("-l")), words
    print(f"{{submit('', words[words.index('--') + 1 :])}}")
elif name == "qdel":
    end(words[0])
elif name == "bsub":
    assert words[0] == "-J" and words[2] == "-n" and int(words[3]) > 0, words
    print(f"Job <{{submit(words[1], words[4:])}}> is submitted to default queue <normal>.")
elif name == "bkill":
    end(option("-J"))
elif name == "condor_submit":
    items = dict(line.split(" = ", 1) for line in pathlib.Path(words[-1]).read_text().splitlines() if " = " in line)
    assert int(items["request_cpus"]) > 0, items
    job = submit(option("-batch-name"), [items["executable"], *shlex.split(items["arguments"].strip('"'))])
    print(f"1 job(s) submitted to cluster {{job}}.")
elif name == "condor_rm":
    end(re.fullmatch('JobBatchName=="(.+)"', option("-constraint"))[1])
elif name == "kubectl":
    assert words[0] == "run" and re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", words[1]), words
    assert "-i" in words and "--restart=Never" in words and words[words.index("--") - 1] == "--command", words
    os.execv(sys.executable, [sys.executable, *words[words.index("--") + 2 :]])
else:
    sys.exit(f"no stand-in for {{name}}")
"""
#: commands of the recipes
COMMANDS: Final = ("mpiexec", "qsub", "qdel", "bsub", "bkill", "condor_submit", "condor_rm", "kubectl")


def options_of(on: str, others: str) -> dict[str, Any]:
    """Return the options of a recipe as items of the launcher."""
    items: dict[str, Any] = {}
    words = [word for text in re.findall(r"`(--[^`]*)`", others) for word in shlex.split(text)]
    for option, value in zip(words[::2], words[1::2], strict=True):
        items[option.removeprefix("--").replace("-", "_")] = value == "True" if option == "--submits" else value
    if "{script}" in on:
        assert SCRIPT is not None
        items["script"] = SCRIPT[1]
    return items


def make_stand_ins(folder: Path) -> None:
    """Make stand-ins for all commands in a folder."""
    program = folder / "stand-in"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(stat.S_IRWXU)
    for name in COMMANDS:
        os.link(program, folder / name)


def calls_of(folder: Path) -> list[list[str]]:
    """Return the words of each call of a stand-in."""
    return [shlex.split(line) for line in (folder / "calls").read_text().splitlines()]
