"""Models of the bending of DNA: the angles between neighbouring base pairs, which depend on a few nucleotides.

A wedge model gives each step from one base pair to the next three angles: *twist* about the helix axis, *roll* and
*tilt* about the two axes of the base pair. The tables are those of the publications named beside them, as collected by
C. Gohlke's program dnacurve, whose results these models reproduce.
"""

from dataclasses import dataclass, field
from typing import Final

#: the nucleotides, in the order of their codes
NUCLEOTIDES: Final = "ACGT"
#: distance in ångström between two base pairs along the axis; Goodsell & Dickerson, Nucleic Acids Res. 22, 5497 (1994)
RISE: Final = 3.38

_PAIRS: Final = {"A": "T", "C": "G", "G": "C", "T": "A"}


class UnknownNucleotide(ValueError):
    """A sequence contains something else than A, C, G and T."""


@dataclass(frozen=True)
class WedgeStep:
    """The position of a base pair relative to the one before: angles in degrees."""

    twist: float
    roll: float = 0.0
    tilt: float = 0.0


#: the step next to the end of a sequence, where a model of three nucleotides has no entry
BORDER: Final = WedgeStep(34.3)


@dataclass(frozen=True)
class WedgeModel:
    """A table of steps for each group of `order` nucleotides; `about` names its source.

    >>> MODELS["trifonov"].step("AA")
    WedgeStep(twist=35.62, roll=-6.5, tilt=3.2)
    >>> MODELS["trifonov"].step("TT")  # the other strand of AA
    WedgeStep(twist=35.62, roll=-6.5, tilt=-3.2)
    """

    name: str
    about: str
    order: int
    steps: dict[str, WedgeStep] = field(repr=False)
    rise: float = RISE

    def step(self, oligo: str) -> WedgeStep:
        """Return the step of some nucleotides: that of the table, or of the other strand, which tilts the other way."""
        if oligo in self.steps:
            return self.steps[oligo]
        other = self.steps[reverse_complement(oligo)]
        return WedgeStep(other.twist, other.roll, -other.tilt)


def reverse_complement(sequence: str) -> str:
    """Return the other strand, in its own reading direction."""
    return "".join(_PAIRS[letter] for letter in reversed(sequence))


def clean(text: str) -> str:
    """Return a sequence in upper case, without spaces, line ends and the digits of numbered lines.

    Raises UnknownNucleotide for any other letter than A, C, G, T: to leave one out would move all that follow.
    """
    kept = "".join(text.split()).upper().translate({ord(digit): None for digit in "0123456789"})
    for number, letter in enumerate(kept, 1):
        if letter not in _PAIRS:
            raise UnknownNucleotide(f"nucleotide {number} of the sequence is {letter!r}: only A, C, G and T are known")
    return kept


_DINUCLEOTIDES: Final = ("AA", "AC", "AG", "AT", "CA", "GG", "CG", "GA", "GC", "TA")


def _dinucleotides(
    name: str, about: str, twist: tuple[float, ...], roll: tuple[float, ...], tilt: tuple[float, ...]
) -> WedgeModel:
    rows = zip(twist, roll, tilt, strict=True)
    return WedgeModel(name, about, 2, {oligo: WedgeStep(*row) for oligo, row in zip(_DINUCLEOTIDES, rows, strict=True)})


def _trinucleotides(name: str, about: str, twist: float, rise: float, rolls: str) -> WedgeModel:
    """Read "AAA 0.0 AAC 3.7 ...": only the roll differs."""
    words = rolls.split()
    steps = {oligo: WedgeStep(twist, float(roll)) for oligo, roll in zip(words[::2], words[1::2], strict=True)}
    return WedgeModel(name, about, 3, steps, rise)


_NO_ANGLE: Final = (0.0,) * 10
#: measured in solution: Kabsch, Sander & Trifonov, Nucleic Acids Res. 10, 1097 (1982)
_KABSCH_TWIST: Final = (35.62, 34.4, 27.7, 31.5, 34.5, 33.67, 29.8, 36.9, 40.0, 36.0)

