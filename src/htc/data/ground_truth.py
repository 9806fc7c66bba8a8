"""The training targets of one image (boxes, labels, masks, semantic map), and image and targets placed together."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from htc.data.dataset import Dataset, ImageRecord, Instance, SemanticMaps
from htc.data.faults import Faults
from htc.data.images import image_size, read_image
from htc.data.instance_masks import mask_crops
from htc.data.mask_encodings import Crop, decode_mask
from htc.data.semantic_maps import derived_map, draw_instances, read_semantic
from htc.data.transforms import Placement, place_image, place_semantic, place_truth
from htc.errors import DataError
from htc.types import GroundTruth


@dataclass(frozen=True)
class Annotated:
    """The targets of one image, before any transform."""

    truth: GroundTruth
    semantic: UInt8[np.ndarray, "H W"] | None


def annotated(record: ImageRecord, semantic_classes: int | None, semantic_maps: SemanticMaps | None) -> Annotated:
    """The targets of `record`; the semantic map comes from `semantic_maps` or else is derived (None classes: no map).

    An object whose outline covers no pixel is left out. If any object has no mask at all, the image teaches boxes
    only.
    """
    size = (record.height, record.width)
    objects = [instance for instance in record.instances if not instance.crowd]
    crowds = [instance for instance in record.instances if instance.crowd]
    with_masks = all(instance.segmentation is not None for instance in objects)
    crops = [crop_of(instance, size) for instance in objects]
    if with_masks:
        objects = [instance for instance, crop in zip(objects, crops, strict=True) if crop.bitmap.size]
        crops = [crop for crop in crops if crop.bitmap.size]
    truth = GroundTruth(
        boxes=torch.tensor([instance.box for instance in objects], dtype=torch.float32).view(-1, 4),
        labels=torch.tensor([instance.label for instance in objects], dtype=torch.long),
        masks=mask_crops(crops, size) if with_masks else None,
        crowd_boxes=torch.tensor([instance.box for instance in crowds], dtype=torch.float32).view(-1, 4),
    )
    if semantic_classes is None:
        return Annotated(truth, None)
    labels = [instance.label for instance in objects]
    if semantic_maps is None:
        return Annotated(truth, derived_map(crops, labels, [crop_of(instance, size) for instance in crowds], size))
    semantic = read_semantic(record, semantic_maps, semantic_classes)
    if semantic_maps.instance_values is not None:
        draw_instances(semantic, crops, [semantic_maps.instance_values[label] for label in labels])
    return Annotated(truth, semantic)


def crop_of(instance: Instance, size: tuple[int, int]) -> Crop:
    """The object's mask; its box where it has none."""
    if instance.segmentation is not None:
        return decode_mask(instance.segmentation, *size)
    x1, y1, x2, y2 = (round(value) for value in instance.box)
    return Crop(x1, y1, np.ones((y2 - y1, x2 - x1), np.uint8))


def annotated_image(record: ImageRecord) -> UInt8[np.ndarray, "H W 3"]:
    """The image of `record`; `DataError` if its size is not the annotated one."""
    image = read_image(record.path) if record.pixels is None else record.pixels
    fault = _size_fault(record, (image.shape[0], image.shape[1]))
    if fault is not None:
        raise DataError(fault)
    return image


def check_images(dataset: Dataset) -> None:
    """Reads every image's header (about 0.1 ms each); `DataError` names those that are none or unlike their
    record.
    """
    faults = Faults(dataset.annotations)
    for record in dataset.images:
        try:
            fault = None if record.pixels is not None else _size_fault(record, image_size(record.path))
        except DataError as error:
            fault = str(error)
        if fault is not None:
            faults.add(fault)
    faults.check()


def _size_fault(record: ImageRecord, size: tuple[int, int]) -> str | None:
    if size == (record.height, record.width):
        return None
    turned = size == (record.width, record.height)
    remedy = (
        "save the image upright, without EXIF orientation, as it was annotated"
        if turned
        else "correct the record or the image"
    )
    return (
        f"{record.path} is {size[1]}x{size[0]}, its record (image {record.id}) says "
        f"{record.width}x{record.height}; "
        f"{remedy}"
    )


@dataclass(frozen=True)
class AnnotatedView:
    """What is seen and what is true of it; objects in pixels of `image`."""

    image: UInt8[np.ndarray, "h w 3"]
    truth: GroundTruth
    semantic: UInt8[np.ndarray, "h w"] | None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.image.shape[0], self.image.shape[1]


def view_of(
    record: ImageRecord, placement: Placement, semantic_classes: int | None, semantic_maps: SemanticMaps | None
) -> AnnotatedView:
    """The image of `record` and its targets (see `annotated`), placed."""
    targets = annotated(record, semantic_classes, semantic_maps)
    return placed(AnnotatedView(annotated_image(record), targets.truth, targets.semantic), placement)


def placed(view: AnnotatedView, placement: Placement) -> AnnotatedView:
    """An image and its targets moved together."""
    return AnnotatedView(
        image=place_image(view.image, placement),
        truth=place_truth(view.truth, placement),
        semantic=None if view.semantic is None else place_semantic(view.semantic, placement),
    )
