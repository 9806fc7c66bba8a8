"""Predictors: from images of any kind to detections in original pixels."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Generic, Literal, Never, Self, final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from htc.checkpoint.native import save_pretrained
from htc.config import Config, Intensity, Percentiles
from htc.data.image_headers import Pages, each_page
from htc.data.images import MAX_PIXELS, Channels, ImageSource, is_url, read_image
from htc.data.transforms import NetworkInput, Preparation, Prepared, ResizedInput
from htc.errors import ConfigError, DataError
from htc.inference.device import choose_device
from htc.keywords import check_classes, unknown_option
from htc.model.detector import Detector
from htc.model.postprocess import NO_LIMITS, Limits
from htc.model.semantic import SEMANTIC_STRIDE
from htc.ops.onednn import exact_onednn_matmul
from htc.results import Detections, Masks
from htc.semantic_map import SemanticMap
from htc.types import RawDetections

WINDOW = 4
"""Number of batches whose images are read ahead, so that images with the same padded size can share a batch."""
OnError = Literal["raise", "skip"] | Callable[[ImageSource, DataError], object]
NO_SEMANTIC_BRANCH = (
    "this model predicts no semantic map, since it has no semantic branch or is an exported file: remove semantic, or "
    "load an HTC model"
)


@dataclass(frozen=True)
class _Call(Generic[Prepared]):
    """The checked options of a call of `predict` or `predict_many`."""

    preparation: Preparation[Prepared]
    limits: Limits
    channels: Channels
    max_pixels: int
    pages: Pages
    intensity: Intensity
    semantic: bool

    def __post_init__(self) -> None:
        if self.channels not in ("rgb", "bgr"):
            raise ConfigError(f"channels is {self.channels!r}: give 'rgb', or 'bgr' for OpenCV's arrays")
        if self.pages not in (None, "first", "all") and not (isinstance(self.pages, int) and self.pages > 0):
            raise ConfigError(f"pages is {self.pages!r}: give 'first', 'all', or the number of a page, from 1")


@dataclass(frozen=True)
class _Image:
    """An image after reading and preparation."""

    pixels: UInt8[np.ndarray, "h w 3"]
    original: tuple[int, int]
    source: str | None
    index: int
    shown: ImageSource
    """The image to draw detections on: the path, or the pixels if it is no local file."""


class ImagePredictor(ABC, Generic[Prepared]):
    """Base class of the two predictors, with everything but the computation itself.

    `Predictor` runs one detector, `htc.inference.ensemble.EnsemblePredictor` several detectors in several views.
    """

    def __init__(self, network: nn.Module, config: Config) -> None:
        if not config.inference.mask_threshold > 0:
            raise ConfigError(
                "inference.mask_threshold is 0, so every pixel would be part of every mask: set a value above 0"
            )
        self._network = network.eval()
        self.config = config

    @property
    def device(self) -> torch.device:
        """The device of the network's parameters."""
        return next((parameter.device for parameter in self._network.parameters()), torch.device("cpu"))

    def to(self, device: str | int | torch.device) -> Self:
        """Move the network to a device ("cpu", "cuda:1", 1, ...), in place; returns the predictor."""
        self._network.to(choose_device(device))
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the labels."""
        return self.config.classes

    def __repr__(self) -> str:
        """One line: preset, classes, device and precision."""
        config = self.config
        classes = f"{len(config.classes)} class{'' if len(config.classes) == 1 else 'es'}"
        return f"{type(self).__name__}({config.preset}, {classes}, {self.device}, {config.precision})"

    @abstractmethod
    def preparation(self, short_edge: int | None = None, long_edge: int | None = None) -> Preparation[Prepared]:
        """Return the preparation of images for `detect`; edges (pixels) replace the model's. Raises `ConfigError` for
        invalid edges.
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
        """Predict a batch of prepared images; detections are in pixels of the original sizes (height, width).

        With `semantic`, also the semantic map; raises `ConfigError` if the model has no semantic branch.
        """

    def predict(
        self,
        source: ImageSource,
        score_threshold: float = 0.5,
        *,
        max_detections: int | None = None,
        classes: Collection[str] | None = None,
        short_edge: int | None = None,
        long_edge: int | None = None,
        channels: Channels = "rgb",
        max_pixels: int = MAX_PIXELS,
        pages: Pages = None,
        percentile: tuple[float, float] | None = None,
        semantic: bool = False,
        **unknown: Never,
    ) -> Detections:
        """Predict the detections of one image.

        Args:
            source: a path, an http(s) URL, an open binary file, a PIL image (rotated by its EXIF orientation), an
                (H, W, 3) uint8 array, or a (3, H, W) tensor, uint8 or float 0..1. `stack.tif#2` is the second page of
                a file with several pages or frames.
            score_threshold: minimum score of the detections, 0..1; replaces the one of the model's configuration.
            max_detections: maximum number of detections, by descending score; at most `inference.max_detections`.
            classes: predict only these class names; other classes are dropped before NMS and masks.
            short_edge: short edge of the network input in pixels; smaller if the long edge would exceed `long_edge`.
            long_edge: maximum long edge in pixels; `None`: the model's own.
            channels: order of the colors in an array or a tensor; "bgr" for images of OpenCV.
            max_pixels: files with more pixels are refused.
            pages: of a file with several pages or frames: the page of this number, from 1; "first", or "all" (in
                `predict_many`). `None`: the first, with a warning in the log.
            percentile: the percentiles (0..100) of 16-bit and float images that become 0 and 255, as in (0.1, 99.9);
                `None`: the model's own range (`input.intensity`).
            semantic: keep the logits of the semantic branch, so that `Detections.semantic` gives the semantic map.

        Raises:
            DataError: the image cannot be read or has an unsupported type.
            ConfigError: an option is outside its range.
            TypeError: an option does not exist; the message names the nearest.

        Example:
            >>> detections = model.predict("street.jpg", score_threshold=0.6, classes=["person"])
        """
        if unknown:
            raise unknown_option(ImagePredictor.predict, unknown)
        if pages == "all":
            raise ConfigError("pages is 'all': one call of predict is for one image; use predict_many([source], ...)")
        limits = self._limits(score_threshold, max_detections, classes)
        preparation = self.preparation(short_edge, long_edge)
        call = _Call(preparation, limits, channels, max_pixels, pages, self._intensity(percentile), semantic)
        return next(self._stream([source], 1, 0, call, "raise"))

    def predict_many(
        self,
        sources: Iterable[ImageSource],
        score_threshold: float = 0.5,
        *,
        batch_size: int = 1,
        workers: int = 0,
        on_error: OnError = "raise",
        max_detections: int | None = None,
        classes: Collection[str] | None = None,
        short_edge: int | None = None,
        long_edge: int | None = None,
        channels: Channels = "rgb",
        max_pixels: int = MAX_PIXELS,
        pages: Pages = None,
        percentile: tuple[float, float] | None = None,
        semantic: bool = False,
        **unknown: Never,
    ) -> Iterator[Detections]:
        """Predict many images lazily; the detections are in the order of `sources`.

        A batch contains only images with the same padded size, so `batch_size` changes results by rounding only. Each
        result's `index` is the position of its image in `sources`, and `source` its path. `sources` may be infinite: at
        most `batch_size` x 4 images (or `workers` x 2, if larger) are in memory at a time.

        Args:
            sources: images as for `predict`.
            batch_size: images in a forward pass.
            workers: threads that read and resize the next images in the background; 0: none.
            on_error: if an image cannot be read: "raise" its `DataError`, "skip" it, or call this function with the
                source and the error, and skip it.

        The other options are those of `predict`.

        Example:
            >>> for detections in model.predict_many(paths, batch_size=8, workers=4, on_error="skip"):
            ...     print(paths[detections.index], len(detections))
        """
        if unknown:
            raise unknown_option(ImagePredictor.predict_many, unknown)
        for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
            if value < least:
                raise ConfigError(f"{name} is {value}: give {least} or more")
        if on_error not in ("raise", "skip") and not callable(on_error):
            raise ConfigError(f"on_error is {on_error!r}: give 'raise', 'skip' or a function of source and error")
        if isinstance(sources, str | bytes | Path | np.ndarray):
            raise DataError(f"predict_many takes several images, not one {type(sources).__name__}: pass a list")
        limits = self._limits(score_threshold, max_detections, classes)
        preparation = self.preparation(short_edge, long_edge)
        call = _Call(preparation, limits, channels, max_pixels, pages, self._intensity(percentile), semantic)
        return self._stream(sources, batch_size, workers, call, on_error)

    def _stream(
        self, sources: Iterable[ImageSource], batch_size: int, workers: int, call: _Call[Prepared], on_error: OnError
    ) -> Iterator[Detections]:
        images = _read_all(sources, workers, call, on_error)
        while window := list(islice(images, batch_size * WINDOW if batch_size > 1 else 1)):
            results: dict[int, Detections] = {}
            for rows in _alike(window, batch_size, call.preparation):
                results.update(zip(rows, self._batch([window[row] for row in rows], call), strict=True))
            yield from (results[row] for row in range(len(window)))

    def _batch(self, images: list[_Image], call: _Call[Prepared]) -> list[Detections]:
        results = self.detect(
            call.preparation.batch([image.pixels for image in images]),
            [image.original for image in images],
            [image.source for image in images],
            limits=call.limits,
            semantic=call.semantic,
        )
        return [
            replace(result, index=image.index, image=image.shown) for result, image in zip(results, images, strict=True)
        ]

    def _limits(self, score_threshold: float, max_detections: int | None, classes: Collection[str] | None) -> Limits:
        if not 0 <= score_threshold <= 1:
            raise ConfigError(f"score_threshold is {score_threshold}: give a value from 0 to 1")
        capacity = self.config.inference.max_detections
        most = capacity if max_detections is None else max_detections
        if not 1 <= most <= capacity:
            raise ConfigError(
                f"max_detections is {most}: give 1 to {capacity}, or load the model with a larger "
                f"inference.max_detections"
            )
        return Limits(score_threshold, self._labels(classes), most)

    def _labels(self, classes: Collection[str] | None) -> tuple[int, ...] | None:
        if classes is None:
            return None
        names = [classes] if isinstance(classes, str) else classes
        check_classes(names, self.config.classes)
        return tuple(sorted({self.config.classes.index(name) for name in names}))

    def _intensity(self, percentile: tuple[float, float] | None) -> Intensity:
        if percentile is None:
            return self.config.input.intensity
        if len(percentile) != 2:
            raise ConfigError(f"percentile is {percentile}: give two numbers from 0 to 100, as in (0.1, 99.9)")
        return Percentiles().replace(low=percentile[0], high=percentile[1])


