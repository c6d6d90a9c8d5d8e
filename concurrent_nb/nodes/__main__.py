"""Start one node for an owner: `python -m concurrent_nb.nodes master FORMAT CONFIG NAME [keep|again]` or
`slave FORMAT CONFIG [FD]`.

FORMAT is that of the log, text or json. CONFIG is JSON. Standard input is the lease: the node ends at its end of file.
A slave reads the path of the connection file from the first line of it, so that it can start before the master is
ready. A master writes that path to standard output, and then what it asks of its owner, who answers in the lease
(`nodes/common/owner_wishes.py`). With `keep` or `again` its second line is its identity, which the owner gives to the
next master when this one has died; with `again` the first line of the lease is the identity of the last one. A slave
writes to the descriptor FD how far its start has come, a line each, and closes it when it has joined or ends. `Cluster`
uses this; users start nodes with `concurrent-nb`.
"""

import json
import logging
import os
import sys
from pathlib import Path

from concurrent_nb.errors import ConcurrentError, ConfigurationError, InitializerFailed
from concurrent_nb.nodes.common.exit_codes import DRAINED, NOT_INITIALIZED, REFUSED
from concurrent_nb.nodes.common.log_format import write_logs
from concurrent_nb.nodes.common.start_report import CONFIGURED, JOINED, StartReporter

STDIN, STDOUT, STDERR = 0, 1, 2


def main(arguments: list[str]) -> None:
    """Run the node of these arguments, until its lease ends."""
    role, log_format, config, *rest = arguments
    write_logs("json" if log_format == "json" else "text", role)
    try:
        is_drained = run(role, config, *rest)
    except ConcurrentError as error:
        if log_format == "json":
            logging.getLogger("concurrent_nb.nodes").error("the %s ends: %s", role, error)
        else:
            sys.stderr.write(f"the {role} ends: {error}\n")
        if isinstance(error, InitializerFailed):
            sys.exit(NOT_INITIALIZED)
        sys.exit(REFUSED if isinstance(error, ConfigurationError) else 1)
    if is_drained:
        sys.exit(DRAINED)


def run(role: str, config: str, *rest: str) -> bool:
    """Run a master or a slave. Returns whether it is a slave that was drained."""
    if role == "master":
        from concurrent_nb.nodes.master.process import run_master  # here, because a slave needs no Tornado
        from concurrent_nb.transport.master_identity import MasterIdentity, identity_of  # here: a slave has none

        owner = os.dup(STDOUT)
        os.dup2(STDERR, STDOUT)  # what a strategy prints belongs to the log

        def write_path(info: object, path: Path) -> None:
            os.write(owner, f"{path}\n".encode())

        def write_identity(identity: MasterIdentity) -> None:
            if len(rest) > 1:
                os.write(owner, f"{identity.line()}\n".encode())

        former = identity_of(read_first_line()) if "again" in rest[1:] else None
        run_master(json.loads(config), rest[0], write_path, STDIN, owner, former, write_identity)
        return False
    from concurrent_nb.nodes.slave.process import run_slave  # here, because a master need not import a slave

    reporter = StartReporter(int(rest[0]) if rest else None)

    def where() -> Path:
        reporter.reached(CONFIGURED)
        return Path(read_first_line())

    return run_slave(json.loads(config), where, lease=STDIN, ready=lambda name: reporter.reached(JOINED))


def read_first_line() -> str:
    """Read the first line of standard input, byte by byte, because what follows belongs to the lease."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(STDIN, 1)
        if not byte:
            sys.exit(0)  # the owner has ended, or the master could not be started, which the owner reports
        line += byte
    return line.decode().rstrip("\n")


if __name__ == "__main__":
    main(sys.argv[1:])
