"""Run the demonstration notebooks, show their progress on the terminal, and keep the executed copies in build/.

`make demo` calls it. Prints the result and the time of each notebook, and ends with exit code 0; if a cell fails, it
prints its error and ends with exit code 1.
"""

import argparse
import base64
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
NOTEBOOKS = ("01_md5_reverse.ipynb", "02_mandelbrot.ipynb")
CELL_TIMEOUT_S = 300
_PICTURE = re.compile(r'alt="picture made by the tasks" src="data:image/png;base64,([^"]+)"')
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Watched(NotebookClient):
    """Executes a notebook, and shows its outputs on the terminal."""

    def __init__(self, nb: Any, **options: Any) -> None:
        super().__init__(nb, **options)
        self._updating = False

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        content = msg["content"]
        if msg["msg_type"] == "stream":
            self._show(content["text"])
        elif msg["msg_type"] in ("display_data", "update_display_data", "execute_result"):
            text = content["data"].get("text/plain", "")
            self._show(text, is_update="display_id" in content.get("transient", {}))
        elif msg["msg_type"] == "comm_msg":
            self._show_progress(content["data"].get("state", {}).get("beat"))
        return super().process_message(msg, cell, cell_index)

    def _show_progress(self, beat: tuple[int, str] | None) -> None:
        """Show the progress of a job, from the heartbeat of its live display, as a line that is overwritten."""
        if beat:
            self._show(beat[1], is_update=True)

    def _show(self, text: str, is_update: bool = False) -> None:
        """Show text; on a terminal, an updated line is overwritten."""
        if is_update and self._updating and sys.stdout.isatty():
            sys.stdout.write("\x1b[1A\x1b[2K")
        elif is_update and not sys.stdout.isatty():
            return  # the last update is in the executed notebook
        self._updating = is_update
        sys.stdout.write("".join(f"    {line}\n" for line in text.splitlines()))
        sys.stdout.flush()


def run(path: Path, kept: Path) -> bool:
    """Execute one notebook and keep the result. Return whether all cells succeeded."""
    print(f"{path.name}: starting a kernel; the outputs of its cells follow", flush=True)
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    began = time.monotonic()
    client = Watched(
        notebook,
        timeout=CELL_TIMEOUT_S,
        store_widget_state=False,  # the final page of a job needs no widget
        resources={"metadata": {"path": str(path.parent)}},
        config=Config(KernelManager={"transport_encryption": "auto"}),
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        print(f"{path.name} failed:\n{_COLOUR.sub('', str(error))}", file=sys.stderr)
        return False
    finally:
        kept.parent.mkdir(exist_ok=True)
        nbformat.write(notebook, kept)  # type: ignore[no-untyped-call]
    print(f"{path.name}: {result_line(notebook)}, {time.monotonic() - began:.1f} s with the start of the kernel")
    print(f"the executed notebook is {kept}")
    if (picture := last_picture(notebook)) is not None:
        kept.with_suffix(".png").write_bytes(picture)
        print(f"the picture is {kept.with_suffix('.png')}")
    return True


def result_line(notebook: Any) -> str:
    """Return the last output that begins with "found"."""
    texts = [text for cell in notebook.cells if cell.cell_type == "code" for text in _texts(cell)]
    return next((text.strip() for text in reversed(texts) if text.startswith("found ")), "it has printed no result")


def last_picture(notebook: Any) -> bytes | None:
    """Return the last picture that tasks have made, as PNG."""
    pages = [
        output.get("data", {}).get("text/html", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    found = [match[1] for page in pages for match in _PICTURE.finditer(page)]
    return base64.b64decode(found[-1]) if found else None


def _texts(cell: Any) -> list[str]:
    """Return the text of each output of a cell."""
    return [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]


def main() -> int:
    """Run the given notebooks, or all."""
    parser = argparse.ArgumentParser(description="Run the demonstration notebooks on a cluster of this machine.")
    parser.add_argument("notebooks", nargs="*", type=Path, default=[HERE / name for name in NOTEBOOKS])
    parser.add_argument("--build", type=Path, default=HERE.parent / "build", help="folder for the executed notebooks")
    options = parser.parse_args()
    went_well = [run(path.resolve(), options.build.resolve() / path.name) for path in options.notebooks]
    return 0 if all(went_well) else 1


if __name__ == "__main__":
    sys.exit(main())
