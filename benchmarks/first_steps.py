"""A recipe's first steps, judged on women it has not been shown yet: a quick look before long ones.

    python benchmarks/first_steps.py --data SET.json --images DIR --imagenet W --out DIR \
        --steps 160 --mask-weight 4

In its first epoch a training meets every film once, so the women whose films have not come up are
as good as held out, and the films that results are reported on stay unseen.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ftmtl` does; before torch is loaded

from tqdm import tqdm
from transferred import listen

from ftmtl.config import RECOMMENDED
from ftmtl.datasets.coco import read_coco, to_coco
from ftmtl.evaluation import evaluate
from ftmtl.predict import Predictor
from ftmtl.predict_files import predict_records
from ftmtl.training.loop import Progress, train
from ftmtl.training.samples import BalancedSampler
from ftmtl.weights_file import load_weights


def main() -> None:
    """Train the first steps, and print what the rest of the women show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--imagenet", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--films", type=int, default=120, help="to be judged on, at most")
    parser.add_argument("--learning-rate", type=float, default=RECOMMENDED.training.learning_rate)
    parser.add_argument("--mask-weight", type=float, default=1.0, help="λ3 of Eq. 10")
    options = parser.parse_args()
    training = replace(
        RECOMMENDED.training, stages=RECOMMENDED.training.stages[:1],
        learning_rate=options.learning_rate, loss_weights=(1.0, 1.0, options.mask_weight),
    )
    records = read_coco(options.data, options.images)
    batch = training.batch_size
    length = len(records) // batch * batch
    order = BalancedSampler(records, length=length, seed=training.seed).epoch(0)
    shown = {records[index].patient_id for _, index, _ in order[: options.steps * batch]}
    judged = [r for r in records if r.patient_id not in shown][: options.films]
    if not judged:
        parser.error(f"after {options.steps} steps every woman has been shown; take fewer")
    done = 0
    with tqdm(total=options.steps, unit=" steps") as bar:

        def advance(progress: Progress) -> None:
            nonlocal done
            if progress.stage_number:
                done = (progress.epoch - 1) * progress.steps + progress.step
                bar.update(done - bar.n)
                bar.set_postfix({name: f"{value:.3f}" for name, value in progress.losses.items()})

        outcome = train(
            records, preset=replace(RECOMMENDED, training=training), out=options.out,
            imagenet=options.imagenet, on_progress=advance,
            should_stop=lambda: done >= options.steps,
        )
    print(listen(load_weights(outcome.weights).network(), judged, options.out / "canvases"))
    results, _ = predict_records(Predictor.load(outcome.weights), judged)
    found = evaluate(to_coco(judged), results, bootstraps=10)["detection"]["iou>0.2"]["tpr_at_fpi"]
    print(f"{len(judged)} films of women not shown yet: TPR {found['0.3']:.2f} at 0.3 false "
          f"positives an image, {found['1']:.2f} at 1, {found['3.67']:.2f} at 3.67")


if __name__ == "__main__":
    main()
