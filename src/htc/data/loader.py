"""Batches: images, order and augmentation are pure functions of (seed, epoch, position, image id).

Therefore training can resume at any step, with any number of workers and processes, as if it had not been interrupted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from htc.config import Config, CopyPaste, Input
from htc.data.columns import table_of
from htc.data.copy_paste import corner_of, draw_paste, pasted
from htc.data.dataset import Dataset, ImageRecord
from htc.data.epochs import images_of_epoch, pure_generator, pure_seed, rank_positions
from htc.data.ground_truth import AnnotatedView, annotated_image, placed, view_of
from htc.data.photometric import distorted, draw_distortion
from htc.data.semantic_maps import MAX_SEMANTIC_CLASSES, least_classes
from htc.data.transforms import Placement, Preparation, Prepared, draw_placement, pad_images, pad_semantic
from htc.data.user_transforms import Transforms, transformed
from htc.errors import ConfigError, DataError
from htc.types import Batch, GroundTruth


@dataclass(frozen=True)
class TrainingSample:
    """One image as the network input, before normalization and padding."""

    image: UInt8[np.ndarray, "h w 3"]
    ground_truth: GroundTruth
    semantic: UInt8[np.ndarray, "h w"] | None
    image_id: int | str
    seed: int


@dataclass(frozen=True)
class ImageBatch(Generic[Prepared]):
    """A batch of images for prediction."""

    prepared: Prepared
    """Output of the predictor's `Preparation`."""
    original_sizes: tuple[tuple[int, int], ...]
    """(height, width) of each image file."""
    image_ids: tuple[int | str, ...]


class TrainingImages(TorchDataset[TrainingSample]):
    """Item p is the augmented image at position p of one epoch's order. Can be read from any process, in any order.

    A step of all ranks takes `step_size` images. The user's `transforms` are applied before the augmentation
    (`htc.data.user_transforms.transformed`).
    """

    def __init__(
        self,
        dataset: Dataset,
        config: Config,
        seed: int,
        epoch: int,
        step_size: int = 1,
        transforms: Transforms | None = None,
    ):
        self.dataset = dataset
        self.config = config
        self.seed = seed
        self.epoch = epoch
        self.transforms = transforms
        self.order = images_of_epoch(dataset, config.training.sampling, seed, epoch, step_size)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> TrainingSample:
        record = self.dataset.images[self.order[position]]
        seed = pure_seed(self.seed, self.epoch, position, record.id)
        augmentation = self.config.training.augmentation
        view = self._view(record, torch.Generator().manual_seed(seed), pure_seed("transforms", seed))
        # Each further step draws from a separate generator: enabling it does not change the other draws.
        if augmentation.copy_paste is not None:
            pasted_seed = pure_seed("transforms of the pasted", seed)
            view = self._with_pasted(view, augmentation.copy_paste, pure_generator("copy-paste", seed), pasted_seed)
        image = view.image
        if augmentation.photometric is not None:
            image = distorted(image, draw_distortion(augmentation.photometric, pure_generator("photometric", seed)))
        return TrainingSample(image, view.ground_truth, view.semantic, record.id, seed)

    def _view(self, record: ImageRecord, generator: torch.Generator, seed: int) -> AnnotatedView:
        """Read, transform and place an image; `seed` is for the user's transforms."""
        config, maps = self.config, self.dataset.semantic_maps
        semantic_classes = None if config.semantic is None else config.semantic.classes
        if self.transforms is None:
            return view_of(record, self._placement((record.height, record.width), generator), semantic_classes, maps)
        view = transformed(
            record,
            self.transforms,
            seed,
            classes=len(self.dataset.classes),
            semantic_classes=semantic_classes,
            semantic_maps=maps,
        )
        return placed(view, self._placement(view.size, generator))

    def _placement(self, size: tuple[int, int], generator: torch.Generator) -> Placement:
        return draw_placement(size, self.config.input, self.config.training.augmentation, generator)

    def _with_pasted(
        self, view: AnnotatedView, settings: CopyPaste, generator: torch.Generator, seed: int
    ) -> AnnotatedView:
        draw = draw_paste(settings.probability, len(self.dataset), generator)
        if not draw.happens:
            return view
        other = self._view(self.dataset.images[draw.other], generator, seed)
        chosen = torch.rand(len(other.ground_truth.boxes), generator=generator) < settings.share
        return pasted(view, other, chosen, corner_of(view.size, other.size, draw.corner))


