"""The gate: hand-worked verdicts, and what a training does with them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from training_set import HEIGHT, TINY, WIDTH, film

from ftmtl.config import RECOMMENDED
from ftmtl.datasets.coco import to_coco
from ftmtl.datasets.records import Annotation, ImageRecord
from ftmtl.evaluation.inputs import parse_truth
from ftmtl.findings import encode_rle
from ftmtl.network.model import FTMTLNet, build
from ftmtl.predict import Predictor
from ftmtl.predict_files import predict_records
from ftmtl.training.loop import Progress
from ftmtl.training.stages import learning_rate
from ftmtl.weights_file import load_weights, save_weights
from monailabel_app.lib.gate import Gate, verdict
from monailabel_app.lib.models import ModelRegistry, Overtaken, RefusedVersion
from monailabel_app.lib.progress import Report, read_report
from monailabel_app.lib.scoring import _figures
from monailabel_app.lib.train import _Run
from monailabel_app.lib.training_request import TrainingRequest

BOX = (20.0, 50.0, 24.0, 24.0)
ELSEWHERE = [70.0, 120.0, 20.0, 20.0]


def women(count: int, *, malignant: int = 0) -> list[ImageRecord]:
    """One image of one mass each, the first few malignant."""
    return [
        ImageRecord(
            image_id=n,
            path=Path(f"{n}.png"),
            width=WIDTH,
            height=HEIGHT,
            patient_id=f"W{n}",
            annotations=(Annotation(id=n, bbox=BOX, category=2 if n < malignant else 1),),
        )
        for n in range(count)
    ]


def found(image: int, *, malignancy: float = 0.1, box: Any = BOX) -> dict[str, Any]:
    scores = [0.1, 0.9 * (1 - malignancy), 0.9 * malignancy]
    return {
        "image_id": image,
        "category_id": 1,
        "bbox": list(box),
        "score": 0.9,
        "scores": scores,
    }


def judged(count: int, champion: set[int], candidate: set[int]) -> Any:
    truth = parse_truth(to_coco(women(count)))
    return verdict(truth, [found(n) for n in champion], [found(n) for n in candidate])


def test_verdicts_worked_by_hand() -> None:
    # Masses are found or not, nothing is found elsewhere: the figure is the share that is found,
    # and its difference the mean over women of -1, 0 and 1, whose standard error is known.
    everybody = set(range(12))
    for lost, gained, word in (
        ({0}, set(), "worse"),  # 1/12 lower; SE √(1/12·11/12/12) = 0.080
        ({0, 1}, {11}, "not worse"),  # 1/12 lower; SE 0.142
        (set(), set(), "not worse"),
        ({0}, {11, 10}, "better"),
    ):
        champion, candidate = everybody - gained, everybody - lost
        said = judged(12, champion, candidate)
        change = (len(gained) - len(lost)) / 12
        error = math.sqrt(((len(gained) + len(lost)) / 12 - change**2) / 12)
        assert said.word == word
        assert (said.champion, said.candidate) == (
            pytest.approx(len(champion) / 12),
            pytest.approx(len(candidate) / 12),
        )
        assert said.standard_error == pytest.approx(error, rel=0.1)
        assert (said.images, said.masses) == (12, 12)
        assert said.interval[0] <= change <= said.interval[1]


def test_false_positives_and_classes_count() -> None:
    truth = parse_truth(to_coco(women(12, malignant=6)))
    right = [found(n, malignancy=0.9 if n < 6 else 0.1) for n in range(12)]
    wrong = [found(n, malignancy=0.1 if n < 6 else 0.9) for n in range(12)]
    said = verdict(truth, right, wrong)
    assert (said.champion, said.candidate, said.word) == (1.0, 0.5, "worse"), "the AUC is 0"
    # Three malignant masses are missed: their malignancy is 0, below that of every benign one.
    said = verdict(truth, right, right[3:])
    assert said.candidate == pytest.approx((0.75 + 0.5) / 2)
    # Half a false positive an image, each surer than any mass: nothing at 0.3, all at 1 and 3.67.
    surer = {"score": 0.95, "scores": [0.05, 0.855, 0.095]}
    noisy = [{**found(n, box=ELSEWHERE), **surer} for n in range(6)]
    alone = parse_truth(to_coco(women(12)))
    said = verdict(alone, right, [*right, *noisy])
    assert said.candidate == pytest.approx(2 / 3) and said.word == "worse"


def test_few_masses_judge_nobody() -> None:
    said = judged(9, set(range(9)), set())
    assert (said.word, said.champion, said.candidate) == ("not judged", 1.0, 0.0)
    assert not said.passes
    assert judged(10, set(range(10)), set()).word == "worse", "ten are enough"


def test_outlines_that_fit_visibly_less_are_worse_however_much_is_found() -> None:
    """Twelve drawn squares of 24×24 pixels; the candidate draws fewer of their pixels."""

    def square(pixels: int) -> Any:
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        mask[50:74, 20:44] = np.arange(576).reshape(24, 24) < pixels
        return encode_rle(mask)

    drawn = [
        replace(r, annotations=(replace(
            r.annotations[0], segmentation=square(576), mask_source="annotated"),))
        for r in women(12)
    ]
    truth = parse_truth(to_coco(drawn))

    def outlined(pixels: list[int]) -> list[dict[str, Any]]:
        return [{**found(n), "segmentation": square(p)} for n, p in enumerate(pixels)]

    # What the champion misses the candidate finds: better, but for the outlines.
    champion = outlined([576] * 11)
    for pixels, dice, word in (
        ([576] * 12, 1.0, "better"),
        ([288] * 12, 2 / 3, "worse"),  # 2·288 / (288 + 576)
        ([550] * 12, 1100 / 1126, "worse"),  # 0.977
        ([558] * 12, 1116 / 1134, "better"),  # 0.984: 0.02 is not seen
        ([144] + [576] * 11, 10.4 / 11, "better"),  # nothing is lost but with that one woman
    ):
        said = verdict(truth, champion, outlined(pixels))
        assert said.word == word
        assert said.outlines is not None and said.outlines.masses == 11, "both found eleven"
        assert said.outlines.champion == 1.0
        assert said.outlines.candidate == pytest.approx(dice)
    few = parse_truth(to_coco([*drawn[:9], *women(12)[9:]]))
    said = verdict(few, champion, outlined([288] * 12))
    assert said.outlines is not None and said.outlines.masses == 9 and said.word == "better"
    assert judged(12, {1}, {1}).outlines is None, "nobody drew any"


def test_an_image_that_is_ignored_as_a_whole_is_none_that_false_positives_are_divided_by() -> None:
    """Twelve images and twelve such: the gate has 12, and so has the server's score."""
    films = women(12)
    whole = [
        replace(r, image_id=n, patient_id=f"C{n}", annotations=(
            replace(r.annotations[0], id=n, bbox=(0.0, 0.0, WIDTH, HEIGHT), role="ignore"),))
        for n, r in enumerate(films, start=12)
    ]
    assert Gate([*films, *whole], device="cpu").searched == 12
    said = {str(n): [found(n, box=ELSEWHERE)] for n in range(24)}
    assert _figures([*films, *whole], said, 0.5)["fpi_by_threshold"][0][1:] == [1.0, 12]
    assert _figures(whole, said, 0.5)["fpi_by_threshold"] == []


