"""The command line, run as a user runs it."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from training_set import TINY, make_set

from ftmtl.cli import _asked_to_stop, main
from ftmtl.config import PRESETS
from ftmtl.datasets.coco import write_coco
from ftmtl.findings import Findings
from ftmtl.mammogram import image_id, read_header, read_mammogram
from ftmtl.network.model import build
from ftmtl.predict import Predictor
from ftmtl.predict_files import common_folder, deepest_around, files_below
from ftmtl.probabilities import Calibration
from ftmtl.progress_bar import ProgressBar
from ftmtl.training.loop import Progress
from ftmtl.weights_file import save_weights


def test_help_comes_without_loading_torch() -> None:
    code = ("import sys, ftmtl.cli\n"
            "try: ftmtl.cli.main(['--help'])\n"
            "except SystemExit: pass\n"
            "print('torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "predict" in done.stdout and done.stdout.strip().endswith("False")


def test_a_folder_is_read_past_a_bad_file(
    samples: Path, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = tmp_path / "studies" / "below"
    studies.mkdir(parents=True)
    for name in ("P_00820_L_CC.dcm", "P_00820_L_MLO.dcm", "P_00173_R_CC.dcm"):
        shutil.copy(samples / name, studies)
    (studies / "broken.dcm").write_bytes((samples / "P_00173_L_CC.dcm").read_bytes()[:5000])
    out = tmp_path / "out"
    assert main(["predict", str(tmp_path / "studies"), "--weights", str(untrained),
                 "--out", str(out), "--device", "cpu"]) == 0
    assert "broken.dcm" in capsys.readouterr().err
    assert "broken.dcm" in (out / "refused.txt").read_text()

    patients = json.loads((out / "patients.json").read_text())
    documents = [Findings.from_json(json.loads(file.read_text()))
                 for file in out.glob("*.json") if file.name != "patients.json"]
    assert len(documents) == 3 and len(patients) == 2
    for key, patient in patients.items():
        own = [d for d in documents if d.image.patient_key == key]
        assert patient["malignancy"] == max(d.verdict.malignancy for d in own)
        assert set(patient["images"]) == {d.image.id for d in own}
    assert "P_00820" not in (out / "patients.json").read_text()
    with (out / "files.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert {(Path(row["file"]).name, row["id"]) for row in table} == {
        (file.name, read_header(file).image_id)
        for file in studies.glob("*.dcm") if file.name != "broken.dcm"
    }
    for row in table:
        told = patients[row["patient_key"]]["images"][row["id"]]
        assert float(row["malignancy"]) == pytest.approx(told, abs=1e-4)
    for document in documents:
        picture = np.asarray(Image.open(out / f"{document.image.id}.png"))
        assert picture.shape[0] == 1400 + 2 * 64


def test_two_women_with_a_file_of_one_name_stay_two_and_a_copy_is_refused(
    samples: Path, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *_, last = sorted(samples.glob("*.dcm"))
    for woman, film in (("anna", first), ("berta", last)):
        (tmp_path / woman).mkdir()
        pixels = read_mammogram(film).for_display()[::4, ::4]
        Image.fromarray(pixels).save(tmp_path / woman / "L_CC.png")
        shutil.copy(first, tmp_path / woman / f"of {woman}.dcm")
    out = tmp_path / "out"
    given = [tmp_path / "anna", tmp_path / "berta", tmp_path / "anna" / "L_CC.png"]
    assert main(["predict", *map(str, given), "--weights", str(untrained), "--out", str(out),
                 "--device", "cpu"]) == 0
    uid = read_header(first).image_id
    patients = json.loads((out / "patients.json").read_text()).values()
    assert sorted(list(patient["images"]) for patient in patients) == [
        [uid], ["anna__L_CC.png"], ["berta__L_CC.png"]]
    assert {file.stem for file in out.glob("*.json")} == {
        uid, "anna__L_CC.png", "berta__L_CC.png", "patients"}
    (refused,) = (out / "refused.txt").read_text().splitlines()
    told = capsys.readouterr()
    assert refused in told.err and "3 read, 1 not" in told.out
    for words in (f"{given[1] / 'of berta.dcm'}: ", uid, str(given[0] / "of anna.dcm"), "Leave it"):
        assert words in refused


def test_findings_without_their_key_stop_a_run_and_other_json_does_not(
    samples: Path, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = str(samples / "P_00820_L_CC.dcm")
    again = ["predict", film, "--weights", str(untrained), "--out", str(tmp_path),
             "--device", "cpu"]
    (tmp_path / "coco.json").write_text("{}")
    assert main(again) == 0
    (tmp_path / "patients.json").unlink()  # as where the run was killed
    (tmp_path / "patient.key").unlink()
    assert main(again) == 2 and "patient.key: the patient key is gone" in capsys.readouterr().err


def test_the_root_of_what_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one/a.png", "one/two/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path / "one" / "two")

    def ids(*paths: str) -> list[str]:
        given = [Path(path) for path in paths]
        return [image_id(file, common_folder(given)) for file in files_below(given)]

    assert ids("..") == ids(str(tmp_path / "one")) == ids("../a.png", "b.png") == [
        "a.png", "two__b.png"]
    assert ids("../a.png") == ["a.png"]
    assert ids("../two", "../../one/a.png") == ["two__b.png", "a.png"]


def test_what_is_given_may_lie_on_several_drives_of_windows() -> None:
    def around(*folders: str) -> str | None:
        folder = deepest_around([PureWindowsPath(folder) for folder in folders])
        return None if folder is None else folder.as_posix()

    assert around("C:/films/anna", "c:/Films/berta/new") == "C:/films"
    assert around("C:/films", "C:/films") == "C:/films" and around("C:/a", "C:/b") == "C:/"
    assert around("C:/films", "D:/films") is None
    assert around("//clinic/films/anna", "//clinic/films/berta") == "//clinic/films/"
    assert around("//clinic/films/anna", "//clinic/old/anna") is around("//x/y", "C:/") is None


def test_predictions_of_a_data_set_are_coco_results_and_evaluate(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    random = np.random.default_rng(0)
    images, annotations = [], []
    for number in (1, 2, 3, 4):
        pixels = np.zeros((300, 200), np.uint8)
        pixels[20:280, :150] = random.integers(60, 120, (260, 150))
        pixels[100:140, 50:90] = 250
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 200, "height": 300,
                       "patient_id": f"P{number}"})
        annotations.append({"id": number, "image_id": number, "bbox": [50, 100, 40, 40],
                            "area": 1600, "iscrowd": 0, "category_id": 1 + number % 2})
    categories = [{"id": 1, "name": "benign"}, {"id": 2, "name": "malignant"}]
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(
        {"images": images, "annotations": annotations, "categories": categories}
    ))
    predictions = tmp_path / "predictions.json"
    assert main(["predict", "--coco", str(predictions), "--data", str(truth),
                 "--weights", str(untrained), "--device", "cpu"]) == 0
    results = json.loads(predictions.read_text())
    coco = COCO(str(truth)).loadRes(str(predictions))
    assert len(results) == len(coco.anns) > 4
    for result, annotation in zip(results, coco.anns.values(), strict=True):
        assert result["score"] == pytest.approx(1 - result["scores"][0])
        if "segmentation" in result:
            mask = coco.annToMask(annotation)
            assert mask.shape == (300, 200) and mask.any()
    assert main(["evaluate", "--truth", str(truth), "--predictions", str(predictions),
                 "--out", str(tmp_path / "report")]) == 0
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["images"] == metrics["masses"] == 4
    assert (tmp_path / "report" / "report.html").exists()

    # Calibration needs masses that were found: let the first prediction of each image be one.
    first = {result["image_id"]: result["bbox"] for result in reversed(results)}
    for annotation in annotations:
        annotation["bbox"] = first[annotation["image_id"]]
    truth.write_text(json.dumps(
        {"images": images, "annotations": annotations, "categories": categories}
    ))
    calibrated = tmp_path / "calibrated.safetensors"
    assert main(["calibrate", "--weights", str(untrained), "--data", str(truth),
                 "--out", str(calibrated), "--device", "cpu"]) == 0
    predictor = Predictor.load(calibrated, device="cpu")
    assert predictor.calibration != Calibration()
    assert predictor.default_threshold == predictor.metadata["operating_points"]["1"]

    # A film of another size than the data set says is not read: its masses would lie elsewhere.
    Image.fromarray(np.full((150, 100), 90, np.uint8)).save(tmp_path / "5.png")
    with_more = tmp_path / "more.json"
    more = {"width": 200, "height": 300}
    with_more.write_text(json.dumps({
        "images": [*images, {"id": 5, "file_name": "5.png", **more},
                   {"id": 6, "file_name": "6.png", **more}],
        "annotations": annotations, "categories": categories,
    }))
    capsys.readouterr()
    assert main(["predict", "--coco", str(tmp_path / "again.json"), "--data", str(with_more),
                 "--weights", str(untrained), "--device", "cpu"]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == results
    first_line, second_line = capsys.readouterr().err.strip().splitlines()[-2:]
    assert "5.png: it has 100×150 pixels, the data set says 200×300" in first_line
    assert "6.png: there is no such file" in second_line

    # Neither is it calibrated on, nor counted among the images that false positives are divided by.
    assert main(["calibrate", "--weights", str(untrained), "--data", str(with_more),
                 "--out", str(tmp_path / "more.safetensors"), "--device", "cpu"]) == 0
    assert Predictor.load(tmp_path / "more.safetensors", device="cpu").metadata == \
        predictor.metadata
    first_line, second_line = caplog.messages[-2:]
    assert first_line.startswith("left out: ") and "5.png: it has" in first_line
    assert second_line.startswith("left out: ") and "6.png: there is no such file" in second_line

    # Told what they would have said themselves, weights come out the same; the films, which they
    # cannot have read, are black.
    for number in (1, 2, 3, 4):
        Image.fromarray(np.zeros((300, 200), np.uint8)).save(tmp_path / f"{number}.png")
    told = tmp_path / "told.safetensors"
    assert main(["calibrate", "--weights", str(untrained), "--data", str(truth),
                 "--predictions", str(predictions), "--out", str(told)]) == 0
    again = Predictor.load(told, device="cpu")
    assert again.calibration == predictor.calibration
    assert again.default_threshold == predictor.default_threshold
    assert again.metadata["calibrated_on"].startswith(predictor.metadata["calibrated_on"] + ", ")


@pytest.mark.parametrize(("arguments", "words"), [
    (["predict", "x", "--out", "y", "--weights", "nowhere.safetensors"], "nowhere.safetensors"),
    (["predict", "x"], "--out"),
    (["predict", "x", "--coco", "y", "--data", "nowhere.json"], "leave out files"),
    (["predict", "--coco", "y", "--data", "nowhere.json", "--threshold", "0.5"], "--threshold"),
    (["train", "--data", "nowhere.json", "--out", "run", "--init", "w"], "nowhere.json"),
    (["train", "--data", "nowhere.json", "--out", "run"], "Give --imagenet or --init"),
    (["train", "--data", "nowhere.json", "--out", "run", "--resume"], "Leave out --resume"),
    (["train", "--data", "nowhere.json", "--out", "begun", "--init", "w"], "Go on with --resume"),
    (["train", "--data", "nowhere.json", "--out", "begun", "--resume"], "nowhere.json"),
    (["evaluate", "--truth", "nowhere.json", "--predictions", "p", "--out", "r"], "nowhere.json"),
    (["predict", "--coco", "gone/x", "--data", "nowhere.json"], "no such folder: 'gone'"),
    (["predict", "--coco", "/proc/x", "--data", "nowhere.json"], "'/proc"),  # not even root may
    (["calibrate", "--weights", "w", "--data", "nowhere.json", "--out", "gone/x"], "'gone'"),
    (["bench", "--json", "gone/x", "--weights", "w"], "'gone'"),
])
def test_a_mistake_is_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "checkpoint.pt").touch()
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert words in message and "Traceback" not in message and message.count("\n") == 1


@pytest.mark.parametrize(("command", "option", "value"), [
    ("train", "--epochs", "0"), ("train", "--seed", "-1"), ("crossval", "--epochs", "-1"),
    ("crossval", "--seed", str(2**32)), ("crossval", "--folds", "1"),
    ("predict", "--threshold", "5"), ("bench", "--repeats", "0"), ("bench", "--batch", "0"),
])
def test_a_number_that_means_nothing_is_refused(
    command: str, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([command, option, value])
    assert f"argument {option}: {value} is not from" in capsys.readouterr().err


def test_monai_comes_alone_and_leaves_its_company_to_be_found() -> None:
    code = ("import sys\n"
            "from ftmtl.lean import TAKEN_ALONG, load_monai\n"
            "load_monai()\n"
            "import ftmtl.predict, ftmtl.training.loop\n"
            "print(sorted({'mlflow', 'ignite', 'pandas', 'itk'} & set(sys.modules)))\n"
            "import pandas, sklearn.metrics, matplotlib.figure, skimage.filters, scipy.signal\n"
            "print(pandas.Series([2]).sum(), sklearn.metrics.roc_auc_score([0, 1], [0, 1]))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "2 1.0"]


def test_ctrl_c_is_a_question_the_first_time_and_an_end_the_second(
    capsys: pytest.CaptureFixture[str]
) -> None:
    # What `train` does with the question is tested with `should_stop`: a checkpoint is kept.
    before = signal.getsignal(signal.SIGINT)
    with _asked_to_stop() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)
        assert asked() and "Once more ends at once" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("step", "status", "words"), [
    (7, 130, "The run is not finished: go on with --resume."),
    (8, 0, "That was the last step: the run is finished."),
])
def test_ctrl_c_in_the_last_step_finds_the_training_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    step: int, status: int, words: str,
) -> None:
    monkeypatch.setitem(PRESETS, "paper", TINY)
    write_coco(make_set(tmp_path / "films"), tmp_path / "coco.json", images=tmp_path / "films")
    save_weights(tmp_path / "start", build(TINY.network), preset=TINY, metadata={})
    steps: list[Progress] = []

    def show(bar: ProgressBar, progress: Progress) -> None:
        steps.extend([progress] if progress.losses else [])
        if progress.losses and len(steps) == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ProgressBar, "training", show)
    assert main(["train", "--data", str(tmp_path / "coco.json"), "--images",
                 str(tmp_path / "films"), "--preset", "paper", "--out", str(tmp_path / "run"),
                 "--init", str(tmp_path / "start"), "--device", "cpu"]) == status
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("weights: ") and said[1:] == [words]
    assert len(steps) == step
