"""`ftmtl` on the command line: dataset, train, predict, evaluate, crossval.

Heavy imports happen inside the commands, so that `ftmtl --help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftmtl.config import MODELS
from ftmtl.lean import load_monai

if TYPE_CHECKING:
    from ftmtl.config import Preset
    from ftmtl.crossval.run import Standing
    from ftmtl.datasets.published import Skipped
    from ftmtl.datasets.records import ImageRecord
    from ftmtl.training.loop import Progress

Command = Callable[[argparse.Namespace], int]

LARGEST_SEED = 2**32 - 1

# Data sets as their owners publish them: `read_MODULE` in ftmtl/datasets/MODULE.py.
_READERS = {
    "inbreast": "inbreast", "cbis-ddsm": "cbis_ddsm", "mini-mias": "mini_mias",
    "vindr-mammo": "vindr_mammo", "cmmd": "cmmd", "stretched-cbis": "stretched_cbis",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; a mistake of the user's is one sentence and exit status 2."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # torch's idle threads spin by default. Beside any other program on the same cores that made
    # a reading five times slower. It is read when torch is loaded, which is later than this.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command: Command = options.command
    try:
        if command in (_train, _predict, _crossval, _calibrate, _bench):
            load_monai()
        return command(options)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        # Every error that a user can cause has a class of its own with a sentence for her; it
        # derives from one of these. Anything else is a fault of ours and keeps its traceback.
        if type(error).__module__.startswith("ftmtl.") or isinstance(error, OSError):
            print(f"ftmtl: {error}", file=sys.stderr)
            return 2
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ftmtl", description="Detect, outline and classify breast masses (research use only)."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    dataset = commands.add_parser("dataset", help="turn a published data set into COCO JSON")
    dataset.add_argument("name", choices=[*_READERS, "labels", "coco", "phantom", "contrast-shift"])
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
    dataset.add_argument("--hold-out", type=_count(2), metavar="PARTS",
                         help="keep one patient in so many apart: writes OUT without her and "
                              "OUT's name with .held-out.json")
    dataset.set_defaults(command=_dataset)

    train = commands.add_parser("train", help="learn weights from a COCO data set")
    _data_options(train)
    train.add_argument("--preset", default="recommended", choices=["paper", "recommended"])
    train.add_argument("--out", type=Path, required=True, help="the run's folder")
    start = train.add_mutually_exclusive_group()
    start.add_argument("--imagenet", type=Path, help="ResNet-50 safetensors to start from")
    start.add_argument("--init", type=Path, help="weights of ours to start from")
    train.add_argument("--resume", action="store_true", help="go on from the run's checkpoint")
    train.add_argument("--device", default="auto")
    train.add_argument("--epochs", type=_count(1), help="of each stage, in place of the preset's")
    train.add_argument("--seed", type=_count(0))
    train.add_argument("--max-minutes", type=float, help="stop, resumable, after so long")
    train.add_argument("--malignant-means", default="as the data set says",
                       help="what 'malignant' is in the data, for the weights' card")
    train.set_defaults(command=_train)

    predict = commands.add_parser("predict", help="read mammograms: findings and pictures")
    predict.add_argument("paths", type=Path, nargs="*", help="files or folders")
    predict.add_argument("--weights", type=Path, help="default: the starter weights")
    predict.add_argument("--out", type=Path, help="folder for findings and pictures")
    predict.add_argument("--coco", type=Path, metavar="FILE",
                         help="write COCO predictions of --data instead")
    _data_options(predict, required=False)
    predict.add_argument("--threshold", type=_share,
                         help="least mass score; default: one false positive an image")
    predict.add_argument("--device", default="auto")
    predict.set_defaults(command=_predict)

    evaluate = commands.add_parser("evaluate", help="figures with intervals, and a report")
    evaluate.add_argument("--truth", type=Path, required=True, help="COCO JSON")
    evaluate.add_argument("--predictions", type=Path, required=True, help="COCO results")
    evaluate.add_argument("--against", type=Path, metavar="FILE",
                          help="COCO results of another model, to be compared in pairs")
    evaluate.add_argument("--out", type=Path, required=True, help="folder for the report")
    evaluate.set_defaults(command=_evaluate)

    crossval = commands.add_parser(
        "crossval", help="the paper's experiment: models on the same folds, and a report")
    _data_options(crossval)
    crossval.add_argument("--out", type=Path, required=True,
                          help="the experiment's folder; the same command again goes on in it")
    crossval.add_argument("--models", nargs="+", choices=MODELS, metavar="MODEL",
                          default=["ft-mtl-net", "mask-rcnn"],
                          help=f"any of {', '.join(MODELS)} [ft-mtl-net mask-rcnn]")
    crossval.add_argument("--folds", type=_count(2), default=5)
    crossval.add_argument("--split", choices=["patients", "masses"], default="patients",
                          help="masses: the paper's folds, which leak")
    crossval.add_argument("--preset", default="recommended", choices=["paper", "recommended"])
    crossval.add_argument("--imagenet", type=Path, required=True,
                          help="ResNet-50 safetensors to start from, or weights of ours, whose "
                               "backbone is taken: they must not have learned from these films")
    crossval.add_argument("--epochs", type=_count(1),
                          help="of each stage, in place of the preset's")
    crossval.add_argument("--seed", type=_count(0), default=0, help="of the folds and of training")
    crossval.add_argument("--devices", nargs="+", metavar="DEVICE",
                          help="one fold at a time on each, so name one twice for two folds on it "
                               "[every CUDA device, or cpu]")
    crossval.add_argument("--malignant-means", default="as the data set says",
                          help="what 'malignant' is in the data, for the report")
    crossval.set_defaults(command=_crossval)

    calibrate = commands.add_parser(
        "calibrate", help="put held-out operating points and calibration into weights")
    calibrate.add_argument("--weights", type=Path, required=True)
    _data_options(calibrate)
    calibrate.add_argument("--predictions", type=Path, metavar="FILE",
                           help="what uncalibrated weights of the same recipe, crossval's for "
                                "one, said of the data set while it was held out; without it "
                                "WEIGHTS predict it themselves")
    calibrate.add_argument("--out", type=Path, required=True, help="the weights to write")
    calibrate.add_argument("--device", default="auto")
    calibrate.set_defaults(command=_calibrate)

    bench = commands.add_parser("bench", help="time each part of a reading on this machine")
    bench.add_argument("films", type=Path, nargs="*", help="default: the eight sample films")
    bench.add_argument("--weights", type=Path, help="default: the starter weights")
    bench.add_argument("--device", default="auto")
    bench.add_argument("--repeats", type=int, default=9)
    bench.add_argument("--batch", type=int, default=8, help="canvases at once, for throughput")
    bench.add_argument("--training-steps", type=int, default=3, help="0: none")
    bench.add_argument("--json", type=Path, help="write everything here too")
    bench.set_defaults(command=_bench)
    return parser


def _count(least: int) -> Callable[[str], int]:
    """A whole number from `least` to the largest seed that numpy and scikit-learn take."""

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


def _data_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument("--data", type=Path, required=required, help="the data set, COCO JSON")
    parser.add_argument("--images", type=Path, help="its image folder (default: beside the JSON)")


def _records(options: argparse.Namespace) -> list[ImageRecord]:
    from ftmtl.datasets.coco import read_coco

    return read_coco(options.data, options.images or options.data.parent)


def _dataset(options: argparse.Namespace) -> int:
    from ftmtl.datasets.coco import read_coco, write_coco
    from ftmtl.datasets.contrast_shift import write_shifted
    from ftmtl.datasets.labels import read_labels
    from ftmtl.datasets.phantom import make_phantoms
    from ftmtl.datasets.split import hold_out

    folder, out = options.source, options.out
    left_out: list[str] = []
    if options.name == "phantom":
        with _ProgressBar() as bar:
            records = make_phantoms(out, patients=options.patients, seed=options.seed,
                                    on_file=bar.files)
        folder, out = out, out / "coco.json"
    elif folder is None:
        print(f"ftmtl: give the folder or file of {options.name}", file=sys.stderr)
        return 2
    elif options.name in _READERS:
        records, left_out = _read_published(options.name, folder)
        folder = folder.parent if folder.is_file() else folder
    elif options.name == "labels":
        workspace = options.workspace or folder.with_name(f"{folder.name}-workspace")
        if not (workspace / "labels").is_dir():
            print(f"ftmtl: {workspace} holds no labels. Give the server's --workspace",
                  file=sys.stderr)
            return 2
        records, left_out = read_labels(workspace, folder)
    else:
        folder = options.images or options.source.parent
        records = read_coco(options.source, folder)
    if options.name == "contrast-shift":
        with _ProgressBar() as bar:
            records = write_shifted(records, out, on_file=bar.files)
        folder, out = out, out / "coco.json"
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    parts = {out: records}
    if options.hold_out:
        kept, held = hold_out(records, parts=options.hold_out)
        parts = {out: kept, out.with_suffix(".held-out.json"): held}
    out.parent.mkdir(parents=True, exist_ok=True)
    for file, part in parts.items():
        write_coco(part, file, images=folder)
        patients = len({r.patient_id for r in part})
        masses = sum(len(r.masses) for r in part)
        print(f"{file}: {len(part)} images, {patients} patients, {masses} masses")
    return 0


def _read_published(name: str, source: Path) -> tuple[list[ImageRecord], list[str]]:
    """The records of a data set as its owner publishes it, and what of it was left out."""
    module = import_module(f"ftmtl.datasets.{_READERS[name]}")
    read: Callable[[Path], tuple[list[ImageRecord], Skipped]]
    read = getattr(module, f"read_{_READERS[name]}")
    records, skipped = read(source)
    return records, skipped.lines()


def _train(options: argparse.Namespace) -> int:
    from ftmtl.config import PRESETS
    from ftmtl.training.loop import train

    if mistake := _mistaken_start(options):
        print(f"ftmtl: {mistake}", file=sys.stderr)
        return 2
    preset = _changed(PRESETS[options.preset], options)
    with _ProgressBar() as bar, _asked_to_stop() as asked:
        outcome = train(
            _records(options), preset=preset, out=options.out, imagenet=options.imagenet,
            init=options.init, resume=options.resume, device=options.device,
            max_minutes=options.max_minutes, on_progress=bar.training, should_stop=asked,
            metadata={"malignant_means": options.malignant_means},
        )
    if os.environ.get("RANK", "0") != "0":  # of several that torchrun started one speaks
        return 0
    for line in outcome.left_out:
        print(f"left out: {line}", file=sys.stderr)
    print(f"weights: {outcome.weights}")
    if outcome.finished:
        if asked():
            print("That was the last step: the run is finished.")
        return 0
    print("The run is not finished: go on with --resume.")
    return 130 if asked() else 0


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, or the system said to end: so that a checkpoint is kept.

    A second time ends at once, without one.
    """
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print("\nStopping after this step. Once more ends at once.", file=sys.stderr)

    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, ask) for kind in kinds]
    try:
        yield lambda: asked
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def _mistaken_start(options: argparse.Namespace) -> str | None:
    """Why a training would start from something else than was meant, and the remedy."""
    from ftmtl.training.checkpoints import FILE

    checkpoint = options.out / FILE
    if options.resume and not checkpoint.exists():
        return f"{checkpoint}: there is no such file to go on from. Leave out --resume to begin"
    if not options.resume and checkpoint.exists():
        return f"{checkpoint}: a run is here already. Go on with --resume, or give another --out"
    if not options.resume and options.imagenet is None and options.init is None:
        return "weights to start from are missing: frozen layers would stay as chance made them. " \
            "Give --imagenet or --init"
    return None


