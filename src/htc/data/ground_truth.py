"""Training targets of an image (boxes, labels, masks, semantic map), and joint placement of image and targets."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from htc.config import Intensity
from htc.data.dataset import Dataset, ImageRecord, Instance, SemanticMaps
from htc.data.faults import Faults
from htc.data.image_headers import image_size
from htc.data.images import TYPE_RANGE, read_image
from htc.data.instance_masks import mask_crops
from htc.data.mask_encodings import Crop, decode_mask
from htc.data.semantic_maps import derived_map, draw_instances, read_semantic
from htc.data.transforms import Placement, place_ground_truth, place_image, place_semantic
from htc.errors import DataError
from htc.types import GroundTruth


@dataclass(frozen=True)
class Annotated:
    """Targets of an image before any transform."""

    ground_truth: GroundTruth
    semantic: UInt8[np.ndarray, "H W"] | None


def annotated(record: ImageRecord, semantic_classes: int | None, semantic_maps: SemanticMaps | None) -> Annotated:
    """Build the targets of `record`; the semantic map comes from `semantic_maps` or else is derived (None classes: no
    map).

    An instance whose mask is empty is dropped. If any instance has no segmentation, the image trains boxes only.
    """
    size = (record.height, record.width)
    instances = [instance for instance in record.instances if not instance.crowd]
    crowds = [instance for instance in record.instances if instance.crowd]
    with_masks = all(instance.segmentation is not None for instance in instances)
    crops = [crop_of(instance, size) for instance in instances]
    if with_masks:
        instances = [instance for instance, crop in zip(instances, crops, strict=True) if crop.bitmap.size]
        crops = [crop for crop in crops if crop.bitmap.size]
    ground_truth = GroundTruth(
        boxes=torch.tensor([instance.box for instance in instances], dtype=torch.float32).view(-1, 4),
        labels=torch.tensor([instance.label for instance in instances], dtype=torch.long),
        masks=mask_crops(crops, size) if with_masks else None,
        crowd_boxes=torch.tensor([instance.box for instance in crowds], dtype=torch.float32).view(-1, 4),
    )
    if semantic_classes is None:
        return Annotated(ground_truth, None)
    labels = [instance.label for instance in instances]
    if semantic_maps is None:
        return Annotated(
            ground_truth, derived_map(crops, labels, [crop_of(instance, size) for instance in crowds], size)
        )
    semantic = read_semantic(record, semantic_maps, semantic_classes)
    if semantic_maps.instance_values is not None:
        draw_instances(semantic, crops, [semantic_maps.instance_values[label] for label in labels])
    return Annotated(ground_truth, semantic)


def crop_of(instance: Instance, size: tuple[int, int]) -> Crop:
    """Mask of an instance; a filled box if it has no segmentation."""
    if instance.segmentation is not None:
        return decode_mask(instance.segmentation, *size)
    x1, y1, x2, y2 = (round(value) for value in instance.box)
    return Crop(x1, y1, np.ones((y2 - y1, x2 - x1), np.uint8))


def annotated_image(record: ImageRecord, intensity: Intensity = TYPE_RANGE) -> UInt8[np.ndarray, "H W 3"]:
    """Read the image of `record`, with `intensity` for more than 8 bits; `DataError` if its size differs from the
    annotated one.
    """
    image = read_image(record.path, intensity=intensity) if record.pixels is None else record.pixels
    fault = _size_fault(record, (image.shape[0], image.shape[1]))
    if fault is not None:
        raise DataError(fault)
    return image


def check_images(dataset: Dataset) -> None:
    """Read every image's header (about 0.1 ms each); `DataError` for those that are not images or differ from their
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
        f"{record.path} is {size[1]}x{size[0]}, but {record.width}x{record.height} in its record (image {record.id}); "
        f"{remedy}"
    )


@dataclass(frozen=True)
class AnnotatedView:
    """An image and its targets, in pixels of `image`."""

    image: UInt8[np.ndarray, "h w 3"]
    ground_truth: GroundTruth
    semantic: UInt8[np.ndarray, "h w"] | None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.image.shape[0], self.image.shape[1]


def view_of(
    record: ImageRecord,
    placement: Placement,
    semantic_classes: int | None,
    semantic_maps: SemanticMaps | None,
    intensity: Intensity = TYPE_RANGE,
) -> AnnotatedView:
    """Read the image of `record` and its targets (see `annotated`) and apply the placement."""
    targets = annotated(record, semantic_classes, semantic_maps)
    image = annotated_image(record, intensity)
    return placed(AnnotatedView(image, targets.ground_truth, targets.semantic), placement)


def placed(view: AnnotatedView, placement: Placement) -> AnnotatedView:
    """Apply a placement to an image and its targets."""
    return AnnotatedView(
        image=place_image(view.image, placement),
        ground_truth=place_ground_truth(view.ground_truth, placement),
        semantic=None if view.semantic is None else place_semantic(view.semantic, placement),
    )
