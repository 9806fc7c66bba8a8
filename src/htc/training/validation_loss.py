"""The losses of Eq. 7 on validation pictures: the same objective, no gradient, the same draws every time."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import nn

from htc.config import Augmentation, Config, Sampling
from htc.data.loader import training_loader
from htc.data.records import Dataset
from htc.data.semantic_maps import with_semantic_maps
from htc.errors import DataError
from htc.ops.onednn import exact_onednn_matmul
from htc.training.losses import Term
from htc.training.objective import TrainingObjective
from htc.types import Batch

PLAIN = Augmentation(horizontal_flip=0.0, vertical_flip=0.0)
"""Resized as for prediction, and nothing else."""


def validation_batches(
    dataset: Dataset, config: Config, semantic_maps: Path | None, workers: int = 0, *, panoptic_json: Path | None = None, instances_from: int | None = None
) -> Iterable[Batch]:
    """The validation pictures one by one, as prediction sees them; every pass gives the same, sampling seeds included.

    `semantic_maps` is the folder of the training pictures' maps; those of the validation pictures lie there, or beside it in a folder named
    like the pictures' own, as COCO-Stuff's do. Without them there is no semantic target and no semantic term.
    """
    if config.semantic is not None and semantic_maps is not None:
        places = [semantic_maps, *(semantic_maps.parent / name for name in {record.path.parent.name for record in dataset.images})]
        found = [one for one in (_with_maps(dataset, place, panoptic_json, instances_from) for place in places) if one is not None]
        dataset = found[0] if found else dataset
        config = config if found else config.model_copy(update={"semantic": None})
    training = config.training.model_copy(update={"augmentation": PLAIN, "sampling": Sampling()})
    return training_loader(dataset, config.model_copy(update={"training": training}), 0, 0, 1, workers)


def _with_maps(dataset: Dataset, folder: Path, panoptic_json: Path | None, instances_from: int | None) -> Dataset | None:
    """None where maps are missing: not a fault, those of the validation pictures are not needed."""
    try:
        return with_semantic_maps(dataset, folder, panoptic_json, instances_from)
    except DataError:
        return None


@torch.no_grad()
def validation_losses(detector: nn.Module, config: Config, batches: Iterable[Batch]) -> dict[str, float]:
    """Every weighted term, averaged over all pictures as one batch of them would be; `detector` is left in the mode it was in.

    Norms use their running statistics. A term of which nothing was counted (no object, no mask) is 0.
    """
    device = next(detector.parameters()).device
    was_training = detector.training
    objective = TrainingObjective(detector, config).eval()  # pyright: ignore[reportArgumentType]
    sums: dict[str, Term] = {}
    with exact_onednn_matmul():
        for batch in _on(batches, device):
            for name, term in objective.terms(batch).items():
                before = sums.get(name)
                sums[name] = term if before is None else Term(before.total + term.total, before.count + term.count, term.weight)
    detector.train(was_training)
    return {name: float(term.average()) for name, term in sums.items()}


def _on(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    for batch in batches:
        moved = batch.to(device)
        yield moved
