"""The tables of the models: complete, and the same for both strands of the helix."""

import itertools

import pytest

from concurrent_nb.samples.dna.wedge_models import (
    KINETOPLAST,
    MODELS,
    UnknownNucleotide,
    WedgeStep,
    clean,
    reverse_complement,
)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_a_step_for_every_oligo_and_reads_both_strands_alike(name: str) -> None:
    model = MODELS[name]
    for letters in itertools.product("ACGT", repeat=model.order):
        oligo = "".join(letters)
        step, other = model.step(oligo), model.step(reverse_complement(oligo))
        if oligo not in model.steps:
            assert (step.twist, step.roll, step.tilt) == (other.twist, other.roll, -other.tilt)
        elif (name, oligo) not in {("nucleosome", "GCA"), ("nucleosome", "TGC")}:
            assert (step.twist, step.roll, abs(step.tilt)) == (other.twist, other.roll, abs(other.tilt))


def test_the_one_entry_that_differs_between_strands_is_kept_as_published() -> None:
    steps = MODELS["nucleosome"].steps
    assert (steps["GCA"].roll, steps["TGC"].roll, len(steps)) == (5.4, 6.0, 33)


def test_the_tables_are_the_published_ones_at_a_few_places() -> None:
    assert MODELS["trifonov"].step("TG") == WedgeStep(34.5, 1.6, -3.1)  # CA, the other way
    assert MODELS["calladine"].step("TA") == WedgeStep(34.0, 6.6, 0.0)
    assert MODELS["reversed"].step("AA") == WedgeStep(35.0, 3.3, 0.0)
    assert MODELS["desantis"].step("CC") == WedgeStep(33.0, 1.3, 0.6)  # GG
    assert MODELS["consensus"].step("GGC") == WedgeStep(36.0, 9.1, 0.0)  # GCC
    assert MODELS["consensus"].rise == 3.4


def test_a_sequence_is_read_as_people_write_it() -> None:
    assert clean("  1 atgc AAAT\n 11 tg\n") == "ATGCAAATTG"
    assert len(KINETOPLAST) == 414
    assert reverse_complement("ATGC") == "GCAT"


def test_a_letter_that_is_no_nucleotide_is_refused_with_its_place() -> None:
    with pytest.raises(UnknownNucleotide, match="nucleotide 6 of the sequence is 'N'"):
        clean("ATG CA NN")
