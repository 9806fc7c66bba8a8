"""Predictions: boxes, scores and classes in original pixels, and masks that are computed only when requested."""

import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64, UInt8
from PIL import Image

from htc import result_formats
from htc.data.images import ImageSource
from htc.errors import ConfigError
from htc.ops import masks as mask_ops
from htc.ops.masks import MaskCrop, MaskGrid, mask_grid
from htc.ops.polygons import Polygon, polygons
from htc.ops.run_lengths import rle
from htc.semantic_map import SemanticMap

if TYPE_CHECKING:
    import supervision

Index = slice | Sequence[int] | Sequence[bool] | Int[np.ndarray, " M"] | Bool[np.ndarray, " N"]
CocoRLE = dict[str, Any]
"""COCO run-length encoding: `{"size": [height, width], "counts": str}`."""


class Masks:
    """The masks of N detections of one image, stored as probabilities (N, S, S) over their boxes until a format is
    requested.

    A pixel is foreground if the probability, sampled at the pixel's center, is at least `threshold` (0..1, above 0). A
    model without mask heads returns grids without cells (S = 0): `exist` is false, and every format raises
    `ConfigError`.
    """

    def __init__(
        self,
        probabilities: Float32[np.ndarray, "N S S"],
        boxes: Float32[np.ndarray, "N 4"],
        size: tuple[int, int],
        threshold: float = 0.5,
    ) -> None:
        self.probabilities = probabilities
        self.boxes = boxes
        self.size = size
        self.threshold = threshold

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def exist(self) -> bool:
        """Whether the model predicts masks."""
        return self.probabilities.shape[-1] > 0

    def __getitem__(self, index: Index) -> "Masks":
        return Masks(self.probabilities[index], self.boxes[index], self.size, self.threshold)

    def rle(self) -> list[CocoRLE]:
        """COCO run-length encodings of the whole image, computed from the crops; holes are kept."""
        return rle(self._grid())

    def bitmaps(self) -> Bool[np.ndarray, "N H W"]:
        """Dense masks at the image's size: N x H x W bytes."""
        return mask_ops.bitmaps(self._grid())

    def crops(self) -> Iterator[MaskCrop]:
        """Yield each mask as a bitmap cropped to its box: (x, y, bitmap)."""
        return mask_ops.crops(self._grid())

    def polygons(self, tolerance: float = 0.0) -> list[list[Polygon]]:
        """Connected parts of each instance, largest first, each with its holes; (x, y) in pixels.

        `tolerance` 0 follows the pixel edges; with a larger value, vertices are removed as long as the outline moves by
        at most that many pixels.
        """
        return [polygons(crop, tolerance) for crop in self.crops()]

    def outlines(self, tolerance: float = 0.0) -> list[list[Float32[np.ndarray, "V 2"]]]:
        """Exterior rings of `polygons` only, for formats without holes."""
        return [[part.exterior for part in parts] for parts in self.polygons(tolerance)]

    def __eq__(self, other: object) -> bool:
        """Compare probabilities, boxes, size and threshold."""
        if not isinstance(other, Masks):
            return NotImplemented
        same = self.size == other.size and self.threshold == other.threshold
        return same and all(map(np.array_equal, (self.probabilities, self.boxes), (other.probabilities, other.boxes)))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Masks({len(self)} of {self.size[1]}x{self.size[0]} pixels, threshold {self.threshold})"

    def scaled(self, factor: int) -> "Masks":
        """Masks of the image enlarged by a factor."""
        size = (self.size[0] * factor, self.size[1] * factor)
        return Masks(self.probabilities, self.boxes * np.float32(factor), size, self.threshold)

    def windows(self) -> Float[np.ndarray, "N 4"]:
        """First and last pixel (xyxy) that each mask may touch; the last is before the first for an empty mask."""
        grid = self._grid()
        return np.concatenate((grid.start, grid.stop - 1), axis=1).astype(np.float32)

    def _grid(self) -> MaskGrid:
        if not self.exist:
            raise ConfigError("this model predicts boxes only (cascade.mask_head none): there are no masks")
        return mask_grid(torch.from_numpy(self.probabilities), torch.from_numpy(self.boxes), self.size, self.threshold)