def _changed(preset: Preset, options: argparse.Namespace) -> Preset:
    training = preset.training
    if options.epochs is not None:
        stages = tuple(dataclasses.replace(s, epochs=options.epochs) for s in training.stages)
        training = dataclasses.replace(training, stages=stages)
    if options.seed is not None:
        training = dataclasses.replace(training, seed=options.seed)
    return dataclasses.replace(preset, training=training)


def _predict(options: argparse.Namespace) -> int:
    from ftmtl.atomic import check_folder
    from ftmtl.predict import Predictor
    from ftmtl.predict_files import predict_files, predict_records, write_predictions
    from ftmtl.weights_file import STARTER_WEIGHTS

    if options.coco and not options.data:
        print("ftmtl: --coco needs --data, the data set to predict", file=sys.stderr)
        return 2
    if not options.coco and not (options.paths and options.out):
        print("ftmtl: give files or folders and --out, or --coco with --data", file=sys.stderr)
        return 2
    if options.coco:
        check_folder(options.coco)
    predictor = Predictor.load(options.weights or STARTER_WEIGHTS, device=options.device)
    with _ProgressBar() as bar:
        if options.coco:
            if not options.weights:
                print("These are the starter weights. They learned from all of CBIS-DDSM's "
                      "training films: predictions of those are no test.", file=sys.stderr)
            results, report = predict_records(predictor, _records(options), on_file=bar.files)
            write_predictions(options.coco, results)
        else:
            report = predict_files(predictor, options.paths, options.out,
                                   threshold=options.threshold, on_file=bar.files)
    for line in report.refused:
        print(f"not read: {line}", file=sys.stderr)
    print(f"{report.read} read, {len(report.refused)} not: {options.coco or options.out}")
    return 1 if report.refused and not report.read else 0


