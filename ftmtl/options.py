"""The command line of `ftmtl`: what each command may be given. What they do is in `ftmtl.cli`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ftmtl.config import MODELS, PRESETS

LARGEST_SEED = 2**32 - 1  # that numpy and scikit-learn take

# Data sets as their owners publish them: `read_inbreast` in ftmtl/datasets/inbreast.py, and so on.
PUBLISHED = ("inbreast", "cbis-ddsm", "mini-mias", "vindr-mammo", "cmmd", "stretched-cbis")

MALIGNANT_MEANS = "as the data set says"


class Mistake(ValueError):
    """Options that do not go together, or files that are not as they ask; with the remedy."""


def parser() -> argparse.ArgumentParser:
    """Of the whole command line; the command's name is `command` of what it parses."""
    whole = argparse.ArgumentParser(
        prog="ftmtl", description="Detect, outline and classify breast masses (research use only)."
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _dataset(commands.add_parser("dataset", help="turn a published data set into COCO JSON"))
    _train(commands.add_parser("train", help="learn weights from a COCO data set"))
    _predict(commands.add_parser("predict", help="read mammograms: findings and pictures"))
    _evaluate(commands.add_parser("evaluate", help="figures with intervals, and a report"))
    _crossval(commands.add_parser(
        "crossval", help="the paper's experiment: models on the same folds, and a report"))
    _calibrate(commands.add_parser(
        "calibrate", help="put held-out operating points and calibration into weights"))
    _bench(commands.add_parser("bench", help="time each part of a reading on this machine"))
    return whole


def _dataset(dataset: argparse.ArgumentParser) -> None:
    dataset.add_argument("name", choices=[*PUBLISHED, "labels", "coco", "phantom",
                                          "contrast-shift"])
    dataset.add_argument("source", type=Path, nargs="?",
                         help="its folder, a server's studies, or a COCO file; phantoms need none")
    dataset.add_argument("--workspace", type=Path,
                         help="where a server keeps its labels [STUDIES-workspace]")
    dataset.add_argument("--images", type=Path, help="the image folder of a COCO file")
    dataset.add_argument("--out", type=Path, required=True,
                         help="the COCO JSON to write; of phantoms and contrast-shift the "
                              "folder")
    dataset.add_argument("--patients", type=_count(1), default=20, help="how many phantoms [20]")
    dataset.add_argument("--seed", type=_count(0), default=0, help="of the phantoms [0]")
    dataset.add_argument("--split", choices=["training", "test"],
                         help="only the films of its owner's split (cbis-ddsm, vindr-mammo)")
    dataset.add_argument("--hold-out", type=_count(2), metavar="PARTS",
                         help="keep one patient in so many apart: writes OUT without her and "
                              "OUT's name with .held-out.json")


def _train(train: argparse.ArgumentParser) -> None:
    _data(train)
    train.add_argument("--preset", default="recommended", choices=PRESETS)
    train.add_argument("--out", type=Path, required=True, help="the run's folder")
    start = train.add_mutually_exclusive_group()
    start.add_argument("--imagenet", type=Path, help="ResNet-50 safetensors to start from")
    start.add_argument("--init", type=Path, help="weights of ours to start from")
    train.add_argument("--resume", action="store_true", help="go on from the run's checkpoint")
    train.add_argument("--device", default="auto")
    train.add_argument("--epochs", type=_count(1), help="of each stage, in place of the preset's")
    train.add_argument("--seed", type=_count(0))
    train.add_argument("--max-minutes", type=float, help="stop, resumable, after so long")
    train.add_argument("--malignant-means", default=MALIGNANT_MEANS,
                       help="what 'malignant' is in the data, for the weights' card")


def _predict(predict: argparse.ArgumentParser) -> None:
    predict.add_argument("paths", type=Path, nargs="*", help="files or folders")
    predict.add_argument("--weights", type=Path, help="default: the starter weights")
    predict.add_argument("--out", type=Path, help="folder for findings and pictures")
    predict.add_argument("--threshold", type=_share,
                         help="least mass score; default: one false positive an image")
    predict.add_argument("--coco", type=Path, metavar="FILE",
                         help="write COCO predictions of --data instead, whatever they score")
    predict.add_argument("--one-view", action="store_true",
                         help="the network alone, film by film: masses do not hear what the other "
                              "view of their breast says")
    _data(predict, required=False)
    predict.add_argument("--device", default="auto")


def _evaluate(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument("--truth", type=Path, required=True, help="COCO JSON")
    evaluate.add_argument("--predictions", type=Path, required=True, help="COCO results")
    evaluate.add_argument("--against", type=Path, metavar="FILE",
                          help="COCO results of another model, to be compared in pairs")
    evaluate.add_argument("--out", type=Path, required=True, help="folder for the report")


def _crossval(crossval: argparse.ArgumentParser) -> None:
    _data(crossval)
    crossval.add_argument("--out", type=Path, required=True,
                          help="the experiment's folder; the same command again goes on in it")
    crossval.add_argument("--models", nargs="+", choices=MODELS, metavar="MODEL",
                          default=["ft-mtl-net", "mask-rcnn"],
                          help=f"any of {', '.join(MODELS)} [ft-mtl-net mask-rcnn]")
    crossval.add_argument("--folds", type=_count(2), default=5)
    crossval.add_argument("--split", choices=["patients", "masses", "masses-by-patient"],
                          default="patients",
                          help="masses: the paper's samples and folds, which leak; "
                               "masses-by-patient: its samples in folds that do not")
    crossval.add_argument("--preset", default="recommended", choices=PRESETS)
    crossval.add_argument("--imagenet", type=Path, required=True,
                          help="ResNet-50 safetensors to start from, or weights of ours, whose "
                               "backbone is taken: they must not have learned from these films")
    crossval.add_argument("--epochs", type=_count(1),
                          help="of each stage, in place of the preset's")
    crossval.add_argument("--seed", type=_count(0), default=0, help="of the folds and of training")
    crossval.add_argument("--devices", nargs="+", metavar="DEVICE",
                          help="one fold at a time on each, so name one twice for two folds on it "
                               "[every CUDA device, or cpu]")
    crossval.add_argument("--malignant-means", default=MALIGNANT_MEANS,
                          help="what 'malignant' is in the data, for the report")


def _calibrate(calibrate: argparse.ArgumentParser) -> None:
    calibrate.add_argument("--weights", type=Path, required=True)
    _data(calibrate)
    calibrate.add_argument("--predictions", type=Path, metavar="FILE",
                           help="what uncalibrated weights of the same recipe, crossval's for "
                                "one, said of the data set while it was held out, film by "
                                "film (--one-view); without it WEIGHTS predict it themselves")
    calibrate.add_argument("--out", type=Path, required=True, help="the weights to write")
    calibrate.add_argument("--device", default="auto")


def _bench(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("films", type=Path, nargs="*", help="default: the eight sample films")
    bench.add_argument("--weights", type=Path, help="default: the starter weights")
    bench.add_argument("--device", default="auto")
    bench.add_argument("--repeats", type=_count(1), default=9)
    bench.add_argument("--batch", type=_count(1), default=8,
                       help="canvases at once, for throughput")
    bench.add_argument("--training-steps", type=_count(0), default=3, help="0: none")
    bench.add_argument("--json", type=Path, help="write everything here too")


def _data(command: argparse.ArgumentParser, *, required: bool = True) -> None:
    command.add_argument("--data", type=Path, required=required, help="the data set, COCO JSON")
    command.add_argument("--images", type=Path, help="its image folder (default: beside the JSON)")


def _count(least: int) -> Callable[[str], int]:
    """A whole number from `least` to `LARGEST_SEED`."""

    def count(text: str) -> int:
        value = int(text)
        if not least <= value <= LARGEST_SEED:
            raise argparse.ArgumentTypeError(f"{value} is not from {least} to {LARGEST_SEED}")
        return value

    return count


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value:g} is not from 0 to 1")
    return value
