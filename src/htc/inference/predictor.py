"""Images of any kind in, detections in original pixels out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Generic, NamedTuple, TypedDict, Unpack, final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from htc.config import Config
from htc.data.images import MAX_PIXELS, ImageSource, read_picture
from htc.data.transforms import NetworkInput, Preparation, Prepared, ResizedInput
from htc.errors import ConfigError, DataError
from htc.model.detector import Detector
from htc.model.postprocess import NO_LIMITS, Limits
from htc.model.semantic import SEMANTIC_STRIDE
from htc.ops.onednn import exact_onednn_matmul
from htc.results import Detections, Masks
from htc.semantic_map import SemanticMap
from htc.types import RawDetections

WINDOW = 4
"""Batches' worth of images that are read together, so that those of like shape can share a batch."""
NO_SEMANTIC_BRANCH = (
    "this model has no semantic branch, so it gives no semantic map: leave semantic out, or load a model of HTC"
)


class PredictOptions(TypedDict, total=False):
    """What may differ from call to call; what is left out is the model's own configuration."""

    max_detections: int | None
    """At most this many detections an image, best first; no more than the model's `inference.max_detections`."""
    short_edge: int | None
    """Network input: the short edge in pixels, unless the long one would pass `long_edge`."""
    long_edge: int | None
    classes: Collection[str] | None
    """Only detections of these class names; the others neither count nor cost anything."""
    max_pixels: int
    """Larger images are refused."""
    semantic: bool
    """Keep the semantic branch's logits, so that `Detections.semantic` gives the map of the whole image."""


@dataclass(frozen=True)
class _Call(Generic[Prepared]):
    """The checked options of one call."""

    preparation: Preparation[Prepared]
    limits: Limits
    max_pixels: int
    semantic: bool


class _Image(NamedTuple):
    pixels: UInt8[np.ndarray, "h w 3"]
    original: tuple[int, int]
    source: str | None


class ImagePredictor(ABC, Generic[Prepared]):
    """Predicts the detections of images of any kind; what it computes on is up to its two kinds.

    `Predictor` runs one detector, `htc.inference.ensemble.EnsemblePredictor` several detectors in several views.
    """

    def __init__(self, network: nn.Module, config: Config) -> None:
        if not config.inference.mask_threshold > 0:
            raise ConfigError(
                "inference.mask_threshold is 0, which makes every pixel part of every mask: give a value above 0"
            )
        self._network = network.eval()
        self.config = config

    @property
    def device(self) -> torch.device:
        """The device of the network's parameters."""
        return next((parameter.device for parameter in self._network.parameters()), torch.device("cpu"))

    @abstractmethod
    def preparation(self, short_edge: int | None = None, long_edge: int | None = None) -> Preparation[Prepared]:
        """How `detect` takes its images; edges (pixels) replace the model's own. Raises `ConfigError` for edges that
        cannot be.
        """

    @abstractmethod
    def detect(
        self,
        prepared: Prepared,
        original_sizes: Sequence[tuple[int, int]],
        sources: Sequence[str | None] | None = None,
        *,
        limits: Limits = NO_LIMITS,
        semantic: bool = False,
    ) -> list[Detections]:
        """The detections of a batch of prepared images, in pixels of their original sizes (height, width).

        With `semantic` the semantic map too; raises `ConfigError` where the model has no semantic branch.
        """

    def predict(
        self, source: ImageSource, score_threshold: float = 0.5, **options: Unpack[PredictOptions]
    ) -> Detections:
        """The detections of one image: a path, a PIL image or an (H, W, 3) uint8 RGB array.

        Raises `DataError` for an image that cannot be read, `ConfigError` for options outside their range.
        """
        return next(self.predict_many([source], 1, score_threshold, **options))

    def predict_many(
        self,
        sources: Iterable[ImageSource],
        batch_size: int = 1,
        score_threshold: float = 0.5,
        on_error: Callable[[ImageSource, DataError], None] | None = None,
        **options: Unpack[PredictOptions],
    ) -> Iterator[Detections]:
        """The detections of each image, in the order of `sources`, which is read as the results are asked for.

        A batch holds only images that need the same padded size, so results do not depend on `batch_size`. An image
        that cannot be read raises `DataError`; with `on_error` it is reported there and left out of the results.
        """
        call = self._checked(score_threshold, options)
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}: give 1 or more")
        return self._stream(iter(sources), batch_size, call, on_error)

    def _stream(
        self,
        sources: Iterator[ImageSource],
        batch_size: int,
        call: _Call[Prepared],
        on_error: Callable[[ImageSource, DataError], None] | None,
    ) -> Iterator[Detections]:
        while window := list(islice(sources, batch_size * WINDOW if batch_size > 1 else 1)):
            images = list(_read(window, call, on_error))
            results: dict[int, Detections] = {}
            for rows in _alike(images, batch_size, call.preparation):
                results.update(zip(rows, self._batch([images[row] for row in rows], call), strict=True))
            yield from (results[row] for row in range(len(images)))

    def _batch(self, images: list[_Image], call: _Call[Prepared]) -> list[Detections]:
        return self.detect(
            call.preparation.batch([image.pixels for image in images]),
            [image.original for image in images],
            [image.source for image in images],
            limits=call.limits,
            semantic=call.semantic,
        )

    def _checked(self, score_threshold: float, options: PredictOptions) -> _Call[Prepared]:
        if not 0 <= score_threshold <= 1:
            raise ConfigError(f"score_threshold is {score_threshold}: give a value from 0 to 1")
        capacity = self.config.inference.max_detections
        given = options.get("max_detections")
        most = capacity if given is None else given
        if not 1 <= most <= capacity:
            raise ConfigError(
                f"max_detections is {most}: give 1 to {capacity}, or load the model with a larger "
                f"inference.max_detections"
            )
        return _Call(
            self.preparation(options.get("short_edge"), options.get("long_edge")),
            Limits(score_threshold, self._labels(options.get("classes")), most),
            options.get("max_pixels", MAX_PIXELS),
            options.get("semantic", False),
        )

    def _labels(self, classes: Collection[str] | None) -> tuple[int, ...] | None:
        if classes is None:
            return None
        check_classes(classes, self.config)
        return tuple(sorted({self.config.classes.index(name) for name in classes}))


