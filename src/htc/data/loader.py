"""Batches. What is seen, in which order and how augmented is a pure function of (seed, epoch, position, image id).

So an epoch can be entered anywhere, on any number of workers and processes, and goes on as if it had never stopped.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from htc.config import Config, Input
from htc.data.ground_truth import annotated, annotated_picture
from htc.data.records import Dataset
from htc.data.semantic_targets import MOST_CLASSES
from htc.data.transforms import draw_placement, pad_pictures, pad_semantic, place_picture, place_semantic, place_truth, plain_placement
from htc.errors import ConfigError, DataError
from htc.types import Batch, GroundTruth


@dataclass(frozen=True)
class Sample:
    """One picture as the network will see it, before normalising and padding."""

    picture: UInt8[np.ndarray, "h w 3"]
    truth: GroundTruth
    semantic: UInt8[np.ndarray, "h w"] | None
    image_id: int | str
    seed: int


@dataclass(frozen=True)
class PictureBatch:
    """Pictures to predict on."""

    images: Float[Tensor, "B 3 H W"]
    """As in `Batch`."""
    sizes: Int[Tensor, "B 2"]
    original_sizes: tuple[tuple[int, int], ...]
    """(height, width) of each picture file."""
    image_ids: tuple[int | str, ...]


def pure_seed(*parts: int | str) -> int:
    """A 63-bit number that depends on `parts` alone, whatever the process or platform."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """The pictures 0 .. count-1 in the order of that epoch."""
    generator = torch.Generator().manual_seed(pure_seed("order", seed, epoch))
    return torch.randperm(count, generator=generator).tolist()


class TrainingPictures(TorchDataset[Sample]):
    """Item p is the picture at position p of one epoch's order, augmented. Read it from any process, in any order."""

    def __init__(self, dataset: Dataset, config: Config, seed: int, epoch: int, semantic_maps: Path | None = None):
        self.dataset = dataset
        self.config = config
        self.seed = seed
        self.epoch = epoch
        self.semantic_maps = semantic_maps
        self.order = epoch_order(len(dataset), seed, epoch)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Sample:
        record = self.dataset.images[self.order[position]]
        seed = pure_seed(self.seed, self.epoch, position, record.id)
        config = self.config
        generator = torch.Generator().manual_seed(seed)
        placement = draw_placement((record.height, record.width), config.input, config.training.augmentation, generator)
        classes = None if config.semantic is None else config.semantic.classes
        targets = annotated(record, classes, self.semantic_maps)
        return Sample(
            picture=place_picture(annotated_picture(record), placement),
            truth=place_truth(targets.truth, placement),
            semantic=None if targets.semantic is None else place_semantic(targets.semantic, placement),
            image_id=record.id,
            seed=seed,
        )


def collate(samples: list[Sample], settings: Input) -> Batch:
    """Samples of any sizes to one padded batch."""
    images = pad_pictures([sample.picture for sample in samples], settings)
    maps = [sample.semantic for sample in samples if sample.semantic is not None]
    return Batch(
        images=images,
        sizes=torch.tensor([sample.picture.shape[:2] for sample in samples]),
        truths=tuple(sample.truth for sample in samples),
        semantic=pad_semantic(maps, (images.shape[2], images.shape[3])) if maps else None,
        image_ids=tuple(sample.image_id for sample in samples),
        seeds=tuple(sample.seed for sample in samples),
    )


