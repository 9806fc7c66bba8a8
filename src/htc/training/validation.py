"""Evaluation between epochs, with the validation images divided over the processes of the training.

Computes the metrics of `htc evaluate` and the losses of Eq. 7 on the validation images, without gradient and with the
same sampling every time. `Validation` records both, keeps the best weights, and implements early stopping.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn

from htc.config import Augmentation, Config, Sampling
from htc.data.coco import read_coco
from htc.data.dataset import Dataset
from htc.data.loader import ImageBatch, ImageLoader, TrainingImages, check_semantic, collate
from htc.data.semantic_maps import MapSources, with_semantic_maps
from htc.errors import DataError
from htc.evaluation.coco import MetricValues, coco_metrics
from htc.evaluation.files import read_annotations
from htc.evaluation.run import detections_that_count, evaluate_model, match_categories, results_of
from htc.inference.predictor import Predictor
from htc.ops.onednn import exact_onednn_matmul
from htc.progress import Progress
from htc.results import Detections
from htc.training.distributed import by_first, count, gathered, rank
from htc.training.events import EvaluationDone, Listener, Message
from htc.training.history import TABLE, draw_curves, evaluations_since_best, read_history, write_history, write_table
from htc.training.losses import Term
from htc.training.module import TrainingModule
from htc.training.objective import TrainingObjective
from htc.training.schedule import StepPlan, is_near_end
from htc.types import Batch


def evaluate_on_all_ranks(
    predictor: Predictor, annotations: Path, images: Path, progress: Progress | None = None, workers: int = 0
) -> MetricValues:
    """Compute the metrics of `evaluate_model` and return them on every process. Process r of n predicts images r,
    r + n, ...; the first process computes the metrics.
    """
    if count() == 1:
        return evaluate_model(predictor, annotations, images, progress=progress, workers=workers)[0]
    max_detections, ground_truth = detections_that_count(predictor, None), read_annotations(annotations)
    dataset = read_coco(annotations, images)
    mine = replace(dataset, images=dataset.images[rank() :: count()])

    def detect(batch: ImageBatch[Any]) -> dict[None, list[Detections]]:
        return {None: predictor.detect(batch.prepared, batch.original_sizes)}

    ids = match_categories(predictor.config.classes, ground_truth)
    results = [
        result for _, result in results_of(predictor, mine, detect, ids, max_detections, progress, workers=workers)
    ]
    of_ranks = gathered(results)
    return by_first(lambda: coco_metrics(ground_truth, [one for part in of_ranks for one in part], max_detections))


NO_AUGMENTATION = Augmentation(horizontal_flip=0.0, vertical_flip=0.0)
"""Resizing as for prediction, without augmentation."""


def validation_batches(dataset: Dataset, config: Config, maps: MapSources | None, workers: int = 0) -> Iterable[Batch]:
    """Return this process's share of the validation images in batches of one, prepared as for prediction.

    Process r of n takes images r, r + n, ...; every pass gives the same batches and sampling seeds. `maps` are those of
    the training images; the maps of the validation images are in the same folder, or in a sibling folder named as the
    folder of the images, as in COCO (`MapSources.of_part`). Without them there are no semantic targets and no semantic
    term.
    """
    if config.semantic is not None and maps is not None:
        sources = [
            maps,
            *(maps.of_part(name) for name in sorted({record.path.parent.name for record in dataset.images})),
        ]
        with_maps = [one for one in (_with_maps(dataset, source) for source in sources) if one is not None]
        dataset = with_maps[0] if with_maps else dataset
        config = config if with_maps else config.replace(semantic=None, cascade={"semantic_fusion": "none"})
    config = config.replace(training={"augmentation": NO_AUGMENTATION, "sampling": Sampling()})
    check_semantic(dataset, config)
    images = TrainingImages(dataset, config, seed=0, epoch=0)
    share = [[position] for position in range(rank(), len(images), count())]
    return ImageLoader(images, partial(collate, settings=config.input), share, workers)


def _with_maps(dataset: Dataset, maps: MapSources) -> Dataset | None:
    """Return the dataset with its maps; None if maps are missing, since those of validation images are optional."""
    try:
        return with_semantic_maps(dataset, maps)
    except DataError:
        return None


@torch.no_grad()
def validation_losses(detector: nn.Module, config: Config, batches: Iterable[Batch]) -> dict[str, float]:
    """Compute every weighted loss term, averaged as if all images were one batch; `detector` keeps its mode.

    Each process calls it with its share (`validation_batches`) and receives the same losses. They equal those of a
    single process bit for bit, since the terms are added in the same order. Normalization layers use their running
    statistics. A term without samples (no instance, no mask) is 0.
    """
    device = next(detector.parameters()).device
    was_training = detector.training
    objective = TrainingObjective(detector, config).eval()  # pyright: ignore[reportArgumentType]
    with exact_onednn_matmul():
        own = [_on_cpu(objective.terms(batch.to(device))) for batch in batches]
    detector.train(was_training)
    sums: dict[str, Term] = {}
    for terms in _interleaved(gathered(own)):
        for name, term in terms.items():
            before = sums.get(name)
            sums[name] = (
                term if before is None else Term(before.total + term.total, before.count + term.count, term.weight)
            )
    return {name: float(term.average()) for name, term in sums.items()}


def _on_cpu(terms: dict[str, Term]) -> dict[str, Term]:
    """Move the terms of a batch to the CPU, from where they can be sent to other processes."""
    return {name: Term(term.total.cpu(), term.count.cpu(), term.weight) for name, term in terms.items()}


def _interleaved(shares: Sequence[Sequence[dict[str, Term]]]) -> Iterator[dict[str, Term]]:
    """Yield the terms of all batches in the order of a single process; process r of n has batches r, r + n, ..."""
    for row in zip_longest(*shares):
        yield from (terms for terms in row if terms is not None)


Evaluate = Callable[[nn.Module], MetricValues]
"""Computes the metrics of a detector, which is in evaluation mode."""
Losses = Callable[[nn.Module], dict[str, float]]
"""Computes the loss terms of a detector on the validation images."""
DrawImages = Callable[[nn.Module, Path], object]
"""Draws a detector's predictions into a folder."""
Keep = Callable[[nn.Module], object]
"""Saves a detector that is better than all earlier ones."""

