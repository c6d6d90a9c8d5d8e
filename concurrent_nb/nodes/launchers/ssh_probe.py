"""What runs on a host before a slave does, and what its answers and the errors of `ssh` mean. Pure.

The command tries Pythons until one has concurrent_nb and our minor version. That one answers with a line that begins
with MARK and has its versions, loads what a slave needs, and waits for a line of standard input: the arguments of the
slave, and the addresses of the master, which it tries to reach. Then it becomes the slave, which reads the connection
file and the configuration from the lines that follow. Nothing is written on the host, and no argument is secret.
"""

import json
import re
import shlex
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

#: how the answers of the program begin: a login shell may print other lines
MARK: Final = "concurrent_nb:"
#: exit codes of the command: this Python will not do; none will do; the master cannot be reached from there
WRONG_PYTHON: Final = 79
NO_PYTHON: Final = 78
UNREACHABLE: Final = 77
#: exit code of `ssh` itself
SSH_FAILED: Final = 255
#: bytes that must be free where temporary files are
FREE_BYTES_MIN: Final = 1 << 20
#: seconds that a clock may be slow: the certificate of a master is back-dated by a day
SLOW_CLOCK_MAX_S: Final = 20 * 3600.0
#: seconds in which a host must reach the master
REACH_S: Final = 4.0

#: runs with any Python 3 until it has found its version
_PROGRAM: Final = """
import sys
sys.path[:] = [path for path in sys.path if path]
import json, os
def report(**facts):
    os.write(out, ("%s%s\\n" % ("MARK", json.dumps(facts))).encode())
def read_line():
    line = b""
    while not line.endswith(b"\\n"):
        byte = os.read(0, 1)
        if not byte:
            os._exit(0)
        line += byte
    return json.loads(line.decode())
out = os.dup(1)
os.dup2(2, 1)
python = "%d.%d" % sys.version_info[:2]
try:
    from importlib.util import find_spec
    found = python == "PYTHON" and find_spec("concurrent_nb") is not None
except ImportError:
    found = False
if not found:
    report(python=python, path=sys.executable)
    sys.exit(WRONG_PYTHON)
import time
import concurrent_nb
from importlib import metadata
from tempfile import gettempdir
try:
    folder = gettempdir()
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
except OSError:
    folder, free = "the folder for temporary files", 0
report(python=python, path=sys.executable, version=concurrent_nb.__version__,
    cloudpickle=metadata.version("cloudpickle"), time=time.time(), folder=folder, free_bytes=free)
import socket
from concurrent_nb.cli.main import main
import concurrent_nb.nodes.slave.process
start = read_line()
errors = []
for host, port in start["endpoints"]:
    try:
        socket.create_connection((host, port), REACH_S).close()
        break
    except OSError as error:
        errors.append("%s port %d: %s" % (host, port, error.strerror or error))
else:
    report(unreachable=errors)
    sys.exit(UNREACHABLE)
report(reached=True)
os.close(out)
sys.exit(main(start["arguments"]))
"""
_LOOP: Final = (
    'for p in "$@"; do "$p" -c "exec(bytes.fromhex(\\"{program}\\"))"; r=$?;'
    " case $r in 126|127|{wrong}) ;; *) exit $r;; esac; done; exit {none}"
)


class HostVersions(NamedTuple):
    """What must fit between two machines."""

    python: str  #: minor version, "3.11"
    version: str  #: of concurrent_nb
    cloudpickle: str


def remote_command(pythons: Sequence[str], python: str) -> str:
    """Return the command for `ssh`, for any login shell.

    Args:
        pythons: which to try, the best first.
        python: the minor version that it must have.
    """
    program = _PROGRAM.replace("MARK", MARK).replace("WRONG_PYTHON", str(WRONG_PYTHON))
    program = program.replace("UNREACHABLE", str(UNREACHABLE)).replace("REACH_S", str(REACH_S))
    program = program.replace("PYTHON", python)
    loop = _LOOP.format(program=program.encode().hex(), wrong=WRONG_PYTHON, none=NO_PYTHON)
    return shlex.join(["sh", "-c", loop, "sh", *dict.fromkeys(pythons)])


