"""The geometry: the golden numbers of the published program, the program itself, and every cut of the work."""

import random

import dnacurve
import numpy as np
import pytest
from numpy.testing import assert_allclose

from concurrent_nb.samples.dna import helix
from concurrent_nb.samples.dna.wedge_models import KINETOPLAST, MODELS, THESIS

TRIFONOV = MODELS["trifonov"]
#: the greatest curvature, bend angle and curvature angle of the kinetoplast sequence in dnacurve, to five digits
KINETOPLAST_MAXIMA = {
    "straight": (0, 0, 0.41657),
    "aawedge": (0.61482, 0.19789, 0.58795),
    "calladine": (0.28793, 0.11581, 0.41922),
    "trifonov": (0.66700, 0.16451, 0.59387),
    "desantis": (0.54381, 0.12895, 0.48871),
    "reversed": (0.28141, 0.07578, 0.41734),
    "nucleosome": (0.52329, 0.19467, 0.45796),
    "consensus": (0.48007, 0.17605, 0.43029),
}


def random_sequence(length: int, seed: int = 1) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=length))


def in_chunks(sequence: str, size: int, model: str) -> helix.Floats:
    parts = []
    for first in range(0, len(sequence), size):
        length = min(size, len(sequence) - first)
        text, before, is_last = helix.chunk_text(sequence, first, length, MODELS[model])
        parts.append(helix.chunk_profile(text, before, length, is_last, MODELS[model]))
    return np.hstack(parts)


def in_blocks(sequence: str, size: int, model: str) -> helix.Floats:
    kind, steps = MODELS[model], len(sequence) - 1
    sizes = [(first, min(size, steps - first)) for first in range(0, steps, size)]
    texts = [helix.block_text(sequence, first, length, kind) for first, length in sizes]
    products = [helix.block_product(text, length, kind) for text, (_, length) in zip(texts, sizes, strict=True)]
    carries = helix.suffix_carries(products)
    parts = [
        helix.block_coordinates(text, length, kind, carry, first + length == steps)
        for text, (first, length), carry in zip(texts, sizes, carries, strict=True)
    ]
    return np.concatenate(parts, axis=1)


# ------------------------------------------------------------------------------------------------------ golden numbers


def test_the_doctest_of_the_published_program() -> None:
    assert_allclose(
        helix.sequence_profile(THESIS * 5, TRIFONOV)[:, 18:22],
        [
            [0.580616156159, 0.581633384080, 0.582779380925, 0.583782995603],
            [0.080299142071, 0.112925164628, 0.076758158194, 0.031662864080],
            [0.579239021450, 0.575800637034, 0.573678154751, 0.573498717227],
        ],
        atol=1e-9,
    )


def test_the_sequence_of_the_thesis() -> None:
    points = helix.coordinates(THESIS * 1000, TRIFONOV)
    measures = helix.profile(points, TRIFONOV.rise)
    assert_allclose(measures.max(axis=1), [0.584177576178, 0.130702681178, 0.596752253934], atol=1e-9)
    assert_allclose(measures.mean(axis=1), [0.580269159081, 0.082403122824, 0.572093582150], atol=1e-9)
    assert np.linalg.norm(points[0, 0] - points[0, -1]) == pytest.approx(11108.153948722, abs=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_kinetoplast(name: str) -> None:
    maxima = helix.sequence_profile(KINETOPLAST, MODELS[name]).max(axis=1)
    assert_allclose(maxima, KINETOPLAST_MAXIMA[name], atol=5.1e-6)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "consensus"])
@pytest.mark.parametrize("length", [25, 45, 140])
def test_the_published_program_gives_the_same_for_random_sequences(name: str, length: int) -> None:
    sequence = random_sequence(length)
    theirs = dnacurve.CurvedDNA(sequence, name)
    points = helix.coordinates(sequence, MODELS[name])
    assert_allclose(helix.profile(points, MODELS[name].rise), theirs.curvature, atol=1e-9)
    between = [np.linalg.norm(p[:, :, None] - p[:, None, :], axis=-1) for p in (points, theirs.coordinates[:4, :, :3])]
    assert_allclose(between[0][:3], between[1][:3], atol=1e-9)  # they are turned otherwise


