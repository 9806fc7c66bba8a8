"""What a prediction is to its user: boxes, scores and classes in original pixels, and masks that cost nothing until
asked for.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64, UInt8
from PIL import Image

from htc.data.images import ImageSource, read_picture
from htc.errors import ConfigError
from htc.model.semantic import SEMANTIC_STRIDE
from htc.ops import masks as mask_ops
from htc.ops.masks import MaskCrop, MaskGrid, mask_grid
from htc.ops.polygons import polygons
from htc.ops.run_lengths import rle
from htc.visual.drawing import draw_objects, enlarge

if TYPE_CHECKING:
    import supervision

Index = slice | Sequence[int] | Sequence[bool] | Int[np.ndarray, " M"] | Bool[np.ndarray, " N"]
CocoRLE = dict[str, Any]
"""COCO run lengths: `{"size": [height, width], "counts": str}`."""


class Masks:
    """The masks of N detections of one picture, kept as probabilities (N, S, S) over their boxes until a form is asked
    for.

    A pixel belongs to a mask where the probability, sampled at the pixel's centre, is at least `threshold` (0..1, above
    0). A model of boxes alone has grids without cells (S = 0): `exist` is false, and every form raises `ConfigError`.
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
        """Whether the model makes masks."""
        return self.probabilities.shape[-1] > 0

    def __getitem__(self, index: Index) -> "Masks":
        return Masks(self.probabilities[index], self.boxes[index], self.size, self.threshold)

    def rle(self) -> list[CocoRLE]:
        """COCO run lengths of the whole picture, straight from the crops; holes are kept."""
        return rle(self._grid())

    def bitmaps(self) -> Bool[np.ndarray, "N H W"]:
        """Dense masks at the picture's size: N x H x W bytes."""
        return mask_ops.bitmaps(self._grid())

    def crops(self) -> Iterator[MaskCrop]:
        """One bitmap after the other, cropped to its box: (x, y, bitmap)."""
        return mask_ops.crops(self._grid())

    def polygons(self, tolerance: float = 0.0) -> list[list[Float[np.ndarray, "V 2"]]]:
        """Outer contours of each object, largest first, as (x, y) in pixels; no holes. See `htc.ops.polygons`."""
        return [polygons(crop, tolerance) for crop in self.crops()]

    def windows(self) -> Float[np.ndarray, "N 4"]:
        """First and last pixel (xyxy) that each mask may touch; the last before the first where it has none."""
        grid = self._grid()
        return np.concatenate((grid.start, grid.stop - 1), axis=1).astype(np.float32)

    def _grid(self) -> MaskGrid:
        if not self.exist:
            raise ConfigError("this model finds boxes alone (cascade.mask_head none): there are no masks")
        return mask_grid(torch.from_numpy(self.probabilities), torch.from_numpy(self.boxes), self.size, self.threshold)


