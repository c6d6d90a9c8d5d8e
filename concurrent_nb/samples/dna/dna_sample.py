"""`concurrent-nb run dna-curvature`, `dna-coordinates` and `dna-naive`."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from concurrent_nb.api import ApplicationNode
from concurrent_nb.components.config import ChoiceItem, IntItem, TextItem
from concurrent_nb.components.core import ComponentManager
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.samples.dna import curve_files, dna_tasks
from concurrent_nb.samples.dna.dna_tasks import Dna, NaiveTotals
from concurrent_nb.samples.dna.wedge_models import KINETOPLAST, MODELS, THESIS, clean
from concurrent_nb.samples.sample import Sample, Show
from concurrent_nb.tasks.system import ITaskSystem, Task

if TYPE_CHECKING:
    from concurrent_nb.samples.dna.helix import Floats


#: ends of the names of pictures
PLOTS: Final = (".png", ".svg", ".pdf")


class DnaSample(Sample):
    """Base class of the DNA samples: the sequence, the model, and files of the result."""

    packages: ClassVar[tuple[str, ...]] = ("numpy",)

    sequence = TextItem(THESIS, help="Nucleotides (A, C, G, T), or the word kinetoplast.")
    repeats = IntItem(1000, min=1, help="How often the sequence is repeated; one with a name is not.")
    fasta = TextItem("", help="FASTA file with the sequence, instead of --sequence.")
    record = TextItem("", help="Name of the sequence in a FASTA file with several.")
    model = ChoiceItem("trifonov", tuple(MODELS), help="Model of the angles between base pairs.")
    factor = IntItem(400, min=1, help="Nucleotides per task.")

    def __init__(self, manager: ComponentManager) -> None:
        super().__init__(manager)
        if getattr(self, "plot", ""):
            self.require("matplotlib")
        self.title, letters = self._read()
        if len(letters) < 2:
            raise ConfigurationError(f"the sequence has {len(letters)} nucleotides: give at least 2")
        self._check_files(letters)
        self.dna = Dna(letters, self.model, self.factor)

    def _check_files(self, letters: str) -> None:
        """Raise ConfigurationError for files that could not be written when the result is there."""
        for option in ("csv", "pdb", "plot"):
            path = Path(getattr(self, option, ""))
            if not path.parent.is_dir():
                raise ConfigurationError(f"--{option} {path}: there is no folder {path.parent}")
            if path.name and path.is_dir():
                raise ConfigurationError(f"--{option} {path} is a folder: name a file in it")
            if option == "plot" and path.name and path.suffix.lower() not in PLOTS:
                raise ConfigurationError(f"--plot {path}: its name must end in {', '.join(PLOTS)}")
            if option == "pdb" and path.name:
                try:
                    curve_files.check_pdb(letters)
                except ValueError as error:
                    raise ConfigurationError(f"--pdb {path}: {error}") from error

    def _read(self) -> tuple[str, str]:
        """Return the name and the letters of the sequence."""
        try:
            if not self.fasta:
                if self.sequence == "kinetoplast":
                    return "kinetoplast", KINETOPLAST
                return f"{self.sequence[:20]} x {self.repeats}", clean(self.sequence) * self.repeats
            records = curve_files.read_fasta(Path(self.fasta))
        except (ValueError, OSError) as error:
            raise ConfigurationError(f"the sequence cannot be read: {error}") from error
        if not self.record and len(records) == 1:
            return records[0].name, records[0].sequence
        found = [record for record in records if record.name == self.record]
        if not found:
            names = ", ".join(record.name for record in records[:20])
            raise ConfigurationError(f"{self.fasta} has {len(records)} sequences: choose one with --record of {names}")
        if len(found) > 1:
            raise ConfigurationError(f"{self.fasta} has {len(found)} sequences named {self.record!r}: rename one")
        return found[0].name, found[0].sequence

    def write(self, answer: Any) -> Iterator[str]:
        """Write the files that were asked for; yield a line about each."""
        yield from ()

    def run(self, app: ApplicationNode, way: str, show: Show) -> str:
        began = time.perf_counter()
        answer = self.answer(app, way, show)
        described = self.describe(answer, time.perf_counter() - began)
        try:
            return "\n".join([described, *self.write(answer)])
        except (ValueError, OSError) as error:
            raise ConfigurationError(f"a file cannot be written: {error}") from error

    def _maxima(self, measures: "Floats") -> str:
        """Return a text about the greatest curvature and bend; the third measure is an artefact near the ends."""
        from concurrent_nb.samples.dna.helix import HALO, MEASURES  # here: it needs numpy

        edge = HALO if measures.shape[1] > 2 * HALO else 0
        found = []
        for name, row in zip(MEASURES, measures[:, edge : measures.shape[1] - edge], strict=True):
            first = int((row >= row.max() - 1e-9).argmax())  # of equal ones, whatever the last digits are
            found.append(f"{name} {row.max():.6f} at {first + edge + 1}")
        return ", ".join(found)


class DnaCurvatureSample(DnaSample):
    """Curvature of a DNA sequence, in chunks that overlap.

    The three measures do not depend on where the helix lies, so each task computes them from its own nucleotides and 20
    more on each side.
    """

    csv = TextItem("", help="CSV file to write.")
    plot = TextItem("", help="Picture to write (.png, .svg or .pdf), which needs matplotlib.")

    @property
    def count(self) -> int:
        return len(self.dna.cuts)

    def tasks(self) -> Iterator[Task]:
        return dna_tasks.curvature_tasks(self.dna)

    def gather(self, results: "Iterable[tuple[int, Floats]]") -> "Floats":
        return dna_tasks.joined(results, len(self.dna.sequence))

    def system(self) -> ITaskSystem:
        return dna_tasks.CurvatureSystem(self.dna)

    def describe(self, answer: "Floats", elapsed_s: float) -> str:
        about = f"{len(self.dna.sequence)} nucleotides, model {self.model}, in {self.count} tasks ({elapsed_s:.2f} s)"
        return f"{self._maxima(answer)}\n{about}"

    def write(self, answer: "Floats") -> Iterator[str]:
        if self.csv:
            curve_files.write_csv(Path(self.csv), self.dna.sequence, answer)
            yield f"wrote {self.csv}"
        if self.plot:
            from concurrent_nb.samples.dna import curve_plots  # here: it needs numpy

            curve_plots.plot_profile(answer, self.title).savefig(self.plot)
            yield f"wrote {self.plot}"


class DnaCoordinatesSample(DnaSample):
    """Coordinates of a DNA helix, as a parallel scan in two phases.

    The position of a base pair is the product of the matrices of all steps after it. The first phase multiplies the
    matrices of each block, the second one computes the points of each block from the product of the blocks after it.
    """

    ways: ClassVar[tuple[str, ...]] = ("system",)

    csv = TextItem("", help="CSV file to write.")
    pdb = TextItem("", help="PDB file to write: axis and phosphates, of at most 9999 nucleotides.")
    plot = TextItem("", help="Picture to write (.png, .svg or .pdf), which needs matplotlib.")

    @property
    def count(self) -> int:
        return 2 * len(self.dna.block_cuts)

    def system(self) -> ITaskSystem:
        return dna_tasks.CoordinatesSystem(self.dna)

    def measures(self, answer: "Floats") -> "Floats":
        """Return the measures of the helix."""
        from concurrent_nb.samples.dna import helix  # here: it needs numpy

        return helix.profile(answer, MODELS[self.model].rise)

    def describe(self, answer: "Floats", elapsed_s: float) -> str:
        length = float(((answer[0, 0] - answer[0, -1]) ** 2).sum() ** 0.5)
        about = f"{len(self.dna.sequence)} nucleotides, model {self.model}, in {self.count} tasks ({elapsed_s:.2f} s)"
        return f"{self._maxima(self.measures(answer))}\nfrom end to end {length:.3f} Å\n{about}"

    def write(self, answer: "Floats") -> Iterator[str]:
        from concurrent_nb.samples.dna import helix  # here: it needs numpy

        points = helix.oriented(answer)
        if self.csv:
            curve_files.write_csv(Path(self.csv), self.dna.sequence, self.measures(answer), points)
            yield f"wrote {self.csv}"
        if self.pdb:
            curve_files.write_pdb(Path(self.pdb), self.title, self.dna.sequence, points)
            yield f"wrote {self.pdb}"
        if self.plot:
            from concurrent_nb.samples.dna import curve_plots  # here: it needs numpy

            curve_plots.plot_helix(answer, self.measures(answer), self.title).savefig(self.plot)
            yield f"wrote {self.plot}"


class DnaNaiveSample(DnaSample):
    """The DNA curve divided as in the thesis, into tasks that become larger and larger: a stress test.

    It computes no helix (see `NaiveTask`), but sends and receives 6.4 GB in 9,999 tasks, as the original did.
    """

    # Not all at once: an application that pushes all tasks keeps them, and their results, until the last has ended.
    ways: ClassVar[tuple[str, ...]] = ("system", "one-by-one")

    factor = IntItem(1, min=1, help="Steps per task.")

    @property
    def count(self) -> int:
        return len(self.dna.block_cuts)

    def tasks(self) -> Iterator[Task]:
        return dna_tasks.naive_tasks(self.dna)

    def gather(self, results: "Iterable[list[Floats]]") -> NaiveTotals:
        added = dna_tasks.NaiveSum()
        for moved in results:
            added.add(moved)
        return added.totals()

    def system(self) -> ITaskSystem:
        return dna_tasks.NaiveSystem(self.dna)

    def describe(self, answer: NaiveTotals, elapsed_s: float) -> str:
        expected = dna_tasks.naive_checksum(self.dna)
        wrong = abs(answer.checksum - expected) > 1e-9 * abs(expected)
        verdict = f"WRONG, it should be {expected!r}" if wrong else "right"
        size = f"{answer.tasks} tasks, {answer.result_bytes / 1e9:.3f} GB of results ({elapsed_s:.2f} s)"
        return f"checksum {answer.checksum:.6e}: {verdict}\n{size}"