def _evaluate(options: argparse.Namespace) -> int:
    from ftmtl.evaluation.report import write_report

    metrics = write_report(options.out, options.truth, options.predictions,
                           against=options.against)
    headline: dict[str, Any] = {
        "TPR at FPI, IoU > 0.2": metrics["detection"]["iou>0.2"]["tpr_at_fpi"],
        "classification": {k: v for k, v in metrics["classification"].items() if k[:3] == "auc"},
        "segmentation": {k: v for k, v in metrics["segmentation"].items() if k[:4] == "dice"},
    }
    if options.against:
        headline["difference to the other"] = {
            key: {k: row[k] for k in ("difference", "ci95", "p_bootstrap")}
            for key, row in metrics["comparison"]["figures"].items()
        }
    print(json.dumps(headline, indent=1))
    print(f"with intervals: {options.out / 'report.html'}")
    return 0


def _crossval(options: argparse.Namespace) -> int:
    from ftmtl.config import PRESETS
    from ftmtl.crossval.outcome import assess
    from ftmtl.crossval.report import write_experiment_report
    from ftmtl.crossval.run import available_devices, owned, prepare, run
    from ftmtl.device import pick_device

    devices = options.devices or available_devices()
    for device in devices:
        pick_device(device)
    records, models = _records(options), list(dict.fromkeys(options.models))
    with owned(options.out), _ProgressBar() as bar:
        experiment = prepare(
            records, out=options.out, preset=_changed(PRESETS[options.preset], options),
            models=models, folds=options.folds, split=options.split, seed=options.seed,
            imagenet=options.imagenet, malignant_means=options.malignant_means,
            on_progress=bar.experiment,
        )
        run(experiment, devices=devices, on_progress=bar.experiment)
        result = write_experiment_report(assess(experiment))
    for line in experiment.left_out:
        print(f"left out: {line}", file=sys.stderr)
    keys = ("tpr@3.67", "auc_mass_detected", "dice_detected")
    print(json.dumps({model: {key: {k: part["folds"][key][k] for k in ("mean", "sd")}
                              for key in keys} for model, part in result["models"].items()},
                     indent=1))
    print(f"report: {options.out / 'report.html'}")
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    from ftmtl.atomic import check_folder
    from ftmtl.calibration import calibrate

    check_folder(options.out)
    with _ProgressBar() as bar:
        card = calibrate(options.weights, _records(options), options.out, device=options.device,
                         predictions=options.predictions, on_file=bar.files)
    print(json.dumps(card, indent=1))
    return 0


