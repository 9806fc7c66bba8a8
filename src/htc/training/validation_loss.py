"""The losses of Eq. 7 on validation pictures: the same objective, no gradient, the same draws every time."""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from htc.config import Augmentation, Config, Sampling
from htc.data.dataset import Dataset
from htc.data.loader import training_loader
from htc.data.semantic_maps import MapSources, with_semantic_maps
from htc.errors import DataError
from htc.ops.onednn import exact_onednn_matmul
from htc.training.losses import Term
from htc.training.objective import TrainingObjective
from htc.types import Batch

PLAIN = Augmentation(horizontal_flip=0.0, vertical_flip=0.0)
"""Resized as for prediction, and nothing else."""


def validation_batches(dataset: Dataset, config: Config, maps: MapSources | None, workers: int = 0) -> Iterable[Batch]:
    """The validation pictures one by one, as prediction sees them; every pass gives the same, sampling seeds included.

    `maps` are the training pictures'; those of the validation pictures lie there too, or beside them under the name of
    the pictures' folder, as COCO's do (`MapSources.of_part`). Without them there is no semantic target and no semantic
    term.
    """
    if config.semantic is not None and maps is not None:
        places = [
            maps,
            *(maps.of_part(name) for name in sorted({record.path.parent.name for record in dataset.images})),
        ]
        found = [one for one in (_with_maps(dataset, place) for place in places) if one is not None]
        dataset = found[0] if found else dataset
        config = config if found else config.model_copy(update={"semantic": None})
    training = config.training.model_copy(update={"augmentation": PLAIN, "sampling": Sampling()})
    return training_loader(dataset, config.model_copy(update={"training": training}), 0, 0, 1, workers)


def _with_maps(dataset: Dataset, maps: MapSources) -> Dataset | None:
    """None where maps are missing: not a fault, those of the validation pictures are not needed."""
    try:
        return with_semantic_maps(dataset, maps)
    except DataError:
        return None


@torch.no_grad()
def validation_losses(detector: nn.Module, config: Config, batches: Iterable[Batch]) -> dict[str, float]:
    """Every weighted term, averaged over all pictures as one batch of them would be; `detector` is left in the mode it
    was in.

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
                sums[name] = (
                    term if before is None else Term(before.total + term.total, before.count + term.count, term.weight)
                )
    detector.train(was_training)
    return {name: float(term.average()) for name, term in sums.items()}


def _on(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    for batch in batches:
        moved = batch.to(device)
        yield moved