class Detection(NamedTuple):
    """One detected instance."""

    box: Float32[np.ndarray, " 4"]
    """xyxy, pixels of the original image."""
    score: float
    label: int
    """Index of the class in the model's list, from 0."""
    class_name: str
    category_id: int
    masks: Masks
    """The mask of this instance (length 1)."""


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The instances predicted in one image, best first.

    Indexing with a number returns one `Detection`; with a slice, a list or a mask, `Detections`. Two objects are equal
    if all fields except `image` are.

    Example:
        >>> people = detections[detections.scores > 0.8].filter(classes=["person"])
        >>> people.draw().save("people.png")
    """

    boxes: Float32[np.ndarray, "N 4"]
    """xyxy, pixels of the original image."""
    scores: Float32[np.ndarray, " N"]
    """0..1."""
    labels: Int64[np.ndarray, " N"]
    """Indices of the classes in the model's list, from 0."""
    class_names: tuple[str, ...]
    """Class name of each detection."""
    category_ids: Int64[np.ndarray, " N"]
    """Category id of each detection in the dataset, as written to result files."""
    masks: Masks
    size: tuple[int, int]
    """(height, width) of the original image."""
    source: str | None = None
    """The image's path, if it came from a file."""
    semantic: SemanticMap | None = None
    """Semantic map of the image, if requested (`semantic=True`)."""
    index: int | None = None
    """Position of the image among those given to `predict_many`."""
    image: ImageSource | None = None
    """The image that `draw()` draws on: its path, or its pixels."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        names = [field.name for field in fields(self) if field.name != "image"]
        return all(_equal(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """One line: the number of instances, the image, and the best instances."""
        shown = [f"{name} {score:.2f}" for name, score in zip(self.class_names[:5], self.scores, strict=False)]
        best = f": {', '.join(shown)}{', ...' if len(self) > len(shown) else ''}" if shown else ""
        where = f" in {self.source}" if self.source else ""
        return f"Detections({len(self)} instances{where}, {self.size[1]}x{self.size[0]} pixels{best})"

    def _repr_png_(self) -> bytes | None:
        """PNG of the drawing, for notebooks."""
        if self.image is None:
            return None
        stream = io.BytesIO()
        self.draw().save(stream, "PNG")
        return stream.getvalue()

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: Index) -> "Detections": ...
    def __getitem__(self, index: int | Index) -> "Detection | Detections":
        if isinstance(index, int | np.integer):
            row = range(len(self))[index]
            score, label, category = float(self.scores[row]), int(self.labels[row]), int(self.category_ids[row])
            return Detection(self.boxes[row], score, label, self.class_names[row], category, self.masks[[row]])
        rows = np.arange(len(self))[index] if len(self) or isinstance(index, slice) else np.arange(0)
        names = tuple(self.class_names[row] for row in rows)
        new = (self.boxes[rows], self.scores[rows], self.labels[rows], names, self.category_ids[rows], self.masks[rows])
        return Detections(*new, self.size, self.source, self.semantic, self.index, self.image)

    def filter(self, score_threshold: float = 0.0, classes: Collection[str] | None = None) -> "Detections":
        """Select detections with at least this score and, if given, of one of these classes."""
        names = [classes] if isinstance(classes, str) else classes
        wanted = np.array([names is None or name in names for name in self.class_names], bool)
        return self[np.flatnonzero((self.scores >= score_threshold) & wanted)]

    def draw(
        self,
        image: ImageSource | None = None,
        *,
        masks: bool = True,
        boxes: bool = False,
        labels: bool = True,
        scale: int = 1,
    ) -> Image.Image:
        """Draw the instances over a copy of the image.

        `image` is needed only if the detections do not store it: a path, a PIL image or an (H, W, 3) uint8 RGB array.
        `scale` enlarges the image first, so that captions and outlines are legible on a small one. Raises `ValueError`
        without an image, and for an image of another size than that of the detections.
        """
        return Image.fromarray(self.drawing(image, masks=masks, boxes=boxes, labels=labels, scale=scale))

    def save(self, path: str | Path, **drawing: Any) -> None:
        """Write `draw(**drawing)` to an image file; the suffix sets the format."""
        self.draw(**drawing).save(path)

    def show(self, **drawing: Any) -> None:
        """Open `draw(**drawing)` in the system's image viewer."""
        self.draw(**drawing).show()

    def drawing(
        self,
        image: ImageSource | None = None,
        *,
        masks: bool = True,
        boxes: bool = False,
        labels: bool = True,
        scale: int = 1,
    ) -> UInt8[np.ndarray, "H W 3"]:
        """The output of `draw` as an array."""
        image = self.image if image is None else image
        if image is None:
            raise ValueError("these detections do not store their image: pass it, as in draw(image)")
        return result_formats.drawing(self, image, masks=masks, boxes=boxes, labels=labels, scale=scale)

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """COCO results: image_id, category_id, category_name, bbox (xywh, original pixels), score, segmentation (RLE;
        absent without masks).
        """
        return result_formats.coco_results(self, image_id)

    def to_dict(self) -> dict[str, Any]:
        """All fields except the image as JSON values; masks as RLE."""
        return result_formats.plain_values(self)

    def to_labelme(self, image_path: str, tolerance: float = 0.75) -> dict[str, Any]:
        """The content of a labelme file: one polygon shape per part, where the parts of one instance share a
        `group_id`; rectangles without masks.

        `tolerance`: pixels by which an outline may move, for fewer vertices to edit. `image_path` is relative to the
        file.
        """
        return result_formats.labelme_content(self, image_path, tolerance)

    def to_supervision(self) -> "supervision.Detections":
        """Convert to roboflow's supervision (extra `vis`), where masks are `CompactMask` (`.to_dense()` unpacks)."""
        return result_formats.supervision_detections(self)


def _equal(a: object, b: object) -> bool:
    return np.array_equal(a, b) if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else a == b