@final
class Predictor(ImagePredictor[NetworkInput]):
    """One detector with its configuration.

    `detector` is called as `detector(images (B, 3, H, W), sizes (B, 2), limits) -> RawDetections` and is put into
    evaluation mode; the device is the one its parameters are on.
    """

    def __init__(self, detector: nn.Module, config: Config) -> None:
        super().__init__(detector, config)
        self.detector = detector

    def preparation(self, short_edge: int | None = None, long_edge: int | None = None) -> ResizedInput:
        """See `ImagePredictor`."""
        asked = {"short_edge": short_edge, "long_edge": long_edge}
        edges = {name: edge for name, edge in asked.items() if edge is not None}
        if any(edge < 1 for edge in edges.values()):
            raise ConfigError(f"{edges}: edges are pixels, 1 or more")
        if len(edges) == 2 and edges["short_edge"] > edges["long_edge"]:
            raise ConfigError(
                f"short_edge {edges['short_edge']} is larger than long_edge {edges['long_edge']}: exchange them"
            )
        settings = self.config.input
        if edges:
            # Where the long edge is the smaller one, it alone decides, so that the short edge can be lowered to it.
            long = edges.get("long_edge", settings.long_edge)
            short = min(edges.get("short_edge", settings.short_edge), long)
            # Edges that are asked for are meant: the model's limit on enlarging is for its own.
            settings = settings.replace(short_edge=short, long_edge=long, max_scale=None)
        return ResizedInput(settings)

    @torch.inference_mode()
    def detect(
        self,
        prepared: NetworkInput,
        original_sizes: Sequence[tuple[int, int]],
        sources: Sequence[str | None] | None = None,
        *,
        limits: Limits = NO_LIMITS,
        semantic: bool = False,
    ) -> list[Detections]:
        """See `ImagePredictor`."""
        images = prepared.images.to(self.device).contiguous(memory_format=torch.channels_last)
        with exact_onednn_matmul():
            raw, logits = self._run(images, prepared.sizes.to(self.device), limits, semantic=semantic)
        names = sources or [None] * len(original_sizes)
        return [
            original_pixels(
                raw, row, (height, width), original, self.config, name, None if logits is None else logits[row]
            )
            for row, ((height, width), original, name) in enumerate(
                zip(prepared.sizes.tolist(), original_sizes, names, strict=True)
            )
        ]

    def _run(
        self, images: Tensor, sizes: Tensor, limits: Limits, *, semantic: bool
    ) -> tuple[RawDetections, Tensor | None]:
        """The network's output, with the semantic branch's logits where they are asked for."""
        if not semantic:
            return self.detector(images, sizes, limits), None
        if not isinstance(self.detector, Detector) or self.detector.semantic is None:
            raise ConfigError(NO_SEMANTIC_BRANCH)
        features = self.detector.features(images, semantic_logits=True)
        return self.detector.detect(features, sizes, limits), features.semantic_logits