def test_the_servers_score_by_hand() -> None:
    """Of three benign masses one is outlined by half, one boxed and one missed.

    Both false positives score 0.9.
    """
    x, y, width, height = BOX
    drawn = np.zeros((HEIGHT, WIDTH), dtype=bool)
    drawn[int(y) : int(y + height), int(x) : int(x + width)] = True
    half = drawn.copy()
    half[: int(y + height / 2)] = False
    outlined = {"segmentation": dict(encode_rle(drawn)), "mask_source": "annotated"}
    films = [replace(r, annotations=(replace(r.annotations[0], **outlined),)) for r in women(3)]
    said = {"0": [{**found(0), "segmentation": dict(encode_rle(half))}],
            "1": [found(1), found(1, box=ELSEWHERE)],
            "2": [found(2, box=ELSEWHERE)]}
    figures = _figures(films, said, 0.5)
    assert figures["tpr"] == {"0.3": 0, "1": pytest.approx(2 / 3), "3.67": pytest.approx(2 / 3)}
    assert figures["dice"] == pytest.approx((2 / 3 + 0) / 2)
    assert figures["dice_all"] == pytest.approx(2 / 9)
    false = {t: n for t, n, _ in figures["fpi_by_threshold"]}
    assert (false[0.85], false[0.9], false[0.95]) == (pytest.approx(2 / 3), pytest.approx(2 / 3), 0)
    told = {k: figures["agreement"][k] for k in ("accepted", "reclassified", "rejected", "added")}
    assert told == {"accepted": 2, "reclassified": 0, "rejected": 2, "added": 1}


