"""The options of a `%%concurrent_task` cell, with types.

Used by the magics. `magic_options` reads each option by itself; what they mean together is checked here.
"""

import argparse
from dataclasses import dataclass
from typing import Literal

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.wire.messages import Needs


@dataclass(frozen=True, slots=True)
class CellOptions:
    """What a user has chosen for a cell. The fields are the `dest`s of the magic's options."""

    for_text: str | None = None  #: the text of --for; None: one task
    until_text: str | None = None
    out: str | None = None  #: variable for the value
    no_block: bool = False
    local: bool = False
    batch: int | Literal["auto"] | None = None
    timeout_s: float | None = None
    retries: int = 0
    strategy: str | None = None
    needs: Needs | None = None
    on_error: Literal["stop", "keep"] = "stop"
    shared: list[str] | None = None
    show_capture: bool = False
    view: str | None = None
    sort: str | None = None
    size: tuple[int, int] | None = None  #: width and height in pixels
    name: str | None = None
    keep: bool = False  #: the results stay in the cluster
    detach: bool = False  #: the cluster keeps the job, and the cell does not wait

    @property
    def keeps_errors(self) -> bool:
        """Return whether failed tasks are part of the value."""
        return self.on_error == "keep"

    def check(self) -> None:
        """Raise ConfigurationError if options contradict each other."""
        if self.local and self.no_block:
            raise ConfigurationError(
                "--local runs the cell in this process, and --no-block in the background: leave one of them out"
            )
        if self.keep:
            self._check_keep()
        if self.detach:
            self._check_detach()
        if self.size is not None and self.view != "image":
            raise ConfigurationError("--size is the size of a picture: it needs --view image")
        if self.sort is not None and self.view != "table":
            raise ConfigurationError("--sort is the order of a table: it needs --view table")

    def _check_keep(self) -> None:
        others = {"--local": self.local, "--until": self.until_text, "--batch": self.batch}
        if (other := next((name for name, value in others.items() if value), None)) is not None:
            raise ConfigurationError(f"--keep leaves the results in the cluster, which does not go with {other}")

    def _check_detach(self) -> None:
        others = {"--local": self.local, "--batch": self.batch, "--keep": self.keep, "--no-block": self.no_block}
        if (other := next((name for name, value in others.items() if value), None)) is not None:
            raise ConfigurationError(f"--detach leaves the job to the cluster, which does not go with {other}")

    def check_for_tasks(self) -> None:
        """Raise ConfigurationError if an option needs --for, which is missing."""
        if self.batch is not None and self.for_text is None:
            raise ConfigurationError('--batch groups the items of --for, as in --for "n in range(1000)": give both')

    def check_for_definitions(self, function: str) -> None:
        """Raise ConfigurationError for an option of tasks: the cell only defines functions, and runs no task.

        Args:
            function: the name of one of them, for the message.
        """
        only_for_tasks = {
            "--for": self.for_text,
            "--until": self.until_text,
            "--out": self.out,
            "--no-block": self.no_block,
            "--local": self.local,
            "--timeout": self.timeout_s,
            "--retries": self.retries,
            "--shared": self.shared,
            "--view": self.view,
            "--strategy": self.strategy,
            "--batch": self.batch,
            "--keep": self.keep,
            "--detach": self.detach,
        }
        if (option := next((name for name, value in only_for_tasks.items() if value), None)) is not None:
            raise ConfigurationError(
                f"{option}: the cell only defines functions, so there is no task to run yet: use this option in a cell"
                f" that calls {function}"
            )

    def without_effect(self) -> list[str]:
        """Return the options that have no effect on a cell with --local."""
        only_on_a_cluster = {
            "--timeout": self.timeout_s,
            "--strategy": self.strategy,
            "--batch": self.batch,
            "--needs": self.needs,
        }
        return [name for name, value in only_on_a_cluster.items() if value is not None]


def cell_options(parsed: argparse.Namespace) -> CellOptions:
    """Return the options that the magic's parser has read. Raises ConfigurationError if they contradict each other."""
    options = CellOptions(**vars(parsed))
    options.check()
    return options