@final
class Predictor(ImagePredictor[NetworkInput]):
    """Predictor of one detector with its configuration.

    `detector` is called as `detector(images (B, 3, H, W), sizes (B, 2), limits) -> RawDetections` and is set to
    evaluation mode; it stays on the device of its parameters. `weights` returns the weights to save if they differ from
    the detector's; `preparation` is for a detector that takes images as they are.
    """

    def __init__(
        self,
        detector: nn.Module,
        config: Config,
        weights: Callable[[], Mapping[str, Tensor]] | None = None,
        preparation: Preparation[NetworkInput] | None = None,
    ) -> None:
        super().__init__(detector, config)
        self.detector = detector
        self._weights = weights
        self._preparation = preparation

    def save(self, folder: str | Path) -> Path:
        """Write the model to a folder (`config.json`, `model.safetensors`) for `htc.load`; returns the folder.

        Weights are saved as they were loaded, before norms are folded and precision is reduced for prediction.
        """
        return save_pretrained(self._weights() if self._weights else self.detector, self.config, folder)

    def preparation(self, short_edge: int | None = None, long_edge: int | None = None) -> Preparation[NetworkInput]:
        """See `ImagePredictor`."""
        if self._preparation is not None:
            if short_edge is not None or long_edge is not None:
                raise ConfigError("this file resizes its images itself: remove short_edge and long_edge")
            return self._preparation
        given = {"short_edge": short_edge, "long_edge": long_edge}
        edges = {name: edge for name, edge in given.items() if edge is not None}
        if any(edge < 1 for edge in edges.values()):
            raise ConfigError(f"{edges}: edges must be at least 1 pixel")
        if len(edges) == 2 and edges["short_edge"] > edges["long_edge"]:
            raise ConfigError(
                f"short_edge {edges['short_edge']} is larger than long_edge {edges['long_edge']}: swap them"
            )
        settings = self.config.input
        if edges:
            # If long_edge is smaller than the model's short edge, the short edge is reduced to it.
            long = edges.get("long_edge", settings.long_edge)
            short = min(edges.get("short_edge", settings.short_edge), long)
            # The model's limit on enlarging applies only to its own edges, not to explicit ones.
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
        """Run the network; with `semantic`, also return the logits of the semantic branch."""
        if not semantic:
            return self.detector(images, sizes, limits), None
        if not isinstance(self.detector, Detector) or self.detector.semantic is None:
            raise ConfigError(NO_SEMANTIC_BRANCH)
        features = self.detector.features(images, semantic_logits=True)
        return self.detector.detect(features, sizes, limits), features.semantic_logits