def collate(samples: list[TrainingSample], settings: Input) -> Batch:
    """Combine samples of any sizes into one padded batch."""
    images = pad_images([sample.image for sample in samples], settings)
    maps = [sample.semantic for sample in samples if sample.semantic is not None]
    return Batch(
        images=images,
        sizes=torch.tensor([sample.image.shape[:2] for sample in samples]),
        truths=tuple(sample.ground_truth for sample in samples),
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
    first_step: int = 0,
    rank: int = 0,
    ranks: int = 1,
    transforms: Transforms | None = None,
) -> "ImageLoader":
    """Build the loader of one epoch for process `rank` of `ranks`, from step `first_step` on.

    Step s of all ranks together has positions s * batch_size * ranks ... of the epoch's order; the last step may be
    smaller, but every rank takes part in it (with images from the start of the epoch if there are too few).

    `transforms(image, target)`, in the style of torchvision v2, get the original image before the augmentation of the
    configuration (see `docs/guides/extending.md`). They draw from the global generators of torch, NumPy and Python,
    which are seeded for each image, and must be picklable if workers are started by `spawn`.

    Raises `ConfigError` if the semantic branch has too few classes for its maps; batches raise `DataError` for an image
    that cannot be used, or if the transforms do not return an image and its target.
    """
    check_semantic(dataset, config)
    images = TrainingImages(dataset, config, seed, epoch, batch_size * ranks, transforms)
    steps = rank_positions(len(images), batch_size, rank, ranks)[first_step:]
    return ImageLoader(images, _Collate(config.input), steps, workers)


def check_semantic(dataset: Dataset, config: Config) -> None:
    """Raise `ConfigError` if the semantic branch has fewer classes than its targets."""
    if config.semantic is None:
        return
    count, needed, maps = len(dataset.classes), least_classes(dataset), dataset.semantic_maps
    if maps is None and count > MAX_SEMANTIC_CLASSES:
        raise ConfigError(
            f"{count} classes are too many for a derived semantic map (at most {MAX_SEMANTIC_CLASSES}): pass a folder "
            f"of maps or use --semantic none"
        )
    if config.semantic.classes < needed:
        requirement = (
            f"a map derived from {count} classes needs {needed} with the background"
            if maps is None
            else f"the semantic maps need {needed}"
        )
        raise ConfigError(f"semantic.classes is {config.semantic.classes}; {requirement}")


class EvaluationImages(TorchDataset[tuple[UInt8[np.ndarray, "h w 3"], int]]):
    """Item i is image i, prepared for a predictor, and its index."""

    def __init__(self, dataset: Dataset, preparation: Preparation[Any]):
        self.dataset = dataset
        self.preparation = preparation

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
        return self.preparation.image(annotated_image(self.dataset.images[index])), index


def image_batches(
    dataset: Dataset, preparation: Preparation[Any], batch_size: int = 1, workers: int = 0
) -> "ImageLoader":
    """Batches (`ImageBatch`) of all images, prepared for a predictor; images of similar size are batched together."""
    sizes = [preparation.size((height, width)) for height, width in table_of(dataset.images).sizes.tolist()]
    order = sorted(range(len(sizes)), key=lambda index: sizes[index])
    steps = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    images = EvaluationImages(dataset, preparation)
    return ImageLoader(images, _CollateImages(dataset, preparation), steps, workers)


class ImageLoader(DataLoader[Any]):
    """A `DataLoader` over given steps that does not use torch's global random state and shortens the workers'
    errors.
    """

    def __init__(self, images: TorchDataset[Any], collate_fn: Any, steps: list[list[int]], workers: int):
        super().__init__(
            images,
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
            # A worker's error contains its whole traceback as text; the message follows the class name.
            raise DataError(str(error).rpartition("htc.errors.DataError: ")[2].strip()) from None


def _one_thread(_worker: int) -> None:
    """Limit OpenCV to one thread per worker, since the workers already share the CPU."""
    cv2.setNumThreads(0)


@dataclass(frozen=True)
class _Collate:
    """`collate` with its settings, picklable for worker processes."""

    settings: Input

    def __call__(self, samples: list[TrainingSample]) -> Batch:
        return collate(samples, self.settings)


@dataclass(frozen=True)
class _CollateImages:
    dataset: Dataset
    preparation: Preparation[Any]

    def __call__(self, items: list[tuple[UInt8[np.ndarray, "_ _ 3"], int]]) -> ImageBatch[Any]:
        records = [self.dataset.images[index] for _, index in items]
        return ImageBatch(
            prepared=self.preparation.batch([image for image, _ in items]),
            original_sizes=tuple((record.height, record.width) for record in records),
            image_ids=tuple(record.id for record in records),
        )