# What a training is asked for -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "images", "optimizer", "rates"),
    [
        ({}, 49, ["adamw"], [0.0003]),
        ({"learning_rate": "auto", "stages": ["auto"]}, 50, ["sgd"], [0.001]),
        ({"stages": ["proposals", "heads"]}, 10, ["sgd", "adamw"], [0.001, 0.0003]),
        ({"stages": "heads", "learning_rate": 0.002}, 100, ["adamw"], [0.002]),
    ],
)
def test_a_stage_learns_at_its_own_rate_unless_one_is_asked_for(
    settings: dict[str, Any], images: int, optimizer: list[str], rates: list[float]
) -> None:
    asked = TrainingRequest.of(settings, device="cpu")
    training = asked.preset(RECOMMENDED, images).training
    assert [stage.optimizer for stage in training.stages] == optimizer
    steps = training.stages[0].epochs * (training.steps_per_epoch or 0)
    for stage, rate in zip(training.stages, rates, strict=True):
        assert stage.epochs == 5
        highest = max(learning_rate(training, stage, step, steps) for step in range(steps))
        assert highest == pytest.approx(rate, rel=0.05)


# What a training does with it ------------------------------------------------------------------


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network small enough to be asked a hundred times."""
    torch.manual_seed(5)
    file = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    preset = replace(TINY, network=replace(TINY.network, init_std=1e-4))
    save_weights(file, build(preset.network), preset=preset, metadata={})
    return file


@pytest.fixture(scope="module")
def side(
    tmp_path_factory: pytest.TempPathFactory, untrained: Path
) -> tuple[list[ImageRecord], FTMTLNet, FTMTLNet]:
    """Thirty films, a network that finds the twelve masses among them, one that finds nothing."""
    folder = tmp_path_factory.mktemp("side")
    weights = load_weights(untrained)
    good, blind = weights.network(), weights.network()
    with torch.no_grad():
        blind.detection.deltas.bias[2:] -= 10  # specks in place of boxes
    films = []
    for n in range(30):
        Image.fromarray(film(n, [BOX])).save(folder / f"{n}.png")
        films.append(replace(women(30)[n], path=folder / f"{n}.png", annotations=()))
    predictor = Predictor(good, weights, version="good", device=torch.device("cpu"))
    results, failed = predict_records(predictor, films)
    assert not failed.refused
    # What the good one is surest of is the truth.
    for n in range(12):
        best = max((r for r in results if r["image_id"] == n), key=lambda r: r["score"])
        mass = Annotation(id=n, bbox=tuple(best["bbox"]), category=1)
        films[n] = replace(films[n], annotations=(mass,))
    return films, good, blind


class Bench:
    """A registry whose only version is `network`, and a training that began from it."""

    def __init__(
        self, folder: Path, untrained: Path, network: FTMTLNet, side: Any, **card: object
    ) -> None:
        self.card = load_weights(untrained)
        self.folder, self.films = folder, side
        self.registry = ModelRegistry(folder / "models")
        self.registry.begin_with(self.save(network, **card), origin="given")
        self.report = Report(folder / "progress.json")

    def save(self, network: FTMTLNet, **more: object) -> Path:
        file = self.folder / "some.safetensors"
        card = {"operating_points": {"1": 0.5}, **more}
        save_weights(file, network, preset=self.card.preset, metadata=card)
        return file

    def run(self, **settings: Any) -> _Run:
        asked = TrainingRequest.of({"device": "cpu", **settings}, device="cpu")
        parent = self.registry.current()
        assert parent is not None
        begun = load_weights(self.registry.path(parent))
        counts = {"images": 1, "masses": 1}
        return _Run(
            asked, self.registry, parent, begun, self.films, self.report, self.folder, counts
        )

    def in_service(self) -> str:
        current = self.registry.current()
        assert current is not None
        return current.version


def epoch(number: int, of: int) -> Progress:
    return Progress("heads", 1, 1, number, of, 1, 1, {}, 1.0)


def test_what_is_better_goes_into_service_before_the_end(
    tmp_path: Path, untrained: Path, side: Any
) -> None:
    films, good, blind = side
    bench = Bench(tmp_path, untrained, blind, films)
    run = bench.run()
    run.after_epoch(good, epoch(1, 9))
    assert bench.in_service() == "2", "a training that is stopped now would be for nothing"
    stats = read_report(tmp_path / "progress.json")
    assert (stats["version"], stats["published"]) == ("2", True)
    assert [(f["word"], f["epoch"]) for f in stats["figures"]] == [("better", 1)]
    assert (stats["figures"][0]["champion"], stats["figures"][0]["champion_version"]) == (0.0, "1")
    run.after_epoch(good, epoch(2, 9))
    assert len(run.figures) == 1, "judging takes longer than the epoch did: not each time"
    run.after_epoch(good, epoch(9, 9))
    assert [f["word"] for f in run.figures] == ["better", "not worse"], "at each stage's end"
    assert bench.in_service() == "2"
    stats = run.end(bench.save(blind), finished=True)
    assert (stats["verdict"]["word"], stats["published"], stats["version"]) == ("worse", True, "2")
    assert bench.in_service() == "2"
    # Its thresholds were measured on the same images; here by counting.
    card = load_weights(bench.registry.path(bench.registry.get("2"))).metadata
    predictor = Predictor.load(bench.registry.path(bench.registry.get("2")), device="cpu")
    results, _ = predict_records(predictor, films)
    false = [r["score"] for r in results if r["image_id"] >= 12]
    for rate, threshold in card["operating_points"].items():
        assert sum(score >= threshold for score in false) <= float(rate) * 30
    assert card["operating_points"]["0.3"] > card["operating_points"]["1"] > 0
    assert card["operating_points_from"].startswith("this server's validation side: 30 images")


def test_the_gate_asks_nobody_twice_and_forgets_who_is_not_asked_again(
    tmp_path: Path, untrained: Path, side: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The candidate of the first epoch is the champion, and the anchor, of the second."""
    films, good, blind = side
    bench = Bench(tmp_path, untrained, blind, films)
    run, asked = bench.run(), []

    def counted(predictor: Predictor, records: Any) -> Any:
        asked.append(predictor.model.sha256)
        return predict_records(predictor, records)

    monkeypatch.setattr("monailabel_app.lib.gate.predict_records", counted)
    run.after_epoch(good, epoch(9, 9))
    first, second = (bench.registry.get(version) for version in "12")
    assert bench.in_service() == "2" and len(asked) == 2 and asked[0] == first.sha256
    run.after_epoch(good, epoch(9, 9))
    assert [f["champion_version"] for f in run.figures] == ["1", "2"]
    assert len(asked) == 2, "only the card of the one that went into service is another"
    assert set(run.gate._said) == {second.sha256, asked[1]}, "the first is not asked again"
    fresh, _ = predict_records(
        Predictor.load(bench.registry.path(second), device="cpu"), films
    )
    assert run.gate._said[second.sha256] == fresh