_NOT_FINITE = (
    "this loss of the validation images is not finite, although the training losses are; it is null in history.json. "
    "Check the validation annotations, or lower the learning rate (--lr)"
)
PAUSE = 30.0
"""Seconds between two drawings of the curves after epochs without evaluation."""
IMAGES, BEST, FINAL = "pictures", "best", "last"


class Validation(Callback):
    """Callback that evaluates the trained weights (their EMA if there is one) every `every` epochs and after the last.

    Writes to `folder`: `history.json`, a list of `{"epoch", "step", "bbox", "segm", "per_class", "losses"}`, the same
    as `validation.csv`, and the curves. `draw` writes `pictures/best` at each new best AP and `pictures/last` after the
    last epoch. The training stops early if AP has not improved for `patience` evaluations.
    """

    def __init__(
        self,
        folder: Path,
        evaluate: Evaluate | None,
        every: int,
        epochs: int,
        *,
        losses: Losses | None = None,
        draw: DrawImages | None = None,
        keep: Keep | None = None,
        patience: int | None = None,
        progress: Listener | None = None,
        plan: StepPlan | None = None,
        now: Callable[[], float] = time.monotonic,
    ):
        self.folder = folder
        self.evaluate = evaluate
        self.every = every
        self.epochs = epochs
        self.losses = losses
        self.draw = draw
        self.keep = keep
        self.patience = patience
        self.progress = progress
        self.plan = plan
        self.now = now
        self.stopped = False
        """Whether the training ended because AP did not improve."""
        self.seconds = 0.0
        """Time of all evaluations so far."""
        self.last_seconds: float | None = None
        """Time of the last evaluation ..."""
        self.writing_seconds = 0.0
        """... and of its part that keeps the weights and draws."""
        self._drawn_at = now()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the history entries of evaluations that the resumed run repeats."""
        if not trainer.is_global_zero:
            return
        kept = (
            [entry for entry in read_history(self.folder) if entry["step"] <= trainer.global_step]
            if trainer.global_step
            else []
        )
        write_history(self.folder, kept)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate if an evaluation is due, then draw the curves."""
        epoch, begin = trainer.current_epoch + 1, self.now()
        due = epoch % self.every == 0 or (self.plan is None and epoch == self.epochs)
        if self.plan is not None and isinstance(pl_module, TrainingModule):
            every = self.every * pl_module.steps_per_epoch
            due = due and not is_near_end(trainer.global_step, self.plan.steps, every)
        due = due or trainer.should_stop
        if self.evaluate is not None and due and isinstance(pl_module, TrainingModule):
            detector = pl_module.trained
            detector.eval()
            metrics = self.evaluate(detector)  # on all processes, as the losses; the first one records and draws
            losses = None if self.losses is None else self.losses(detector)
            noted = self.now()
            stops = by_first(lambda: self._note(trainer, detector, metrics, losses, epoch))
            self.stopped = stops
            trainer.should_stop = trainer.should_stop or stops
            detector.train()
            self._draw(trainer)
            self.last_seconds, self.writing_seconds = self.now() - begin, self.now() - noted
            self.seconds += self.last_seconds
        elif self.now() - self._drawn_at >= PAUSE:
            self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            draw_curves(self.folder)
        self._drawn_at = self.now()

    def _note(
        self, trainer: Trainer, detector: nn.Module, metrics: MetricValues, losses: dict[str, float] | None, epoch: int
    ) -> bool:
        """Record, save, draw and report the evaluation; return whether the training stops."""
        entry: dict[str, Any] = {"epoch": epoch, "step": trainer.global_step, **metrics}
        if losses is not None:
            entry["losses"] = losses
            bad = [name for name, value in losses.items() if not math.isfinite(value)]
            if bad and self.progress is not None:
                self.progress(Message(f"{', '.join(bad)}: {_NOT_FINITE}", warning=True))
        earlier = [one for one in read_history(self.folder) if one["step"] < trainer.global_step]
        history = [*earlier, entry]
        if self.keep is not None and evaluations_since_best(history) == 0:
            self.keep(detector)  # before the history is written: after a stop in between, the evaluation is repeated
        write_history(self.folder, history)
        write_table(self.folder / TABLE, history)
        stops = self.patience is not None and evaluations_since_best(history) >= self.patience
        best = evaluations_since_best(history) == 0
        if self.draw is not None and best:
            self.draw(detector, self.folder / IMAGES / BEST)
        ends = trainer.should_stop or stops or (self.plan is None and epoch == self.epochs)
        if self.draw is not None and ends:
            self.draw(detector, self.folder / IMAGES / FINAL)
        if self.progress is not None:
            self.progress(EvaluationDone(entry, best, stops))
        return stops