class SemanticMap:
    """What every pixel of one picture is, kept as the semantic branch's logits (C, h, w) until the map is asked for.

    Logit (i, j) speaks for the pixel (8 i, 8 j) of the network input, as it was trained to; `input_size` is the
    picture's own (height, width) there, `size` that of the original.
    """

    def __init__(
        self, logits: Float32[np.ndarray, "C h w"], input_size: tuple[int, int], size: tuple[int, int]
    ) -> None:
        self.logits = logits
        self.input_size = input_size
        self.size = size

    def labels(self) -> UInt8[np.ndarray, "H W"]:
        """The likeliest class of each pixel of the original picture: logits between two places are mixed by
        distance.
        """
        top, bottom, down = self._places(0)
        left, right, along = self._places(1)
        labels = np.empty(self.size, np.uint8)
        step = max(1, mask_ops.WORK_ELEMENTS // (len(self.logits) * self.size[1]))
        for start in range(0, self.size[0], step):
            strip = slice(start, start + step)
            rows = (
                self.logits[:, top[strip]]
                + (self.logits[:, bottom[strip]] - self.logits[:, top[strip]]) * down[strip, None]
            )
            labels[strip] = (rows[:, :, left] + (rows[:, :, right] - rows[:, :, left]) * along).argmax(0)
        return labels

    def _places(self, axis: int) -> tuple[Int64[np.ndarray, " L"], Int64[np.ndarray, " L"], Float32[np.ndarray, " L"]]:
        """For each row (or column) of the original, the logits before and after its centre, and how far it lies
        between them.
        """
        centres = (np.arange(self.size[axis]) + 0.5) * self.input_size[axis] / self.size[axis] - 0.5
        last = self.logits.shape[1 + axis] - 1
        place = np.clip(centres / SEMANTIC_STRIDE, 0, last)
        before = np.floor(place).astype(np.int64)
        return before, np.minimum(before + 1, last), (place - before).astype(np.float32)


class Detection(NamedTuple):
    """One found object."""

    box: Float32[np.ndarray, " 4"]
    """xyxy, pixels of the original picture."""
    score: float
    label: int
    """Position of the class in the model's list, from 0."""
    class_name: str
    category_id: int
    masks: Masks
    """Of this object alone (length 1)."""


@dataclass(frozen=True)
class Detections:
    """The objects found in one picture, best first. Indexing with a number gives one `Detection`, with anything else
    `Detections`.
    """

    boxes: Float32[np.ndarray, "N 4"]
    """xyxy, pixels of the original picture."""
    scores: Float32[np.ndarray, " N"]
    """0..1."""
    labels: Int64[np.ndarray, " N"]
    """Positions of the classes in the model's list, from 0."""
    class_names: tuple[str, ...]
    """The class of each detection."""
    category_ids: Int64[np.ndarray, " N"]
    """The data set's id of each detection's class, as it is written to result files."""
    masks: Masks
    size: tuple[int, int]
    """(height, width) of the original picture."""
    source: str | None = None
    """The picture's path, where it came from a file."""
    semantic: SemanticMap | None = None
    """Of the whole picture, where it was asked for (`semantic=True`)."""

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
        own = (self.boxes[rows], self.scores[rows], self.labels[rows], names, self.category_ids[rows], self.masks[rows])
        return Detections(*own, self.size, self.source, self.semantic)

    def filter(self, score_threshold: float = 0.0, classes: Collection[str] | None = None) -> "Detections":
        """Those with at least this score and, where given, of one of these class names."""
        wanted = np.array([classes is None or name in classes for name in self.class_names], bool)
        return self[np.flatnonzero((self.scores >= score_threshold) & wanted)]

    def draw(
        self, image: ImageSource, *, masks: bool = True, boxes: bool = False, labels: bool = True, scale: int = 1
    ) -> Image.Image:
        """The objects drawn over a copy of `image`, the original picture: a path, PIL, or (H, W, 3) uint8 RGB array.

        `scale` enlarges the picture first, so that captions and outlines on a small one are legible. Raises
        `ValueError` for a picture of another size than the detections'.
        """
        return Image.fromarray(self.drawing(image, masks=masks, boxes=boxes, labels=labels, scale=scale))

    def drawing(
        self, image: ImageSource, *, masks: bool = True, boxes: bool = False, labels: bool = True, scale: int = 1
    ) -> UInt8[np.ndarray, "H W 3"]:
        """What `draw` shows, as an array."""
        masks = masks and self.masks.exist
        pixels = read_picture(image)
        if pixels.shape[:2] != self.size:
            raise ValueError(
                f"these detections are of a picture of {self.size} (height, width), this one has {pixels.shape[:2]}: "
                f"give the original"
            )
        larger = Masks(
            self.masks.probabilities,
            self.boxes * np.float32(scale),
            (self.size[0] * scale, self.size[1] * scale),
            self.masks.threshold,
        )
        captions = (
            [f"{name} {score:.2f}" for name, score in zip(self.class_names, self.scores, strict=True)]
            if labels
            else None
        )
        crops = (lambda order: larger[order].crops()) if masks else None
        return draw_objects(
            enlarge(pixels, scale), larger.boxes, self.labels, crops, captions, outline_boxes=boxes or not masks
        )

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """COCO results: image_id, category_id, category_name, bbox (xywh, original pixels), score, segmentation (run
        lengths; none of boxes alone).
        """
        sides = np.concatenate((self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]), axis=1)
        rows = zip(self.category_ids.tolist(), self.class_names, _shortest(sides), _shortest(self.scores), strict=True)
        found = [
            {"image_id": image_id, "category_id": category, "category_name": name, "bbox": box, "score": score}
            for category, name, box, score in rows
        ]
        if not self.masks.exist:
            return found
        return [{**one, "segmentation": mask} for one, mask in zip(found, self.masks.rle(), strict=True)]

    def to_labelme(self, image_path: str, tolerance: float = 0.75) -> dict[str, Any]:
        """The content of a labelme file: one polygon shape a part, the parts of one object sharing a `group_id`;
        rectangles of boxes alone.

        `tolerance`: pixels by which the outline may move so that it has few corners to edit. `image_path` is relative
        to the file.
        """
        kind, outlines = (
            ("polygon", self.masks.polygons(tolerance))
            if self.masks.exist
            else ("rectangle", [[box.reshape(2, 2)] for box in self.boxes])
        )
        shapes = []
        for number, (one, parts) in enumerate(zip(self, outlines, strict=True)):
            group = number if len(parts) > 1 else None
            for part in parts:
                shape = {
                    "label": one.class_name,
                    "points": part.tolist(),
                    "group_id": group,
                    "description": f"score {one.score:.3f}",
                }
                shapes.append({**shape, "shape_type": kind, "flags": {}, "mask": None})
        height, width = self.size
        return {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": image_path,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }

    def to_supervision(self) -> "supervision.Detections":
        """For roboflow's supervision. Masks become its `CompactMask` (call `.to_dense()` on it for an array)."""
        import supervision

        exist = self.masks.exist
        compact = (
            supervision.CompactMask.from_coco_rle(self.masks.rle(), self.masks.windows(), self.size) if exist else None
        )
        found = supervision.Detections(xyxy=self.boxes, mask=compact, confidence=self.scores, class_id=self.labels)
        found.data["class_name"] = np.array(self.class_names, dtype=str)
        found.data["category_id"] = self.category_ids
        return found


def _shortest(values: Float32[np.ndarray, "*shape"]) -> Any:
    """float32 values as the shortest decimals that stand for them, as (nested) lists: 0.1 rather than
    0.10000000149011612.
    """
    return values.astype(str).astype(np.float64).tolist()
