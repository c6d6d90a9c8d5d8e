"""Files of the DNA samples: FASTA in, CSV and PDB out."""

import csv
import gzip
import io
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from concurrent_nb.samples.dna.wedge_models import clean, reverse_complement

if TYPE_CHECKING:
    from concurrent_nb.samples.dna.helix import Floats

#: what the columns of the PDB format can hold
PDB_MAX_RESIDUES: Final = 9999
PDB_MAX: Final = 9999.999
CSV_HEADER: Final = ("sequence", "index", "curvature", "bend angle", "curvature angle")
CSV_POINTS: Final = tuple(f"{name} {axis}" for name in ("axis", "strand 1", "strand 2") for axis in "xyz")


class FastaRecord(NamedTuple):
    """A sequence of a FASTA file: `name` is the first word of its line, `comment` the rest."""

    name: str
    comment: str
    sequence: str


def read_fasta(path: Path) -> list[FastaRecord]:
    """Return the sequences of a file, which may be compressed by gzip. Lines that begin with ";" are comments.

    Raises UnknownNucleotide, a ValueError, for letters other than A, C, G and T, ValueError for a file that is not
    FASTA or has an empty sequence, and OSError.
    """
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} cannot be unpacked: {error}") from error
    # Comments may be of any encoding; a letter of a sequence that is not ASCII is refused below.
    text = io.StringIO(data.decode("utf-8-sig", errors="replace"), newline=None).read()
    text = "\n".join(line for line in text.lstrip().split("\n") if not line.startswith(";"))
    if not text.startswith(">"):
        raise ValueError(f"{path} is no FASTA file: it must begin with a line '>name comment'")
    records = []
    for part in text[1:].split("\n>"):
        head, _, letters = part.partition("\n")
        name, comment = [*head.split(None, 1), "", ""][:2]
        try:
            sequence = clean(letters)
        except ValueError as error:
            raise type(error)(f"{path}, {name or 'no name'}: {error}") from None
        if not sequence:
            raise ValueError(f"{path}: the sequence {name!r} is empty")
        records.append(FastaRecord(name, comment.strip(), sequence))
    return records


def write_csv(path: Path, sequence: str, measures: "Floats", points: "Floats | None" = None) -> None:
    """Write a row for each nucleotide: its measures and, if `points` are given, where its axis and phosphates are."""
    rows = measures.T.tolist()
    if points is not None:
        rows = [row + place for row, place in zip(rows, points[:3].swapaxes(0, 1).reshape(-1, 9).tolist(), strict=True)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_HEADER if points is None else CSV_HEADER + CSV_POINTS)
        for number, (letter, row) in enumerate(zip(sequence, rows, strict=True), 1):
            writer.writerow([letter, number, *(f"{value:.6f}" for value in row)])


def check_pdb(sequence: str) -> None:
    """Raise ValueError if a sequence is too long for a PDB file."""
    if len(sequence) > PDB_MAX_RESIDUES:
        raise ValueError(f"the PDB format holds at most {PDB_MAX_RESIDUES} residues, the sequence has {len(sequence)}")


def write_pdb(path: Path, name: str, sequence: str, points: "Floats") -> None:
    """Write the axis as chain A (atoms XA) and the phosphates of both strands as chains B and C.

    Both strands are written in their own reading direction. Raises ValueError for what the format cannot hold: more
    than 9999 nucleotides, or a helix longer than 9999 Å.
    """
    check_pdb(sequence)
    places = points[:3] - points[:3].reshape(-1, 3).min(0)
    if places.max() > PDB_MAX:
        raise ValueError(f"the PDB format holds coordinates up to {PDB_MAX}, the helix needs {places.max():.0f} Å")
    lines = [f"TITLE     {name[:70]}"]
    chains = (("A", "XA", sequence), ("B", "P", sequence), ("C", "P", reverse_complement(sequence)))
    atom = 0
    for (chain, kind, letters), row in zip(chains, places, strict=True):
        for number, (letter, (x, y, z)) in enumerate(zip(letters, row[:: -1 if chain == "C" else 1], strict=True), 1):
            atom += 1
            lines.append(
                f"ATOM  {atom:>5}  {kind:<3}  D{letter} {chain}{number:>4}    {x:8.3f}{y:8.3f}{z:8.3f}{1:6.2f}{0:6.2f}"
                f"          {kind[0]:>2}"
            )
        atom += 1
        lines.append(f"TER   {atom:>5}       D{letters[-1]} {chain}{len(letters):>4}")
    path.write_text("\n".join([*lines, "END", ""]), encoding="ascii", errors="replace")