def original_pixels(
    raw: RawDetections,
    row: int,
    size: tuple[int, int],
    original: tuple[int, int],
    config: Config,
    source: str | None = None,
    semantic_logits: Float[Tensor, "C h w"] | None = None,
) -> Detections:
    """Convert the detections of image `row` of a batch from pixels of the network input, of which the image covers
    `size`, to pixels of the `original` size (both height, width).
    """
    semantic = None
    if semantic_logits is not None:
        # Crop the padding.
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


def _read_all(
    sources: Iterable[ImageSource], workers: int, call: _Call[Prepared], on_error: OnError
) -> Iterator[_Image]:
    """Yield the images in order, reading `2 * workers` ahead; `on_error` handles images that cannot be read."""
    plain = ((index, source, None) for index, source in enumerate(sources))
    numbered = each_page(sources, call.pages) if call.pages else plain
    if workers == 0:
        for index, source, page in numbered:
            yield from _handled(partial(_read, index, source, page, call), source, on_error)
        return
    pool = ThreadPoolExecutor(workers, "htc-read")
    try:
        ahead: deque[tuple[ImageSource, Future[_Image]]] = deque()
        for index, source, page in numbered:
            ahead.append((source, pool.submit(_read, index, source, page, call)))
            if len(ahead) >= 2 * workers:
                first, future = ahead.popleft()
                yield from _handled(future.result, first, on_error)
        for source, future in ahead:
            yield from _handled(future.result, source, on_error)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _read(index: int, source: ImageSource, page: int | None, call: _Call[Prepared]) -> _Image:
    pixels = read_image(source, call.max_pixels, call.channels, intensity=call.intensity, page=page)
    name = str(source) if isinstance(source, str | PathLike) else None
    prepared = call.preparation.image(pixels)
    shown = pixels if name is None or is_url(source) else name
    return _Image(prepared, (pixels.shape[0], pixels.shape[1]), name, index, shown)


def _handled(read: Callable[[], _Image], source: ImageSource, on_error: OnError) -> Iterator[_Image]:
    """Yield the image, or nothing if it cannot be read and `on_error` skips it."""
    try:
        yield read()
    except DataError as error:
        if on_error == "raise":
            raise
        if callable(on_error):
            on_error(source, error)


def _alike(images: Sequence[_Image], batch_size: int, preparation: Preparation[Prepared]) -> Iterator[list[int]]:
    """Yield indices of images with the same padded size, at most `batch_size` at a time."""
    groups: dict[tuple[int, int], list[int]] = {}
    for row, image in enumerate(images):
        size = (image.pixels.shape[0], image.pixels.shape[1])
        groups.setdefault(preparation.padded_size(size), []).append(row)
    for rows in groups.values():
        for start in range(0, len(rows), batch_size):
            yield rows[start : start + batch_size]