def _bench(options: argparse.Namespace) -> int:
    import tempfile

    from ftmtl.atomic import check_folder, write_json
    from ftmtl.bench import bench
    from ftmtl.predict import Predictor
    from ftmtl.samples import prepare_samples
    from ftmtl.weights_file import STARTER_WEIGHTS

    if options.json:
        check_folder(options.json)
    predictor = Predictor.load(options.weights or STARTER_WEIGHTS, device=options.device)
    with tempfile.TemporaryDirectory() as folder:
        films = options.films
        if not films:
            prepare_samples(Path(folder))
            films = sorted(Path(folder).glob("*.dcm"))
        with _ProgressBar() as bar:
            measured = bench(predictor, films, repeats=options.repeats, batch=options.batch,
                             training_steps=options.training_steps, on_part=bar.part)
    print(measured.table())
    if options.json:
        write_json(options.json, measured.to_json())
    return 0


class _ProgressBar:
    """One bar for whatever the command is at."""

    def __enter__(self) -> _ProgressBar:
        from tqdm import tqdm

        # In a log file a line every half minute is enough.
        interval = 0.2 if sys.stderr.isatty() else 30
        self.bar = tqdm(unit="step", dynamic_ncols=True, mininterval=interval, leave=False)
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def training(self, progress: Progress) -> None:
        """Stage, epoch, losses; tqdm adds the time left of the epoch, we that of the run."""
        losses = " ".join(f"{name} {value:.3f}" for name, value in progress.losses.items())
        left = "" if progress.seconds_left is None \
            else f", {progress.seconds_left / 60:.0f} min left"
        if progress.stage_number:
            where = f"{progress.stage} ({progress.stage_number}/{progress.stages})" \
                f" epoch {progress.epoch}/{progress.epochs}{left}"
        else:
            where = progress.stage
        self._show(progress.step, progress.steps, where, losses)

    def files(self, done: int, total: int, path: Path) -> None:
        """Which file of how many is being read."""
        self._show(done, total, "reading", path.name)

    def experiment(self, standing: Standing) -> None:
        """The share of all folds' work; tqdm adds the time left of all."""
        where = f"{standing.done} of {standing.jobs} folds done" if standing.jobs else "crossval"
        self._show(round(1000 * standing.share), 1000, where, standing.words)

    def part(self, name: str) -> None:
        """What is being timed; how many parts there are is not known."""
        self.bar.set_description(f"timing {name}")

    def _show(self, done: int, total: int, where: str, detail: str) -> None:
        if done < self.bar.n or self.bar.total != total:
            self.bar.reset(total=total)
        self.bar.set_description(where, refresh=False)
        self.bar.set_postfix_str(detail, refresh=False)
        self.bar.update(done - self.bar.n)


if __name__ == "__main__":
    sys.exit(main())
