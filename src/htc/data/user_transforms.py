"""A user's transforms, in the style of torchvision v2, on the original image and its ground truth.

They run before the augmentation of the configuration. Instances are converted to dense masks only here, and only if
there are transforms.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from htc.config import Intensity
from htc.data.dataset import ImageRecord, SemanticMaps
from htc.data.ground_truth import Annotated, AnnotatedView, annotated, annotated_image, crop_of
from htc.data.images import TYPE_RANGE
from htc.data.instance_masks import Crop, boxes_from_masks, crop_bitmaps, mask_crops, tight
from htc.data.semantic_maps import derived_map
from htc.data.transforms import clip_boxes
from htc.errors import DataError
from htc.types import GroundTruth

Transforms = Callable[[tv_tensors.Image, dict[str, Any]], tuple[Any, Any]]
"""(image, target) -> (image, target); see `transformed`."""
XYXY = tv_tensors.BoundingBoxFormat.XYXY
RETURN = "transforms must return (image, target) of the same form as their input"


@dataclass(frozen=True)
class _Rows:
    """The instances returned by the transforms, including crowds."""

    boxes: Tensor
    """(N, 4) xyxy, float32, within the image."""
    labels: Tensor
    crowd: Tensor
    crops: list[Crop] | None

    def where(self, rows: Bool[Tensor, " N"]) -> "_Rows":
        crops = self.crops
        if crops is not None:
            crops = [crop for crop, keep in zip(crops, rows.tolist(), strict=True) if keep]
        return _Rows(self.boxes[rows], self.labels[rows], self.crowd[rows], crops)


def transformed(
    record: ImageRecord,
    transforms: Transforms,
    seed: int,
    *,
    classes: int,
    semantic_classes: int | None,
    semantic_maps: SemanticMaps | None,
    intensity: Intensity = TYPE_RANGE,
) -> AnnotatedView:
    """Read the image of `record` and its targets and apply `transforms(image, target)`, without placement.

    `image` is a `tv_tensors.Image` (3, H, W) uint8, RGB. `target` has:
    - `boxes`: `tv_tensors.BoundingBoxes` (N, 4) XYXY, float32, pixels; `labels`: (N,) int64, 0 .. classes - 1;
    - `masks`: `tv_tensors.Mask` (N, H, W) uint8, 0 or 1; absent if an instance of the image has no mask;
    - `crowd`: (N,) bool; absent if the image has no crowd;
    - `semantic`: `tv_tensors.Mask` (H, W) uint8, class + 1, where 0 is ignored, so that the fill value of geometric
      transforms is ignored; absent if the map is derived from the masks: it is then derived after the transforms.

    A box is recomputed from its mask if there is one, and an instance whose box or mask is empty is dropped. All random
    numbers of torch (on the CPU), NumPy and Python depend on `seed` only; the state of the generators is restored.
    Raises `DataError` with the image if the transforms do not return such a pair.
    """
    before = annotated(record, semantic_classes, semantic_maps)
    pixels = torch.from_numpy(annotated_image(record, intensity)).permute(2, 0, 1)
    image = tv_tensors.Image(pixels.clone(memory_format=torch.contiguous_format))
    target = _target_of(record, before, derived=semantic_maps is None)
    given = {name: value.as_subclass(Tensor).clone() for name, value in target.items()}
    try:
        with seeded(seed):
            returned = transforms(image, target)
    except Exception as error:
        error.add_note(f"The transforms raised this on image {record.path}.")
        raise
    try:
        return _view_of(returned, given, before, (record.height, record.width), classes)
    except DataError as error:
        raise DataError(f"{record.path}: {error}") from None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch (CPU), NumPy and Python with `seed`, and restore their state afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        # Not `torch.manual_seed`, which would also seed the generators of every GPU.
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _target_of(record: ImageRecord, before: Annotated, *, derived: bool) -> dict[str, Tensor]:
    """Target for the transforms; crowds are rows after the other instances."""
    ground_truth, size = before.ground_truth, (record.height, record.width)
    crowds = [instance for instance in record.instances if instance.crowd]
    labels = torch.cat([ground_truth.labels, torch.tensor([instance.label for instance in crowds], dtype=torch.long)])
    boxes = torch.cat([ground_truth.boxes, ground_truth.crowd_boxes])
    target: dict[str, Tensor] = {
        "boxes": tv_tensors.BoundingBoxes(boxes, format=XYXY, canvas_size=size),  # type: ignore[call-overload]
        "labels": labels,
    }
    if ground_truth.masks is not None:
        offsets, bitmaps = ground_truth.masks.offsets.tolist(), crop_bitmaps(ground_truth.masks)
        crops = [Crop(x, y, bitmap) for (x, y), bitmap in zip(offsets, bitmaps, strict=True)]
        crops += [crop_of(instance, size) for instance in crowds]
        target["masks"] = tv_tensors.Mask(torch.from_numpy(_dense(crops, size)))
    if crowds:
        target["crowd"] = torch.arange(len(labels)) >= len(ground_truth.labels)
    if before.semantic is not None and not (derived and ground_truth.masks is not None):
        target["semantic"] = tv_tensors.Mask(torch.from_numpy(before.semantic) + 1)  # 255, ignored, becomes 0
    return target


def _dense(crops: list[Crop], size: tuple[int, int]) -> UInt8[np.ndarray, "N H W"]:
    masks = np.zeros((len(crops), *size), np.uint8)
    for mask, crop in zip(masks, crops, strict=True):
        height, width = crop.bitmap.shape
        mask[crop.y : crop.y + height, crop.x : crop.x + width] = crop.bitmap
    return masks


def _view_of(
    returned: Any, given: Mapping[str, Tensor], before: Annotated, original: tuple[int, int], classes: int
) -> AnnotatedView:
    """Build the view from the output of the transforms; raises `DataError` if it is invalid."""
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise DataError(f"transforms returned {_described(returned)}; {RETURN}")
    pixels, target = _pixels(returned[0]), returned[1]
    size = (pixels.shape[0], pixels.shape[1])
    if not isinstance(target, Mapping):
        raise DataError(f"transforms returned {_described(target)} as target; {RETURN}")
    for name in given:
        if not isinstance(target.get(name), Tensor):
            raise DataError(f"transforms returned a target whose {name!r} is {_described(target.get(name))}; {RETURN}")
    if size == original and all(torch.equal(target[name].as_subclass(Tensor), value) for name, value in given.items()):
        return AnnotatedView(pixels, before.ground_truth, before.semantic)  # unchanged: boxes stay as annotated
    rows = _rows(target, given, size, classes)
    instances, crowds = rows.where(~rows.crowd), rows.where(rows.crowd)
    masks = None if instances.crops is None else mask_crops(instances.crops, size)
    ground_truth = GroundTruth(instances.boxes, instances.labels, masks, crowds.boxes)
    if before.semantic is None:
        return AnnotatedView(pixels, ground_truth, None)
    if "semantic" in given:
        return AnnotatedView(pixels, ground_truth, _semantic(target["semantic"], size))
    assert instances.crops is not None  # else the map was given to the transforms
    return AnnotatedView(
        pixels, ground_truth, derived_map(instances.crops, instances.labels.tolist(), crowds.crops or [], size)
    )


def _pixels(image: Any) -> UInt8[np.ndarray, "h w 3"]:
    if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise DataError(
            f"transforms returned {_described(image)} as image; it must stay a tensor (3, height, width) of uint8: "
            f"remove ToDtype, ToPILImage and Normalize, images are normalized afterwards"
        )
    if not image.numel():
        raise DataError(f"transforms returned an image without pixels, of shape {tuple(image.shape)}")
    return np.ascontiguousarray(image.as_subclass(Tensor).cpu().permute(1, 2, 0).numpy())


def _rows(target: Mapping[str, Any], given: Mapping[str, Tensor], size: tuple[int, int], classes: int) -> _Rows:
    """Instances that have a box and, if there are masks, a mask."""
    counts = {name: len(target[name]) for name in ("boxes", "labels", "masks", "crowd") if name in given}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise DataError(
            f"transforms returned {listed}; drop an instance from all of them, or from none: those without box or mask "
            f"are dropped afterwards"
        )
    boxes, labels = _boxes(target["boxes"], size), _labels(target["labels"], classes)
    crowd = target["crowd"].bool() if "crowd" in given else torch.zeros(len(labels), dtype=torch.bool)
    sides = boxes[:, 2:] - boxes[:, :2]
    if "masks" not in given:
        rows = _Rows(boxes, labels, crowd, None)
        return rows.where((sides >= 1).all(1))
    crops = _crops(target["masks"], size)
    there = torch.tensor([bool(crop.bitmap.size) for crop in crops], dtype=torch.bool)
    rows = _Rows(boxes_from_masks(mask_crops(crops, size)), labels, crowd, crops)
    return rows.where(there & (sides > 0).all(1))


def _boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    if isinstance(boxes, tv_tensors.BoundingBoxes) and boxes.format != XYXY:
        boxes = functional.convert_bounding_box_format(boxes, new_format=XYXY)
    boxes = boxes.as_subclass(Tensor)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.is_complex() or boxes.dtype == torch.bool:
        raise DataError(f"transforms returned {_described(boxes)} as boxes; they must stay (N, 4) numbers, xyxy")
    if not bool(boxes.isfinite().all()):
        row = int((~boxes.isfinite().all(1)).nonzero()[0])
        raise DataError(f"transforms returned the box {boxes[row].tolist()} (row {row}); boxes must be finite numbers")
    return clip_boxes(boxes.float(), size)


def _labels(labels: Tensor, classes: int) -> Tensor:
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise DataError(f"transforms returned {_described(labels)} as labels; they must stay (N,) integers")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(f"transforms returned the labels {labels.tolist()}; labels are 0 to {classes - 1}")
    return labels.long()


def _crops(masks: Tensor, size: tuple[int, int]) -> list[Crop]:
    if tuple(masks.shape[1:]) != size or masks.is_floating_point():
        raise DataError(
            f"transforms returned {_described(masks)} as masks with an image of {size[0]}x{size[1]} (height x width); "
            f"they must be (N, {size[0]}, {size[1]}) of bool or uint8"
        )
    bitmaps = (masks.as_subclass(Tensor) != 0).to(torch.uint8).numpy()
    return [tight(Crop(0, 0, bitmap)) for bitmap in bitmaps]


def _semantic(semantic: Tensor, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    if tuple(semantic.shape) != size or semantic.dtype != torch.uint8:
        raise DataError(
            f"transforms returned {_described(semantic)} as semantic map with an image of {size[0]}x{size[1]} "
            f"(height x width); it must be ({size[0]}, {size[1]}) of uint8"
        )
    return np.ascontiguousarray((semantic.as_subclass(Tensor) - 1).numpy())  # 0 becomes 255, ignored


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {str(value.dtype).removeprefix('torch.')}"
    return "None" if value is None else f"a value of type {type(value).__name__}"
