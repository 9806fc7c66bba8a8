"""Evaluation of the model between epochs, its images divided over the processes of the training.

Metrics as `htc evaluate` computes them, and the losses of Eq. 7 on the validation images: the same objective, no
gradient, the same sampling every time. `Validation` records both, keeps the best weights, and ends a training that no
longer improves.
"""

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
from htc.files import write_json
from htc.inference.predictor import Predictor
from htc.ops.onednn import exact_onednn_matmul
from htc.progress import Progress
from htc.results import Detections
from htc.training.distributed import by_first, count, gathered, rank
from htc.training.events import EvaluationDone, Listener
from htc.training.history import HISTORY, TABLE, draw_curves, evaluations_since_best, read_history, write_table
from htc.training.losses import Term
from htc.training.module import TrainingModule
from htc.training.objective import TrainingObjective
from htc.types import Batch


def evaluate_on_all_ranks(
    predictor: Predictor, annotations: Path, images: Path, progress: Progress | None = None, workers: int = 0
) -> MetricValues:
    """`evaluate_model`'s numbers, on every process. Each takes every n-th image, whatever their number; the first
    counts.
    """
    if count() == 1:
        return evaluate_model(predictor, annotations, images, progress=progress, workers=workers)[0]
    most, truth = detections_that_count(predictor, None), read_annotations(annotations)
    dataset = read_coco(annotations, images)
    mine = replace(dataset, images=dataset.images[rank() :: count()])

    def detect(batch: ImageBatch[Any]) -> dict[None, list[Detections]]:
        return {None: predictor.detect(batch.prepared, batch.original_sizes)}

    ids = match_categories(predictor.config.classes, truth)
    results = [result for _, result in results_of(predictor, mine, detect, ids, most, progress, workers=workers)]
    everyone = gathered(results)
    return by_first(lambda: coco_metrics(truth, [result for part in everyone for result in part], most))


NO_AUGMENTATION = Augmentation(horizontal_flip=0.0, vertical_flip=0.0)
"""Resized as for prediction, and nothing else."""


def validation_batches(dataset: Dataset, config: Config, maps: MapSources | None, workers: int = 0) -> Iterable[Batch]:
    """This process's share of the validation images one by one, as prediction sees them: every n-th of n processes.

    Every pass gives the same, sampling seeds included, and n processes together see what one sees. `maps` are those of
    the training images; the validation images' are in the same folder, or beside it in a folder named as the folder of
    the images, as COCO's are (`MapSources.of_part`). Without them there is no semantic target and no semantic term.
    """
    if config.semantic is not None and maps is not None:
        places = [
            maps,
            *(maps.of_part(name) for name in sorted({record.path.parent.name for record in dataset.images})),
        ]
        found = [one for one in (_with_maps(dataset, place) for place in places) if one is not None]
        dataset = found[0] if found else dataset
        config = config if found else config.replace(semantic=None, cascade={"semantic_fusion": "none"})
    config = config.replace(training={"augmentation": NO_AUGMENTATION, "sampling": Sampling()})
    check_semantic(dataset, config)
    images = TrainingImages(dataset, config, seed=0, epoch=0)
    share = [[position] for position in range(rank(), len(images), count())]
    return ImageLoader(images, partial(collate, settings=config.input), share, workers)


def _with_maps(dataset: Dataset, maps: MapSources) -> Dataset | None:
    """None where maps are missing: not a fault, those of the validation images are not needed."""
    try:
        return with_semantic_maps(dataset, maps)
    except DataError:
        return None


@torch.no_grad()
def validation_losses(detector: nn.Module, config: Config, batches: Iterable[Batch]) -> dict[str, float]:
    """Every weighted term, averaged over all images as one batch of them would be; `detector` keeps its mode.

    Each process calls it with its share (`validation_batches`) and receives the same losses. They are bit for bit those
    of one process: the terms are added in one process's order. Norms use their running statistics. A term of which
    nothing was counted (no instance, no mask) is 0.
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
    """The terms of a batch in memory from where other processes can receive them."""
    return {name: Term(term.total.cpu(), term.count.cpu(), term.weight) for name, term in terms.items()}


def _interleaved(shares: Sequence[Sequence[dict[str, Term]]]) -> Iterator[dict[str, Term]]:
    """The terms of all batches in the order of one process, which process r of n has every n-th of, from r on."""
    for row in zip_longest(*shares):
        yield from (terms for terms in row if terms is not None)


Evaluate = Callable[[nn.Module], MetricValues]
"""Measures a detector, which is in evaluation mode."""
Losses = Callable[[nn.Module], dict[str, float]]
"""The loss terms of a detector on the validation images."""
DrawImages = Callable[[nn.Module, Path], object]
"""Draws what a detector finds into a folder."""
Keep = Callable[[nn.Module], object]
"""Keeps a detector that is better than all before it."""

IMAGES, BEST, FINAL = "pictures", "best", "last"


class Validation(Callback):
    """Measures the trained weights (their moving average where there is one) after every `every` epochs and after the
    last.

    Writes `history.json`, a list of `{"epoch", "step", "bbox", "segm", "per_class", "losses"}`, the same as
    `validation.csv`, and the curves, into `folder`; `draw` makes `images/best` at each best precision and
    `images/last` after the last epoch. The training ends early when the precision has not grown for `patience`
    evaluations.
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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps of an earlier history what the resumed run does not measure again."""
        if not trainer.is_global_zero:
            return
        kept = (
            [entry for entry in read_history(self.folder) if entry["step"] <= trainer.global_step]
            if trainer.global_step
            else []
        )
        write_json(self.folder / HISTORY, kept)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures, then draws."""
        epoch = trainer.current_epoch + 1
        due = epoch % self.every == 0 or epoch == self.epochs or trainer.should_stop
        if self.evaluate is not None and due and isinstance(pl_module, TrainingModule):
            detector = pl_module.trained
            detector.eval()
            metrics = self.evaluate(detector)  # by all processes, as the losses; the first records and draws both
            losses = None if self.losses is None else self.losses(detector)
            stops = by_first(lambda: self._note(trainer, detector, metrics, losses, epoch))
            trainer.should_stop = trainer.should_stop or stops
            detector.train()
        if trainer.is_global_zero:
            draw_curves(self.folder)

    def _note(
        self, trainer: Trainer, detector: nn.Module, metrics: MetricValues, losses: dict[str, float] | None, epoch: int
    ) -> bool:
        """Records, keeps, draws and reports; whether the training is to end."""
        entry: dict[str, Any] = {"epoch": epoch, "step": trainer.global_step, **metrics}
        if losses is not None:
            entry["losses"] = losses
        earlier = [one for one in read_history(self.folder) if one["step"] < trainer.global_step]
        history = [*earlier, entry]
        if self.keep is not None and evaluations_since_best(history) == 0:
            self.keep(detector)  # before the history says so: if it stops here, the evaluation is done again
        write_json(self.folder / HISTORY, history)
        write_table(self.folder / TABLE, history)
        stops = self.patience is not None and evaluations_since_best(history) >= self.patience
        best = evaluations_since_best(history) == 0
        if self.draw is not None and best:
            self.draw(detector, self.folder / IMAGES / BEST)
        if self.draw is not None and (trainer.should_stop or stops or epoch == self.epochs):
            self.draw(detector, self.folder / IMAGES / FINAL)
        if self.progress is not None:
            self.progress(EvaluationDone(entry, best, stops))
        return stops