def training_loader(
    dataset: Dataset,
    config: Config,
    seed: int,
    epoch: int,
    batch_size: int,
    workers: int = 0,
    *,
    semantic_maps: Path | None = None,
    first_step: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> "PictureLoader":
    """One epoch of batches for process `rank` of `ranks`, from step `first_step` on.

    Step s of all ranks together holds positions s * batch_size * ranks ... of the epoch's order; the last step may be smaller,
    but every rank takes part in it (with pictures from the epoch's beginning if there are too few). Raises `ConfigError` if the
    semantic branch has too few classes for a derived map.
    """
    _check_semantic(dataset, config, semantic_maps)
    pictures = TrainingPictures(dataset, config, seed, epoch, semantic_maps)
    steps = rank_positions(len(dataset), batch_size, rank, ranks)[first_step:]
    return PictureLoader(pictures, _Collate(config.input), steps, workers)


def rank_positions(count: int, batch_size: int, rank: int, ranks: int) -> list[list[int]]:
    """The positions of one rank in every step of an epoch of `count` pictures; the same number of steps for every rank."""
    steps = []
    for start in range(0, count, batch_size * ranks):
        together = list(range(start, min(start + batch_size * ranks, count)))
        together += [position % count for position in range(-len(together) % ranks)]
        steps.append(together[rank::ranks])
    return steps


def _check_semantic(dataset: Dataset, config: Config, semantic_maps: Path | None) -> None:
    if config.semantic is None or semantic_maps is not None:
        return
    count = len(dataset.classes)
    if count > MOST_CLASSES:
        raise ConfigError(f"{count} classes are too many for a derived semantic map (at most {MOST_CLASSES}): give a folder of maps or use --semantic none")
    if config.semantic.classes < count + 1:
        raise ConfigError(f"semantic.classes is {config.semantic.classes}; a map derived from {count} classes needs {count + 1} with the background")


class EvaluationPictures(TorchDataset[tuple[UInt8[np.ndarray, "h w 3"], int]]):
    """Item i is picture i, resized, and its number."""

    def __init__(self, dataset: Dataset, settings: Input):
        self.dataset = dataset
        self.settings = settings

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
        picture = annotated_picture(self.dataset.images[index])
        return place_picture(picture, plain_placement((picture.shape[0], picture.shape[1]), self.settings)), index


def picture_batches(dataset: Dataset, config: Config, batch_size: int = 1, workers: int = 0) -> "PictureLoader":
    """Batches (`PictureBatch`) of all pictures, not augmented, those of like size together."""
    sizes = [plain_placement((record.height, record.width), config.input).size for record in dataset.images]
    order = sorted(range(len(sizes)), key=lambda index: sizes[index])
    steps = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return PictureLoader(EvaluationPictures(dataset, config.input), _CollatePictures(dataset, config.input), steps, workers)


class PictureLoader(DataLoader[Any]):
    """A `DataLoader` over given steps that leaves torch's global random state alone and keeps our errors short."""

    def __init__(self, pictures: TorchDataset[Any], collate_fn: Any, steps: list[list[int]], workers: int):
        super().__init__(
            pictures,
            batch_sampler=steps,
            collate_fn=collate_fn,
            num_workers=workers,
            worker_init_fn=_one_thread,
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            yield from super().__iter__()
        except DataError as error:
            # A worker's error comes with its whole traceback as text; the user's message is what follows the class name.
            raise DataError(str(error).rpartition("htc.errors.DataError: ")[2].strip()) from None


def _one_thread(_worker: int) -> None:
    """OpenCV in one thread a worker: the workers share the machine already."""
    cv2.setNumThreads(0)


@dataclass(frozen=True)
class _Collate:
    """`collate` with its settings, as a value that can be sent to worker processes."""

    settings: Input

    def __call__(self, samples: list[Sample]) -> Batch:
        return collate(samples, self.settings)


@dataclass(frozen=True)
class _CollatePictures:
    dataset: Dataset
    settings: Input

    def __call__(self, items: list[tuple[UInt8[np.ndarray, "_ _ 3"], int]]) -> PictureBatch:
        records = [self.dataset.images[index] for _, index in items]
        return PictureBatch(
            images=pad_pictures([picture for picture, _ in items], self.settings),
            sizes=torch.tensor([picture.shape[:2] for picture, _ in items]),
            original_sizes=tuple((record.height, record.width) for record in records),
            image_ids=tuple(record.id for record in records),
        )