def read_answers(text: str) -> list[dict[str, Any]]:
    """Return the answers in what a host has written; other lines, as of a login shell, are left out."""
    answers = []
    for line in text.split("\n")[:-1]:
        _, mark, rest = line.partition(MARK)
        if mark:
            try:
                answer = json.loads(rest)
            except ValueError:
                continue
            if isinstance(answer, dict):
                answers.append(answer)
    return answers


def fault_of_answer(answer: dict[str, Any], ours: HostVersions, now: float) -> str:
    """Return why a host that has answered cannot run slaves of this cluster, and what to do; "" if it can."""
    path = answer.get("path", "python3")
    version, cloudpickle = str(answer.get("version", "?")), str(answer.get("cloudpickle", "?"))
    if version != ours.version:
        return (
            f"{path} has concurrent_nb {version} there, this machine has {ours.version}: run there"
            f" `{path} -m pip install concurrent-nb=={ours.version}`"
        )
    if cloudpickle.partition(".")[0] != ours.cloudpickle.partition(".")[0]:
        return (
            f"{path} has cloudpickle {cloudpickle} there, this machine has {ours.cloudpickle}: run there"
            f" `{path} -m pip install cloudpickle=={ours.cloudpickle}`"
        )
    if float(answer.get("free_bytes", FREE_BYTES_MIN)) < FREE_BYTES_MIN:
        return f"its disk is full: {answer.get('folder')} has no space left, so free some"
    slow_s = now - float(answer.get("time", now))
    if slow_s > SLOW_CLOCK_MAX_S:
        return f"its clock is {slow_s / 3600:.0f} hours slow, so it refuses the master's certificate: set its clock"
    return ""


def fault_of_pythons(answers: Sequence[dict[str, Any]], ours: HostVersions, tried: Sequence[str]) -> str:
    """Return why no Python of a host will do, from the answers of those that were tried."""
    fitting = [answer for answer in answers if answer.get("python") == ours.python]
    if fitting:
        path = fitting[0]["path"]
        return (
            f"concurrent_nb is not installed there for {path}: run there `{path} -m pip install"
            f" concurrent-nb=={ours.version}`, or name the Python that has it: --python PATH"
        )
    if answers:
        found = ", ".join(sorted({f"{answer.get('path')} is {answer.get('python')}" for answer in answers}))
        return (
            f"it has no Python {ours.python}, which this machine has ({found}): install it there with concurrent_nb"
            f" {ours.version}, or name it: --python PATH"
        )
    return f"it has no Python: none of {', '.join(tried)} runs there; install one, or name it: --python PATH"


def fault_of_ssh(host: str, log: str, bound_s: float) -> str:
    """Return why `ssh` has failed, from what it has written, and what to do."""
    for pattern, remedy in _FAULTS:
        if re.search(pattern, log, re.IGNORECASE):
            return remedy.format(host=host, bound=bound_s)
    return "ssh has failed"


#: what `ssh` writes, and what it means; the first that fits counts
_FAULTS: Final = (
    (r"could not resolve hostname", "there is no host of that name: correct it, or add it to ~/.ssh/config"),
    (
        r"identification has changed",
        "its key has changed: check why, then run `ssh-keygen -R {host}` and `ssh {host}`",
    ),
    (
        r"host key verification failed|host key is known for",
        "its key is not known here: run `ssh {host}` once, and check the key that it shows",
    ),
    (
        r"permission denied|too many authentication failures|no supported authentication",
        "it asks for a password, or does not know your key: run `ssh-copy-id {host}`, so that `ssh {host}` works"
        " without a question",
    ),
    (
        r"remote port forwarding failed|forwarding.*(prohibited|disabled)",
        "it cannot reach this machine, and its SSH server allows no tunnel (AllowTcpForwarding)",
    ),
    (r"connection refused", "no SSH server listens there: start sshd, or set its port, --ssh-port N"),
    (
        r"timed out|no route to host|network is unreachable",
        "it does not answer within {bound:.0f} s: is it on, and is the port of SSH open?",
    ),
    (r"bad configuration option|bad owner|no such file", "ssh does not accept its configuration"),
    (r"closed by remote host|connection reset|kex_exchange|broken pipe", "it has closed the connection"),
)
