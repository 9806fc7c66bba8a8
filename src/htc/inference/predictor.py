"""Pictures of any kind in, detections in original pixels out."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypedDict, Unpack

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from htc.config import Config, Input
from htc.data.images import MAX_PIXELS, ImageSource, read_picture
from htc.data.transforms import pad_pictures, padded_size, place_picture, plain_placement
from htc.errors import ConfigError, DataError
from htc.model.detector import Detector
from htc.model.semantic import SEMANTIC_STRIDE
from htc.ops.onednn import exact_onednn_matmul
from htc.results import Detections, Masks, SemanticMap
from htc.types import RawDetections

WINDOW = 4
"""Batches' worth of pictures that are looked at together, so that those of like shape can share a batch."""


class PredictOptions(TypedDict, total=False):
    """What may differ from call to call; what is left out is the model's own configuration."""

    max_detections: int | None
    """At most this many objects a picture, best first; no more than the model's `inference.max_detections`."""
    short_edge: int | None
    """Network input: the short edge in pixels, unless the long one would pass `long_edge`."""
    long_edge: int | None
    classes: Collection[str] | None
    """Only objects of these class names."""
    max_pixels: int
    """Larger pictures are refused."""
    semantic: bool
    """Keep the semantic branch's logits, so that `found.semantic` gives the map of the whole picture."""


@dataclass(frozen=True)
class _Call:
    """The checked options of one call."""

    settings: Input
    score_threshold: float
    max_detections: int
    labels: frozenset[int] | None
    max_pixels: int
    semantic: bool


class _Picture(NamedTuple):
    resized: UInt8[np.ndarray, "h w 3"]
    original: tuple[int, int]
    source: str | None


class Predictor:
    """A detector with its configuration, ready to look at pictures.

    `detector` is called as `detector(images (B, 3, H, W), sizes (B, 2)) -> RawDetections` and is put into evaluation
    mode; the device is the one its parameters are on.
    """

    def __init__(self, detector: nn.Module, config: Config) -> None:
        if not config.inference.mask_threshold > 0:
            raise ConfigError(
                "inference.mask_threshold is 0, which makes every pixel part of every mask: give a value above 0"
            )
        self.detector = detector.eval()
        self.config = config

    @property
    def device(self) -> torch.device:
        """Where the detector's parameters are."""
        return next((parameter.device for parameter in self.detector.parameters()), torch.device("cpu"))

    def predict(
        self, source: ImageSource, score_threshold: float = 0.5, **options: Unpack[PredictOptions]
    ) -> Detections:
        """The objects in one picture: a path, a PIL image or an (H, W, 3) uint8 RGB array.

        Raises `DataError` for a picture that cannot be read, `ConfigError` for options outside their range.
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
        """The objects in each picture, in the order of `sources`, which is read as the results are asked for.

        A batch holds only pictures that need the same padded size, so results do not depend on `batch_size`. A picture
        that cannot be read raises `DataError`; with `on_error` it is reported there and left out of the results.
        """
        call = self._checked(score_threshold, options)
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}: give 1 or more")
        return self._stream(iter(sources), batch_size, call, on_error)

    @torch.inference_mode()
    def detect(
        self,
        images: Float[Tensor, "B 3 H W"],
        sizes: Int[Tensor, "B 2"],
        original_sizes: Sequence[tuple[int, int]],
        sources: Sequence[str | None] | None = None,
        *,
        semantic: bool = False,
    ) -> list[Detections]:
        """Everything the model finds in normalised, padded pictures (own sizes and original sizes as (height, width)).

        With `semantic` the semantic map too; raises `ConfigError` where the model has no semantic branch.
        """
        images = images.to(self.device).contiguous(memory_format=torch.channels_last)
        with exact_onednn_matmul():
            raw, logits = self._run(images, sizes.to(self.device), semantic=semantic)
        names = sources or [None] * len(original_sizes)
        return [
            original_pixels(
                raw, row, (height, width), original, self.config, name, None if logits is None else logits[row]
            )
            for row, ((height, width), original, name) in enumerate(
                zip(sizes.tolist(), original_sizes, names, strict=True)
            )
        ]

    def _run(self, images: Tensor, sizes: Tensor, *, semantic: bool) -> tuple[RawDetections, Tensor | None]:
        """The network's answer, with the semantic branch's logits where they are asked for."""
        if not semantic:
            return self.detector(images, sizes), None
        if not isinstance(self.detector, Detector) or self.detector.semantic is None:
            raise ConfigError(
                "this model has no semantic branch, so it gives no semantic map: leave semantic out, or load a "
                "model of HTC"
            )
        features = self.detector.features(images, semantic_logits=True)
        return self.detector.detect(features, sizes), features.semantic_logits

    def _stream(
        self,
        sources: Iterator[ImageSource],
        batch_size: int,
        call: _Call,
        on_error: Callable[[ImageSource, DataError], None] | None,
    ) -> Iterator[Detections]:
        while window := list(islice(sources, batch_size * WINDOW if batch_size > 1 else 1)):
            pictures = list(_read(window, call, on_error))
            found: dict[int, Detections] = {}
            for rows in _alike(pictures, batch_size, call.settings.divisor):
                found.update(zip(rows, self._batch([pictures[row] for row in rows], call), strict=True))
            yield from (found[row] for row in range(len(pictures)))

    def _batch(self, pictures: list[_Picture], call: _Call) -> list[Detections]:
        images = pad_pictures([picture.resized for picture in pictures], call.settings)
        sizes = torch.tensor([picture.resized.shape[:2] for picture in pictures])
        results = self.detect(
            images,
            sizes,
            [picture.original for picture in pictures],
            [picture.source for picture in pictures],
            semantic=call.semantic,
        )
        return [_wanted(found, call) for found in results]

    def _checked(self, score_threshold: float, options: PredictOptions) -> _Call:
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
        asked = {"short_edge": options.get("short_edge"), "long_edge": options.get("long_edge")}
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
        return _Call(
            settings,
            score_threshold,
            most,
            self._labels(options.get("classes")),
            options.get("max_pixels", MAX_PIXELS),
            options.get("semantic", False),
        )

    def _labels(self, classes: Collection[str] | None) -> frozenset[int] | None:
        if classes is None:
            return None
        check_classes(classes, self.config)
        return frozenset(self.config.classes.index(name) for name in classes)


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


def _wanted(found: Detections, call: _Call) -> Detections:
    keep = found.scores >= call.score_threshold
    if call.labels is not None:
        keep &= np.isin(found.labels, list(call.labels))
    return found[np.flatnonzero(keep)[: call.max_detections]]


def _read(
    sources: Sequence[ImageSource], call: _Call, on_error: Callable[[ImageSource, DataError], None] | None
) -> Iterator[_Picture]:
    for source in sources:
        try:
            picture = read_picture(source, call.max_pixels)
        except DataError as error:
            if on_error is None:
                raise
            on_error(source, error)
            continue
        original = (picture.shape[0], picture.shape[1])
        name = str(source) if isinstance(source, str | Path) else None
        yield _Picture(place_picture(picture, plain_placement(original, call.settings)), original, name)


def _alike(pictures: Sequence[_Picture], batch_size: int, divisor: int) -> Iterator[list[int]]:
    """Positions of pictures with the same padded size, at most `batch_size` at a time."""
    groups: dict[tuple[int, int], list[int]] = {}
    for row, picture in enumerate(pictures):
        groups.setdefault(padded_size([picture.resized.shape[:2]], divisor), []).append(row)
    for rows in groups.values():
        for start in range(0, len(rows), batch_size):
            yield rows[start : start + batch_size]
