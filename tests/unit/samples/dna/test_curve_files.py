"""The files of the DNA samples, as others read them."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from concurrent_nb.samples.dna import curve_files, curve_plots, helix
from concurrent_nb.samples.dna.wedge_models import KINETOPLAST, MODELS, UnknownNucleotide

POINTS = helix.coordinates(KINETOPLAST, MODELS["trifonov"])
MEASURES = helix.profile(POINTS, 3.38)


def test_fasta_with_several_sequences(tmp_path: Path) -> None:
    (tmp_path / "two.fa").write_text(">one a first one\nATGC\natgc\n\n>two\n  1 AAAA\n")
    one, two = curve_files.read_fasta(tmp_path / "two.fa")
    assert one == ("one", "a first one", "ATGCATGC")
    assert two == ("two", "", "AAAA")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("ATGC\n", ValueError, "must begin with a line '>name comment'"),
        ("", ValueError, "no FASTA file"),
        (">x\n>y\nATGC", ValueError, "the sequence 'x' is empty"),
        (">x\nATGCNN", UnknownNucleotide, "x: nucleotide 5 of the sequence is 'N'"),
    ],
)
def test_what_is_no_fasta_is_refused(text: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    (tmp_path / "file.fa").write_text(text)
    with pytest.raises(error, match=message):
        curve_files.read_fasta(tmp_path / "file.fa")


def test_csv_has_a_row_for_each_nucleotide(tmp_path: Path) -> None:
    curve_files.write_csv(tmp_path / "a.csv", KINETOPLAST, MEASURES)
    curve_files.write_csv(tmp_path / "b.csv", KINETOPLAST, MEASURES, POINTS)
    with (tmp_path / "a.csv").open(newline="") as short, (tmp_path / "b.csv").open(newline="") as wide:
        short_rows, wide_rows = list(csv.reader(short)), list(csv.DictReader(wide))
    assert short_rows[0] == ["sequence", "index", "curvature", "bend angle", "curvature angle"]
    assert len(short_rows) == 415
    assert "".join(row[0] for row in short_rows[1:]) == KINETOPLAST
    assert_allclose(np.array([row[2:] for row in short_rows[1:]], float), MEASURES.T, atol=5.1e-7)
    assert [float(wide_rows[7][f"strand 2 {axis}"]) for axis in "xyz"] == pytest.approx(POINTS[2, 7], abs=1e-6)


def test_pdb_has_three_chains_in_fixed_columns(tmp_path: Path) -> None:
    curve_files.write_pdb(tmp_path / "a.pdb", "kinetoplast", KINETOPLAST, POINTS)
    lines = (tmp_path / "a.pdb").read_text().splitlines()
    atoms = [line for line in lines if line.startswith("ATOM")]
    assert [len(atoms), lines[-1], {len(line) for line in atoms}] == [3 * 414, "END", {78}]
    assert sum(line.startswith("TER") for line in lines) == 3
    chains = {chain: [line for line in atoms if line[21] == chain] for chain in "ABC"}
    assert [line[12:16].strip() for line in (chains["A"][0], chains["B"][0], chains["C"][0])] == ["XA", "P", "P"]
    assert "".join(line[19] for line in chains["B"]) == KINETOPLAST
    assert [chains["C"][0][17:20], chains["C"][-1][17:26]] == [" DG", " DC C 414"]
    first = np.array([float(chains["C"][-1][at : at + 8]) for at in (30, 38, 46)])
    last = np.array([float(chains["B"][0][at : at + 8]) for at in (30, 38, 46)])
    assert np.linalg.norm(first - last) == pytest.approx(np.linalg.norm(POINTS[1, 0] - POINTS[2, 0]), abs=2e-3)
    assert min(float(line[30:38]) for line in atoms) == 0.0


def test_pdb_refuses_what_its_columns_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 9999 residues, the sequence has 10000"):
        curve_files.write_pdb(tmp_path / "a.pdb", "long", "A" * 10_000, np.zeros((4, 10_000, 3)))
    with pytest.raises(ValueError, match=r"up to 9999\.999, the helix needs 10000 Å"):
        curve_files.write_pdb(tmp_path / "a.pdb", "wide", "AA", np.array([[[0.0] * 3, [1e4, 0, 0]]] * 4))
    assert not (tmp_path / "a.pdb").exists()


def test_plots_have_their_panels_and_leave_the_artefacts_at_the_ends_out() -> None:
    profile = curve_plots.plot_profile(MEASURES, "k")
    assert [axes.get_ylabel() for axes in profile.axes] == list(helix.MEASURES)
    assert np.asarray(profile.axes[2].lines[0].get_xdata()).tolist() == list(range(21, 395))
    six = curve_plots.plot_helix(POINTS, MEASURES, "k")
    assert [len(axes.lines) for axes in six.axes] == [3, 3, 3, 1, 1, 1]


def test_plots_of_long_and_of_very_short_sequences() -> None:
    long = curve_plots.plot_profile(np.tile(MEASURES, 40), "long")
    assert all(len(axes.lines) == 0 and len(axes.collections) == 1 for axes in long.axes)
    assert len(curve_plots.plot_profile(MEASURES[:, :2], "short").axes) == 3


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf>a the first\nacgt\nAC\n",
        b">a the first\r\nACGT\r\nac\r\n",
        b">a the first\rACGT\rAC\r",
        b"\n  \n>a\tthe first\n\n 1 acgt\n 5 ac\n",
        b"; written by hand\n>a the first\n;half\nACG\nTAC",
        gzip.compress(b">a the first\nACGTAC\n"),
    ],
    ids=["mark", "Windows", "old Mac", "numbered", "comments", "gzip"],
)
def test_fasta_as_it_is_found(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.fa").write_bytes(data)
    assert curve_files.read_fasta(tmp_path / "file.fa") == [("a", "the first", "ACGTAC")]


def test_other_files_are_no_fasta(tmp_path: Path) -> None:
    for data, message in (
        (">a\nACGT\n".encode("utf-16"), "is no FASTA file"),
        (b"", "is no FASTA file"),
        (gzip.compress(b">a\nACGT\n")[:-6], "cannot be unpacked"),
        (">a\nACGÜ\n".encode("latin-1"), "nucleotide 4 of the sequence is"),
    ):
        (tmp_path / "file.fa").write_bytes(data)
        with pytest.raises(ValueError, match=message):
            curve_files.read_fasta(tmp_path / "file.fa")
    (tmp_path / "file.fa").write_bytes(">a é\nACGT\n".encode("latin-1"))
    assert curve_files.read_fasta(tmp_path / "file.fa")[0].sequence == "ACGT"


def test_one_line_may_have_a_million_letters(tmp_path: Path) -> None:
    (tmp_path / "long.fa").write_text(">a\n" + "ACGT" * 250_000)
    assert len(curve_files.read_fasta(tmp_path / "long.fa")[0].sequence) == 1_000_000