MODELS: Final = {
    model.name: model
    for model in (
        _dinucleotides("straight", "no bending, 10.5 base pairs per turn", (360 / 10.5,) * 10, _NO_ANGLE, _NO_ANGLE),
        _dinucleotides(
            "aawedge",
            "only AA bends: Ulanovsky, Bodner, Trifonov & Choder, Proc. Natl. Acad. Sci. USA 83, 862 (1986)",
            _KABSCH_TWIST,
            (-8.4, *_NO_ANGLE[1:]),
            (2.4, *_NO_ANGLE[1:]),
        ),
        _dinucleotides(
            "calladine",
            "Calladine & Drew, table 1 (b) of Goodsell & Dickerson, Nucleic Acids Res. 22, 5497 (1994)",
            (35.0, *(34.0,) * 9),
            (0.0, *(3.3,) * 8, 6.6),
            _NO_ANGLE,
        ),
        _dinucleotides(
            "trifonov",
            "Bolshoy, McNamara, Harrington & Trifonov, Proc. Natl. Acad. Sci. USA 88, 2312 (1991)",
            _KABSCH_TWIST,
            (-6.5, -0.9, 8.4, 2.6, 1.6, 1.2, 6.7, -2.7, -5.0, 0.9),
            (3.2, -0.7, -0.3, 0.0, 3.1, -1.8, 0.0, -4.6, 0.0, 0.0),
        ),
        _dinucleotides(
            "desantis",
            "Cacchione, De Santis and others, table 1 (d) of Goodsell & Dickerson (1994)",
            (35.9, 34.6, 35.6, 35.0, 34.5, 33.0, 33.7, 35.8, 33.3, 34.6),
            (-5.4, -2.4, 1.0, -7.3, 6.7, 1.3, 4.6, 2.0, -3.7, 8.0),
            (-0.5, -2.7, -1.6, 0.0, 0.4, -0.6, 0.0, -1.7, 0.0, 0.0),
        ),
        _dinucleotides(
            "reversed",
            "Calladine & Drew with the signs of the roll reversed, table 1 (e) of Goodsell & Dickerson (1994)",
            (35.0, *(34.0,) * 9),
            (3.3, *(0.0,) * 8, -3.3),
            _NO_ANGLE,
        ),
        # GCA is 5.4 here and TGC, its other strand, 6.0, as in dnacurve: all other entries are the same for both
        # strands, so one of the two is likely a misprint. It is kept so that results are comparable.
        _trinucleotides(
            "nucleosome",
            "positions on nucleosomes (Satchwell, Drew & Travers), table 1 (a) of Goodsell & Dickerson (1994)",
            34.3,
            RISE,
            """
            AAA 0.0 AAC 3.7 AAG 5.2 AAT 0.7 ACA 5.2 ACC 5.4 ACG 5.4 ACT 5.8 AGA 3.3 AGC 7.5 AGG 5.4 ATA 2.8 ATC 5.3
            ATG 6.7 CAA 3.3 CAC 6.5 CAG 4.2 CCA 5.4 CCC 6.0 CCG 4.7 CGA 8.3 CGC 7.5 CTA 2.2 CTC 5.4 GAA 3.0 GAC 5.4
            GCA 5.4 TGC 6.0 GCC 10.0 GGA 3.8 GTA 3.7 TAA 2.0 TCA 5.4
            """,
        ),
        _trinucleotides(
            "consensus",
            "DNase I consensus: Gabrielian & Pongor, table 1 of Trends Biochem. Sci. 23, 341 (1998)",
            36.0,
            3.4,
            """
            AAA .05 AAC 2.65 AAG 4.7 AAT .35 ACA 5.5 ACC 5.3 ACG 5.3 ACT 3.9 AGA 4.9 AGC 6.9 AGG 5.05 ATA 6.25 ATC 4.45
            ATG 7.7 CAA 4.75 CAC 6.65 CAG 6.9 CCA 3.05 CCC 5.85 CCG 3.85 CGA 7.05 CGC 5.9 CTA 5.0 CTC 6.0 GAA 4.05
            GAC 5.5 GCA 6.75 GCC 9.1 GGA 5.0 GTA 5.05 TAA 4.65 TCA 7.7
            """,
        ),
    )
}

#: kinetoplast DNA, whose curvature was the first to be found: Proc. Natl. Acad. Sci. USA 80, 7678 (1983), figure 1
KINETOPLAST: Final = clean(
    """
    GATCTAGACT AGACGCTATC GATAAAGTTT AAACAGTACA ACTATCGTGC TACTCACCTG TTGCCAAACA TTGCAAAAAT GCAAAATTGG GCTTGTGGAC
    GCGGAGAGAA TTCCCAAAAA TGTCAAAAAA TAGGCAAAAA ATGCCAAAAA TCCCAAACTT TTTAGGTCCC TCAGGTAGGG GCGTTCTCCG AAAACCGAAA
    AATGCATGCA GAAACCCCGT TCAAAAATCG GCCAAAATCG CCATTTTTTC AATTTTCGTG TGAAACTAGG GGTTGGTGTA AAATAGGGGT GGGGCTCCCC
    GGGGTAATTC TGGAAATTCG GGCCCTCAGG CTAGACCGGT CAAAATTAGG CCTCCTGACC CGTATATTTT TGGATTTCTA AATTTTGTGG CTTTAGATGT
    GGGAGATTTG GATC
    """
)
#: the ten nucleotides that the original sample repeats
THESIS: Final = "ATGCAAATTG"