def check_classes(wanted: Collection[str], config: Config) -> None:
    """Raises `ConfigError` with near names for the first class that the model does not know."""
    for name in wanted:
        if name not in config.classes:
            near = get_close_matches(name, config.classes, n=3, cutoff=0.5)
            hint = (
                f"did you mean {' or '.join(near)}?"
                if near
                else f"it knows {', '.join(config.classes[:10])}{', ...' if len(config.classes) > 10 else ''}"
            )
            raise ConfigError(f"classes: this model has no class {name!r}; {hint}")


def original_pixels(
    raw: RawDetections,
    row: int,
    size: tuple[int, int],
    original: tuple[int, int],
    config: Config,
    source: str | None = None,
    semantic_logits: Float[Tensor, "C h w"] | None = None,
) -> Detections:
    """Picture `row` of a batch, from pixels of the network input, where its own size is `size`, to those of the
    `original` (both h, w).
    """
    semantic = None
    if semantic_logits is not None:
        # Without what lies in the padding.
        own = semantic_logits[:, : -(-size[0] // SEMANTIC_STRIDE), : -(-size[1] // SEMANTIC_STRIDE)]
        semantic = SemanticMap(own.float().cpu().numpy(), size, original)
    kept = raw.valid[row]
    scale = np.array([original[1] / size[1], original[0] / size[0]] * 2)
    limit = np.array([original[1], original[0]] * 2)
    boxes = np.clip(raw.boxes[row][kept].cpu().double().numpy() * scale, 0, limit).astype(np.float32)
    labels = raw.labels[row][kept].cpu().numpy().astype(np.int64)
    probabilities = raw.masks[row][kept].float().cpu().numpy()
    return Detections(
        boxes=boxes,
        scores=raw.scores[row][kept].float().cpu().numpy(),
        labels=labels,
        class_names=tuple(config.classes[label] for label in labels),
        category_ids=np.array(config.category_ids, np.int64)[labels],
        masks=Masks(probabilities, boxes, original, config.inference.mask_threshold),
        size=original,
        source=source,
        semantic=semantic,
    )


def _read(
    sources: Sequence[ImageSource], call: _Call[Prepared], on_error: Callable[[ImageSource, DataError], None] | None
) -> Iterator[_Image]:
    for source in sources:
        try:
            pixels = read_picture(source, call.max_pixels)
        except DataError as error:
            if on_error is None:
                raise
            on_error(source, error)
            continue
        name = str(source) if isinstance(source, str | Path) else None
        yield _Image(call.preparation.image(pixels), (pixels.shape[0], pixels.shape[1]), name)


def _alike(images: Sequence[_Image], batch_size: int, preparation: Preparation[Prepared]) -> Iterator[list[int]]:
    """Rows of images with the same padded size, at most `batch_size` at a time."""
    groups: dict[tuple[int, int], list[int]] = {}
    for row, image in enumerate(images):
        size = (image.pixels.shape[0], image.pixels.shape[1])
        groups.setdefault(preparation.padded_size(size), []).append(row)
    for rows in groups.values():
        for start in range(0, len(rows), batch_size):
            yield rows[start : start + batch_size]
