"""What to read next: each figure against a slow or hand-worked reference, each choice explained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import entropy as bits_of
from scipy.stats import rankdata

from ftmtl import active
from ftmtl.active import FIGURES, STRATEGIES, Work, figures_of, same_patient
from ftmtl.core_set import CoreSet
from ftmtl.findings import ImageInfo
from ftmtl.mammogram import Mammogram, read_mammogram
from ftmtl.predict import Predictor, image_info
from ftmtl.reading import Candidate, DamagedReading, Reading
from ftmtl.weights_file import STARTER_WEIGHTS

NOWHERE = np.zeros((28, 28), np.float32)


@pytest.fixture(scope="module")
def predictor(untrained: Path) -> Predictor:
    return Predictor.load(untrained, device="cpu")


@pytest.fixture(scope="module")
def film(samples: Path) -> Mammogram:
    whole = read_mammogram(samples / "P_00820_L_CC.dcm")
    return replace(whole, pixels=whole.pixels[::4, ::4])


def candidate(x: float, *probabilities: float) -> Candidate:
    return Candidate((x, 0.0, 10.0, 10.0), np.array(probabilities), 0.5, NOWHERE)


def reading(*candidates: Candidate) -> Reading:
    return Reading(candidates, np.zeros(active.FEATURES, np.float32))


def work(images: int, free: list[int], done: list[int], seed: int = 0) -> Work:
    random = np.random.default_rng(seed)
    figures = np.zeros(images, FIGURES)
    for name in FIGURES.names or ():
        figures[name] = random.random(images)
    features = random.normal(size=(images, 16)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return Work(figures, features, np.array(free, dtype=int), np.array(done, dtype=int))


# What the network gives -----------------------------------------------------------------------


def test_a_kept_reading_answers_as_the_network_would(
    predictor: Predictor, film: Mammogram, tmp_path: Path
) -> None:
    predictor.read(film).save(tmp_path / "r.npz")
    kept = Reading.load(tmp_path / "r.npz")
    scores = sorted(c.score for c in kept.candidates)
    assert len(scores) > 3
    image = image_info(film, "0" * 16)
    middle = scores[len(scores) // 2]
    for threshold, most in ((None, None), (0.0, None), (middle, None), (middle, 1)):
        fresh = predictor(film, threshold=threshold, max_findings=most, patient_key="0" * 16)
        again = predictor.findings(kept, image, threshold=threshold, max_findings=most)
        assert again == fresh
    assert np.linalg.norm(kept.features) == pytest.approx(1)


def test_a_damaged_reading_is_noticed(predictor: Predictor, film: Mammogram, tmp_path: Path
                                      ) -> None:
    file = tmp_path / "r.npz"
    predictor.read(film).save(file)
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for damaged in (b"", b"text", whole[:-200], bytes(flipped)):
        file.write_bytes(damaged)
        with pytest.raises(DamagedReading):
            Reading.load(file)
    with pytest.raises(FileNotFoundError):
        Reading.load(tmp_path / "none.npz")


def test_the_mirror_is_held_where_the_breast_is(film: Mammogram) -> None:
    """What is seen in a mirror is what the mirrored film shows; the breast lies at one side of it.

    By trained weights: an untrained network's boxes score alike, and in bfloat16 the canvas's last
    bits decide which of them are kept.
    """
    predictor = Predictor.load(STARTER_WEIGHTS, device="cpu")
    # So small that the breast is looked for on every pixel: else its box moves with the side.
    pixels = np.pad(film.pixels[::4, ::4], ((0, 0), (0, 90)))
    other = replace(film, pixels=np.ascontiguousarray(pixels[:, ::-1]))
    there, back = predictor.read(other), predictor.read_mirrored(replace(film, pixels=pixels))
    evident = [c for c in there.candidates if c.score > 0.1]
    assert len(evident) > 1
    for one in evident:
        x, y, width, height = one.box
        mirrored = (other.width - x - width, y, width, height)
        held = min(back.candidates, key=lambda c: np.abs(np.subtract(c.box, mirrored)).max())
        assert held.box == pytest.approx(mirrored, abs=1)
        assert held.mask[:, ::-1] == pytest.approx(one.mask, abs=0.02)
    assert active.disagreement(there, there) == 0


# Figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("malignant", [0.0, 0.25, 0.5])
def test_at_the_threshold_mass_and_no_mass_are_even(malignant: float) -> None:
    three = [0.5, 0.5 * (1 - malignant), 0.5 * malignant]
    expected = bits_of(three, base=2)
    assert active.entropy(0.3, malignant, threshold=0.3) == pytest.approx(expected)
    assert active.entropy(0.02, malignant, threshold=0.3) < expected
    # With an even threshold nothing is moved.
    plain = bits_of([0.2, 0.8 * (1 - malignant), 0.8 * malignant], base=2)
    assert active.entropy(0.8, malignant, threshold=0.5) == pytest.approx(plain)


def test_the_least_certain_candidate_speaks() -> None:
    sure, torn = candidate(0, 0.01, 0.98, 0.01), candidate(50, 0.5, 0.25, 0.25)
    row = figures_of(reading(sure, torn), threshold=0.5)
    assert row["uncertainty"] == pytest.approx(1.5)
    assert (row["mass"], row["malignant"]) == (0.5, 0.5)
    assert np.isnan(row["disagreement"])
    assert figures_of(reading(), threshold=0.5)["uncertainty"] == 0


def test_disagreement_is_the_worst_place() -> None:
    here, moved = candidate(0, 0.2, 0.7, 0.1), candidate(1, 0.3, 0.3, 0.4)
    gone = candidate(100, 0.5, 0.4, 0.1)
    assert active.disagreement(reading(here), reading(moved)) == pytest.approx(0.4)
    assert active.disagreement(reading(here, gone), reading(moved)) == pytest.approx(0.5)
    assert active.disagreement(reading(here), reading(moved, gone)) == pytest.approx(0.5)
    assert active.disagreement(reading(), reading()) == 0


# Choices --------------------------------------------------------------------------------------


def test_each_strategy_takes_the_best_free_image_and_says_the_figure() -> None:
    given = work(50, free=list(range(0, 40)), done=[41, 42])
    columns = {"uncertainty": "uncertainty", "disagreement": "disagreement",
               "suspicious": "malignancy"}
    for name, column in columns.items():
        choice = STRATEGIES[name](given)
        assert choice is not None
        assert choice.index == max(given.free, key=lambda i: given.figures[column][i])
        value = given.figures[column][choice.index]
        said = f"{value:.2f}" if name == "uncertainty" else f"{value:.0%}"
        assert said in choice.reason, (name, choice.reason)
        assert "40 images" in choice.reason


def test_diversity_is_the_greedy_core_set() -> None:
    """Image after image, against the definition computed one pair at a time."""
    free, done = list(range(3, 30)), [0, 1, 2]
    for _ in range(6):
        given = work(30, free, done)
        choice = STRATEGIES["diversity"](given)
        assert choice is not None
        gap = {i: min(1 - float(given.features[i] @ given.features[j]) for j in done) for i in free}
        expected = max(gap, key=lambda i: gap[i])
        assert choice.index == expected and f"{gap[expected]:.3f}" in choice.reason
        free.remove(expected)
        done.append(expected)


def test_distances_are_kept_between_choices() -> None:
    """Labelled, let go, read anew, added: after any of it they are what a fresh look gives."""
    random = np.random.default_rng(1)
    features = work(60, [], []).features
    core_set, rows = CoreSet(), 40
    for step in range(60):
        done = random.choice(rows, size=random.integers(0, 12), replace=False)
        free = np.setdiff1d(np.arange(rows), done)[step % 3 :]
        given = Work(np.zeros(rows, FIGURES), features[:rows], free, done, core_set)
        found = given.distance_to_done()
        if not len(done):
            assert found is None
            continue
        expected = (1 - features[free].astype(float) @ features[done].T).min(axis=1)
        assert found == pytest.approx(expected, abs=1e-6)
        changed = int(random.integers(rows))
        features[changed] = -features[changed]
        core_set.forget(changed)
        rows = min(rows + 1, len(features))


def test_before_any_label_diversity_begins_with_the_most_typical() -> None:
    given = work(20, list(range(20)), [])
    given.features[7] = given.features.mean(axis=0) * 5
    choice = STRATEGIES["diversity"](given)
    assert choice is not None and choice.index == 7


def test_the_mix_is_the_best_mean_rank() -> None:
    given = work(12, list(range(10)), [10, 11], seed=4)
    distances = given.distance_to_done()
    assert distances is not None
    columns = [given.figures["uncertainty"][:10], given.figures["disagreement"][:10], distances]
    means = [np.mean([(c > c[i]).sum() for c in columns]) for i in range(10)]
    choice = STRATEGIES["mixed"](given)
    assert choice is not None and choice.index == int(np.argmin(means))
    given.figures["disagreement"] = np.nan  # not known yet: the others decide
    means = [np.mean([(c > c[i]).sum() for c in (columns[0], columns[2])]) for i in range(10)]
    choice = STRATEGIES["mixed"](given)
    assert choice is not None and choice.index == int(np.argmin(means))
    assert "disagreement" not in choice.reason
    assert STRATEGIES["disagreement"](given) is None


def test_equal_values_share_their_ranks_as_scipy_s_do() -> None:
    values = np.random.default_rng(1).integers(0, 6, 40) / 7
    assert np.array_equal(active._ranks(values), rankdata(values))


def test_nothing_free_is_no_choice() -> None:
    for strategy in STRATEGIES.values():
        assert strategy(work(5, [], [0, 1])) is None


def test_the_same_patient_begins_with_the_other_view_of_the_breast() -> None:
    def image(name: str, key: str, side: str, view: str) -> ImageInfo:
        return ImageInfo(id=name, width=9, height=9, laterality=side, view=view, patient_key=key)

    just_read = image("a", "1" * 16, "L", "CC")
    others = [image("b", "2" * 16, "L", "MLO"), image("c", "1" * 16, "R", "CC"),
              image("d", "1" * 16, "L", "MLO"), just_read]
    choice = same_patient(others, just_read)
    assert choice is not None and others[choice.index].id == "d"
    assert "L MLO" in choice.reason and "same breast" in choice.reason
    choice = same_patient(others[:2], just_read)
    assert choice is not None and others[choice.index].id == "c"
    assert same_patient(others[:1], just_read) is None
    assert same_patient(others, replace(just_read, patient_key=None)) is None