# ------------------------------------------------------------------------------------------------------------ the cuts


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [1, 7, 40, 1000])
def test_every_cut_into_chunks_gives_the_same_measures(name: str, size: int) -> None:
    sequence = random_sequence(131)
    assert_allclose(in_chunks(sequence, size, name), helix.sequence_profile(sequence, MODELS[name]), atol=1e-10)


def test_chunks_need_all_of_their_halo(monkeypatch: pytest.MonkeyPatch) -> None:
    sequence, whole = THESIS * 30, helix.sequence_profile(THESIS * 30, TRIFONOV)
    monkeypatch.setattr(helix, "HALO", helix.HALO - 1)
    assert np.abs(in_chunks(sequence, 50, "trifonov") - whole).max() > 1e-4


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [1, 7, 40, 1000])
def test_every_cut_into_blocks_gives_the_same_coordinates(name: str, size: int) -> None:
    sequence = random_sequence(131)
    assert_allclose(in_blocks(sequence, size, name), helix.coordinates(sequence, MODELS[name]), atol=1e-9)


def test_the_scan_is_the_chain_step_by_step() -> None:
    sequence = random_sequence(60)
    chain = np.repeat(helix.start_points()[:, None, :], len(sequence), axis=1)
    for number, matrix in enumerate(helix.step_matrices(sequence, TRIFONOV)):
        chain[:, : number + 1] = chain[:, : number + 1] @ matrix
    assert_allclose(helix.coordinates(sequence, TRIFONOV), chain[:, :, :3], atol=1e-9)


@pytest.mark.parametrize("length", [2, 3, 4, 5, 10, 20, 21, 30])
def test_short_sequences_have_zeros_where_a_measure_needs_more(length: int) -> None:
    measures = helix.sequence_profile("A" * length, TRIFONOV)
    assert measures.shape == (3, length)
    assert bool(measures[0].any()) == (length > 20)
    assert bool(measures[1].any()) == (length > 4)
    assert not measures[2].any()


# -------------------------------------------------------------------------------------------------------------- details


def test_the_measures_do_not_change_when_the_helix_is_moved() -> None:
    points = helix.coordinates(KINETOPLAST, TRIFONOV)
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    moved = points @ turn
    moved[:3] += [5.0, -700.0, 31.0]
    assert_allclose(helix.profile(moved, TRIFONOV.rise), helix.profile(points, TRIFONOV.rise), atol=1e-10)


def test_angles_are_exact_for_small_ones() -> None:
    for angle in (0.0, 1e-12, 1e-6, 0.3, 3.0):
        turned = np.array([[np.cos(angle), np.sin(angle), 0.0]])
        assert helix.angles(np.array([[1.0, 0, 0]]), turned)[0] == pytest.approx(angle, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", ["straight", "trifonov"])
def test_an_oriented_helix_lies_along_x_and_bends_towards_z(name: str) -> None:
    points = helix.coordinates(KINETOPLAST, MODELS[name])
    turned = helix.oriented(points)
    along = turned[0, -1] - turned[0, 0]
    assert_allclose(along, [float(np.linalg.norm(points[0, -1] - points[0, 0])), 0, 0], atol=1e-9)
    beside = turned[0] - turned[0, 0]
    far = beside[np.argmax(np.hypot(beside[:, 1], beside[:, 2]))]
    assert_allclose(far[1], 0, atol=1e-9)
    assert far[2] >= -1e-9
    assert_allclose(turned[:3].reshape(-1, 3).mean(axis=0), 0, atol=1e-9)
    assert_allclose(helix.profile(turned, 3.38), helix.profile(points, 3.38), atol=1e-9)
    sides = [each[1:3, 50] - each[0, 50] for each in (points, turned)]
    hands = [np.cross(*side) @ each[3, 50] for side, each in zip(sides, (points, turned), strict=True)]
    assert hands[0] == pytest.approx(hands[1])  # it is turned, not mirrored
