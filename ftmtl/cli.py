"""`ftmtl` on the command line: what each command does. What it may be given is in `ftmtl.options`.

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

from ftmtl.config import PRESETS, Preset
from ftmtl.lean import load_monai
from ftmtl.options import PUBLISHED, Mistake, parser
from ftmtl.progress_bar import ProgressBar

if TYPE_CHECKING:
    from ftmtl.datasets.published import Skipped
    from ftmtl.datasets.records import ImageRecord


def main(arguments: list[str] | None = None) -> int:
    """Run a command; a mistake of the user's is one sentence and exit status 2."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # torch's idle threads spin by default. Beside any other program on the same cores that made
    # a reading five times slower. It is read when torch is loaded, which is later than this.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        if options.command not in ("dataset", "evaluate"):
            load_monai()
        return COMMANDS[options.command](options)
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
        with ProgressBar() as bar:
            records = make_phantoms(out, patients=options.patients, seed=options.seed,
                                    on_file=bar.files)
        folder, out = out, out / "coco.json"
    elif folder is None:
        raise Mistake(f"give the folder or file of {options.name}")
    elif options.name in PUBLISHED:
        records, left_out = _read_published(options.name, folder)
        folder = folder.parent if folder.is_file() else folder
    elif options.name == "labels":
        studies = folder.absolute()
        workspace = options.workspace or studies.with_name(f"{studies.name}-workspace")
        if not (workspace / "labels").is_dir():
            raise Mistake(f"{workspace} holds no labels. Give the server's --workspace")
        records, left_out = read_labels(workspace, folder)
    else:
        folder = options.images or options.source.parent
        records = read_coco(options.source, folder)
    if options.name == "contrast-shift":
        with ProgressBar() as bar:
            records = write_shifted(records, out, on_file=bar.files)
        folder, out = out, out / "coco.json"
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    if options.split:
        records = [record for record in records if record.split == options.split]
        if not records:
            raise Mistake(f"{options.name}: no film is said to be of the {options.split} split")
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
    own = name.replace("-", "_")
    read: Callable[[Path], tuple[list[ImageRecord], Skipped]]
    read = getattr(import_module(f"ftmtl.datasets.{own}"), f"read_{own}")
    records, skipped = read(source)
    return records, skipped.lines()


def _train(options: argparse.Namespace) -> int:
    from ftmtl.training.loop import train

    _check_start(options)
    preset = _changed(PRESETS[options.preset], options)
    with ProgressBar() as bar, _asked_to_stop() as asked:
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


def _check_start(options: argparse.Namespace) -> None:
    """Raise Mistake where a training would start from something else than was meant."""
    from ftmtl.training.checkpoints import FILE

    checkpoint = options.out / FILE
    if options.resume and not checkpoint.exists():
        raise Mistake(
            f"{checkpoint}: there is no such file to go on from. Leave out --resume to begin")
    if not options.resume and checkpoint.exists():
        raise Mistake(
            f"{checkpoint}: a run is here already. Go on with --resume, or give another --out")
    if not options.resume and options.imagenet is None and options.init is None:
        raise Mistake(
            "weights to start from are missing: frozen layers would stay as chance made them. "
            "Give --imagenet or --init")


def _changed(preset: Preset, options: argparse.Namespace) -> Preset:
    training = preset.training
    if options.epochs is not None:
        stages = tuple(dataclasses.replace(s, epochs=options.epochs) for s in training.stages)
        training = dataclasses.replace(training, stages=stages)
    if options.seed is not None:
        training = dataclasses.replace(training, seed=options.seed)
    return dataclasses.replace(preset, training=training)


def _predict(options: argparse.Namespace) -> int:
    from ftmtl.atomic import check_folder, write_json
    from ftmtl.predict import Predictor
    from ftmtl.predict_files import predict_files, predict_records
    from ftmtl.weights_file import STARTER_WEIGHTS

    if options.coco and not options.data:
        raise Mistake("--coco needs --data, the data set to predict")
    if options.coco and (options.paths or options.out or options.threshold is not None):
        raise Mistake("--coco predicts --data alone, down to any score: leave out files, --out and "
                      "--threshold")
    if not options.coco and not (options.paths and options.out):
        raise Mistake("give files or folders and --out, or --coco with --data")
    if options.coco:
        check_folder(options.coco)
    predictor = Predictor.load(options.weights or STARTER_WEIGHTS, device=options.device)
    with ProgressBar() as bar:
        if options.coco:
            if not options.weights:
                print("These are the starter weights. They learned from all of CBIS-DDSM's "
                      "training films: predictions of those are no test.", file=sys.stderr)
            results, report = predict_records(predictor, _records(options),
                                              one_view=options.one_view, on_file=bar.files)
            write_json(options.coco, results)
        else:
            report = predict_files(predictor, options.paths, options.out,
                                   threshold=options.threshold, one_view=options.one_view,
                                   on_file=bar.files)
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
    from ftmtl.crossval.outcome import assess
    from ftmtl.crossval.report import write_experiment_report
    from ftmtl.crossval.run import available_devices, owned, prepare, run
    from ftmtl.device import pick_device

    devices = options.devices or available_devices()
    for device in devices:
        pick_device(device)
    records, models = _records(options), list(dict.fromkeys(options.models))
    with owned(options.out), ProgressBar() as bar:
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
    with ProgressBar() as bar:
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
            try:
                films = prepare_samples(Path(folder))
            except ModuleNotFoundError as error:
                raise Mistake("give films, or `pip install 'ftmtl[samples]'` for eight") from error
        with ProgressBar() as bar:
            measured = bench(predictor, films, repeats=options.repeats, batch=options.batch,
                             training_steps=options.training_steps, on_part=bar.part)
    print(measured.table())
    if options.json:
        write_json(options.json, measured.to_json())
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "dataset": _dataset,
    "train": _train,
    "predict": _predict,
    "evaluate": _evaluate,
    "crossval": _crossval,
    "calibrate": _calibrate,
    "bench": _bench,
}


if __name__ == "__main__":
    sys.exit(main())