@pytest.mark.parametrize("publish", ["gate", "always"])
def test_what_is_worse_never_does(
    tmp_path: Path, untrained: Path, side: Any, publish: str
) -> None:
    films, good, blind = side
    bench = Bench(tmp_path, untrained, good, films)
    run = bench.run(publish=publish)
    run.after_epoch(blind, epoch(9, 9))
    stats = run.end(bench.save(blind), finished=True)
    assert (stats["verdict"]["word"], stats["published"]) == ("worse", False)
    assert bench.in_service() == "1"
    told = r"refused version 2: its figure is 0\.0, that of version 1 was 0\.[1-9]"
    with pytest.raises(RefusedVersion, match=told):
        bench.registry.bring_back("2")
    assert bench.in_service() == "1"


def test_quality_does_not_go_down_a_little_with_each_training(
    tmp_path: Path, untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each finds two masses fewer than the one before it, and another instead."""
    def said(gate: Gate, weights: Path) -> list[dict[str, Any]]:
        return [found(n) for n in load_weights(weights).metadata["finds"]]

    monkeypatch.setattr(Gate, "_predict", said)
    network = load_weights(untrained).network()
    bench = Bench(tmp_path, untrained, network, women(12), finds=list(range(10)))

    def anchor() -> str:
        version = bench.registry.anchor()
        assert version is not None
        return version.version

    def end(*finds: int) -> tuple[str, str | None, str]:
        stats = bench.run().end(bench.save(network, finds=finds), finished=True)
        return stats["verdict"]["word"], stats["verdict"]["against"], bench.in_service()

    assert end(*range(2, 11)) == ("not worse", None, "2")  # 9 of 12 after 10; SE 0.142
    fewer = (0, *range(3, 10))
    assert end(*fewer) == ("worse", "1", "2"), "8 after 9, but the first found 10; SE 0.108"
    with pytest.raises(RefusedVersion, match=r"figure is 0\.66.*of version 1 was 0\.83"):
        bench.registry.bring_back("3")
    # More than what is in service, but not than the first: in service at the end, and no anchor.
    run = bench.run()
    run.metadata["finds"] = list(range(1, 11))
    run.after_epoch(network, epoch(1, 1))
    assert bench.in_service() == "2"
    assert end(*range(1, 11)) == ("not worse", "1", "4") and anchor() == "1"
    bench.registry.bring_back("2")
    assert anchor() == "2"
    assert end(*fewer) == ("not worse", None, "5"), "a person's choice is the anchor"
    assert end(*range(11)) == ("better", None, "6") and anchor() == "6"


def test_too_few_masses_wait_for_a_person(tmp_path: Path, untrained: Path, side: Any) -> None:
    films, good, blind = side
    bench = Bench(tmp_path, untrained, good, films[:9])
    run = bench.run()
    run.after_epoch(blind, epoch(9, 9))
    stats = run.end(bench.save(blind), finished=True)
    assert (stats["verdict"]["word"], stats["published"], stats["version"]) == (
        "not judged",
        False,
        "2",
    )
    card = load_weights(bench.registry.path(bench.registry.get("2"))).metadata
    assert card["operating_points"] == {"1": 0.5}, "those of the version that it began from"
    assert card["operating_points_from"] == (
        "version 1; the validation side is too small: 9 images with 9 masses"
    )
    assert bench.registry.bring_back("2").version == bench.in_service() == "2"
    assert bench.run(publish="always").end(bench.save(good), finished=True)["published"]
    assert bench.in_service() == "3"


def test_thresholds_are_measured_on_thirty_images_and_no_fewer(
    tmp_path: Path, untrained: Path, side: Any
) -> None:
    films, good, _ = side
    gate = Gate(films[:29], device="cpu")
    assert gate.can_judge
    weights = Bench(tmp_path, untrained, good, films).save(good)
    gate.write_operating_points(weights, parent="7")
    card = load_weights(weights).metadata
    assert card["operating_points"] == {"1": 0.5}
    assert card["operating_points_from"] == (
        "version 7; the validation side is too small: 29 images with 12 masses"
    )


def test_a_version_that_a_person_chose_meanwhile_stays(
    tmp_path: Path, untrained: Path, side: Any
) -> None:
    registry = Bench(tmp_path, untrained, side[2], side[0]).registry
    for _ in range(2):
        registry.add(registry.path(registry.get("1")), origin="training", verdict="better")
    registry.bring_back("3")
    with pytest.raises(Overtaken, match="compared with 1, but now 3"):
        registry.publish("2", reason="better", over="1")
    current = registry.current()
    assert current is not None and current.version == "3"
